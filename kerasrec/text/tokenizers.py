"""Turns texts into token ids, each pretrained encoder's own way.

Two kinds, one surface (`encode_batch`): `WordPieceTokenizer` (BERT and its family, through
bert4keras) and `UnigramTokenizer` (XLM-R pieces). Both are plain data (`save_tokenizer` /
`load_tokenizer`). Token id 0 is padding; ids are padded on the right.
"""

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNKNOWN_PENALTY = 10.0  # SentencePiece: an unknown character scores min(scores) - 10


class TextTokenizer(ABC):
    """Adds the prefix, truncates and pads for every tokenizer. Subclasses give `token_ids`.

    Attributes:
        max_tokens: longest row that `encode_batch` gives, special tokens and prefix included.
        prefix: text put before every text, e.g. `"query: "`.
    """

    kind = ""

    def __init__(self, *, max_tokens: int = 64, prefix: str = "") -> None:
        if max_tokens < 3:
            raise ValueError(
                f"max_tokens must be at least 3 (start, one token, end). Received: {max_tokens}."
            )
        self.max_tokens = int(max_tokens)
        self.prefix = prefix

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Gives the token ids of one text, special tokens included, at most `max_tokens`."""

    def to_dict(self) -> dict[str, Any]:
        """Gives the whole tokenizer as plain data (what `load_tokenizer` needs)."""
        return {"kind": self.kind, "max_tokens": self.max_tokens, "prefix": self.prefix}

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Gives the token ids and segment ids of many texts.

        Args:
            texts: list of str. An empty text gives the special tokens only.

        Returns:
            `(token_ids, segment_ids)`, int32, `(num_texts, length)`: padded on the right with 0 to
            the longest row, truncated at `max_tokens`; segments are 0.
        """
        rows = [self.token_ids(text) for text in texts]
        return pad_rows(rows), np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that decides the ids."""
        data = json.dumps(self.to_dict(), ensure_ascii=True, sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()


def pad_rows(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Makes one int32 matrix `(num_rows, longest)` of rows of ids, padded on the right with 0.

    >>> pad_rows([[5, 6], [7]]).tolist()
    [[5, 6], [7, 0]]
    """
    matrix = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for row, ids in zip(matrix, rows, strict=True):
        row[: len(ids)] = ids
    return matrix


class WordPieceTokenizer(TextTokenizer):
    """Splits texts by BERT's WordPiece: bert4keras' `Tokenizer` over a vocabulary.

    Args:
        vocab: list of str, position = token id; holds `[PAD]` at 0, `[UNK]`, `[CLS]`, `[SEP]`.
        do_lower_case: lower-case and strip accents first (uncased models and nearly all Chinese
            ones).
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocab: Iterable[str],
        *,
        do_lower_case: bool = True,
        max_tokens: int = 64,
        prefix: str = "",
    ) -> None:
        from kerasrec import backend  # late: UnigramTokenizer needs no TensorFlow

        super().__init__(max_tokens=max_tokens, prefix=prefix)
        self.vocab = list(vocab)
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in set(self.vocab)]
        if missing:
            raise ValueError(
                "A WordPiece vocabulary must hold [PAD], [UNK], [CLS] and [SEP]. Missing:"
                f" {missing}. Use the vocab.txt that belongs to the checkpoint."
            )
        if self.vocab[0] != "[PAD]":
            raise ValueError(
                f"Token 0 of a WordPiece vocabulary must be [PAD]. Received: {self.vocab[0]!r}. "
                "Use the vocab.txt that belongs to the checkpoint."
            )
        self.do_lower_case = bool(do_lower_case)
        token_dict = {token: index for index, token in enumerate(self.vocab)}
        self._tokenizer = backend.import_bert4keras().tokenizers.Tokenizer(
            token_dict, do_lower_case=self.do_lower_case
        )

    def tokenize(self, text: str) -> list[str]:
        """Gives the tokens of one text as str, `[CLS]` and `[SEP]` included, not truncated.

        The prefix is not added.
        """
        return self._tokenizer.tokenize(text)

    def token_ids(self, text: str) -> list[int]:
        """Gives the token ids of prefix + text, `[CLS] ... [SEP]`, at most `max_tokens`."""
        text = self.prefix + text
        limit = 16 * self.max_tokens
        if len(text) > limit:  # a long description: its head is enough if it fills max_tokens
            head = _head(text, limit)
            if head:
                ids = self._tokenizer.encode(head)[0]
                if len(ids) >= self.max_tokens + 1:
                    return ids[: self.max_tokens - 1] + ids[-1:]
        ids = self._tokenizer.encode(text)[0]
        if len(ids) > self.max_tokens:
            ids = ids[: self.max_tokens - 1] + ids[-1:]
        return ids

    def to_dict(self) -> dict[str, Any]:
        """The whole tokenizer as plain data."""
        return super().to_dict() | {"do_lower_case": self.do_lower_case, "vocab": self.vocab}


def _head(text, limit):
    """The start of a text, cut after a space or a Chinese character (where no token can span)."""
    for end in range(limit, limit // 2, -1):
        if text[end - 1] == " " or "\u4e00" <= text[end - 1] <= "\u9fff":
            return text[:end]
    return ""


class UnigramTokenizer(TextTokenizer):
    """Splits texts as SentencePiece unigram does: into the pieces with the highest sum of scores.

    Ids: 0 padding, 1 `<s>`, 2 `</s>`, 3 `<unk>`, then the pieces in order. The special tokens never
    match text. Text is normalised by a character map, split at white space, and each word starts
    with "\u2581". Neighbouring unknown characters become one `<unk>`.

    Args:
        pieces: list of str, the pieces from id 4 on.
        scores: list of float, their log-probabilities.
        normalisation: dict from one character to its replacement (NFKC-like), applied first.
        unknown_score: score of an unknown character; default min(scores) - 10.
    """

    kind = "unigram"
    PAD, START, END, UNKNOWN, FIRST = 0, 1, 2, 3, 4

    def __init__(
        self,
        pieces: Iterable[str],
        scores: Iterable[float],
        *,
        normalisation: dict[str, str] | None = None,
        unknown_score: float | None = None,
        max_tokens: int = 64,
        prefix: str = "",
    ) -> None:
        super().__init__(max_tokens=max_tokens, prefix=prefix)
        self.pieces = list(pieces)
        self.scores = [float(score) for score in scores]
        if len(self.pieces) != len(self.scores) or not self.pieces:
            raise ValueError(
                "pieces and scores must be equally long and not empty. Received: "
                f"{len(self.pieces)} pieces, {len(self.scores)} scores."
            )
        self.normalisation = dict(normalisation or {})
        self.unknown_score = (
            min(self.scores) - UNKNOWN_PENALTY if unknown_score is None else float(unknown_score)
        )
        self._translation = str.maketrans(self.normalisation)
        self._table = {
            piece: (score, index)
            for index, (piece, score) in enumerate(zip(self.pieces, self.scores, strict=True), 4)
        }
        self._longest: dict[str, int] = {}  # first character -> longest piece that starts with it
        for piece in self.pieces:
            self._longest[piece[0]] = max(self._longest.get(piece[0], 0), len(piece))

    def normalise(self, text: str) -> str:
        """Gives the text as the pieces see it: mapped, one "\u2581" before each word.

        >>> UnigramTokenizer(["a"], [0.0]).normalise("  a  b ")
        '▁a▁b'
        """
        words = text.translate(self._translation).split()
        return "".join(word if word[0] == "\u2581" else "\u2581" + word for word in words)

    def token_ids(self, text: str) -> list[int]:
        """Gives the token ids of prefix + text, `<s> ... </s>`, at most `max_tokens`."""
        ids = self._segment(self.prefix + text, self.max_tokens - 2)
        return [self.START, *ids, self.END]

    def tokenize(self, text: str) -> list[str]:
        """Gives the pieces of one text, without special tokens, prefix or truncation."""
        ids = self._segment(text, limit=None)
        return ["<unk>" if index == self.UNKNOWN else self.pieces[index - 4] for index in ids]

    def _segment(self, text, limit):
        """The first `limit` ids of a text, word by word (no piece spans two words)."""
        ids = []
        for word in re.findall("\u2581[^\u2581]*", self.normalise(text)):
            ids += self._segment_word(word, None if limit is None else limit - len(ids))
            if limit is not None and len(ids) >= limit:
                break
        return ids

    def _segment_word(self, word, limit):
        """Viterbi over the pieces; stops as soon as the first `limit` ids are certain."""
        table, longest = self._table, self._longest
        length = len(word)
        best = [None] * (length + 1)  # best score of word[:end]
        back = [None] * (length + 1)  # (start, id) of the last piece of that best path
        best[0] = 0.0
        ids, settled, reach = [], 0, 0
        for start in range(length):
            if start == reach and start:  # no piece spans this place: every path passes it
                self._append_path(ids, back, settled, start)
                settled = start
                if limit is not None and len(ids) >= limit:
                    return ids[:limit]
            score, single = best[start], False
            for end in range(start + 1, min(start + longest.get(word[start], 0), length) + 1):
                found = table.get(word[start:end])
                if found is not None and score is not None:
                    single = single or end == start + 1
                    reach = max(reach, end)
                    total = score + found[0]
                    if best[end] is None or total > best[end]:
                        best[end], back[end] = total, (start, found[1])
            if not single and score is not None:
                end = start + 1
                reach = max(reach, end)
                total = score + self.unknown_score
                if best[end] is None or total > best[end]:
                    best[end], back[end] = total, (start, self.UNKNOWN)
        self._append_path(ids, back, settled, length)
        return ids[:limit]

    def _append_path(self, ids, back, settled, end):
        """Append the best path from `settled` to `end`; neighbouring unknowns become one."""
        path = []
        while end > settled:
            end, index = back[end]
            path.append(index)
        for index in reversed(path):
            if not (index == self.UNKNOWN and ids and ids[-1] == self.UNKNOWN):
                ids.append(index)

    def to_dict(self) -> dict[str, Any]:
        """The whole tokenizer as plain data."""
        return super().to_dict() | {
            "pieces": self.pieces,
            "scores": self.scores,
            "normalisation": self.normalisation,
            "unknown_score": self.unknown_score,
        }


# --- On disk ---

TOKENIZERS = {"wordpiece": WordPieceTokenizer, "unigram": UnigramTokenizer}
TOKENIZER_FILE = "kerasrec_tokenizer.json"


def save_tokenizer(tokenizer: TextTokenizer, folder: str | Path) -> None:
    """Writes a tokenizer as plain files: a JSON, and for WordPiece a `vocab.txt` beside it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = tokenizer.to_dict()
    if tokenizer.kind == "wordpiece":
        text = "".join(token + "\n" for token in data.pop("vocab"))
        (folder / "vocab.txt").write_bytes(text.encode("utf-8"))
    (folder / TOKENIZER_FILE).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """Reads what `save_tokenizer` wrote.

    Raises:
        FileNotFoundError: the folder holds no tokenizer of kerasrec.
    """
    path = Path(folder) / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No tokenizer found: {path} is missing. Expected a folder written by save_tokenizer."
        )
    data = json.loads(path.read_text(encoding="utf-8"))
    kind = data.pop("kind", None)
    if kind not in TOKENIZERS:
        raise ValueError(
            f"Unknown tokenizer kind {kind!r} in {path}. Known: {', '.join(TOKENIZERS)}."
        )
    if kind == "wordpiece":
        data["vocab"] = read_vocab(path.with_name("vocab.txt"))
    return TOKENIZERS[kind](**data)


def read_vocab(path: str | Path) -> list[str]:
    """Reads the tokens of a `vocab.txt`, one a line: list of str, position = token id.

    Lines end at "\\n" only: Chinese vocabularies hold tokens such as U+2028, at which
    `str.splitlines` would break.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No vocabulary found: {path} is missing.")
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). "
            "Use the vocab.txt that belongs to the checkpoint."
        ) from None
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def is_chinese_or_ascii(piece: str) -> bool:
    """Tells whether all characters are ASCII, Chinese, symbols, punctuation or the word mark.

    >>> [is_chinese_or_ascii(piece) for piece in ("▁Java编程", "——", "нет")]
    [True, True, False]
    """
    return all(
        char < "\x80"
        or "\u4e00" <= char <= "\u9fff"
        or "\u3000" <= char <= "\u303f"  # 〇 is a number to Unicode
        or unicodedata.category(char)[0] in "PS"  # the word mark too
        or unicodedata.name(char, "").startswith("CJK ")
        for char in piece
    )
