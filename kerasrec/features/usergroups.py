"""Groups of users, and what each group likes more than others: lists for who has no history yet.

A column of the users' table puts a user into groups: a city, an age between two quantiles. For each
group it is counted how much oftener its users choose an item than all users do. The logarithm of
that, added over the groups of a user, moves the score of every item. No TensorFlow here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from scipy import sparse

from kerasrec.data.histories import Histories
from kerasrec.features.columntypes import Column, choose_columns
from kerasrec.features.itemfeatures import FeatureColumn, column_of, fit_column, plain_column

#: events that the taste of all counts as, in the taste of a group
PRIOR_EVENTS = 500.0
#: numbers in the table at most; of more groups the rarest go
MAX_CELLS = 20_000_000
FILE = "usergroups.json"
_BLOCK = 20_000  # users at once
#: inputs of a signature whose names begin so say something of a user
USER_INPUT = "user_"


class GroupWeights(NamedTuple):
    """How much the groups count in the score: of who has a history, and of who has none."""

    known: float = 0.0
    new: float = 0.0


class UserGroups:
    """Puts users into groups, and moves scores by what their groups like.

    Attributes:
        columns: name of a column of the users' table -> `FeatureColumn`.
        lifts: float32 `(num_groups, num_items + 1)`, logarithm of how much oftener a group chooses
            an item than all users; column 0 is padding.
        weights: `GroupWeights`.

    Args:
        columns, lifts, weights: see above.
    """

    def __init__(
        self,
        columns: Mapping[str, FeatureColumn],
        lifts: np.ndarray,
        weights: GroupWeights | None = None,
    ) -> None:
        self.columns, self.lifts = dict(columns), np.asarray(lifts, np.float32)
        self.weights = weights or GroupWeights()

    def __repr__(self):
        kinds = ", ".join(f"{name}:{one.column.type}" for name, one in self.columns.items())
        return f"UserGroups({kinds}; {len(self.lifts)} groups)"

    def weighed(self, weights: GroupWeights) -> "UserGroups":
        """The same groups with other weights."""
        return UserGroups(self.columns, self.lifts, weights)

    def members(self, frame: pd.DataFrame) -> np.ndarray:
        """Says how far each user belongs to each group, float32 `(num_users, num_groups)`.

        A column that the frame lacks, and a value that was not there when the groups were fitted,
        are missing: the user belongs to no group of that column.
        """
        parts = [np.zeros((len(frame), 0), np.float32)]
        for name, column in self.columns.items():
            missing = np.zeros((len(frame), column.width), np.float32)
            parts.append(column.rows(frame[name]) if name in frame else missing)
        return np.concatenate(parts, axis=1)

    def shifts(self, members: np.ndarray) -> np.ndarray:
        """Adds up what the groups of users like, float32 `(num_users, num_items + 1)`."""
        return members @ self.lifts

    def save(self, folder: str | Path) -> None:
        """Writes columns and weights; the lifts are in the graph of a version."""
        columns = {name: plain_column(one) for name, one in self.columns.items()}
        text = json.dumps({"columns": columns, "weights": self.weights}, ensure_ascii=False)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, lifts: np.ndarray | None = None) -> Self | None:
        """Reads what `save` wrote; None where there is nothing. Without `lifts` it has no table."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: column_of(one) for name, one in saved["columns"].items()}
        width = sum(one.width for one in columns.values())
        given = np.zeros((width, 1), np.float32) if lifts is None else lifts
        return cls(columns, given, GroupWeights(*saved["weights"]))


def choose_user_columns(
    frame: pd.DataFrame, declaration: str | Sequence[str] | Mapping[str, str] = "auto"
) -> dict[str, Column]:
    """Chooses the columns of the users' table that make groups, as `choose_columns`.

    Raises:
        ValueError: as `choose_columns`; a column of vectors, which make no groups.
    """
    chosen = choose_columns(frame.drop(columns="user_id"), declaration)
    for name, column in chosen.items():
        if column.type == "vector":
            raise ValueError(
                "users: expected columns of categories, numbers or times. Received: "
                f"{name}:vector. Leave it out: vectors are for items."
            )
    return chosen


def fit_user_groups(
    frame: pd.DataFrame,
    histories: Histories,
    num_items: int,
    declaration: str | Sequence[str] | Mapping[str, str] = "auto",
) -> UserGroups:
    """Fits groups to the users' table and to what the users chose.

    The taste of a group, `p(item | group)`, is smoothed towards that of all users:
    `lift = log((n_gi + m p_i) / ((n_g + m) p_i))` with m = `PRIOR_EVENTS`. A user counts once for
    an item. Groups of a number overlap: a user of 27 belongs a half to 24 and a half to 30.

    Args:
        frame: one row for each user, `user_id` and further columns, all str; users of `histories`
            that it lacks belong to no group.
        histories: `Histories` of the training events.
        num_items: size of the catalogue.
        declaration: as for `columntypes.choose_columns`.

    Returns:
        `UserGroups` with weights 0.

    Raises:
        ValueError: as `choose_columns`.

    >>> from kerasrec.data import make_histories, read_interactions, read_items
    >>> log = pd.DataFrame({"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 3], "ts": [1, 2, 3, 4]})
    >>> items = read_items(pd.DataFrame({"item": [1, 2, 3], "title": ["甲", "乙", "丙"]}))
    >>> users = pd.DataFrame({"user_id": list("abcd"), "city": ["京", "沪", "京", "沪"]})
    >>> histories = make_histories(read_interactions(log), items)
    >>> groups = fit_user_groups(users, histories, 3, "city:category")
    >>> groups
    UserGroups(city:category; 2 groups)
    >>> bool((groups.lifts[0, [1, 2]] < groups.lifts[0, 2]).tolist() == [True, False])
    True
    """
    chosen = choose_user_columns(frame, declaration)
    # what all of a group have in common is its size; the rare value of a user says as much
    most = MAX_CELLS // ((num_items + 1) * max(len(chosen), 1))
    columns = {
        name: fit_column(frame[name], one, idf=False, most=max(most, 1))
        for name, one in chosen.items()
    }
    columns = {name: one for name, one in columns.items() if one.width}
    groups = UserGroups(columns, np.zeros((0, num_items + 1), np.float32))
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    taken = histories.chosen
    pairs = np.unique(row[taken].astype(np.int64) * (num_items + 1) + histories.items[taken])
    row, item = pairs // (num_items + 1), pairs % (num_items + 1)
    counts = np.bincount(item, minlength=num_items + 1).astype(np.float64)
    share = (counts + 1e-3) / (counts.sum() + 1e-3 * len(counts))
    events = _chosen_by(groups, frame, histories.user_ids, row, item, num_items)
    taste = (events + PRIOR_EVENTS * share) / (events.sum(axis=1, keepdims=True) + PRIOR_EVENTS)
    lifts = np.log(taste / share).astype(np.float32)
    lifts[:, 0] = 0
    return UserGroups(columns, lifts)


def _chosen_by(groups, frame, user_ids, row, item, num_items):
    """How often each group chose each item, float64 `(num_groups, num_items + 1)`.

    `row` (ascending) and `item` are pairs of users and items. Users come by blocks: how far all of
    them belong to all groups would be a table of gigabytes.
    """
    place = pd.Index(frame["user_id"].to_numpy(object)).get_indexer(user_ids)
    width = sum(one.width for one in groups.columns.values())
    found = np.zeros((width, num_items + 1))
    for start in range(0, len(place), _BLOCK):
        mine = place[start : start + _BLOCK]
        members = groups.members(frame.iloc[np.maximum(mine, 0)]) * (mine >= 0)[:, None]
        first, last = np.searchsorted(row, [start, start + _BLOCK])
        pairs = (row[first:last] - start, item[first:last])
        shape = (len(mine), num_items + 1)
        chosen = sparse.csr_matrix((np.ones(last - first), pairs), shape=shape)
        found += (chosen.T @ members.astype(np.float64)).T
    return found
