"""Answers by what groups of users like, in the graph of a version: core operations only.

A version has these functions, and the signature `recommend_for`, where it was trained with a table
of users. What `UserGroups` does in Python, `Members` does for the signature: strings and numbers
in, groups out.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.features.itemfeatures import OWN, SHARED, FeatureColumn
from kerasrec.features.usergroups import USER_INPUT, UserGroups


def input_names(columns: Iterable[str]) -> list[str]:
    """Names the inputs of columns: `user_` and the name of the column.

    TensorFlow takes ASCII alone: a column of another name is `user_` and its place.

    >>> input_names(["age", "user_city", "所在城市", "zip code"])
    ['user_age', 'user_city', 'user_3', 'user_zip_code']
    """
    names: list[str] = []
    for place, column in enumerate(columns, start=1):
        name = "".join(one if one.isalnum() else "_" for one in column.removeprefix(USER_INPUT))
        name = USER_INPUT + (name.lower() if name.isascii() and name.strip("_") else str(place))
        names.append(f"{name}_{place}" if name in names else name)
    return names


#: a list as JSON or Python writes it, of texts without escapes and of whole numbers
_ENTRY = """("[^"\\\\]*"|'[^'\\\\]*'|[-+]?[0-9]+)"""
_LIST = rf"\s*\[\s*({_ENTRY}\s*(,\s*|\]))+\s*"


def _entries(texts):
    """The entries of written lists, with U+001F behind each."""
    inside = tf.strings.regex_replace(texts, r"^\s*\[\s*|\s*\]\s*$", "")
    parts = tf.strings.regex_replace(inside, rf"{_ENTRY}\s*(,\s*|$)", r"\1" + "\x1f")
    parts = tf.strings.regex_replace(parts, "(^|\x1f)[\"']", r"\1")
    return tf.strings.regex_replace(parts, "[\"']\x1f", "\x1f")


class Members(tf.Module):
    """Says how far a user belongs to each group of one column, as `FeatureColumn.rows` does."""

    def __init__(self, column: FeatureColumn) -> None:
        super().__init__()
        self.column, self.width = column, column.width
        self.is_number = column.column.type in ("number", "time")
        if self.is_number:
            self.knots = tf.constant(column.knots, tf.float32)
            return
        places = np.arange(len(column.values))
        self.places = tf.constant(np.where(places < OWN, places, OWN + (places - OWN) % SHARED))
        keys, values = tf.constant(column.values, tf.string), tf.constant(places + 1, tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)

    @property
    def spec(self) -> Any:
        """What the input is: `(batch,)` of texts, or of numbers."""
        return tf.TensorSpec((None,), tf.float32 if self.is_number else tf.string)

    def call(self, values: Any) -> Any:
        """Texts or numbers `(batch,)` -> float32 `(batch, width)`; "", NaN and others: zeros."""
        if self.is_number:
            return self._between(values)
        if self.column.column.type != "categories":
            return self._known(values[:, None])
        parts = values
        for mark in self.column.column.separators or "|":
            parts = tf.strings.regex_replace(parts, f"[{mark}]", "\x1f")
        parts = tf.where(tf.strings.regex_full_match(values, _LIST), _entries(values), parts)
        return self._known(tf.strings.split(parts, "\x1f").to_tensor(""))

    def _known(self, texts):
        texts = tf.strings.strip(tf.strings.regex_replace(texts, r"[\s\pZ]+", " "))
        number, count = self.table.lookup(texts), len(self.column.values) + 1
        each = tf.raw_ops.DenseBincount(  # each value once, 0 = unknown
            input=number,
            size=tf.constant(count, tf.int64),
            weights=tf.constant([], tf.float32),
            binary_output=True,
        )[:, 1:]
        found = tf.transpose(
            tf.math.unsorted_segment_sum(tf.transpose(each), self.places, self.width)
        )
        return found / tf.sqrt(tf.maximum(tf.reduce_sum(each, axis=1, keepdims=True), 1.0))

    def _between(self, values):
        known = tf.math.is_finite(values)[:, None]
        if self.width == 1:
            return tf.cast(known, tf.float32)
        value = tf.where(known[:, 0], values, self.knots[0])
        value = tf.clip_by_value(value, self.knots[0], self.knots[-1])
        right = tf.clip_by_value(
            tf.searchsorted(self.knots, value, side="right"), 1, self.width - 1
        )
        low, high = tf.gather(self.knots, right - 1), tf.gather(self.knots, right)
        # times that lie a minute apart may be one number in float32
        share = tf.math.divide_no_nan(value - low, high - low)[:, None]
        left, right = tf.one_hot(right - 1, self.width), tf.one_hot(right, self.width)
        return tf.where(known, left * (1 - share) + right * share, 0.0)


def add_user_groups(module: Any, groups: UserGroups) -> None:
    """Adds to a `ServingModule` what answers for users of whom columns are known.

    Attributes of the module from then on:
        group_lifts, group_weights: see `UserGroups`; variables, float32 `(num_groups, num_items +
            1)` and `(2,)`. Added items have no column: no group likes them more than others do.
        recommend_for_rows: as `recommend_rows`, with `members` (batch, num_groups) at the end.
        recommend_for: the signature.
    """
    module.group_lifts = tf.Variable(groups.lifts, shape=(None, None), name="group_lifts")
    module.group_weights = tf.Variable(np.array(groups.weights, np.float32), name="group_weights")
    parts = [Members(column) for column in groups.columns.values()]
    module.members = dict(zip(input_names(groups.columns), parts, strict=True))
    rows, texts = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.string)
    times = tf.TensorSpec((None,), tf.int64)

    def shift(members, history):
        """What is added to the score of every item."""
        likes = tf.matmul(members, module.group_lifts)
        missing = tf.size(module.first) - tf.shape(likes)[1]
        known = tf.reduce_any(history > 0, axis=1)
        weight = tf.where(known, module.group_weights[0], module.group_weights[1])
        return tf.pad(likes, [[0, 0], [0, missing]]) * weight[:, None]

    def recommend_for_rows(
        history, time_gap, event, allow, deny, keep_seen, asked, waited, k, members
    ):
        given = (history, time_gap, event, allow, deny, keep_seen, asked, waited, k)
        return module.lists(*given, shift=shift(members, history))

    module.recommend_for_rows = tf.function(
        recommend_for_rows,
        autograph=False,
        input_signature=[
            *([rows] * 5),
            tf.TensorSpec((None,), tf.bool),
            *([times] * 2),
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((None, groups.lifts.shape[0]), tf.float32),
        ],
    )

    named = dict(history=texts, timestamps=tf.TensorSpec((None, None), tf.int64))
    named |= dict(allow=texts, deny=texts, keep_seen=tf.TensorSpec((None,), tf.bool))
    named |= {name: part.spec for name, part in module.members.items()}
    # the names of the inputs depend on the table of users, so that no `def` can hold them
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = inspect.Signature([inspect.Parameter(name, kind) for name in named])

    def recommend_for(*args, **more):
        given = arguments.bind(*args, **more).arguments
        index, gaps, asked, waited = module._timed(given["history"], given["timestamps"])
        members = [part.call(given[name]) for name, part in module.members.items()]
        none, deny = tf.zeros_like(index), module._index(given["deny"])
        rules = (module._wanted(given["allow"]), deny, given["keep_seen"])
        inputs = (index, gaps, none, *rules, asked, waited, module.k)
        return module._named(*module.recommend_for_rows(*inputs, tf.concat(members, axis=1)))

    recommend_for.__signature__ = arguments  # type: ignore[attr-defined]
    specs = [tf.TensorSpec(one.shape, one.dtype, name=name) for name, one in named.items()]
    module.recommend_for = tf.function(recommend_for, input_signature=specs, autograph=False)


def example_users(module: Any, count: int) -> dict[str, np.ndarray]:
    """Makes values for the inputs of `recommend_for` that say something of users: some known, some
    not.
    """
    found = {}
    for name, part in module.members.items():
        known = part.column.knots if part.is_number else part.column.values
        kinds = [*known[:3], float("nan") if part.is_number else ""]
        values = [kinds[row % len(kinds)] for row in range(count)]
        found[name] = np.array(values, np.float32 if part.is_number else str)
    return found
