"""Turns recommendation tables into integers for the metrics."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class EncodedLists(NamedTuple):
    """Holds lists, test and train as integers; users in the order of the test table.

    list_user, list_item, list_place: one entry per listed item of a test user, sorted by user
    and place (from 1).  test_user, test_item: one entry per pair, without repeats.  train_user
    is -1 for a user outside the test set.  Items below `num_catalogue` are the catalogue.
    """

    user_names: np.ndarray
    item_names: np.ndarray
    num_catalogue: int
    list_user: np.ndarray
    list_item: np.ndarray
    list_place: np.ndarray
    test_user: np.ndarray
    test_item: np.ndarray
    train_user: np.ndarray
    train_item: np.ndarray
    num_train_users: int
    users_not_in_test: int

    def pairs(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Encodes pairs (user, item), one integer per pair."""
        return user.astype(np.int64) * len(self.item_names) + item


def encode_lists(recs: Any, test: Any, train: Any, catalogue: Any) -> EncodedLists:
    """Checks the tables of `metrics.score_recommendations` and encodes them as integers.

    Ids are compared as strings.

    Raises:
        ValueError: a column or an id is missing, a rank or score is no number, `test` is empty.
    """
    nothing = pd.DataFrame({"user_id": [], "item_id": []}, dtype=str)
    recs, test, train = (
        getattr(table, "frame", table)
        for table in (recs, test, nothing if train is None else train)
    )
    test_user, test_users = _codes(test, "user_id", "test")
    test_item, test_items = _codes(test, "item_id", "test")
    if not len(test):
        raise ValueError("test needs at least one row. Received: none. Check how it was split.")
    train_user, train_users = _codes(train, "user_id", "train")
    train_item, train_items = _codes(train, "item_id", "train")
    rec_user, rec_users = _codes(recs, "user_id", "recs")
    rec_item, rec_items = _codes(recs, "item_id", "recs")
    users = test_users.unique()
    row_of_user = users.get_indexer(rec_users)
    rec_user = row_of_user[rec_user]
    order = _list_order(recs, rec_user)
    rec_user, rec_item = rec_user[order], rec_item[order]
    if catalogue is None:
        used = rec_items[np.bincount(rec_item, minlength=len(rec_items)) > 0]
        catalogue = train_items.append([test_items, used])
    catalogue = _as_strings(getattr(catalogue, "ids", catalogue)).unique()
    items = catalogue.append([train_items, test_items, rec_items]).unique()
    encoded = EncodedLists(
        users.to_numpy(),
        items.to_numpy(),
        len(catalogue),
        rec_user,
        items.get_indexer(rec_items)[rec_item],
        _places(rec_user),
        users.get_indexer(test_users)[test_user],
        items.get_indexer(test_items)[test_item],
        users.get_indexer(train_users)[train_user],
        items.get_indexer(train_items)[train_item],
        len(train_users.unique()),
        int((row_of_user < 0).sum()),
    )
    pairs = pd.unique(encoded.pairs(encoded.test_user, encoded.test_item))
    return encoded._replace(test_user=pairs // len(items), test_item=pairs % len(items))


def _as_strings(ids):
    return pd.Index(np.asarray(ids, object)).astype(str).astype(object)


def _codes(table, column, what):
    """Integer codes of an id column and the ids they stand for."""
    if column not in table:
        raise ValueError(
            f"{what} needs a column {column!r}. Received: {list(map(str, table.columns))}. "
            "Rename the columns to user_id and item_id."
        )
    codes, names = pd.factorize(table[column])
    if (codes < 0).any():
        raise ValueError(
            f"{what}: every row needs a {column}. Received: {(codes < 0).sum()} rows without one. "
            "Drop these rows."
        )
    return codes, _as_strings(names)


def _list_order(recs, user):
    """Rows of the test users: by user, best first, ties in file order."""
    column = "rank" if "rank" in recs else "score"
    if column not in recs:
        raise ValueError(
            "recs needs a column 'rank' (1 = best) or 'score' (high = best). Received: "
            f"{list(map(str, recs.columns))}. Add one of them."
        )
    key = pd.to_numeric(recs[column], errors="coerce").to_numpy(float)
    if np.isnan(key).any():
        raise ValueError(
            f"Every row of recs needs a {column}. Received: {np.isnan(key).sum()} of {len(key)} "
            "rows without a number. Drop these rows or mend the model that wrote them."
        )
    rows = np.flatnonzero(user >= 0)
    user, key = user[rows], key[rows] if column == "rank" else -key[rows]
    sorted_already = (user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (key[1:] >= key[:-1]))
    return rows if sorted_already.all() else rows[np.lexsort((key, user))]


def _places(user):
    """Place of every row in its list, from 1; `user` is sorted.

    >>> _places(np.array([4, 4, 7])).tolist()
    [1, 2, 1]
    """
    first = np.flatnonzero(np.diff(user, prepend=-1))
    lengths = np.diff(first, append=len(user))
    return np.arange(len(user)) - np.repeat(first, lengths) + 1
