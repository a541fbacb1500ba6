"""Reads a checkpoint folder as people have it, and says what is missing in it."""

import json
import logging
import re
from pathlib import Path

from kerasrec.text.architectures import HUGGING_FACE_TYPES, MODELS, detect_model, from_hugging_face
from kerasrec.text.tensorfiles import Checkpoint, read_safetensors, read_tf_checkpoint, read_torch
from kerasrec.text.tokenizers import WordPieceTokenizer, read_vocab

log = logging.getLogger(__name__)

NOT_A_MODEL_CONFIG = re.compile(
    r"tokenizer|generation|sentence|special|generator|adapter|1_Pooling"
)
EXPECTED = (
    "Expected a config (bert_config.json or config.json), weights (bert_model.ckpt.*,"
    " model.safetensors or pytorch_model.bin) and vocab.txt or tokenizer.json"
)


def read_folder(
    folder: str | Path, *, max_tokens: int, prefix: str = "", model: str | None = None
) -> Checkpoint:
    """Reads a checkpoint folder, Google style or Hugging Face style.

    Args:
        folder: path.
        max_tokens, prefix: see `kerasrec.text.tokenizers`.
        model: one of `architectures.MODELS`; default: found from config and variable names.

    Returns:
        `Checkpoint`.

    Raises:
        FileNotFoundError: config, weights or vocabulary is missing; says which.
        ValueError: a file is damaged, or the architecture is not supported.
    """
    folder = Path(folder)
    if model is not None and model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}. Received: {model!r}.")
    if (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"{folder} is a TensorFlow SavedModel (an exported model), not a checkpoint folder."
            f" {EXPECTED}."
        )
    config = _read_config(folder)
    _check_config(config, folder)
    vocab, do_lower_case = _read_vocabulary(folder, config)
    tensors, model = _read_weights(folder, config, model)
    _check_vocabulary(vocab, config, folder)
    try:
        tokenizer = WordPieceTokenizer(
            vocab, do_lower_case=do_lower_case, max_tokens=max_tokens, prefix=prefix
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Checkpoint(
        name=folder.resolve().name,
        config=config,
        tensors=tensors,
        model=model,
        tokenizer=tokenizer,
        pooling=_read_pooling(folder),
        licence=_read_licence(folder),
    )


# --- Config ---


def _read_config(folder):
    paths = [
        p for p in sorted(folder.glob("*config*.json")) if not NOT_A_MODEL_CONFIG.search(p.name)
    ]
    preferred = [p for p in paths if p.name in ("config.json", "bert_config.json")]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no config. {EXPECTED}.")
    if len(paths) > 1 and len(preferred) != 1:
        raise ValueError(
            f"{folder} holds several configs ({', '.join(p.name for p in paths)}). Keep the one"
            " that belongs to the weights."
        )
    return _read_json((preferred or paths)[0])


def _read_json(path):
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy it again.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: a {type(data).__name__}.")
    return data


def _check_config(config, folder):
    """Refuse what bert4keras would compute differently."""
    model_type = config.get("model_type")
    if model_type is not None and model_type not in HUGGING_FACE_TYPES + MODELS:
        raise ValueError(
            f"{folder} is a {model_type} model, which is not supported. Supported:"
            f" {', '.join(MODELS)}. For any other model make the vectors yourself and use"
            " vectors:FILE."
        )
    only = {
        "num_hidden_groups": 1,  # ALBERT
        "inner_group_num": 1,
        "net_structure_type": 0,
        "rotary_value": False,  # RoFormer
        "max_relative_position": 64,  # NEZHA
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    for key, value in only.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{folder}: the config has {key}={config[key]!r}; only {value!r} is supported."
            )


# --- Weights ---


def _read_weights(folder, config, model):
    """`(tensors under bert4keras names, model)`; safetensors first, then torch, then TensorFlow."""
    for single, index, read in (
        ("model.safetensors", "model.safetensors.index.json", read_safetensors),
        ("pytorch_model.bin", "pytorch_model.bin.index.json", read_torch),
    ):
        if (folder / index).is_file():
            return _from_hugging_face(_read_shards(folder / index, read), config, folder, model)
        if (folder / single).is_file():
            return _from_hugging_face(read(folder / single), config, folder, model)
    indices = sorted(folder.glob("*.index"))
    if len(indices) > 1:
        raise ValueError(
            f"{folder} holds several TensorFlow checkpoints ({', '.join(p.stem for p in indices)})."
            " Keep one."
        )
    if not indices:
        files = sorted(p.name for p in folder.iterdir())
        raise FileNotFoundError(
            f"{folder} holds no weights. {EXPECTED}. It holds: {', '.join(files[:8]) or 'nothing'}."
        )
    tensors = read_tf_checkpoint(indices[0].with_suffix(""))
    return tensors, model or detect_model(tensors, config, folder.resolve().name)


def _read_shards(index, read):
    """The tensors of all files that an index names."""
    tensors = {}
    for name in sorted(set(_read_json(index).get("weight_map", {}).values())):
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"{index} names the file {name}, which is missing beside it.")
        tensors |= read(path)
    return tensors


def _from_hugging_face(tensors, config, folder, model):
    if config.get("model_type") == "roberta":
        raise ValueError(
            f"{folder} is a roberta model of Hugging Face (byte-level BPE, positions from 2), which"
            " is not supported. Chinese RoBERTa checkpoints say model_type bert. Supported:"
            f" {', '.join(HUGGING_FACE_TYPES)}."
        )
    model = model or config.get("model_type") or _guess_type(tensors)
    config.setdefault("layer_norm_eps", 1e-12)  # the default of Hugging Face
    renamed = from_hugging_face(tensors, model)
    if not renamed:
        raise ValueError(
            f"The weights in {folder} hold no tensors of a known model (they have"
            f" {', '.join(sorted(tensors)[:3]) or 'none'}). Supported:"
            f" {', '.join(HUGGING_FACE_TYPES)}."
        )
    return renamed, model


def _guess_type(tensors):
    """Old folders have no model_type: the names tell."""
    names = " ".join(tensors)
    for model in ("electra", "roformer", "nezha", "albert"):
        if model in names:
            return model
    return "bert"


# --- Tokenizer ---


def _read_vocabulary(folder, config):
    """`(vocab, do_lower_case)` from vocab.txt, else from a WordPiece tokenizer.json."""
    settings_path = folder / "tokenizer_config.json"
    settings = _read_json(settings_path) if settings_path.is_file() else {}
    lower = settings.get("do_lower_case", config.get("do_lower_case"))
    if (folder / "vocab.txt").is_file():
        vocab = read_vocab(folder / "vocab.txt")
        if lower is None and (folder / "tokenizer.json").is_file():
            lower = _lower_case(_read_json(folder / "tokenizer.json"))
        return vocab, True if lower is None else bool(lower)
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} holds no vocabulary. {EXPECTED}.")
    data = _read_json(folder / "tokenizer.json")
    kind = data.get("model", {}).get("type", "unknown")
    pieces = data.get("model", {}).get("vocab")
    if kind != "WordPiece" or not isinstance(pieces, dict):
        raise ValueError(
            f"{folder}/tokenizer.json is a {kind} tokenizer; only WordPiece is read from folders."
            " Make the vectors yourself and use vectors:FILE (multilingual-e5-small is built in:"
            " e5-small)."
        )
    if sorted(pieces.values()) != list(range(len(pieces))):
        raise ValueError(f"The ids in {folder}/tokenizer.json must be 0 to {len(pieces) - 1}.")
    stored = _lower_case(data)
    lower = stored if stored is not None else lower
    return sorted(pieces, key=pieces.get), True if lower is None else bool(lower)


def _lower_case(data):
    """Whether a tokenizer.json lower-cases; None when it does not say."""
    normalizer = data.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    flags = [part["lowercase"] for part in parts if "lowercase" in part]
    return flags[0] if flags else None


def _check_vocabulary(vocab, config, folder):
    size = config.get("vocab_size", len(vocab))
    if len(vocab) > size:
        raise ValueError(
            f"{folder}: the vocabulary has {len(vocab)} tokens, the config {size}. Use the"
            " vocabulary that belongs to the checkpoint."
        )
    if len(vocab) < size:
        log.warning(
            "%s: the vocabulary has %d tokens, the config %d rows; the rows beyond are never used.",
            folder,
            len(vocab),
            size,
        )


# --- What sentence-transformers adds ---


def _read_pooling(folder):
    """Pooling of a sentence-transformers folder, else "mean"."""
    path = folder / "1_Pooling" / "config.json"
    settings = _read_json(path) if path.is_file() else {}
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    on = [m for key, m in modes.items() if settings.get(f"pooling_mode_{key}")]
    if settings and len(on) != 1:
        raise ValueError(f"{path} asks for a pooling other than {', '.join(modes.values())}.")
    pooling = on[0] if on else "mean"
    modules = folder / "modules.json"
    types = re.findall(r"models\.(\w+)", modules.read_text()) if modules.is_file() else []
    if "Dense" in types:
        log.warning("%s has a Dense module behind the pooling; it is not applied.", folder)
    return pooling + ("_l2" if "Normalize" in types else "")


def _read_licence(folder):
    """The `license:` of a model card (README.md), else "unknown"."""
    path = folder / "README.md"
    if not path.is_file():
        return "unknown"
    found = re.search(r"^license:\s*(\S+)", path.read_text(errors="replace")[:4000], re.MULTILINE)
    return found.group(1) if found else "unknown"
