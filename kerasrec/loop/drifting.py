"""Finds what has changed since a version was made, and whether it has gone stale: `drift`.

The events after the end of the version's log, period by period: how many, by whom, of which types,
on which items; how well the version predicts each of them from what its user did before (the
weights as they are, histories live; prequential evaluation as in `simulate`); and how well its
confidence matches the truth.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.histories import before, first_of_pairs, make_histories
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.sources import as_interactions
from kerasrec.data.tables import Source
from kerasrec.data.times.zones import iso_time, latest_moment, read_zone
from kerasrec.evaluation.baselines import fit_recent_popularity
from kerasrec.evaluation.livebaselines import LiveKnn, choose_options
from kerasrec.evaluation.metrics import ndcg_from_ranks, recall_from_ranks
from kerasrec.loop.driftmetrics import (
    calibration,
    distance_from,
    mean_and_error_of_users,
    ranks_by,
    top_confidence,
    verdict,
)
from kerasrec.loop.futureevents import without_future
from kerasrec.loop.gate import LIST_LENGTH
from kerasrec.recommender.recommender import Recommender

log = logging.getLogger(__name__)
#: length of the lists in which confidence is compared with the truth
LISTED = 50
MOST_PERIODS = 1000
_BLOCKS = 24  # of a period: how often recent popularity is fitted anew


class Drift(NamedTuple):
    """Holds what `drift` found.

    table: DataFrame, one row per period, see `drift`.  warnings: list of str, why the version has
    gone stale; none = it has not, as far as can be told.  notes: list of str, what could not be
    told.  version: Path of the version.
    """

    table: pd.DataFrame
    warnings: list
    notes: list
    version: Path


def drift(
    model: str | Path,
    interactions: Interactions | Source,
    *,
    since: int | None = None,
    step: int = 86400,
    sample: int = 2000,
    seed: int = 0,
) -> Drift:
    """Compares what has happened since a version was made with what the version knows.

    The columns of the table, shares in 0..1, errors are standard errors that take the events of a
    user as alike:

    - `period`: 0 = the log until the version's end (where the log given holds it; its distance is
      that of its last two stretches), then those that have events: 1, 2, ...; `begin`, `end`: ISO
      times in the time zone of the log (`Interactions.timezone`), end excluded;
      `events`, `users`; `new_users`: share of the period's users without an event before it.
    - `share_TYPE`: of the events that are of each type; `event_distance`: of this distribution from
      that of the last stretch before the version's end; `event_distance_before`: the largest
      distance that neighbouring stretches had before it (`driftmetrics.distance_from`).
    - `item_distance`, `item_distance_before`: the same of the distribution of items.
    - `cold`: share of events on items that the version never learned from; `outside`: on those
      among them that it cannot list, because its catalogue lacks them.
    - `asked`: events with which a user met and chose an item for the first time; `judged`: how many
      of these were predicted; `ndcg@10`, `ndcg_se`, `recall@10`, `recall_se`: of the version, an
      item outside its catalogue is a miss; `recent_popularity`: NDCG@10 of what is popular,
      fitted anew 24 times a period; `live_knn`: of counts that grow with every event, also outside
      the catalogue (`evaluation.livebaselines`).
    - `listed`: events whose item is in a list of 50; among these `confidence`, `right` and
      `calibration_error`. A score of kerasrec is a logit over the items, so that the softmax of a
      list's scores is P(item | the item that the user chooses is in the list). `confidence` is its
      mean for the first item, `right` the share of lists whose first item was chosen. Confidence
      above right = the version is too sure of itself, as one can be whose fusion was fitted by NDCG
      (`fusion.fit` in the manifest): that asks for the order alone. `driftmetrics.calibration` has
      the error.

    The warnings are about the newest periods that hold `FEWEST` judged events of `FEWEST_USERS`
    users together: NDCG@10 surely (95 %) below that of the first such periods (the same question
    asked the same way, which the validation figures of the manifest are not); surely below that of
    recent popularity; surely more than `COLD` cold; items further from the last stretch of the
    version's log than any neighbouring stretches were in it. On fewer events nothing is warned of.

    Judged is the version as it was saved. What a server with a store has learned since, of what is
    recent and what follows what, is not in it.

    Args:
        model: `saved_models/NAME` (its stable label, else its largest version) or one version.
        interactions: `Interactions` or what `read_interactions` takes: the whole log, old events
            and new. Without the old ones histories lack them, and there are no distances.
        since: UTC seconds, the end of what the version has learned, where it does not know it.
        step: seconds of a period.
        sample: events to predict in a period at most, drawn at random.
        seed: of the draws.

    Returns:
        `Drift`.

    Raises:
        ArtifactError: no such model.
        ValueError: no times, an end that is unknown or too early, a log of other items, too many
            periods.
    """
    if not (step >= 1 and sample >= 1):
        raise ValueError(
            f"step (seconds) and sample must be at least 1. Received: {step} and {sample}."
        )
    interactions = as_interactions(interactions)
    if not interactions.has_time:
        raise ValueError("drift needs times. Received: a log without them.")
    interactions, _, left_out = without_future(interactions)
    recommender = Recommender.load(model)
    end = _end(recommender, since, read_zone(interactions.timezone))
    seen = PeriodLog(recommender, interactions, end, int(step))
    knn = _live_knn(seen)
    judged = pd.concat(
        [
            _judge(recommender, seen, knn, number, sample, seed)
            for number in range(len(seen.begins))
        ],
        ignore_index=True,
    )
    table = pd.DataFrame([_row(seen, number, judged, seed) for number in seen.numbers()])
    warnings, notes = verdict(seen, judged, seed=seed)
    notes = notes if left_out is None else [left_out, *notes]
    return Drift(table, warnings, notes, recommender.version)


def _end(recommender, since, zone):
    """UTC seconds: the end of what the version has learned."""
    end = recommender.log_end
    if since is None and not end:
        raise ValueError(
            f"{recommender.version} does not know when its log ends (it was trained without "
            "times): say it by since."
        )
    if end > latest_moment():
        if since is None:
            raise ValueError(
                f"{recommender.version} has learned an event of the future, and takes "
                f"{iso_time(end, zone)} as the end of its log: say by since where that is."
            )
        return int(since)
    if since is not None and since < end:
        raise ValueError(
            f"since must not lie before the end of the version's log ({iso_time(end, zone)}), or "
            f"it would be judged on what it has learned. Received: {iso_time(since, zone)}. Leave "
            "it out."
        )
    return int(end if since is None else since)


class PeriodLog:
    """Cuts a log into periods, from the end of what the version has learned; items by its index.

    Attributes:
        histories: `Histories` of all events. Items that the version lacks come after its own.
        num_known: items of the version.
        begins: UTC seconds at which the periods 0, 1, ... begin; `ends` likewise.
        period: of each event, 0 = learned.  user: row of each event.  is_asked, is_cold: bool.
        types: names of event types, and `type` of each event as their index.
        learned: places of the events of period 0, in time order.
    """

    def __init__(
        self, recommender: Recommender, interactions: Interactions, end: int, step: int
    ) -> None:
        frame = interactions.frame
        ids = recommender.items.ids
        own = frame["item_id"].cat.remove_unused_categories().cat.categories.astype(object)
        unknown = own[recommender.items.index_of(own.to_numpy()) == 0]
        if len(unknown) == len(own):
            raise ValueError(
                f"drift needs the log of the version's users. Received: none of its {len(own):,} "
                f"items is among the {len(ids):,} of {recommender.version}."
            )
        every = np.concatenate([ids, unknown.to_numpy(object)])
        items = Items(pd.DataFrame({"item_id": every, "title": ""}))
        self._zone = read_zone(interactions.timezone)
        self.step, self.end, self.num_known, self.num_items = step, end, len(ids), len(every)
        self.histories = make_histories(interactions, items)
        times, places = self.histories.timestamps, self.histories.items
        # those without an event, as between an old log and the first event of today, are left out
        present, period = np.unique(
            np.append(0, np.maximum((times - end - 1) // step + 1, 0)), return_inverse=True
        )
        self.period, count = period[1:], len(present) - 1
        if count > MOST_PERIODS:
            raise ValueError(
                f"step must cut the events after {self.moment(end)} into {MOST_PERIODS:,} periods "
                f"at most. Received: {step} seconds, {count:,} periods with events until "
                f"{self.moment(times.max())}. Take a longer one, such as 7 days (--step 7d)."
            )
        first = int(times.min()) if (self.period == 0).any() else end
        self.begins = [first, *(int(end + 1 + step * (number - 1)) for number in present[1:])]
        self.ends = [end + 1, *(begin + step for begin in self.begins[1:])]
        self.user = np.repeat(np.arange(self.histories.num_users), self.histories.lengths)
        # what a user has had already is neither listed nor asked for
        self.is_asked = first_of_pairs(self.histories) & self.histories.chosen
        learned = np.zeros(len(every) + 1, bool)
        learned[places[self.period == 0]] = True
        learned[: len(ids) + 1] |= recommender.counts.total > 0
        learned[len(ids) + 1 :] = False
        self.is_cold = ~learned[places]
        self.types, self.type = self._types(frame)
        self.learned = self.of([0])

    def _types(self, frame):
        """Names of the event types, and the type of each event in the order of the histories."""
        column = frame["event"].cat.remove_unused_categories()
        users = frame["user_id"].cat.codes.to_numpy()
        order = np.lexsort((frame["timestamp"].to_numpy(), users))  # as in make_histories
        return list(column.cat.categories), column.cat.codes.to_numpy()[order]

    def moment(self, seconds: float) -> str:
        """Writes UTC seconds as ISO time in the zone of the log."""
        return iso_time(seconds, self._zone)

    def numbers(self) -> range:
        """Numbers the periods that a table shows; period 0 only if it has events."""
        return range(0 if (self.period == 0).any() else 1, len(self.begins))

    def of(self, numbers: Sequence[int]) -> np.ndarray:
        """Finds the places of the events of some periods, in time order."""
        places = np.flatnonzero(np.isin(self.period, numbers))
        return places[np.argsort(self.histories.timestamps[places], kind="stable")]


def _judge(recommender, seen, knn, number, sample, seed):
    """How each of a sample of a period's events was predicted, one row each."""
    asked = np.flatnonzero((seen.period == number) & seen.is_asked & (number > 0))
    if len(asked) > sample:
        rng = np.random.default_rng([seed, number])
        asked = np.sort(rng.choice(asked, sample, replace=False))
    rows, targets = before(seen.histories, asked), seen.histories.items[asked]
    known = rows.where(rows.items <= seen.num_known)
    lists = recommender.recommend(known, k=LISTED, at=seen.histories.timestamps[asked])
    row = pd.Index(rows.user_ids).get_indexer(lists["user_id"])
    is_hit = recommender.index_of(lists["item_id"]) == targets[row]
    ranks = np.full(len(asked), LISTED + 1)  # not listed
    ranks[row[is_hit]] = lists["rank"].to_numpy()[is_hit]
    log.info("period %d: %d events predicted", number, len(asked))
    return pd.DataFrame(
        {
            "period": number,
            "user": seen.user[asked],
            "ndcg": ndcg_from_ranks(ranks, LIST_LENGTH),
            "recall": recall_from_ranks(ranks, LIST_LENGTH),
            "popularity": ndcg_from_ranks(_popularity_ranks(seen, asked, rows), LIST_LENGTH),
            "live_knn": ndcg_from_ranks(_knn_ranks(knn, asked), LIST_LENGTH),
            "rank": ranks,
            "confidence": top_confidence(row, lists["score"], len(asked)),
        }
    )


def _live_knn(seen):
    """`LiveKnn`, its options chosen on the last tenth of what the version has learned."""
    last = seen.learned[len(seen.learned) * 9 // 10 :]
    past = seen.histories.timestamps <= seen.end
    # the places of events in what is known until then
    place = np.cumsum(past) - 1
    known = seen.histories.where(past)
    options = choose_options(known, place[last[seen.is_asked[last]]], seen.num_items)
    return LiveKnn(seen.histories, seen.num_items, (options,))


def _knn_ranks(knn, places):
    """Rank of each event's item by the counts of that moment; far away where it is not listed."""
    ranks = knn.ranks(places)[0]
    return np.where(ranks > 0, ranks, LISTED + 1)


def _popularity_ranks(seen, places, rows):
    """Rank of each event's item by recent popularity, which is fitted anew `_BLOCKS` times."""
    refresh, histories = max(seen.step // _BLOCKS, 1), seen.histories
    block = (histories.timestamps[places] - seen.end - 1) // refresh
    ranks = np.zeros(len(places), int)
    for number in np.unique(block):
        moment, inside = seen.end + 1 + int(number) * refresh, np.flatnonzero(block == number)
        known = histories.where(histories.timestamps < moment)
        score = fit_recent_popularity(known, seen.num_items, now=moment)(known.select([0]))[0]
        ranks[inside] = ranks_by(score, rows.select(inside), histories.items[places[inside]])
    return ranks


def _row(seen, number, judged, seed):
    """One row of the table."""
    places, part = seen.of([number]), judged[judged["period"] == number]
    users, histories = np.unique(seen.user[places]), seen.histories
    first = seen.period[histories.offsets[users]]  # the period of each user's first event
    type_shares = np.bincount(seen.type[places], minlength=len(seen.types)) / max(len(places), 1)
    ndcg, recall = (
        mean_and_error_of_users(part[name], part["user"]) for name in ("ndcg", "recall")
    )
    listed = part[part["rank"] <= LISTED]
    found = calibration(listed["confidence"], listed["rank"] == 1)
    is_after = number > 0
    return {
        "period": number,
        "begin": seen.moment(seen.begins[number]),
        "end": seen.moment(seen.ends[number]),
        "events": len(places),
        "users": len(users),
        "new_users": _mean(first == number) if is_after else np.nan,
        **{f"share_{name}": share for name, share in zip(seen.types, type_shares, strict=True)},
        **_distances(seen, "event", seen.type, number, seed),
        **_distances(seen, "item", histories.items, number, seed),
        "cold": _mean(seen.is_cold[places]) if is_after else np.nan,
        "outside": _mean(histories.items[places] > seen.num_known),
        "asked": int(seen.is_asked[places].sum()),
        "judged": len(part),
        f"ndcg@{LIST_LENGTH}": ndcg[0],
        "ndcg_se": ndcg[1],
        f"recall@{LIST_LENGTH}": recall[0],
        "recall_se": recall[1],
        "recent_popularity": _mean(part["popularity"]),
        "live_knn": _mean(part["live_knn"]),
        "listed": len(listed),
        "confidence": found.confidence,
        "right": found.right,
        "calibration_error": found.error,
    }


def _distances(seen, name, codes, number, seed):
    """Two cells of the table: the distance, and the largest that neighbours had before."""
    learned = codes[seen.learned]
    if number:
        distance, neighbours = distance_from(learned, codes[seen.of([number])], seed=seed)
    else:
        _, neighbours = distance_from(learned, learned, seed=seed)
        distance = neighbours[-1] if len(neighbours) else np.nan
    largest = neighbours.max() if len(neighbours) else np.nan
    return {f"{name}_distance": distance, f"{name}_distance_before": largest}


def _mean(values):
    return float(np.mean(values)) if len(values) else np.nan
