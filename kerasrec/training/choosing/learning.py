"""Decides what of the held-out events a version learns at the end: tables, model, both or neither.

For "live" all is learned. For "end" it is tried: weights are chosen on the earlier half of the
held-out events, that half is learned, and lists for the later half, made at its begin, are compared
with those of a version that has not learned it. The most is learned that is within half a standard
error of what gives all users the best NDCG@10, where new items have as many places in the lists,
and as much of what was new is found but for one standard error, as without learning. New items are
lifted for that, and then as far as it costs all users next to nothing: else what was just learned
stands before them. The lift is raised where, once all is learned, new items would have fewer places
than without.

For "newest" tables with and without the last event of each user that they are fitted to are asked
for the held-out events; where the fresher ones are no worse, the tables, and what is counted at
each moment, learn the held-out events too. The model is taught those of one half of the users, and
asked for those of the other half.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.evaluation.metrics import mean_and_error
from kerasrec.fusion.choice import Lifted, choose_fusion, quality_by_lift, quality_of_tables
from kerasrec.fusion.fusion import Fusion, fit_again
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import Moments, fit_moments
from kerasrec.models.validation import Ranker, Validation, hold_out_last, make_validation
from kerasrec.training.choosing.heldout import HeldOut

log = logging.getLogger(__name__)
#: users asked, at least; fewer prove nothing: tables learn for "newest", and nothing for "end"
FEWEST_TO_DECIDE = 100
#: what is tried as an addition to the score of new items where all lists are made at one moment
LIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0)
#: standard errors of the difference that a lift, or learning more, may cost
_COSTS = 0.5


class Tried(NamedTuple):
    """Holds how good lists were: whether the tables and the model had learned, and `Lifted`."""

    tables: bool
    model: bool
    quality: Lifted


class Decision(NamedTuple):
    """Says what is learned.

    tables, model: whether they learn.  lift: what is added to the score of new items.  why: what
    was measured, as plain data.
    """

    tables: bool = False
    model: bool = False
    lift: float = 0.0
    why: dict[str, Any] = {}


class Halves(NamedTuple):
    """Holds the held-out events in two halves.

    first: `Validation` of the half that is learned.  second: that of the half that is asked for.
    known: `Histories`, what is known once the first half is learned.
    """

    first: Validation
    second: Validation
    known: Histories

    @property
    def are_few(self) -> bool:
        """Whether one half has fewer than `FEWEST_TO_DECIDE` users with a past."""
        return min(part.histories.num_users for part in self[:2]) < FEWEST_TO_DECIDE


def halves_by_time(held: HeldOut, known: Histories) -> Halves:
    """Cuts what is held out for "end" in two, at the moment in its middle.

    Args:
        held: `HeldOut`.
        known: `Histories` of all events, those that are held out too.
    """
    later = held.later
    if not later.num_users:
        later = known.where(known.timestamps > held.fitted.timestamps.max())
    middle = np.quantile(later.timestamps, 0.5, method="lower")
    until = _filled(known.where(known.timestamps <= middle))
    first = make_validation(held.fitted, _filled(later.where(later.timestamps <= middle)))
    second = make_validation(until, _filled(later.where(later.timestamps > middle)))
    return Halves(first, second, until)


def halves_by_user(held: HeldOut, known: Histories) -> Halves:
    """Cuts what is held out for "newest" in two: the users of the one half and of the other.

    Args:
        held, known: as for `halves_by_time`.
    """
    is_first = np.random.default_rng(0).random(known.num_users) < 0.5
    users, fitted, validation = known.user_ids[is_first], held.fitted, held.validation
    others = fitted.select(np.flatnonzero(~np.isin(fitted.user_ids, users)))
    learned = _stacked(known.select(np.flatnonzero(is_first)), others)
    asked = np.isin(validation.histories.user_ids, users)
    return Halves(_rows(validation, asked), _rows(validation, ~asked), learned)


def _rows(validation, mask):
    """`Validation` of some of its users."""
    keep, row = mask[validation.target_rows], np.cumsum(mask) - 1
    return Validation(
        validation.histories.select(np.flatnonzero(mask)),
        row[validation.target_rows[keep]],
        validation.target_items[keep],
    )


def _stacked(*parts):
    """`Histories` of different users in one."""
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    columns = [np.concatenate(column) for column in zip(*(part[2:] for part in parts), strict=True)]
    return Histories(np.concatenate([part.user_ids for part in parts]), offsets, *columns)


def _filled(histories):
    """Without the users who have no event."""
    return histories.select(np.flatnonzero(histories.lengths > 0))


class Trial(NamedTuple):
    """Holds what it is tried with.

    model: `Model`.  teach: function of the `Histories` that are to be known; gives the model that
    knows them; None = the model does not learn.  fusion: `Fusion` that was chosen on all held-out
    events.  places, text_vectors: as for `fit_again`.  held: `HeldOut`.  known: `Histories` of all
    events, those that are held out too.  timed: whether recency is a part of the fusion.
    """

    model: Any
    teach: Callable[[Histories], Any] | None
    fusion: Fusion
    places: dict[str, int]
    text_vectors: np.ndarray
    held: HeldOut
    known: Histories
    timed: bool

    def tables(
        self, tables: dict[str, NeighbourTable], histories: Histories
    ) -> dict[str, NeighbourTable]:
        """Fits tables to other events."""
        return fit_again(tables, self.places, histories, self.num_items, self.text_vectors)

    def moments(self, histories: Histories, *, only_end: bool = False) -> Moments:
        """Fits moments to other events, without times where recency is no part."""
        known = histories if self.timed else histories.timeless()
        return fit_moments(known, self.num_items, only_end=only_end)

    def fitted_kinds(self) -> dict[str, list[NeighbourTable]]:
        """Fits the tables to what the model learned first, as `choose_fusion` takes them."""
        tables = self.tables(self.fusion.tables, self.held.fitted)
        return {name: [table] for name, table in tables.items()}

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.fusion.popular) - 1


def try_at_the_end(trial: Trial) -> Decision:
    """Tries, for "end", what learning the earlier held-out events is worth for the later ones."""
    halves = halves_by_time(trial.held, trial.known)
    if halves.are_few:
        return Decision(why={"refused": "too few held-out events"})
    first = trial.moments(trial.held.fitted, only_end=True)
    plain, _ = choose_fusion(Ranker(trial.model), halves.first, trial.fitted_kinds(), first)
    learned = trial.tables(plain.tables, halves.known)
    moments = trial.moments(halves.known, only_end=True)
    found = []

    def try_with(model, *, taught):
        for tables, is_grown in ((plain.tables, False), (learned, True)):
            used = plain._replace(tables=tables)
            quality = quality_by_lift(Ranker(model), halves.second, used, moments, LIFTS)
            found.append(Tried(is_grown, taught, quality))

    try_with(trial.model, taught=False)
    if trial.teach is not None:
        try_with(trial.teach(halves.known), taught=True)
    return decide(found)


def try_by_users(trial: Trial) -> Decision:
    """Tries, for "newest", what fresher tables and a model that has learned more are worth."""
    held, teach = trial.held, trial.teach
    halves = halves_by_user(held, trial.known)
    if halves.are_few:  # an event more of each user is known to help tables
        return Decision(tables=True, why={"refused": "too few held-out events"})
    older, fresher = (
        quality_of_tables(trial.tables(trial.fusion.tables, histories), held.validation)
        for histories in (hold_out_last(held.fitted)[0], held.fitted)
    )
    tables = sum(fresher.values()) >= sum(older.values())
    why: dict[str, Any] = {
        "tables, ndcg@10": {
            "as fitted": _short(fresher),
            "an event of each user less": _short(older),
        }
    }
    if teach is None:
        return Decision(tables=tables, why=why)
    moments = trial.moments(held.fitted)
    used, _ = choose_fusion(Ranker(trial.model), halves.first, trial.fitted_kinds(), moments)
    if tables:
        used = used._replace(tables=trial.tables(used.tables, halves.known))
        moments = trial.moments(halves.known)
    plain, taught = (
        quality_by_lift(Ranker(one()), halves.second, used, moments).ndcg[0]
        for one in (lambda: trial.model, lambda: teach(halves.known))
    )
    gain, error = mean_and_error(taught - plain)
    why["model, ndcg@10"] = _short({"as fitted": plain.mean(), "with half of them": taught.mean()})
    return Decision(tables, gain >= 0, why={**why, **_short({"gain": gain, "se": error})})


def _short(numbers):
    return {name: round(float(number), 4) for name, number in numbers.items()}


def decide(tried: Sequence[Tried], lifts: Sequence[float] = LIFTS) -> Decision:
    """Decides by what was tried for "end", see the module.

    Args:
        tried: list of `Tried`, that without learning first, then what learns more.
        lifts: numbers, 0 first, as in the `Lifted` of all.
    """
    nothing = tried[0].quality
    found: list[tuple[Tried, np.ndarray]] = []
    facts: dict[str, Any] = {"ndcg@10": {}, "recall of new@10": {}}
    for one in tried:
        quality = one.quality
        allowed = _as_many(quality.listed, nothing.listed[0])
        if nothing.cold.size:
            differences = [mean_and_error(row - nothing.cold[0]) for row in quality.cold]
            allowed &= [gain >= -error for gain, error in differences]
            facts["recall of new@10"][_name(one)] = round(float(quality.cold[0].mean()), 4)
        ndcg = np.where(allowed, quality.ndcg.mean(axis=1), -np.inf)
        facts["ndcg@10"][_name(one)] = round(float(quality.ndcg[0].mean()), 4)
        found.append((one, ndcg))
    best = _best_row(*max(found, key=lambda pair: pair[1].max()))
    # half of the held-out events say little, and all of them are learned: of what is as good the
    # last, which learns the most
    for one, ndcg in reversed(found):
        if np.isfinite(ndcg.max()):
            top = _best_row(one, ndcg)
            loss, error = mean_and_error(best - top)
            if loss <= _COSTS * error:
                break
    losses = [mean_and_error(top - row) for row in one.quality.ndcg]
    cheap = np.isfinite(ndcg) & [loss <= _COSTS * error for loss, error in losses]
    # the most places for new items, in per cent; of equals the smallest lift
    listed = np.where(cheap, np.round(one.quality.listed, 2), -1)
    place = int(listed.argmax())
    gain, error = mean_and_error(top - nothing.ndcg[0])
    facts |= {"gain": round(gain, 4), "se": round(error, 4)}
    log.info("learned: %s; new items lifted by %s", _name(one), lifts[place])
    return Decision(one.tables, one.model, lifts[place], facts)


def _best_row(tried, ndcg):
    """NDCG of each user with the best of the lifts."""
    return tried.quality.ndcg[ndcg.argmax()]


def lift_that_keeps(before: float, listed: np.ndarray, least: float = 0.0) -> float:
    """Finds the smallest lift with which new items have as many places as before, or the largest.

    Args:
        before: share of the places that they had.
        listed: `(len(LIFTS),)`, the share that they have now, by lift.
        least: the smallest lift that is wanted.
    """
    kept = _as_many(listed, before) & (np.array(LIFTS) >= least)
    return max(LIFTS[int(kept.argmax())] if kept.any() else LIFTS[-1], least)


def _as_many(listed, before):
    """Whether shares of places are as large as another one, in per cent."""
    return np.round(listed, 2) >= np.round(before, 2)


def places_of_new(
    model: Any, fusion: Fusion, trial: Trial, lifts: Sequence[float] = LIFTS
) -> np.ndarray:
    """Measures which share of the first ten places new items have, by lift, `(num_lifts,)`.

    The lists are those of the users of the validation at the end of all that is known.

    Args:
        model, fusion: `Model` and `Fusion`, which may have learned since the trial.
        trial: `Trial`.
        lifts: as in `quality_by_lift`.
    """
    moments = trial.moments(trial.known, only_end=True)
    users = trial.known.of_users(trial.held.validation.histories.user_ids)
    asked = Validation(users, np.zeros(0, np.int64), np.zeros(0, np.int32))
    return quality_by_lift(Ranker(model), asked, fusion, moments, lifts).listed


def _name(tried):
    names = [name for name, learns in zip(("tables", "model"), tried[:2], strict=True) if learns]
    return " and ".join(names) or "nothing"
