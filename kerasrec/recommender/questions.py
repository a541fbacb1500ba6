"""`Questions`: what callers of a `Recommender` ask, checked and made arrays."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.checks import is_whole
from kerasrec.data.histories import Histories, history_rows, make_histories, model_inputs
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.sources import read_interactions
from kerasrec.data.tables import is_frame
from kerasrec.data.times.forms import read_moment
from kerasrec.features.itemcolumns import Chosen
from kerasrec.fusion.recency import AT_THE_END, newest_times

log = logging.getLogger(__name__)
#: what may stand for the histories of users: see `Recommender.recommend`
ManyHistories: TypeAlias = (
    Histories | Interactions | pd.DataFrame | Mapping[Any, Iterable] | Iterable[Iterable[Any]]
)
NO_ITEMS = np.zeros(0, np.int32)
#: an allow list that no item is on; an empty one allows all
NOTHING = np.array([-1], np.int32)


class Questions(NamedTuple):
    """What is asked for many users at once.

    histories: `Histories`, one for each question.
    times: int64 `(num_users,)`, when a list is asked for, UTC seconds; 0 = at the end of the log.
    waited: int64 `(num_users,)`, seconds between a user's newest event and that moment; 0 =
    unknown, or no time passed.
    allow: int32 `(n,)`, indices of the items that alone may be listed; empty = all of them, -1 = an
    item that does not exist.
    deny: int32 `(n,)`, indices of items that may not be listed.
    members: float32 `(num_users, num_groups)`, how far each user belongs to each group that the
    version knows; None = nothing is known of the users.
    """

    histories: Histories
    times: np.ndarray
    waited: np.ndarray
    allow: np.ndarray = NO_ITEMS
    deny: np.ndarray = NO_ITEMS
    members: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        """How many there are."""
        return self.histories.num_users

    def select(self, rows: np.ndarray) -> "Questions":
        """Those of some rows; the rules for items are the same for all."""
        return self._replace(
            histories=self.histories.select(rows),
            times=self.times[rows],
            waited=self.waited[rows],
            members=None if self.members is None else self.members[rows],
        )

    def inputs(self) -> list[Any]:
        """Tensors `history, time_gap, event`; see `history_tensors`."""
        return history_tensors(self.histories)


def read_questions(
    given: ManyHistories,
    items: Items,
    *,
    asked: str,
    log_end: int = 0,
    candidates: Iterable[Any] | None = None,
    deny: Iterable[Any] | None = None,
    at: Any = None,
) -> Questions:
    """Reads what a caller gives.

    Args:
        given: the histories.
        items: `Items`, the catalogue.
        asked: what the manifest of the version says: the time of a list when `at` is None.
        log_end: the newest event that the version knows, UTC seconds; 0 = unknown.
        candidates, deny, at: as for `Recommender.recommend`.

    Raises:
        ValueError: as for `Recommender.recommend`.
    """
    histories = read_histories(given, items)
    times, newest = np.zeros(histories.num_users, np.int64), newest_times(histories)
    if at is None and asked != AT_THE_END:
        times = newest
    elif isinstance(at, (np.ndarray, pd.Series)):
        times = _moments(at, histories.num_users)
    elif at not in (None, "now"):
        times = np.full(histories.num_users, read_moment(at), np.int64)
    waited = np.where(times > 0, times, log_end) - newest
    return Questions(
        histories,
        times,
        np.where(newest > 0, np.maximum(waited, 0), 0),
        allow=_listed(candidates, items, "candidates"),
        deny=_listed(deny, items, "deny"),
    )


def among_chosen(questions: Questions, chosen: Chosen | None) -> Questions:
    """Gives the questions of which the lists hold chosen items alone; None = all."""
    if chosen is None:
        return questions
    if len(questions.allow):
        allow = questions.allow[questions.allow > 0]  # -1 is an item that does not exist
        allow = allow[chosen.mask[allow - 1]]
        return questions._replace(allow=allow if len(allow) else NOTHING)
    deny = np.union1d(questions.deny, chosen.deny).astype(np.int32)
    return questions._replace(allow=chosen.allow, deny=deny)


def read_histories(given: ManyHistories, items: Items) -> Histories:
    """Reads histories in any form; items that the catalogue lacks are skipped."""
    if isinstance(given, Histories):
        return given
    if is_frame(given):
        given = read_interactions(given)
    if isinstance(given, Interactions):
        return known_histories(given, items)
    user_ids, rows = history_rows(given)
    index = index_of([item for row in rows for item in row], items)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows]).astype(np.int64)
    known = index > 0
    counts = np.bincount(owner[known], minlength=len(rows))
    num_events = int(known.sum())
    return Histories(
        np.array([*user_ids, None], object)[:-1],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        index[known],
        np.zeros(num_events, np.int64),
        np.zeros(num_events, np.int16),
        np.ones(num_events, np.float32),
    )


def known_histories(
    interactions: Interactions, items: Items, *, users: Iterable[Any] | None = None
) -> Histories:
    """Makes `Histories` of the interactions whose items the catalogue has; warns of the others.

    Args:
        interactions: `Interactions`.
        items: `Items`, the catalogue.
        users: as for `Recommender.histories`.
    """
    frame = interactions.frame
    if users is None:
        users = frame["user_id"].cat.remove_unused_categories().cat.categories
    known = index_of(frame["item_id"], items) > 0
    if not known.all():
        count = int((~known).sum())
        log.warning("%d interactions with items the model does not know are skipped", count)
        interactions = interactions.replace(frame[known])
    histories = make_histories(interactions, items)
    # ids are texts everywhere, also where a log has numbers
    return histories.of_users(np.array([str(user) for user in users], object))


def history_tensors(histories: Histories) -> list[Any]:
    """Tensors `history, time_gap, event` of whole histories: what they hold is not listed again."""
    inputs = model_inputs(histories, int(histories.lengths.max(initial=1)))
    return [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]


def index_of(item_ids: Iterable[Any], items: Items) -> np.ndarray:
    """int32 item index of each id, 0 = unknown; a number stands for its text (5 for "5")."""
    if isinstance(getattr(item_ids, "dtype", None), pd.CategoricalDtype):
        return items.index_of(item_ids)
    texts = [i if isinstance(i, str) else str(i) for i in item_ids]
    return items.index_of(texts)


def read_k(k: Any) -> int:
    """Reads the length of a list; raises ValueError where it is no whole number above 0."""
    if not is_whole(k) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1. Received: {k!r}.")
    return int(k)


def _moments(at, num_users):
    """int64 `(num_users,)`, a moment for each user."""
    times = np.asarray(at)
    if times.shape != (num_users,) or times.dtype.kind not in "iu" or (times < 0).any():
        raise ValueError(
            f"at must be one moment, or an array of {num_users} of them, whole UTC seconds, one "
            f"for each history. Received: an array of shape {times.shape}, {times.dtype}."
        )
    return times.astype(np.int64)


def _listed(item_ids, items, what):
    """int32 item indices of `candidates` or `deny`, `(n,)`; None = none."""
    if item_ids is None:
        return NO_ITEMS
    if isinstance(item_ids, str):
        raise ValueError(f"{what} must be a list of item ids. Received: the text {item_ids!r}.")
    index = index_of(item_ids, items)
    if what == "candidates" and not index.any():
        raise ValueError(
            f"candidates must name items of the catalogue ({len(items)}). Received: "
            f"{len(index)} ids, none of them known."
        )
    if not index.all():
        log.warning("%d of %d ids in %s are unknown", (index == 0).sum(), len(index), what)
    return np.unique(index[index > 0])
