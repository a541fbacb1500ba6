"""Makes numbers of the columns of a catalogue: what a model reads of an item beside its text.

A category is a column of 0 and 1 for each value, a list of categories several at once, a number or
a time lies between the two nearest of a few quantiles, a vector of another model (of a picture, of
sound) is whitened by itself. A value that is missing, or that was not there when the features were
fitted, is zeros: the model then has the text and the id to go by.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from kerasrec.data.formats.vectorfiles import vector_columns
from kerasrec.features.columntypes import Column, choose_columns, parse_declaration, read_column
from kerasrec.features.whitening import Whitening, fit_whitening

#: values of one column that have a place of their own; the rarer ones share `SHARED` places
OWN, SHARED = 256, 64
#: quantiles that a number or a time lies between
KNOTS = 12
#: fewest items with a value: what one item has alone says nothing of another
FEWEST = 2
#: widest that a vector is after whitening, and fewest items that one direction of it is read from:
#: as many directions as items would make all items equally far from each other
DIRECTIONS, ITEMS_EACH = 64, 4
FILE = "features.json"


class FeatureColumn(NamedTuple):
    """One column as it was fitted.

    column: how it is read.  values: of categories, the known ones, the most frequent first.
    weights: of each value, more for a rare one.  knots: of a number or a time, ascending.
    whitening: of vectors.
    """

    column: Column
    values: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    whitening: Whitening | None = None

    @property
    def width(self) -> int:
        """How many places the column takes."""
        if self.whitening is not None:
            return self.whitening.matrix.shape[1]
        if self.column.type in ("number", "time"):
            return len(self.knots)
        return min(len(self.values), OWN + SHARED)

    def rows(self, values: pd.Series) -> np.ndarray:
        """Gives the rows of this column, float32 `(num_items, width)`, of length about 1 at most.

        Raises:
            ValueError: a vector of another width than when the column was fitted.
        """
        found = np.zeros((len(values), self.width), np.float32)
        if not self.width:
            return found
        read = read_column(values, self.column)
        if self.whitening is not None:
            there = np.flatnonzero([vector is not None for vector in read])
            if len(there):
                vectors = _stacked(read[there], str(values.name), len(self.whitening.mean))
                found[there] = self.whitening.apply(vectors) / self.width**0.5
            return found
        if self.column.type in ("number", "time"):
            _between(found, read, np.array(self.knots))
            return found
        place = {value: place for place, value in enumerate(self.values)}
        for row, entry in enumerate(read):
            entries = entry if isinstance(entry, tuple) else (entry,)
            known = [place[value] for value in entries if value in place]
            for one in known:
                # rare values share places by turns: few of them are frequent enough to clash
                column = one if one < OWN else OWN + (one - OWN) % SHARED
                found[row, column] += self.weights[one] / len(known) ** 0.5
        return found


def _stacked(vectors, name, width):
    """Vectors as one array, `(n, width)`."""
    for vector in vectors:
        if len(vector) != width:
            raise ValueError(
                f"{name}: expected vectors of {width} numbers. Received: one of {len(vector)}. "
                "Take all of them from one model."
            )
    return np.stack(list(vectors))


def _between(found, read, knots):
    """Write how near each number is to the two knots around it; NaN stays zeros."""
    known = np.flatnonzero(np.isfinite(read))
    if len(knots) == 1:
        found[known, 0] = 1
        return
    value = np.clip(read[known], knots[0], knots[-1])
    right = np.clip(np.searchsorted(knots, value, side="right"), 1, len(knots) - 1)
    share = (value - knots[right - 1]) / (knots[right] - knots[right - 1])
    found[known, right - 1] = 1 - share
    found[known, right] = share


class ItemFeatures:
    """Reads feature columns of a catalogue as rows of numbers; made by `fit_item_features`.

    Attributes:
        columns: name -> `FeatureColumn`.
    """

    def __init__(self, columns: Mapping[str, FeatureColumn]) -> None:
        self.columns = dict(columns)

    def __repr__(self):
        kinds = ", ".join(f"{name}:{one.column.type}" for name, one in self.columns.items())
        return f"ItemFeatures({kinds})"

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(one.width for one in self.columns.values())

    @property
    def are_vectors(self) -> np.ndarray:
        """Which numbers of a row come from vectors, of pictures or sound: bool `(width,)`."""
        kinds = [one.column.type == "vector" for one in self.columns.values()]
        return np.repeat(np.array(kinds, bool), [one.width for one in self.columns.values()])

    def rows(self, frame: pd.DataFrame) -> np.ndarray:
        """Gives one row for each item, float32 `(num_items, width)`, of length about 1.

        A column that the frame lacks is missing in all rows.
        """
        parts = [np.zeros((len(frame), 0), np.float32)]
        for name, column in self.columns.items():
            if name in frame:
                part = column.rows(frame[name])
            else:
                part = np.zeros((len(frame), column.width), np.float32)
            parts.append(part / len(self.columns) ** 0.5)
        return np.concatenate(parts, axis=1)

    def changed(self, before: pd.DataFrame, now: pd.DataFrame) -> np.ndarray:
        """Finds the rows that are other ones now, int `(n,)`, ascending: a price has changed."""
        vectors = [name for name, one in self.columns.items() if one.whitening is not None]
        others = ItemFeatures({n: one for n, one in self.columns.items() if n not in vectors})
        differs = (others.rows(before) != others.rows(now)).any(axis=1)
        for name in vectors:  # as texts: a product of matrices may round otherwise
            cells = (frame[name] if name in frame else [""] * len(frame) for frame in (before, now))
            differs |= np.not_equal(*(np.asarray(one, object) for one in cells)).astype(bool)
        return np.flatnonzero(differs)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that decides the rows."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()

    def description(self) -> dict[str, str]:
        """Gives what a manifest says: name of a column -> its type."""
        return {name: one.column.type for name, one in self.columns.items()}

    def _plain(self):
        return {name: plain_column(one) for name, one in self.columns.items()}

    def save(self, folder: str | Path) -> None:
        """Writes `features.json` into a folder."""
        text = json.dumps(self._plain(), ensure_ascii=False, indent=1)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self | None:
        """Reads what `save` wrote; None where there is nothing."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls({name: column_of(one) for name, one in saved.items()})


def plain_column(column: FeatureColumn) -> dict[str, Any]:
    """Makes JSON values of a fitted column; `column_of` reads them."""
    plain = {**column._asdict(), "column": column.column._asdict()}
    del plain["whitening"]  # absent where there is none, as in versions of before
    if column.whitening is not None:
        parts = (column.whitening.mean, column.whitening.matrix)
        plain["whitening"] = [base64.b64encode(part.tobytes()).decode() for part in parts]
    return plain


def column_of(saved: dict[str, Any]) -> FeatureColumn:
    """Reads what `plain_column` made."""
    parts: dict[str, Any] = {name: tuple(saved[name]) for name in ("values", "weights", "knots")}
    if "whitening" in saved:
        mean, matrix = (
            np.frombuffer(base64.b64decode(text), np.float32) for text in saved["whitening"]
        )
        parts["whitening"] = Whitening(mean, matrix.reshape(len(mean), -1))
    return FeatureColumn(Column(**saved["column"]), **parts)


def declared_features(frame: pd.DataFrame, declaration: str | None) -> dict[str, str]:
    """Gives what a model reads of a catalogue: what is declared, and all columns of vectors.

    Args:
        frame: such as `Items.frame`.
        declaration: as for `columntypes.choose_columns`; None = vectors alone. A type that is no
            feature, such as `image:id`, leaves a column of vectors out.

    >>> frame = pd.DataFrame({"item_id": ["a"], "image": ["vector:AAAAQAA0ALw="], "price": ["5"]})
    >>> declared_features(frame, "price:number"), declared_features(frame, None)
    ({'price': 'number', 'image': 'vector'}, {'image': 'vector'})
    """
    found = parse_declaration(declaration or {}, [str(name) for name in frame.columns])
    if "auto" not in found:
        for name in vector_columns(frame):
            found.setdefault(name, "vector")
    return found


def fit_item_features(
    frame: pd.DataFrame, declaration: str | Sequence[str] | Mapping[str, str] = "auto"
) -> ItemFeatures:
    """Fits the features of a catalogue: which values there are, and where numbers lie.

    Args:
        frame: such as `Items.frame`.
        declaration: words `COLUMN:TYPE`, or "auto", as for `columntypes.choose_columns`.

    Returns:
        `ItemFeatures`; without a column where "auto" finds none.

    Raises:
        ValueError: as `choose_columns`.

    >>> frame = pd.DataFrame({"item_id": list("abcd"), "类别": ["书", "书", "笔", "笔"]})
    >>> features = fit_item_features(frame, "类别:category")
    >>> features, features.rows(frame)[[0, 3]].tolist()
    (ItemFeatures(类别:category), [[1.0, 0.0], [0.0, 1.0]])
    """
    chosen = choose_columns(frame, declaration)
    fitted = {name: fit_column(frame[name], column) for name, column in chosen.items()}
    return ItemFeatures({name: one for name, one in fitted.items() if one.width})


def fit_column(
    values: pd.Series, column: Column, *, idf: bool = True, most: int | None = None
) -> FeatureColumn:
    """Fits one column: the values that two rows have, quantiles of numbers, whitening of vectors.

    Args:
        values: of the column, `(num_rows,)`.
        column: how it is read.
        idf: whether rare values weigh more.
        most: values that are known at most, the most frequent ones; None = all.
    """
    read = read_column(values, column)
    if column.type == "vector":
        there = [vector for vector in read if vector is not None]
        if len(there) < FEWEST:
            return FeatureColumn(column)
        vectors = _stacked(there, str(values.name), len(there[0]))
        width = min(DIRECTIONS, vectors.shape[1], max(len(there) // ITEMS_EACH, 1))
        return FeatureColumn(column, whitening=fit_whitening(vectors, width))
    if column.type in ("number", "time"):
        known = read[np.isfinite(read)]
        if not len(known):
            return FeatureColumn(column)
        knots = np.unique(np.quantile(known, np.linspace(0, 1, min(KNOTS, most or KNOTS))))
        return FeatureColumn(column, knots=tuple(float(knot) for knot in knots))
    counts: Counter[str] = Counter()
    for entry in read:
        counts.update(entry if isinstance(entry, tuple) else (entry,))
    del counts[""]
    common = [(value, count) for value, count in counts.most_common(most) if count >= FEWEST]
    if not idf:
        return FeatureColumn(column, tuple(value for value, _ in common), (1.0,) * len(common))
    # what nearly all items have tells them apart as little as it does in texts (idf)
    rarest = np.log(len(read) / FEWEST) if len(read) > FEWEST else 1.0
    weights = [float(np.log(len(read) / count) / rarest) for _, count in common]
    return FeatureColumn(
        column, tuple(value for value, _ in common), tuple(np.clip(weights, 0.1, 1.0).tolist())
    )
