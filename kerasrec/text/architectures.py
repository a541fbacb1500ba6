"""Builds a checkpoint's transformer: its tensors renamed for bert4keras, its config made a model.

bert4keras loads a dict of arrays keyed with the names of Google's TensorFlow checkpoints. Hugging
Face names are renamed and their matrices transposed here.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from kerasrec.backend import import_bert4keras, keras

log = logging.getLogger(__name__)

CLASSES = {  # model -> class in bert4keras.models
    "bert": "BERT",
    "roberta": "BERT",
    "albert": "ALBERT",
    "albert_unshared": "ALBERT_Unshared",
    "nezha": "NEZHA",
    "electra": "ELECTRA",
    "roformer": "RoFormer",
    "roformer_v2": "RoFormerV2",
}
MODELS = tuple(CLASSES)
HUGGING_FACE_TYPES = ("bert", "albert", "electra", "nezha", "roformer")
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
)
OPTIONAL = (
    "embedding_size",
    "attention_head_size",
    "attention_key_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
ACTIVATIONS = {  # name in a config -> function in bert4keras.backend, or a Keras name
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
    "tanh": "tanh",
    "linear": "linear",
}


# --- Names ---

ALBERT_LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
ALBERT_PATHS = {
    "attention.query": "attention_1/self/query",
    "attention.key": "attention_1/self/key",
    "attention.value": "attention_1/self/value",
    "attention.dense": "attention_1/output/dense",
    "attention.LayerNorm": "LayerNorm",
    "ffn": "ffn_1/intermediate/dense",
    "ffn_output": "ffn_1/intermediate/output/dense",
    "full_layer_layer_norm": "LayerNorm_1",
}


def from_hugging_face(tensors: dict[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
    """Renames tensors of Hugging Face to bert4keras' names and transposes matrices.

    Heads (`cls.*`, `pooler.*`, ...) and buffers (`position_ids`, ...) are left out.

    Args:
        tensors: dict of name -> array.
        model: one of HUGGING_FACE_TYPES.
    """
    result = {}
    for name, tensor in tensors.items():
        short = re.sub(
            r"^(\d+\.auto_model\.|model\.)?(bert|electra|albert|roformer|nezha)\.", "", name
        )
        path, _, leaf = short.rpartition(".")
        is_layer = path.startswith(("embeddings", "encoder."))
        if not is_layer or leaf not in ("weight", "bias", "gamma", "beta"):
            continue
        if path.endswith("_embeddings"):
            result["bert/" + path.replace(".", "/")] = tensor
            continue
        is_norm = "LayerNorm" in path or "layer_norm" in path
        if is_norm:
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
        elif leaf == "weight":
            leaf, tensor = "kernel", tensor.T
        result[f"bert/{_path(path)}/{leaf}"] = tensor
    if model == "electra":
        return {_electra_name(name): tensor for name, tensor in result.items()}
    return result


def _path(path):
    """`encoder.layer.3.output.dense` -> `encoder/layer_3/output/dense`, and ALBERT's own names."""
    if path.startswith(ALBERT_LAYER):
        part = path.removeprefix(ALBERT_LAYER)
        return "encoder/transformer/group_0/inner_group_0/" + ALBERT_PATHS.get(part, part)
    if path == "embeddings_project":
        return "encoder/embedding_hidden_mapping_in"
    return re.sub(r"layer\.(\d+)", r"layer_\1", path).replace(".", "/")


def _electra_name(name):
    name = name.replace("bert/encoder/embedding_hidden_mapping_in", "bert/embeddings_project")
    return name.replace("bert/", "electra/", 1)


def detect_model(names: Iterable[str], config: dict[str, Any], folder_name: str) -> str:
    """Finds which of MODELS a Google-style checkpoint is, by variable names, config, folder name.

    Raises:
        ValueError: the names fit none, or more than one.
    """
    names = set(names)
    if any(name.startswith("electra/") for name in names):
        return "electra"
    if any("/transformer/group_0/" in name for name in names):
        return "albert"
    if "bert/embeddings/word_embeddings" in names:
        if "bert/embeddings/position_embeddings" in names:
            return "bert"
        if "bert/encoder/layer_0/attention/self/query/bias" not in names:
            return "roformer_v2"
        if config.get("use_relative_position") or "nezha" in folder_name.lower():
            return "nezha"
        if config.get("model_type") == "roformer" or "roformer" in folder_name.lower():
            return "roformer"
        raise ValueError(
            f"The checkpoint in {folder_name} has no position embeddings, so it can be nezha or"
            ' roformer. Say which: build_encoder(..., model="nezha") or model="roformer", or'
            " --set encoder.model=nezha."
        )
    raise ValueError(
        f"The checkpoint in {folder_name} holds no variables of a known model (it has "
        f"{', '.join(sorted(names)[:3]) or 'none'}). Supported: {', '.join(MODELS)}."
    )


# --- Keras model ---


def build_checkpoint_transformer(
    config: dict[str, Any], tensors: dict[str, np.ndarray], model: str
) -> Any:
    """Builds the bert4keras transformer of a checkpoint and sets its weights.

    Args:
        config: dict with REQUIRED and OPTIONAL keys, and `layer_norm_eps` (default: bert4keras'
            own).
        tensors: dict of bert4keras' variable names -> arrays.
        model: one of MODELS.

    Returns:
        Keras model `[Input-Token, Input-Segment] -> (batch, length, hidden_size)`.

    Raises:
        ValueError: the config lacks a key, or a variable is missing or has another shape.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}. Received: {model!r}.")
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise ValueError(
            f"The config of a {model} encoder must hold {', '.join(REQUIRED)}. Missing: "
            f"{', '.join(missing)}. Use the config file that belongs to the checkpoint."
        )
    options = used_config(config)
    options["hidden_act"] = _activation(config["hidden_act"])
    models = import_bert4keras().models
    # every weight is loaded: zeros first save 2 s of random numbers
    empty = type(CLASSES[model], (getattr(models, CLASSES[model]),), {"initializer": "zeros"})
    transformer = models.build_transformer_model(model=empty, return_keras_model=False, **options)
    epsilon = config.get("layer_norm_eps")
    if epsilon is not None:  # bert4keras hard-codes 1e-12 or 1e-7
        for layer in transformer.layers.values():
            if hasattr(layer, "epsilon"):
                layer.epsilon = float(epsilon)
    _check_variables(transformer, tensors, config)
    transformer.load_weights_from_checkpoint(tensors)
    return transformer.model


def used_config(config: dict[str, Any]) -> dict[str, Any]:
    """Picks the part of a config that decides what a transformer computes.

    >>> used_config({"num_attention_heads": 2, "embedding_size": None, "_name_or_path": "x"})
    {'num_attention_heads': 2}
    """
    return {key: config[key] for key in REQUIRED + OPTIONAL if config.get(key) is not None}


def _activation(name):
    """The activation of a config, GELU always in the form that the config names."""
    if name not in ACTIVATIONS:
        raise ValueError(
            f"hidden_act must be one of {', '.join(ACTIVATIONS)}. Received: {name!r} in the config."
        )
    name = ACTIVATIONS[name]
    function = getattr(import_bert4keras().backend, name, None)
    if function is None:
        return name
    keras.utils.get_custom_objects().setdefault(name, function)
    return function


def _check_variables(transformer, tensors, config):
    """Every weight must be in the checkpoint, in the right shape."""
    for layer_name, names in transformer.variable_mapping().items():
        layer = transformer.layers.get(layer_name)
        if layer is None:
            continue
        if len(layer.trainable_weights) > len(names):
            raise ValueError(f"{layer_name} has more weights than the checkpoint format names.")
        for weight, name in zip(layer.trainable_weights, names, strict=False):
            if name not in tensors:
                raise ValueError(
                    f"The checkpoint lacks the variable {name} (it holds {len(tensors)}, the config"
                    f" asks for {config['num_hidden_layers']} layers). Use the config that belongs"
                    " to it."
                )
            expected, received = tuple(weight.shape), tuple(tensors[name].shape)
            if expected != received:
                raise ValueError(
                    f"The variable {name} has the shape {received}; the config asks for {expected}."
                    " Use the config that belongs to the checkpoint."
                )
