"""`GraphUnigram`: does what `UnigramTokenizer` does, in core TensorFlow operations.

All texts of a batch are one flat row of characters. The pieces are a trie, kept as its sorted
edges: a state is the place of the edge that leads to it, so `tf.searchsorted` steps. Pieces start
at every character at once; the words of all texts take the Viterbi step side by side, and the best
path is read off by doubling the length of the jumps back.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec.backend import tf
from kerasrec.text.tokenizers import UnigramTokenizer

MARK, SPACE = 0x2581, 0x20
CHAR_BITS = 21  # of a code point; an edge is state << 21 | character
FIRST_HEAD = 8  # bytes of a text that are looked at first, for each token that fits
GROWTH = 4  # how much more of it when that did not fill the row
SPOILT = 4  # code points at the end of a cut text that may be halves of a character
_TEXTS = tf.TensorSpec((None,), tf.string, name="texts")


class GraphUnigram(tf.Module):
    """Turns texts into token ids in the graph, equal to `tokenizer.encode_batch`.

    The tables are variables (about 45 bytes a piece), so a version loads them with its weights.
    Only the head of a long text is looked at: more and more of it until its first ids are certain.
    Bytes that are no UTF-8 count as U+FFFD.

    Args:
        tokenizer: `UnigramTokenizer`.
        folder: not used, as there is no asset file; all graph tokenizers are made alike.
    """

    def __init__(self, tokenizer: UnigramTokenizer, folder: str | Path | None = None) -> None:
        super().__init__(name="unigram")
        if tokenizer.kind != "unigram":
            raise ValueError(
                f"GraphUnigram needs a UnigramTokenizer. Received: one of kind {tokenizer.kind!r}."
            )
        if not np.isfinite([*tokenizer.scores, tokenizer.unknown_score]).all():
            raise ValueError("The scores of a tokenizer must be finite. Received: inf or nan.")
        self.prefix = tokenizer.prefix
        self.limit = tokenizer.max_tokens - 2
        self.start, self.end = tokenizer.START, tokenizer.END
        self.unknown = tokenizer.UNKNOWN
        trie = make_trie(tokenizer)
        self.longest = int(trie.depths.max())
        self.unknown_state = len(trie.ids) - 1
        self.trie = _variables(trie)
        self.character_map = _variables(make_character_map(tokenizer.normalisation))

    @tf.function(input_signature=[_TEXTS], autograph=False)
    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """Token ids and segment ids of texts.

        Args:
            texts: string, `(num_texts,)`, UTF-8.

        Returns:
            `(token_ids, segment_ids)`, int32, `(num_texts, length)`: as `encode_batch` gives them.
        """
        num_texts = tf.size(texts)
        # read once, here: tf.gather from a variable makes each later read of it a copy
        trie = Trie(*(table.read_value() for table in self.trie))
        character_map = CharacterMap(*(table.read_value() for table in self.character_map))

        def longer_heads(heads, done, token_ids):
            token_ids, done = self._encode(texts, heads, trie, character_map)
            return tf.where(done, heads, heads * GROWTH), done, token_ids

        *_, token_ids = tf.while_loop(
            lambda heads, done, token_ids: ~tf.reduce_all(done),
            longer_heads,
            (
                tf.fill([num_texts], FIRST_HEAD * (self.limit + 2)),
                tf.fill([num_texts], False),
                tf.zeros((num_texts, 0), tf.int32),
            ),
            shape_invariants=(
                tf.TensorShape([None]),
                tf.TensorShape([None]),
                tf.TensorShape([None, None]),
            ),
        )
        return token_ids, tf.zeros_like(token_ids)

    def _encode(self, texts, heads, trie, character_map):
        """Token ids of the first `heads` bytes of each text, and which rows are certain."""
        num_texts = tf.size(texts)
        cut = tf.strings.length(texts) > heads
        head = tf.strings.substr(texts, tf.zeros_like(heads), heads)
        chars, rows = _normalise(character_map, tf.strings.join([self.prefix, head]), cut)
        starts, states = _matches(trie, chars)
        lengths, states, settled = self._best_pieces(trie, chars, starts, states)
        ends = _path(chars, lengths)  # character behind each piece of the best path
        ids = tf.gather(trie.ids, tf.gather(states, ends - 1))
        first = tf.gather(chars, ends - tf.gather(lengths, ends - 1))
        # neighbouring unknowns of one word become one
        unknown = ids == self.unknown
        again = unknown & tf.concat([[False], unknown[:-1]], 0) & (first != MARK)
        kept = tf.where(~again)[:, 0]
        ids, ends = tf.gather(ids, kept), tf.gather(ends, kept)
        certain = self._certain(rows, settled, ends, num_texts)
        return self._padded(ids, tf.gather(rows, ends - 1), num_texts), ~cut | certain

    def _best_pieces(self, trie, chars, starts, states):
        """The last piece of the best way to each character, from the start of its word.

        Returns:
            `lengths`, int32, `(num_chars,)`: of the piece that ends with this character.
            `states`, int32, `(num_chars,)`: its state.
            `settled`, bool, `(num_chars,)`: no piece begins up to this character and ends behind.
        """
        # a place is settled when no piece that began before it is still open
        num_chars = tf.size(chars)
        lengths = tf.gather(trie.depths, states)
        ends = starts + lengths - 1
        open_pieces = tf.math.unsorted_segment_sum(tf.ones_like(starts), starts, num_chars)
        open_pieces -= tf.math.unsorted_segment_sum(tf.ones_like(ends), ends, num_chars)
        settled = tf.cumsum(open_pieces) == 0

        # the pieces that end at each character
        longest = tf.reduce_max(tf.concat([[1], lengths], 0))
        # (num_chars, longest): column c is the piece of length `longest - c`; a single character
        # is unknown unless it is a piece
        unknown = tf.fill((num_chars, 1), self.unknown_state)
        table = tf.concat([tf.zeros((num_chars, longest - 1), tf.int32), unknown], 1)
        table = tf.tensor_scatter_nd_update(table, tf.stack([ends, longest - lengths], 1), states)
        # the best total up to each character, and from it the piece that leads there
        scores = tf.gather(trie.scores, table)
        before = tf.concat([tf.zeros([1], tf.float64), _viterbi(chars, scores)[:-1]], 0)
        before = tf.where(chars == MARK, tf.constant(0.0, tf.float64), before)
        lengths = tf.range(longest, 0, -1)
        places = tf.maximum(tf.range(1, num_chars + 1)[:, None] - lengths, 0)
        totals = tf.gather(before, places) + scores
        best = tf.reduce_max(totals, axis=1, keepdims=True)
        # of equals the one that starts first, as Python meets it first
        length = tf.reduce_max(tf.where(totals == best, lengths, 0), axis=1)
        return length, tf.gather(table, longest - length, batch_dims=1), settled

    def _certain(self, rows, settled, ends, num_texts):
        """Whether the first `limit` ids of a text stay, whatever follows: bool `(num_texts,)`.

        All ways pass a settled place. Near the end of a text a longer piece may still follow.
        """
        place = tf.range(1, tf.size(rows) + 1)
        num_rows = num_texts + 1
        text_ends = tf.math.unsorted_segment_max(place, rows, num_rows)
        visible = place + self.longest - 1 <= tf.gather(text_ends, rows)
        last = tf.where(settled & visible, place, 0)
        last = tf.math.unsorted_segment_max(last, rows, num_rows)
        row = tf.gather(rows, ends - 1)
        sure = tf.cast(ends <= tf.gather(last, row), tf.int32)
        return tf.math.unsorted_segment_sum(sure, row, num_rows)[:-1] >= self.limit

    def _padded(self, ids, rows, num_texts):
        """Start, the first `limit` ids and end of each text: int32 `(num_texts, length)`."""
        counts = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, num_texts + 1)
        place = tf.range(tf.size(rows)) - tf.gather(tf.cumsum(counts, exclusive=True), rows)
        kept = tf.where((place < self.limit) & (rows < num_texts))[:, 0]
        counts = tf.minimum(counts[:-1], self.limit)
        text = tf.range(num_texts)
        column = tf.concat([tf.gather(place, kept) + 1, tf.zeros_like(text), counts + 1], 0)
        row = tf.concat([tf.gather(rows, kept), text, text], 0)
        values = [tf.gather(ids, kept), tf.fill([num_texts], self.start)]
        values = tf.concat([*values, tf.fill([num_texts], self.end)], 0)
        width = tf.reduce_max(counts) + 2
        return tf.scatter_nd(tf.stack([row, column], 1), values, tf.stack([num_texts, width]))


# --- Tables ---


class Trie(NamedTuple):
    """Finds pieces by their characters.

    State 0 is the root, state i + 1 is reached by edge i, and the last state is the unknown
    character.
    """

    edges: Any  # int64, (num_edges + 1,): state << 21 | character, ascending; one above all
    depths: Any  # int32, (num_edges + 2,), of each state: characters up to there
    scores: Any  # float64, of the piece that ends there; -inf: none
    ids: Any  # int32, of that piece; 0: none


class CharacterMap(NamedTuple):
    """Holds replacements of characters; all that `str.split` takes for white space is U+0020."""

    characters: Any  # int32, (num_mapped + 1,): code points, ascending; one above all
    offsets: Any  # int32, (num_mapped + 2,), into the replacements
    replacements: Any  # int32, (num_characters,): code points


def make_trie(tokenizer: UnigramTokenizer) -> Trie:
    """Makes the `Trie` of a `UnigramTokenizer`, of numpy arrays.

    A piece with a mark behind its start is left out: it matches nothing, as a word ends before a
    mark.
    """
    numbered = enumerate(tokenizer.pieces)
    usable = np.array([i for i, piece in numbered if "\u2581" not in piece[1:]], np.int64)
    pieces = [tokenizer.pieces[i] for i in usable]
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    codes = _code_points("".join(pieces)).astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    # level by level: one edge for each pair of a state and a next character
    states, edges, depths = np.zeros(len(pieces), np.int64), [], [0]
    for depth in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > depth)
        keys = states[longer] << CHAR_BITS | codes[begins[longer] + depth]
        unique, place = np.unique(keys, return_inverse=True)
        states[longer] = len(depths) + place
        edges.append(unique)
        depths += [depth + 1] * len(unique)
    # what ends at each state
    scores = np.full(len(depths) + 1, -np.inf)
    ids = np.zeros(len(depths) + 1, np.int32)
    scores[states] = np.array(tokenizer.scores)[usable]  # the last of equal pieces, as in a dict
    ids[states] = usable + tokenizer.FIRST
    scores[-1], ids[-1] = tokenizer.unknown_score, tokenizer.UNKNOWN
    ascending = np.concatenate([*edges, [np.iinfo(np.int64).max]]).astype(np.int64)
    return Trie(ascending, np.array([*depths, 1], np.int32), scores, ids)


def make_character_map(normalisation: dict[str, str]) -> CharacterMap:
    """Makes the `CharacterMap` of a dict character -> replacement, of numpy arrays."""
    blanks = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace()]
    to_space = str.maketrans(dict.fromkeys(blanks, " "))
    table = dict.fromkeys(blanks, " ") | {
        char: text.translate(to_space) for char, text in normalisation.items()
    }
    table = dict(sorted(table.items()))
    sizes = [len(text) for text in table.values()]
    offsets = np.cumsum([0, *sizes, 0])
    # one character more: who is not mapped reads there too, and throws it away
    replacements = _code_points("".join(table.values()) + " ")
    characters = [*map(ord, table), np.iinfo(np.int32).max]
    parts = (characters, offsets, replacements)
    return CharacterMap(*(np.array(part, np.int32) for part in parts))


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _variables(tables):
    named = zip(tables, tables._fields, strict=True)
    return [tf.Variable(table, trainable=False, name=name) for table, name in named]


# --- Steps ---


def _normalise(character_map, texts, cut):
    """Characters as the pieces see them, of all texts and of a last word that ends them.

    Args:
        texts: string, `(num_texts,)`.
        cut: bool, `(num_texts,)`: whether the end of the text is missing.

    Returns:
        `(chars, rows)`, int32, `(num_chars,)`: code points and the number of the text. The last
        word is the mark and -1, which no piece holds, of text `num_texts`; so nothing is empty.
    """
    # code points of all texts in one row; a cut text loses its last few, which may be halves
    decoded = tf.strings.unicode_decode(texts, "UTF-8").with_row_splits_dtype(tf.int32)
    sizes = tf.concat([decoded.row_lengths(), [1]], 0)
    codes = tf.concat([decoded.flat_values, [-1]], 0)
    rows, place = _spread(sizes)
    sizes -= tf.where(tf.concat([cut, [False]], 0), SPOILT, 0)
    whole = tf.where(place < tf.gather(sizes, rows))[:, 0]
    codes, rows = tf.gather(codes, whole), tf.gather(rows, whole)

    # each character becomes its replacement, of any length, or stays
    index, found = _find(character_map.characters, codes)
    first = tf.gather(character_map.offsets, index)
    owner, place = _spread(tf.where(found, tf.gather(character_map.offsets, index + 1) - first, 1))
    mapped = tf.gather(character_map.replacements, tf.gather(first, owner) + place)
    chars = tf.where(tf.gather(found, owner), mapped, tf.gather(codes, owner))
    rows = tf.gather(rows, owner)

    # no white space, and the mark before each word that does not begin with it
    other_row = tf.concat([[True], rows[1:] != rows[:-1]], 0)
    starts = (tf.concat([[SPACE], chars[:-1]], 0) == SPACE) | other_row
    marked = starts & (chars != MARK)
    owner, place = _spread(tf.where(chars == SPACE, 0, tf.where(marked, 2, 1)))
    is_mark = tf.gather(marked, owner) & (place == 0)
    return tf.where(is_mark, MARK, tf.gather(chars, owner)), tf.gather(rows, owner)


def _matches(trie, chars):
    """Every piece at every place: start and state, int32 `(num_matches,)`."""
    keys = tf.cast(chars, tf.int64)

    # all places walk down the trie together, one character a step; those without an edge drop out
    def step(depth, starts, states, all_starts, all_states):
        key = states * 2**CHAR_BITS + tf.gather(keys, starts + depth)
        index, found = _find(trie.edges, key)
        alive = tf.where(found)[:, 0]
        starts, index = tf.gather(starts, alive), tf.gather(index, alive) + 1
        all_starts = all_starts.write(depth, starts)
        all_states = all_states.write(depth, index)
        return depth + 1, starts, tf.cast(index, tf.int64), all_starts, all_states

    *_, starts, states = tf.while_loop(
        lambda depth, starts, *_: tf.size(starts) > 0,
        step,
        (0, tf.range(tf.size(chars)), tf.zeros_like(keys), _lists(), _lists()),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None]),
            tf.TensorShape([None]),
            tf.TensorShape(None),
            tf.TensorShape(None),
        ),
    )
    # of all states that were passed, those that end a piece
    starts, states = starts.concat(), states.concat()
    pieces = tf.where(tf.gather(trie.ids, states) > 0)[:, 0]
    return tf.gather(starts, pieces), tf.gather(states, pieces)


def _find(table, keys):
    """Place of each key in an ascending table (or of the next above), and whether it is there."""
    index = tf.searchsorted(table, keys)
    return index, tf.gather(table, index) == keys


def _spread(counts):
    """Entry i repeated `counts[i]` times: the number of its entry, and its place there."""
    ends = tf.cumsum(counts)
    place = tf.range(ends[-1])
    owner = tf.searchsorted(ends, place, side="right")
    return owner, place - tf.gather(ends - counts, owner)


def _lists(shape=(None,), dtype=tf.int32):
    """A growing array of lists of different lengths."""
    return tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape)


def _slots(chars):
    """Order of the characters for the Viterbi: first of all words, second of all words, ...

    Long words come first, so those that have a next character are always the first ones.

    Returns:
        `slots`, int32, `(num_chars,)`: place of each character in that order.
        `alive`, int32, `(longest_word,)`: number of words that have such a character.
    """
    is_start = chars == MARK
    word = tf.cumsum(tf.cast(is_start, tf.int32)) - 1
    begins = tf.cast(tf.where(is_start)[:, 0], tf.int32)
    sizes = tf.concat([begins[1:], [tf.size(chars)]], 0) - begins
    rank = tf.math.invert_permutation(tf.argsort(sizes, direction="DESCENDING"))
    number = tf.math.unsorted_segment_sum(tf.ones_like(sizes), sizes, tf.reduce_max(sizes) + 1)
    alive = tf.cumsum(number, reverse=True, exclusive=True)[:-1]
    place = tf.range(tf.size(chars)) - tf.gather(begins, word)
    return tf.gather(tf.cumsum(alive, exclusive=True), place) + tf.gather(rank, word), alive


def _viterbi(chars, scores):
    """The best total up to and with each character, from the start of its word.

    Args:
        chars: int32, `(num_chars,)`.
        scores: float64, `(num_chars, longest)`: of the pieces that end there, the longest first.

    Returns:
        float64, `(num_chars,)`.
    """
    # the scores of all words, their first characters together, then their second ones, ...
    slots, alive = _slots(chars)
    rows = tf.gather(scores, tf.math.invert_permutation(slots))
    rows = tf.TensorArray(tf.float64, tf.size(alive), infer_shape=False).split(rows, alive)
    # the window holds the totals of the last `longest` characters of each word
    nothing = tf.fill((alive[0], tf.shape(scores)[1] - 1), tf.constant(-np.inf, tf.float64))
    window = tf.concat([nothing, tf.zeros((alive[0], 1), tf.float64)], 1)

    def step(place, window, totals):
        row = rows.read(place)
        window = tf.slice(window, [0, 0], tf.shape(row))  # words that have such a character
        total = tf.reduce_max(window + row, axis=1, keepdims=True)
        return place + 1, tf.concat([window[:, 1:], total], 1), totals.write(place, total)

    *_, totals = tf.while_loop(
        lambda place, *_: place < tf.size(alive),
        step,
        (0, window, _lists([None, 1], tf.float64)),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, None]),
            tf.TensorShape(None),
        ),
    )
    return tf.gather(totals.concat()[:, 0], slots)


def _path(chars, lengths):
    """Ends of the pieces on the best path of every word, ascending: int32 `(num_pieces,)`.

    Place p lies before character p. All words are entered and left; the places between are found
    from there by jumps back over 1, 2, 4, ... pieces.
    """
    num_places = tf.size(chars) + 1
    places = tf.range(num_places)
    jump = tf.concat([[0], places[1:] - lengths], 0)
    passed = tf.concat([tf.cast(chars == MARK, tf.int32), [1]], 0)

    def double(_, jump, passed):
        before = tf.math.unsorted_segment_max(passed, jump, num_places)
        more = tf.maximum(passed, before)
        return tf.reduce_any(more != passed), tf.gather(jump, jump), more

    loop = (tf.constant(True), jump, passed)
    *_, passed = tf.while_loop(lambda changed, *_: changed, double, loop)
    return tf.cast(tf.where(passed[1:] == 1)[:, 0], tf.int32) + 1
