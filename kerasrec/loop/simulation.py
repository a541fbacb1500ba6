"""Replays a log in time order: each event is predicted, then learned from.

What a loop of feedback is worth on a log that you have: the same events are predicted by a model
that never learns again, by one that knows what a user did a moment ago, by the whole loop (recent
events at once, an `update` after every step), by models trained anew at a few moments, and by
baselines that are fitted anew all the time (prequential evaluation; Gama et al. 2013).
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from kerasrec.data.histories import Histories, before, first_of_pairs, make_histories
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.statistics import fingerprint
from kerasrec.data.times.zones import iso_time, read_zone
from kerasrec.evaluation.baselines import fit_item_knn, fit_recent_popularity
from kerasrec.evaluation.livebaselines import LiveKnn, choose_options
from kerasrec.evaluation.metrics import mean_and_error
from kerasrec.evaluation.toplists import recommend_top_k
from kerasrec.fusion.gains import discount
from kerasrec.loop.gate import LIST_LENGTH
from kerasrec.loop.live import Asked, LiveModel, blocks
from kerasrec.loop.updating import TooFewEvents, update
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.pipeline import train
from kerasrec.versions import folders

log = logging.getLogger(__name__)
#: what is replayed, in the order of the table
STRATEGIES = (
    "static",
    "history",
    "loop",
    "retrained",
    "recent_popularity",
    "item_knn",
    "live_knn",
)
#: half-lives that recent popularity chooses from, on the last tenth of the events before the start
_HALF_LIVES = 3600 * np.array([1, 3, 6, 12, 24, 48, 96, 192])
_ROWS = 512


class Simulation(NamedTuple):
    """Holds what `simulate` found.

    table: DataFrame, one row per strategy: events, ndcg@10, its standard error, recall@10, seconds
    of training and updates.  steps: the same per strategy and step, with the step's first moment.
    work: Path of the folder with the versions.
    """

    table: pd.DataFrame
    steps: pd.DataFrame
    work: Path


def simulate(
    interactions: Interactions,
    items: Items,
    *,
    work: str | Path,
    start: float = 2 / 3,
    step: int = 86400,
    refresh: int = 3600,
    retrained: int = 10,
    strategies: Sequence[str] = STRATEGIES,
    preset: str = "balanced",
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Simulation:
    """Replays a log: trains a model on the events before `start` and predicts the rest.

    An event is predicted from what its user did before it. An item that the user has met already is
    neither listed nor predicted. The catalogue is known from the start, as in `train`.

    Args:
        interactions: `Interactions` with times.
        items: `Items`.
        work: folder for versions and results; a replay that was stopped goes on there.
        start: share of the events (in time order) that come before, or UTC seconds.
        step: seconds between two updates.
        refresh: seconds after which live strategies learn what is recent, without training, and
            baselines are fitted anew. `live_knn` counts every event at once.
        retrained: number of steps, evenly spaced, before which a model is trained anew; it predicts
            that one step.
        strategies: some of `STRATEGIES`.
        preset, options: of `train`.

    Returns:
        `Simulation`.

    Raises:
        ValueError: no times, unknown strategies, nothing before the start or after it, or a folder
            with another replay.
    """
    unknown = [name for name in strategies if name not in STRATEGIES]
    if unknown or not strategies:
        known = ", ".join(STRATEGIES)
        raise ValueError(f"strategies are some of {known}. Received: {list(strategies)}.")
    replay = Replay(interactions, items, start, step, refresh)
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    results = _Results(work / "steps.jsonl", replay.fingerprint(preset, options, retrained))
    chosen = np.linspace(0, len(replay.steps) - 1, min(retrained, len(replay.steps)))
    settings = dict(preset=preset, options=options, progress=False)
    seed = (options or {}).get("trainer", {}).get("seed", 0)
    runs = {
        "static": lambda: _frozen(replay, _first(replay, work, settings), live=False),
        "history": lambda: _frozen(replay, _first(replay, work, settings), live=True),
        "loop": lambda: _loop(
            replay, _first(replay, work, settings), work, results.count("loop"), seed
        ),
        "retrained": lambda: _retrained(
            replay, work, settings, np.unique(chosen.round().astype(int))
        ),
        "recent_popularity": lambda: _baseline(replay, _recent_popularity(replay)),
        "item_knn": lambda: _baseline(replay, fit_item_knn),
        "live_knn": lambda: _live_knn(replay),
    }
    for name in STRATEGIES:
        if name in strategies and not results.is_over(name):
            bar = tqdm(
                desc=name, total=len(replay.steps), disable=None if progress else True, leave=False
            )
            for number, ranks, seconds in runs[name]():
                if number >= results.count(name):
                    results.add(name, number, replay, ranks, seconds)
                bar.update()
            results.end(name)
            bar.close()
    table, steps = results.tables(strategies, replay)
    return Simulation(table, steps, work)


class Replay:
    """Holds a log in time order and the steps in which it is replayed.

    Attributes:
        items: `Items`.
        histories: `Histories` of all events.
        steps: list of `(begin, end)`, UTC seconds, end excluded.

    Args:
        interactions, items, start, step, refresh: as for `simulate`.
    """

    def __init__(
        self, interactions: Interactions, items: Items, start: float, step: int, refresh: int
    ) -> None:
        if not interactions.has_time:
            raise ValueError("simulate needs times. Received: a log without them.")
        if not (step >= 1 and refresh >= 1):
            raise ValueError(
                f"step and refresh must be at least 1 second. Received: {step} and {refresh}."
            )
        self.interactions, self.items, self.refresh = interactions, items, refresh
        self._zone = read_zone(interactions.timezone)
        self.histories = make_histories(interactions, items)
        times = interactions.frame["timestamp"].to_numpy()
        if 0 < start < 1:
            start = int(np.quantile(times, start, method="lower")) + 1
        first, last = int(start), int(times.max()) + 1
        if not times.min() < first < last:
            raise ValueError(
                f"start must lie between the first and the last event ({self.moment(times.min())} "
                f"and {self.moment(last)}). Received: {self.moment(first)}."
            )
        begins = range(first, last, int(step))
        self.steps = [(begin, min(begin + int(step), last)) for begin in begins]
        # what a user has had already is neither listed nor asked for
        self._is_asked = first_of_pairs(self.histories) & self.histories.chosen

    def fingerprint(
        self, preset: str, options: Mapping[str, Any] | None, retrained: int
    ) -> dict[str, Any]:
        """Gives what must be equal when a replay continues in its folder."""
        return {
            "data": fingerprint(self.interactions, self.items)["sha256"],
            "retrained": retrained,
            "steps": [list(step) for step in self.steps],
            "refresh": self.refresh,
            "preset": preset,
            "options": json.dumps(options or {}, sort_keys=True, default=str),
        }

    def moment(self, seconds: float) -> str:
        """Writes UTC seconds as ISO time in the zone of the log."""
        return iso_time(seconds, self._zone)

    def past(self, until: int) -> Interactions:
        """Gives the `Interactions` before a moment."""
        frame = self.interactions.frame
        return self.interactions.replace(frame[frame["timestamp"] < until])

    def known(self, until: int) -> Histories:
        """Gives the `Histories` of all users before a moment."""
        return self.histories.where(self.histories.timestamps < until)

    def asked(self, begin: int, end: int) -> np.ndarray:
        """Finds the events to predict between two moments, as places in `histories`."""
        times = self.histories.timestamps
        return np.flatnonzero(self._is_asked & (times >= begin) & (times < end))

    def blocks(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Cuts a step into the parts between which recent events are learned."""
        for start in range(begin, end, int(self.refresh)):
            yield start, min(start + int(self.refresh), end)

    def before(self, places: np.ndarray, *, until: int | None = None) -> Histories:
        """Gives for each event the history of its user before it; the place becomes the user id.

        Args:
            places: of the events in `histories`, `(n,)`.
            until: UTC seconds, to cut them all there.
        """
        found = before(self.histories, places)
        return found if until is None else found.where(found.timestamps < until)

    def ranks(self, places: np.ndarray, lists: pd.DataFrame) -> np.ndarray:
        """Finds the rank of each event's item in its list: int `(n,)`, 0 = not in the list."""
        wanted = pd.Series(self.items.ids[self.histories.items[places] - 1], places.astype(str))
        hits = lists[lists["item_id"].to_numpy() == wanted.reindex(lists["user_id"]).to_numpy()]
        found = hits.set_index("user_id")["rank"].reindex(wanted.index, fill_value=0)
        return found.to_numpy(int)


# --- The strategies: each yields (number of the step, ranks, seconds of learning) ---


def _first(replay, work, settings):
    """Version 1: trained on what comes before the start, once for all strategies."""
    base = work / "saved_models" / "first"
    if not folders.versions(base):
        train(
            replay.past(replay.steps[0][0]),
            replay.items,
            name="first",
            out=base.parent,
            **settings,
        )
    return folders.find_version(base / "1")


def _frozen(replay, version, *, live):
    """A model that never learns; `live` lets it see what the user did a moment ago."""
    recommender = Recommender.load(version)
    for number, (begin, end) in enumerate(replay.steps):
        places = replay.asked(begin, end)
        histories = replay.before(places, until=None if live else replay.steps[0][0])
        times = replay.histories.timestamps[places]
        lists = recommender.recommend(histories, k=LIST_LENGTH, at=times)
        yield number, replay.ranks(places, lists), 0.0


def _live(replay, recommender, begin, end):
    """A step with recent events at once: in histories and, every `refresh`, in what is recent."""
    every, ranks = int(replay.refresh), [np.zeros(0, int)]
    live = LiveModel(recommender, replay.histories, begin, every)
    places = replay.asked(begin, end)
    times = replay.histories.timestamps[places]
    for moment, rows in blocks(times, begin, every):
        live.look(moment)
        asked = Asked(replay.before(places[rows]), times[rows])
        ranks.append(replay.ranks(places[rows], live.lists(asked, LIST_LENGTH)))
    return np.concatenate(ranks)


def _loop(replay, version, work, done, seed):
    """The whole loop: recent events at once, and an update before every step but the first."""
    base = work / "saved_models" / "loop"
    if not folders.versions(base):
        beside = work / "saved_models" / ".loop"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(version, beside / "1")
        beside.rename(base)
    for number, (begin, end) in enumerate(replay.steps):
        if number < done:
            continue
        seconds = 0.0
        if number:
            try:
                found = update(base, replay.past(begin), replay.items, seed=seed)
            except TooFewEvents as error:
                log.info("step %d: %s", number, error)
            else:
                seconds = found.seconds
                what = "published" if found.version else "refused"
                log.info("step %d: %s in %.0f s, %s", number, what, seconds, found.reason)
        recommender = Recommender.load(base)
        yield number, _live(replay, recommender, begin, end), seconds


def _retrained(replay, work, settings, numbers):
    """A model trained anew before some steps; each predicts its step."""
    for number in map(int, numbers):
        begin, end = replay.steps[number]
        base = work / "saved_models" / f"retrained-{number}"
        if not folders.versions(base):
            train(replay.past(begin), replay.items, name=base.name, out=base.parent, **settings)
        seconds = folders.read_manifest(folders.find_version(base)).train_seconds
        yield number, _live(replay, Recommender.load(base), begin, end), seconds


def _recent_popularity(replay):
    """Recent popularity with the half-life that predicts the last tenth before the start best."""
    begin = replay.steps[0][0]
    past = replay.known(begin).timestamps
    cut = int(np.quantile(past, 0.9, method="lower"))
    quality = []
    for half_life in _HALF_LIVES:
        ranks = []
        for start, stop in replay.blocks(cut, begin):
            places = replay.asked(start, stop)
            if len(places):
                score = fit_recent_popularity(
                    replay.known(start), len(replay.items), half_life=half_life, now=start
                )
                ranks.append(_ranked(replay, places, score))
        quality.append(ndcg(np.concatenate([np.zeros(0, int), *ranks])).sum())
    best = int(_HALF_LIVES[int(np.argmax(quality))])
    log.info("recent popularity: half-life of %d h", best // 3600)

    def fit(histories, num_items, now):
        return fit_recent_popularity(histories, num_items, half_life=best, now=now)

    return fit


def _baseline(replay, fit):
    """A baseline fitted anew every `refresh`, on all events before."""
    for number, (begin, end) in enumerate(replay.steps):
        ranks, started = [np.zeros(0, int)], time.perf_counter()
        for start, stop in replay.blocks(begin, end):
            places = replay.asked(start, stop)
            if len(places):
                more = {} if fit is fit_item_knn else {"now": start}
                score = fit(replay.known(start), len(replay.items), **more)
                ranks.append(_ranked(replay, places, score))
        yield number, np.concatenate(ranks), time.perf_counter() - started


def _live_knn(replay):
    """A sequential kNN whose counts grow with every event; its options are chosen before."""
    begin, size = replay.steps[0][0], len(replay.items)
    cut = int(np.quantile(replay.known(begin).timestamps, 0.9, method="lower"))
    options = choose_options(replay.histories, replay.asked(cut, begin), size)
    knn = LiveKnn(replay.histories, size, (options,))
    for number, step in enumerate(replay.steps):
        started = time.perf_counter()
        ranks = knn.ranks(replay.asked(*step))[0]
        yield (
            number,
            np.where(ranks <= LIST_LENGTH, ranks, 0),
            time.perf_counter() - started,
        )


def _ranked(replay, places, score):
    histories = replay.before(places)
    lists = recommend_top_k(score, histories, replay.items, k=LIST_LENGTH)
    return replay.ranks(places, lists)


def ndcg(ranks: np.ndarray) -> np.ndarray:
    """Computes NDCG@10 of single targets: `1 / log2(rank + 1)`, 0 where the rank is 0 (not listed).

    >>> ndcg(np.array([1, 3, 0])).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(ranks > 0, 1 / discount(np.maximum(ranks, 1)), 0.0)


# --- Results ---


class _Results:
    """Ranks of every strategy and step, kept in a file so that a replay can go on."""

    def __init__(self, path, fingerprint):
        self.path = path
        self.rows = []
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # the last one may be cut off
        if whole:
            first, *rows = map(json.loads, whole)
            if first != fingerprint:
                raise ValueError(
                    f"{path.parent} holds the replay of another log or of other options. Take "
                    "another folder for work, or remove it."
                )
            self.rows = rows
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        else:
            path.write_text(json.dumps(fingerprint) + "\n", encoding="utf-8")

    def _write(self, row):
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def count(self, name):
        """Number of the first step that is not done."""
        return max((r["step"] + 1 for r in self.rows if r["strategy"] == name), default=0)

    def is_over(self, name):
        """Whether all its steps are done."""
        return any(r["strategy"] == name and r["step"] == END for r in self.rows)

    def add(self, name, number, replay, ranks, seconds):
        """Keeps one step."""
        row = {"strategy": name, "step": number, "begin": replay.steps[number][0]}
        self._write({**row, "seconds": round(seconds, 2), "ranks": ranks.tolist()})

    def end(self, name):
        """Notes that all steps of a strategy are done."""
        self._write({"strategy": name, "step": END, "ranks": [], "seconds": 0.0})

    def tables(self, strategies, replay):
        """`(table, steps)`, see `Simulation`."""
        rows = [r for r in self.rows if r["step"] != END and r["strategy"] in strategies]
        at = {r["step"] for r in rows if r["strategy"] == "retrained"}
        steps = [
            {
                "strategy": r["strategy"],
                "step": r["step"],
                "begin": replay.moment(r["begin"]),
                "events": len(r["ranks"]),
                f"ndcg@{LIST_LENGTH}": ndcg(np.array(r["ranks"])).mean() if r["ranks"] else np.nan,
                f"recall@{LIST_LENGTH}": np.mean(np.array(r["ranks"]) > 0)
                if r["ranks"]
                else np.nan,
                "seconds": r["seconds"],
            }
            for r in rows
        ]
        table = []
        for name in (s for s in STRATEGIES if s in strategies):
            of_name = [r for r in rows if r["strategy"] == name]
            ranks = np.concatenate([np.zeros(0, int), *(r["ranks"] for r in of_name)])
            common = [np.array(r["ranks"]) for r in of_name if r["step"] in at]
            value, error = mean_and_error(ndcg(ranks))
            learned = [r["seconds"] for r in of_name if r["seconds"]]
            table.append(
                {
                    "strategy": name,
                    "events": len(ranks),
                    f"ndcg@{LIST_LENGTH}": value,
                    "se": error,
                    f"recall@{LIST_LENGTH}": float((ranks > 0).mean()),
                    f"ndcg@{LIST_LENGTH} of retrained steps": (
                        float(ndcg(np.concatenate(common)).mean()) if common else np.nan
                    ),
                    "seconds per step": float(np.mean(learned)) if learned else 0.0,
                }
            )
        return pd.DataFrame(table), pd.DataFrame(steps)


#: the step of a row that says that a strategy is over
END = -1
