"""`GraphWordPiece`: does what `WordPieceTokenizer` does, in core TensorFlow operations.

Texts become code points; tables made from this Python's Unicode data lower them, take accents off
and say where a word ends. So neither the Unicode version nor the locale of a server has a say.
Words are then split by the greedy longest match that bert4keras does.
"""

import functools
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.backend import import_bert4keras, tf
from kerasrec.text.tokenizers import WordPieceTokenizer

VOCAB_FILE = "wordpiece_vocab.txt"
_CODE_POINTS, _PAGE = 0x110000, 256
_LONGEST_WORD = 200  # characters; bert4keras takes a longer one for one unknown token
#: what a character does to words: part of one, between two, a word of its own, nothing
_PART, _SPACE, _ALONE, _DROPPED = range(4)
#: what a character means to a capital sigma beside it, see `_is_final`
_UNCASED, _CASED, _IGNORED = range(3)
_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2
_TEXTS = tf.TensorSpec((None,), tf.string, name="texts")


class GraphWordPiece(tf.Module):
    """Turns texts into token ids in the graph.

    Equal to `tokenizer.encode_batch` on every text but for Unicode's canonical order of the few
    combining marks that are no accents (musical stems, Hangul tone marks). Bytes that are no UTF-8
    are left out. Of a text longer than 16 bytes per token only the head is read where that is
    enough.

    Args:
        tokenizer: `WordPieceTokenizer`.
        folder: where the vocabulary is written, an asset of the SavedModel: one token a line, the
            line number is the id. A token that no word can be has a number instead.

    Call: texts string `(n,)` -> `(token_ids, segment_ids)`, int32 `(n, length)`, padded on the
    right with 0.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, folder: str | Path) -> None:
        super().__init__(name="wordpiece")
        self.prefix = tokenizer.prefix
        self.max_words = tokenizer.max_tokens - 2  # each gives at least one token
        self.head_bytes = 16 * tokenizer.max_tokens
        self.lowers = tokenizer.do_lower_case
        index_of = {token: index for index, token in enumerate(tokenizer.vocab)}
        self.start, self.end, self.unknown = (index_of[t] for t in ("[CLS]", "[SEP]", "[UNK]"))
        pieces = [token.removeprefix("##") for token in tokenizer.vocab]
        self.longest = min(max(map(len, pieces)), _LONGEST_WORD)
        self.asset = tf.saved_model.Asset(str(_write_vocabulary(index_of, tokenizer.vocab, folder)))
        whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        source = tf.lookup.TextFileInitializer(
            self.asset.asset_path, tf.string, whole, tf.int64, number
        )
        self.vocabulary = tf.lookup.StaticHashTable(source, -1)
        self.kinds = CodePointTable(_kinds(), "kinds")
        if self.lowers:
            codes, replacements = _lowering()
            self.lowering = CodePointTable(codes, "lowering")
            self.replacements = tf.Variable(replacements, trainable=False, name="replacements")

    @tf.function(input_signature=[_TEXTS], autograph=False)
    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """See the class."""
        num_texts = tf.size(texts, tf.int64)
        texts = tf.strings.join([self.prefix, texts])
        words, owner, is_whole = self._words(tf.strings.substr(texts, 0, self.head_bytes))
        is_whole |= tf.strings.length(texts) <= self.head_bytes
        words, owner = tf.cond(
            tf.reduce_all(is_whole), lambda: (words, owner), lambda: self._words(texts)[:2]
        )
        # the tokens of each distinct word, and of all words in their order
        distinct, place = tf.unique(words)
        pieces = tf.gather(self._pieces(distinct), place)  # (words, most pieces), -1 = none
        owner = tf.repeat(owner, tf.reduce_sum(tf.cast(pieces >= 0, tf.int32), axis=1))
        tokens = tf.cast(tf.boolean_mask(pieces, pieces >= 0), tf.int32)
        # one row per text, cut, between start and end
        rows = tf.RaggedTensor.from_value_rowids(tokens, owner, nrows=num_texts, validate=False)
        rows = rows[:, : self.max_words]
        inner = tf.pad(rows.to_tensor(), [[0, 0], [1, 1]])  # (n, length)
        length = tf.shape(inner)[1]
        end = tf.one_hot(rows.row_lengths() + 1, length, self.end, 0, dtype=tf.int32)
        token_ids = inner + end + tf.one_hot(0, length, self.start, 0, dtype=tf.int32)
        return token_ids, tf.zeros_like(token_ids)

    def _words(self, texts):
        """The first `max_words` words of every text.

        Returns:
            `(words, owner, is_whole)`: string `(w,)`, the row of the text of each, int64 `(w,)`,
            and whether more of a text would change nothing, bool `(n,)`.
        """
        num_texts = tf.size(texts, tf.int64)
        # the line break ends the last word, and keeps the texts apart
        points = tf.strings.unicode_decode(tf.strings.join([texts, "\n"]), "UTF-8")
        row, points = points.value_rowids(), points.flat_values  # (m,)
        # what each character does to words, after lower case
        has_sigma = tf.reduce_any(points == _SIGMA)
        if self.lowers:
            row, points = self._lowered(row, points, has_sigma)
        kind = self.kinds(points)
        row, points, kind = _only(kind != _DROPPED, row, points, kind)
        # where words begin
        before = tf.concat([[_SPACE], kind], axis=0)[:-1]
        starts = (kind == _ALONE) | ((kind == _PART) & (before != _PART))
        row, points, starts = _only(kind != _SPACE, row, points, starts)
        # the number of each word within its text; only the first `max_words` are spelled
        begin = tf.where(starts)[:, 0]  # (all words,)
        edges = tf.concat([begin, [tf.size(points, tf.int64)]], axis=0)
        owner = tf.gather(row, begin)
        first = tf.searchsorted(owner, tf.range(num_texts + 1), out_type=tf.int64)
        place = tf.range(tf.size(begin, tf.int64)) - tf.gather(first, owner)  # within its text
        chosen = tf.where(place < self.max_words)[:, 0]
        spelled = tf.RaggedTensor.from_row_splits(points, edges, validate=False)
        words = tf.strings.unicode_encode(tf.gather(spelled, chosen), "UTF-8")
        # one word more has begun, so these are complete; but a sigma may look far ahead
        is_whole = (first[1:] - first[:-1] > self.max_words) & ~(has_sigma & self.lowers)
        return words, tf.gather(owner, chosen), is_whole

    def _lowered(self, row, points, has_sigma):
        """`row` and code points in lower case, decomposed, without accents."""
        points = tf.cond(has_sigma, lambda: self._with_final_sigmas(points), lambda: points)
        number = self.lowering(points) // 4
        new = tf.gather(self.replacements, number)  # (m, most); 0 = none
        width = tf.shape(new)[1]
        itself = tf.pad(points[:, None], [[0, 0], [0, width - 1]])
        new = tf.where(number[:, None] > 0, new, itself)
        return tf.repeat(row, width), tf.reshape(new, [-1])  # 0 is dropped later

    def _with_final_sigmas(self, points):
        """A capital sigma that ends a word has a lower case of its own, as for `str.lower`."""
        case = self.lowering(points) % 4
        seen = tf.where(case != _IGNORED)[:, 0]
        is_cased = tf.gather(case, seen) == _CASED
        after_cased = tf.concat([[False], is_cased], axis=0)[:-1]
        before_cased = tf.concat([is_cased, [False]], axis=0)[1:]
        is_sigma = tf.gather(points, seen) == _SIGMA
        place = tf.boolean_mask(seen, is_sigma & after_cased & ~before_cased)[:, None]
        final = tf.fill([tf.size(place)], _FINAL_SIGMA)
        return tf.tensor_scatter_nd_update(points, place, final)

    def _pieces(self, words):
        """Token ids of words `(d,)`, int64 `(d, most pieces)`, -1 behind the last of a word."""
        whole = self.vocabulary.lookup(words)
        length = tf.strings.length(words, "UTF8_CHAR")
        index = tf.where((whole < 0) & (length > 1) & (length <= _LONGEST_WORD))
        pieces = self._split(*(tf.gather_nd(part, index) for part in (words, length)))
        width = tf.maximum(tf.shape(pieces)[1], 1)
        pieces = tf.pad(pieces, [[0, 0], [0, width - tf.shape(pieces)[1]]], constant_values=-1)
        alone = tf.where(whole >= 0, whole, self.unknown)[:, None]
        alone = tf.pad(alone, [[0, 0], [0, width - 1]], constant_values=-1)
        split = tf.tensor_scatter_nd_update(tf.fill(tf.shape(alone), np.int64(-1)), index, pieces)
        return tf.where(split[:, :1] >= 0, split, alone)

    def _split(self, words, length):
        """The greedy longest match: int64 `(h, steps)`; a row of -1 where a word has none."""
        lost = length + 1

        def step(position, pieces):
            index = tf.where(position < length)  # (a, 1), words that are not done
            word, begin, end, no_place = (
                tf.gather_nd(part, index) for part in (words, position, length, lost)
            )
            # every part of the word that begins here, the longest first, looked up at once
            sizes = tf.range(tf.minimum(self.longest, tf.reduce_max(end - begin)), 0, -1)
            starts, size = tf.meshgrid(begin, sizes, indexing="ij")  # (a, sizes)
            part = tf.strings.substr(word[:, None], starts, size, unit="UTF8_CHAR")
            part = tf.where(starts > 0, tf.strings.join(["##", part]), part)
            found = tf.where(starts + size <= end[:, None], self.vocabulary.lookup(part), -1)
            # the longest one that is a token; a word without any is lost
            best = tf.argmax(tf.cast(found >= 0, tf.int32), axis=1)
            piece = tf.gather(found, best, batch_dims=1)
            place = tf.where(piece >= 0, begin + tf.gather(sizes, best), no_place)
            column = tf.fill([tf.size(length)], np.int64(-1))
            column = tf.tensor_scatter_nd_update(column, index, piece)
            position = tf.tensor_scatter_nd_update(position, index, place)
            return position, tf.concat([pieces, column[:, None]], axis=1)

        position, pieces = tf.while_loop(
            lambda position, _: tf.reduce_any(position < length),
            step,
            (tf.zeros_like(length), tf.zeros((tf.size(length), 0), tf.int64)),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None, None])),
        )
        return tf.where((position == lost)[:, None], np.int64(-1), pieces)


class CodePointTable(tf.Module):
    """Gives a small number for every Unicode code point; pages of equal numbers are kept once.

    Call: int32 code points `(n,)` -> int32 `(n,)`.
    """

    def __init__(self, numbers: np.ndarray, name: str) -> None:
        super().__init__(name)
        pages, page = np.unique(numbers.reshape(-1, _PAGE), axis=0, return_inverse=True)
        self.page = tf.Variable(page.reshape(-1).astype(np.int32), trainable=False, name="page")
        self.numbers = tf.Variable(pages.reshape(-1), trainable=False, name="numbers")

    def __call__(self, points: Any) -> Any:
        """See the class."""
        page = tf.gather(self.page, points // _PAGE)
        return tf.gather(self.numbers, page * _PAGE + points % _PAGE)


def _only(mask, *columns):
    """The entries of each column where the mask is True."""
    index = tf.where(mask)[:, 0]
    return [tf.gather(column, index) for column in columns]


def _write_vocabulary(index_of, vocab, folder):
    """Write one token a line; returns the path.

    A lookup table needs every line once. Of a token that comes twice the last id counts, as in
    `WordPieceTokenizer`; a space is in no word, so nothing finds a line that starts with one.
    """
    lines = [
        token
        if index_of[token] == number and token and not set(token) & set("\r\n")
        else f" {number}"
        for number, token in enumerate(vocab)
    ]
    path = Path(folder) / VOCAB_FILE
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    return path


# --- Unicode, as this Python and bert4keras know it ---

_NOTHING_KNOWN = ("Cn", "Co", "Cs")  # unassigned, private, half of a pair


@functools.cache
def _kinds():
    """What each code point does to words, int32: see `Tokenizer._tokenize` of bert4keras."""
    rules = import_bert4keras().tokenizers.Tokenizer
    kinds = np.full(_CODE_POINTS, _PART, np.int32)
    for code in range(_CODE_POINTS):
        char = chr(code)
        if code > 0x2FFFF and unicodedata.category(char) in _NOTHING_KNOWN:
            continue  # most code points, behind the last Chinese ones
        if rules._is_cjk_character(char) or rules._is_punctuation(char):
            kinds[code] = _ALONE
        elif rules._is_space(char):
            kinds[code] = _SPACE
        elif code in (0, 0xFFFD) or rules._is_control(char):
            kinds[code] = _DROPPED
        elif char.isspace():  # it splits there at last
            kinds[code] = _SPACE
    return kinds


@functools.cache
def _lowering():
    """`(codes, replacements)`: `lowercase_and_normalize` of bert4keras for every code point.

    codes: int32, case + 4 * row of `replacements`, row 0 = the character stays. replacements: int32
    `(num_rows, most characters)`, filled up with 0.
    """
    codes, rows = np.zeros(_CODE_POINTS, np.int32), [""]
    for code in range(_CODE_POINTS):
        char = chr(code)
        if unicodedata.category(char) in _NOTHING_KNOWN:
            continue
        # what `str.lower` knows of a character shows in the sigma behind it
        if (char + "\u03a3").lower().endswith("\u03c2"):
            codes[code] = _CASED
        elif ("a" + char + "\u03a3").lower().endswith("\u03c2"):
            codes[code] = _IGNORED
        new = unicodedata.normalize("NFD", char.lower())
        new = "".join(c for c in new if unicodedata.category(c) != "Mn")
        if new != char:
            codes[code] += 4 * len(rows)
            rows.append(new)
    replacements = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for number, new in enumerate(rows):
        replacements[number, : len(new)] = [ord(c) for c in new]
    return codes, replacements
