"""Plain numpy BERT and its relatives, for the tests: weights, forward pass, checkpoint writers.

Independent of kerasrec and bert4keras: written from the papers and the names of the official
checkpoints.
"""

import json
import math

import numpy as np

TITLES = ["机器学习基础", "Java 程序设计（2019春）", "古代汉语", "大学物理——力学与热学", "C"]
MODELS = (
    "bert",
    "roberta",
    "albert",
    "albert_unshared",
    "nezha",
    "electra",
    "roformer",
    "roformer_v2",
)


def vocabulary(texts=TITLES):
    """A WordPiece vocabulary: the special tokens, every character of the texts, and its ## form."""
    chars = sorted(set("".join(texts).lower()) - {" "})
    return (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        + chars
        + ["##" + c for c in chars if c.isalnum()]
    )


def make_config(model, vocab_size, **changes):
    config = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "gelu",
        "max_position_embeddings": 40,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    if model in ("albert", "albert_unshared", "electra"):
        config["embedding_size"] = 12
    if model == "nezha":
        config["use_relative_position"] = True
    return config | changes


def make_weights(model, config, seed=0):
    """Random weights under the names of the official TensorFlow checkpoints."""
    rng = np.random.default_rng(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    embedding = config.get("embedding_size", width)
    root = "electra" if model == "electra" else "bert"
    weights = {}

    def matrix(name, *shape):
        weights[f"{root}/{name}"] = rng.normal(0, 0.3, shape).astype(np.float32)

    def dense(name, size_in, size_out):
        matrix(f"{name}/kernel", size_in, size_out)
        if model != "roformer_v2":
            matrix(f"{name}/bias", size_out)

    def norm(name, size):
        if model != "roformer_v2":
            matrix(f"{name}/gamma", size)
            weights[f"{root}/{name}/gamma"] += 1
            matrix(f"{name}/beta", size)

    matrix("embeddings/word_embeddings", config["vocab_size"], embedding)
    matrix("embeddings/token_type_embeddings", config["type_vocab_size"], embedding)
    if model not in ("nezha", "roformer", "roformer_v2"):
        matrix("embeddings/position_embeddings", config["max_position_embeddings"], embedding)
    norm("embeddings/LayerNorm", embedding)
    if embedding != width:
        place = (
            "embeddings_project" if model == "electra" else "encoder/embedding_hidden_mapping_in"
        )
        dense(place, embedding, width)
    for number in range(1 if model.startswith("albert") else config["num_hidden_layers"]):
        names = layer_names(model, number)
        for part in ("query", "key", "value", "attention_output"):
            dense(names[part], width, width)
        norm(names["attention_norm"], width)
        dense(names["inner"], width, inner)
        dense(names["outer"], inner, width)
        norm(names["outer_norm"], width)
    return weights


def layer_names(model, number):
    if model.startswith("albert"):
        path = "encoder/transformer/group_0/inner_group_0"
        return {
            "query": f"{path}/attention_1/self/query",
            "key": f"{path}/attention_1/self/key",
            "value": f"{path}/attention_1/self/value",
            "attention_output": f"{path}/attention_1/output/dense",
            "attention_norm": f"{path}/LayerNorm",
            "inner": f"{path}/ffn_1/intermediate/dense",
            "outer": f"{path}/ffn_1/intermediate/output/dense",
            "outer_norm": f"{path}/LayerNorm_1",
        }
    path = f"encoder/layer_{number}"
    return {
        "query": f"{path}/attention/self/query",
        "key": f"{path}/attention/self/key",
        "value": f"{path}/attention/self/value",
        "attention_output": f"{path}/attention/output/dense",
        "attention_norm": f"{path}/attention/output/LayerNorm",
        "inner": f"{path}/intermediate/dense",
        "outer": f"{path}/output/dense",
        "outer_norm": f"{path}/output/LayerNorm",
    }


def hidden_states(model, config, weights, token_ids, epsilon=1e-12):
    """Last hidden states of ONE text, float64 `(length, hidden_size)`; no padding in token_ids."""
    root = "electra" if model == "electra" else "bert"
    weights = {name: w.astype(np.float64) for name, w in weights.items()}

    def get(name):
        return weights[f"{root}/{name}"]

    def dense(x, name):
        x = x @ get(f"{name}/kernel")
        return x if model == "roformer_v2" else x + get(f"{name}/bias")

    def norm(x, name):
        if model == "roformer_v2":  # no mean, no weights
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * get(f"{name}/gamma") + get(f"{name}/beta")

    x = get("embeddings/word_embeddings")[token_ids] + get("embeddings/token_type_embeddings")[0]
    if model not in ("nezha", "roformer", "roformer_v2"):
        x = x + get("embeddings/position_embeddings")[: len(token_ids)]
    x = norm(x, "embeddings/LayerNorm")
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        place = (
            "embeddings_project" if model == "electra" else "encoder/embedding_hidden_mapping_in"
        )
        x = dense(x, place)
    for number in range(config["num_hidden_layers"]):
        names = layer_names(model, number)
        q, k, v = (dense(x, names[part]) for part in ("query", "key", "value"))
        mixed = attention(model, q, k, v, config["num_attention_heads"])
        x = norm(x + dense(mixed, names["attention_output"]), names["attention_norm"])
        inner = ACTIVATIONS[config["hidden_act"]](dense(x, names["inner"]))
        x = norm(x + dense(inner, names["outer"]), names["outer_norm"])
    return x


def attention(model, q, k, v, heads):
    length, width = q.shape
    size = width // heads
    q, k, v = (m.reshape(length, heads, size).transpose(1, 0, 2) for m in (q, k, v))
    if model in ("roformer", "roformer_v2"):
        q, k = rotate(q), rotate(k)
    scores = q @ k.transpose(0, 2, 1)
    if model == "nezha":  # arXiv 1909.00204: relative positions, clipped at 64, sinusoidal
        distance = np.clip(np.arange(length)[None] - np.arange(length)[:, None], -64, 64) + 64
        relative = sinusoids(129, size)[distance]  # (length, length, size)
        scores = scores + np.einsum("hjd,jkd->hjk", q, relative)
    scores = np.exp(scores / math.sqrt(size))
    scores = scores / scores.sum(-1, keepdims=True)
    mixed = scores @ v
    if model == "nezha":
        mixed = mixed + np.einsum("hjk,jkd->hjd", scores, relative)
    return mixed.transpose(1, 0, 2).reshape(length, width)


def sinusoids(count, size):
    table = np.zeros((count, size))
    for position in range(count):
        for i in range(size // 2):
            angle = position / 10000 ** (2 * i / size)
            table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def rotate(x):
    """Rotary positions (arXiv 2104.09864): pairs (2i, 2i+1), as complex numbers, are turned."""
    length, size = x.shape[1:]
    turn = np.exp(1j * np.outer(np.arange(length), 10000 ** (-2 * np.arange(size // 2) / size)))
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def wordpiece_ids(vocab, text):
    """Token ids of a text of TITLES: [CLS] single characters [SEP]."""
    ids, previous = [], ""
    for char in text.lower():
        if char != " ":
            ascii_word = char.isascii() and char.isalnum()
            joined = ascii_word and previous.isascii() and previous.isalnum()
            ids.append(vocab.index("##" + char if joined else char))
        previous = char
    return [2, *ids, 3]


# --- Writers ---


def write_tf_folder(
    folder, model, config, weights, vocab, names=("bert_config.json", "bert_model.ckpt")
):
    """A Google-style folder."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(json.dumps(config))
    (folder / "vocab.txt").write_bytes("".join(t + "\n" for t in vocab).encode())
    extra = {"cls/predictions/output_bias": np.zeros(config["vocab_size"], np.float32)}
    tensors = weights | extra
    tf.raw_ops.SaveV2(
        prefix=str(folder / names[1]),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return folder


ALBERT_PATHS = {
    "attention_1/self/query": "attention.query",
    "attention_1/self/key": "attention.key",
    "attention_1/self/value": "attention.value",
    "attention_1/output/dense": "attention.dense",
    "LayerNorm": "attention.LayerNorm",
    "ffn_1/intermediate/dense": "ffn",
    "ffn_1/intermediate/output/dense": "ffn_output",
    "LayerNorm_1": "full_layer_layer_norm",
}


def to_hugging_face(model, weights, prefix=""):
    """The same weights under Hugging Face names, [out, in]."""
    group = "encoder/transformer/group_0/inner_group_0/"
    result = {
        f"{prefix}embeddings.position_ids": np.arange(40)[None],
        "cls.predictions.bias": np.zeros(3),
    }
    for name, weight in weights.items():
        path = name.split("/", 1)[1]
        if path.endswith("_embeddings"):
            result[prefix + path.replace("/", ".") + ".weight"] = weight
            continue
        path, leaf = path.rsplit("/", 1)
        if path.startswith(group):
            path = (
                "encoder.albert_layer_groups.0.albert_layers.0."
                + ALBERT_PATHS[path.removeprefix(group)]
            )
        elif path == "encoder/embedding_hidden_mapping_in" and model == "roformer":
            path = "embeddings_project"
        else:
            path = path.replace("layer_", "layer.").replace("/", ".")
        leaf = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}[leaf]
        transposed = weight.T.copy() if name.endswith("kernel") else weight
        result[f"{prefix}{path}.{leaf}"] = transposed
    return result


def write_hf_folder(folder, model, config, weights, vocab, *, prefix="", write=None):
    """A Hugging Face folder; `write(tensors, folder)` writes the weights, else safetensors."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": model, "layer_norm_eps": 1e-12} | config
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_bytes("".join(t + "\n" for t in vocab).encode())
    tensors = to_hugging_face(model, weights, prefix)
    if write is None:
        save_file(tensors, folder / "model.safetensors")
    else:
        write(tensors, folder)
    return folder
