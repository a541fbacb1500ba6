"""Encodes texts in the graph of a version: finds their tokenizer, and encodes many in chunks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kerasrec.backend import tf
from kerasrec.text.graphunigram import GraphUnigram
from kerasrec.text.graphwordpiece import GraphWordPiece
from kerasrec.text.tokenizers import TextTokenizer, UnigramTokenizer, WordPieceTokenizer

#: texts that are encoded at once; a chunk is as wide as its longest text
CHUNK = 64
#: what Python's `str.strip` takes off
_BLANK = r"[\t-\r\x1c-\x1f\x{85}\p{Z}]*"


def graph_tokenizer(
    tokenizer: TextTokenizer | None, folder: str | Path
) -> GraphWordPiece | GraphUnigram | None:
    """Makes the twin of a tokenizer of `tokenizers` in the graph.

    Args:
        tokenizer: a `TextTokenizer`, or None.
        folder: where its asset files are written.

    Returns:
        A `tf.Module`, string `(n,)` -> `(token_ids, segment_ids)`, int32 `(n, length)`; None for a
        tokenizer that has no twin.
    """
    if isinstance(tokenizer, WordPieceTokenizer):
        return GraphWordPiece(tokenizer, folder)
    if isinstance(tokenizer, UnigramTokenizer):
        return GraphUnigram(tokenizer, folder)
    return None


def is_blank(texts: Any) -> Any:
    """Tells whether a text is white space alone, as `str.strip` sees it: bool, the same shape."""
    return tf.strings.regex_full_match(texts, _BLANK)


def text_vectors(texts: Any, encode: Callable[[Any], Any], dim: int) -> Any:
    """Encodes texts in the graph; a blank one gets zeros.

    Each distinct text is encoded once, texts of similar length together, `CHUNK` at a time and one
    chunk after the other: memory holds the work of one chunk, however many texts there are.

    Args:
        texts: string `(n,)`.
        encode: function from string `(m,)` to float32 `(m, dim)`.
        dim: width of the vectors.

    Returns:
        float32 `(n, dim)`.
    """
    distinct, place = tf.unique(texts)
    todo = tf.where(~is_blank(distinct))[:, 0]
    todo = tf.gather(todo, tf.argsort(tf.strings.length(tf.gather(distinct, todo))))
    given = tf.gather(distinct, todo)

    def encode_chunk(start, vectors):
        found = encode(given[start : start + CHUNK])
        return start + CHUNK, tf.concat([vectors, found], axis=0)

    _, vectors = tf.while_loop(
        lambda start, _: start < tf.size(given),
        encode_chunk,
        (0, tf.zeros((0, dim))),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, dim])),
        parallel_iterations=1,
    )
    shape = tf.stack([tf.size(distinct), dim])
    table = tf.tensor_scatter_nd_update(tf.zeros(shape), todo[:, None], vectors)
    return tf.gather(table, place)
