"""Says what a model learns from and what is held out, for each question that it may be asked.

- "live": what does this user take next, now? Every event is a request of its own, asked at its
  moment, with everything known that happened before. It is what a server is asked.
- "newest": the last event of each user, asked for at the user's event before it.
- "end": all that users do after a cut, one list for each, asked for at the cut.
"""

from typing import Literal, NamedTuple

import numpy as np

from kerasrec.data.histories import Histories, before, first_of_pairs, make_histories
from kerasrec.data.interactions import Interactions, Items, join_interactions
from kerasrec.fusion.candidates import MAX_USERS
from kerasrec.fusion.recency import asked_at_the_end
from kerasrec.models.validation import Validation, hold_out_last, make_validation

Ask = Literal["live", "newest", "end"]
ASKS: tuple[Ask, ...] = ("live", "newest", "end")
#: first choices, at least, that weights are chosen on as a live server predicts
FEWEST_TO_WEIGH = 300
#: share of the chosen events that is held out by time where no `valid` is given
SHARE = 0.1


class Requests(NamedTuple):
    """Holds the held-out events as a live server meets them.

    known: `Histories` of all events, those that were held out too.  places: of the requests in
    `known`, in order of time.  times: when each is asked, int64 UTC seconds.  validation: one row
    and one target for each of them; a row is empty for a user without a past.
    """

    known: Histories
    places: np.ndarray
    times: np.ndarray
    validation: Validation

    def time_of(self, histories: Histories) -> np.ndarray:
        """Finds when rows of `validation.histories` are asked: their user ids are places."""
        return self.known.timestamps[histories.user_ids.astype(np.int64)]


class HeldOut(NamedTuple):
    """Holds what is learned from and what is held out.

    ask: the question, one of `ASKS`.  fitted: `Histories` that a model learns from.  validation:
    what it is stopped by; for "live" the requests of users with a past.  later: the events of
    `valid`, none without it.  requests: `Requests`, for "live" alone.
    """

    ask: Ask
    fitted: Histories
    validation: Validation
    later: Histories
    requests: Requests | None = None


def hold_out(
    histories: Histories,
    items: Items,
    interactions: Interactions,
    valid: Interactions | None,
    ask: Ask | None,
) -> HeldOut:
    """Holds out what the question asks for.

    Args:
        histories: `Histories` of `interactions`.
        items: `Items`, the catalogue.
        interactions: `Interactions`, what may be learned from.
        valid: `Interactions` to stop and tune on, or None.
        ask: one of `ASKS`; None = "live" where the data allow it, else "end" where `valid` is
            later than all of `interactions`, else "newest".

    Raises:
        ValueError: an unknown question, one that the data cannot answer, or nobody with a past.
    """
    if ask is not None and ask not in ASKS:
        raise ValueError(f"ask must be one of {', '.join(ASKS)}. Received: {ask!r}.")
    given = None if valid is None else make_histories(valid, items)
    later = histories.select([]) if given is None else given
    if ask == "newest" or (ask is None and _why_not(histories, given)):
        is_end = ask is None and asked_at_the_end(histories, later)
        return _by_users(histories, later, "end" if is_end else "newest")
    if ask is not None and (why := _why_not(histories, given)):
        raise ValueError(why.format(ask))
    fitted, held, known = _cut(histories, given, items, interactions, valid)
    if ask != "end":
        requests = _requests(known, int(fitted.timestamps.max()))
        if requests is not None:
            return HeldOut("live", fitted, _with_a_past(requests.validation), later, requests)
        if ask == "live":
            raise ValueError(
                f"ask='live' needs at least {FEWEST_TO_WEIGH} held-out events with which users "
                "with a past take an item for the first time. Received: fewer. Give more events, "
                "or ask='newest'."
            )
        if given is None:
            return _by_users(histories, later, "newest")
    return HeldOut("end", fitted, make_validation(fitted, held), later)


def _by_users(histories: Histories, later: Histories, ask: Ask) -> HeldOut:
    """The last event of each user, or the events of `valid`, whenever they were."""
    if later.num_users:
        return HeldOut(ask, histories, make_validation(histories, later), later)
    fitted, validation = hold_out_last(histories)
    return HeldOut(ask, fitted, validation, later)


def _why_not(histories: Histories, later: Histories | None) -> str:
    """Why the data have no newest part; empty where they have one."""
    times = histories.timestamps
    if not times.any():
        return (
            "ask={!r} needs the times of the events. Received: a log without times. Give a time "
            "column, or ask='newest'."
        )
    if later is not None:
        if asked_at_the_end(histories, later):
            return ""
        return (
            "ask={!r} needs events in valid that are later than all of interactions. Received: "
            "some that are earlier. Give later ones, leave valid out, or ask='newest'."
        )
    if times.min() < times.max():
        return ""
    return (
        "ask={!r} needs events of more than one moment. Received: the same time everywhere. Give "
        "their real times, or ask='newest'."
    )


def _cut(histories, given, items, interactions, valid):
    """`Histories` before the cut, those after it, and all; one moment is never parted."""
    if given is not None:
        whole = make_histories(join_interactions([interactions, valid]), items)
        return histories, given, whole
    times = histories.timestamps
    chosen = times[histories.chosen] if histories.chosen.any() else times
    until = np.quantile(chosen, 1 - SHARE, method="lower")
    is_held = times > until
    if not is_held.any():  # a log of few moments: the last of them
        is_held = times == times.max()
    used = histories.where(~is_held)
    fitted = used.select(np.flatnonzero(used.lengths > 0))
    return fitted, histories.where(is_held), histories


def _requests(known, until):
    """`Requests` later than a moment, the newest `MAX_USERS`; None where they are too few."""
    is_asked = known.chosen & first_of_pairs(known) & (known.timestamps > until)
    places = np.flatnonzero(is_asked)
    if (~np.isin(places, known.offsets)).sum() < FEWEST_TO_WEIGH:
        return None
    # the newest: the same number, drawn from a longer time, meets older tables and trusts them less
    places = places[np.argsort(known.timestamps[places], kind="stable")][-MAX_USERS:]
    validation = Validation(before(known, places), np.arange(len(places)), known.items[places])
    return Requests(known, places, known.timestamps[places], validation)


def _with_a_past(validation):
    rows = np.flatnonzero(validation.histories.lengths > 0)
    return Validation(
        validation.histories.select(rows), np.arange(len(rows)), validation.target_items[rows]
    )
