"""Answers the requests of a log, each with what was known at its moment: `replay`.

This is the live protocol: what a server with a feedback store would have answered, with an update
now and then or without.
"""

import hashlib
import json
import logging
import shutil
import time
from datetime import tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from kerasrec.backend import whole_file
from kerasrec.checks import is_whole
from kerasrec.data.histories import Histories, up_to
from kerasrec.data.interactions import Interactions
from kerasrec.data.tables import Source, write_table
from kerasrec.loop.live import REFRESH, REMEMBER, Asked, LiveModel, blocks
from kerasrec.loop.requests import Requests, read_log, read_requests
from kerasrec.loop.updating import TooFewEvents
from kerasrec.loop.updating import update as make_update
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders

log = logging.getLogger(__name__)
_SETTINGS, _STEPS = "replay.json", "steps"


class Replayed(NamedTuple):
    """Holds what `replay` found.

    lists: DataFrame `user, item, rank`, where `user` names the request.  seconds: of the whole
    work.  events_per_second: of the log, learned without training.  ms_per_request: milliseconds
    to make a list.  updates: DataFrame, one row per update: `begin` (UTC seconds), `version` (0 =
    refused or too few events), `reason`, `seconds`.
    """

    lists: pd.DataFrame
    seconds: float
    events_per_second: float
    ms_per_request: float
    updates: pd.DataFrame


def replay(
    model: str | Path,
    log: Interactions | Source,
    requests: Requests | Source,
    *,
    k: int = 20,
    update: int | None = None,
    lag: int = 0,
    refresh: int = REFRESH,
    remember: int = REMEMBER,
    work: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
    timezone: str | tzinfo | None = None,
) -> Replayed:
    """Makes a list for each request of a log, from what a server would have known then.

    A request knows the events with an earlier time, as of the last look of the server; of its own
    user it knows all earlier events at once. Items that the user has had are left out. Events of
    one user in one second are in the order of the file: the user's second request of a second knows
    the first event of that second.

    Args:
        model: `saved_models/NAME` (its stable label, else its largest version) or one version.
        log: `Interactions`, or a table `who, item, timestamp` of all events, also those that the
            model was trained on. Items that the model lacks are left out.
        requests: table `user, who, timestamp`: `user` names a request, `who` is its user.
        k: length of the lists.
        update: seconds between two updates, the first of them before the first request; None =
            none. The updates go into a copy of the model.
        lag: seconds until others learn from an event.
        refresh: seconds between two looks at what is new.
        remember: seconds between two whole fits of what follows what, at least.
        work: folder for the updated versions; a replay that was stopped goes on there.
        seed: of the updates.
        progress: whether to show a bar.
        timezone: of dates and times in `log` and `requests` that name none, such as
            `"Asia/Shanghai"`; None = UTC.

    Returns:
        `Replayed`.

    Raises:
        ArtifactError: no such model.
        ValueError: a log without times or without known items, requests that lack a column or
            share a name, an update without a work folder, or the work of another replay.
    """
    started = time.perf_counter()
    _check(k, update, lag, refresh, remember, work)
    if isinstance(requests, Requests):
        asked = requests
    else:
        asked = read_requests(requests, timezone=timezone)
    events = read_log(log, timezone=timezone)
    settings = dict(k=k, lag=lag, refresh=refresh, remember=remember)
    session = _Session(model, events, asked, settings, progress)
    if update is None:
        parts = [session.answer(Recommender.load(model), np.arange(len(asked.names)))]
        made: list[dict[str, Any]] = []
    else:
        assert work is not None
        parts, made = _with_updates(session, model, Path(work), update, seed)
    lists = _in_order(parts, asked)
    columns = ["begin", "version", "reason", "seconds"]
    return Replayed(
        lists,
        time.perf_counter() - started,
        session.events / max(session.learning, 1e-9),
        1000 * session.asking / max(session.answered, 1),
        pd.DataFrame(made, columns=columns),
    )


def _check(k, update, lag, refresh, remember, work):
    for name, value, least in (
        ("k", k, 1),
        ("update", update, 1),
        ("lag", lag, 0),
        ("refresh", refresh, 1),
        ("remember", remember, 1),
    ):
        if not (is_whole(value) and value >= least) and not (name == "update" and value is None):
            raise ValueError(
                f"{name} must be a whole number of at least {least}. Received: {value!r}."
            )
    if update is not None and work is None:
        raise ValueError(
            "An update needs a folder for the versions that it makes: name one by work (--work)."
        )


def histories_of(requests: Requests, histories: Histories, rows: np.ndarray) -> Asked:
    """Finds what the users of some requests did before them.

    Of the events in the second of a request count as many as its user has earlier requests in that
    second: those of the rows before, where each event is a request.

    Args:
        requests: `Requests`.
        histories: `Histories` of the whole log.
        rows: numbers of the requests.
    """
    users, times = requests.users[rows], requests.times[rows]
    place = pd.Index(histories.user_ids).get_indexer(users)
    before = pd.DataFrame({"user": requests.users, "time": requests.times})
    number = before.groupby(["user", "time"], sort=False).cumcount().to_numpy()[rows]
    owner = np.repeat(np.arange(histories.num_users), histories.lengths)
    # one number that sorts events by user, then time
    span = int(max(histories.timestamps.max(initial=0), requests.times.max(initial=0))) + 1
    key = owner * span + histories.timestamps
    first = np.searchsorted(key, place * span + times, side="left")
    last = np.searchsorted(key, place * span + times, side="right")
    ends = np.minimum(first + number, last)
    return Asked(up_to(histories, place, ends, requests.names[rows]), times)


class _Session:
    """One replay: the log, the requests, and what the work took."""

    def __init__(self, model, interactions, requests, settings, progress):
        self.interactions, self.requests, self.settings = interactions, requests, settings
        self.model, self.begin = model, int(requests.times.min())
        self.learning = self.asking = 0.0
        self.events = self.answered = 0
        hidden = None if progress else True  # None = where there is a terminal
        self._bar = tqdm(desc="requests", total=len(requests.names), disable=hidden)

    def answer(self, recommender, rows, begin=None):
        """Lists of some requests, `user, item, rank`; `begin` = the first look."""
        begin, settings = self.begin if begin is None else begin, self.settings
        histories = recommender.histories(self.interactions)
        if not len(histories.items):
            raise ValueError(
                f"replay needs the log of the model's users. Received: none of its "
                f"{self.interactions.num_items:,} items is among the {len(recommender.items):,} of "
                f"{recommender.version}."
            )
        asked = histories_of(self.requests, histories, rows)
        live = LiveModel(recommender, histories, begin, settings["remember"], settings["lag"])
        parts = []
        for moment, inside in blocks(asked.times, begin, settings["refresh"]):
            started = time.perf_counter()
            live.look(moment)
            looked = time.perf_counter()
            part = Asked(asked.histories.select(inside), asked.times[inside])
            parts.append(live.lists(part, settings["k"]))
            self.learning += looked - started
            self.asking += time.perf_counter() - looked
            self._bar.update(len(inside))
        self.events += live.events
        self.answered += len(rows)
        lists = pd.concat(parts, ignore_index=True)[["user_id", "item_id", "rank"]]
        return lists.rename(columns={"user_id": "user", "item_id": "item"})

    def skip(self, rows):
        """Some requests were answered before the replay was stopped."""
        self._bar.update(len(rows))


def _in_order(parts, requests):
    """The lists in the order of the requests."""
    lists = pd.concat(parts, ignore_index=True)
    place = pd.Index(requests.names).get_indexer(lists["user"])
    return lists.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


# --- with updates ---


def _with_updates(session, model, work, every, seed):
    """`(lists of each step, what its update did)`; what a stopped replay has done is read."""
    requests = session.requests
    base = _own_copy(session, model, work, {"update": every, "seed": seed})
    parts, made = [], []
    for begin, rows in blocks(requests.times, session.begin, every):
        path = work / _STEPS / f"{begin}.csv"
        told = path.with_suffix(".json")
        path.parent.mkdir(exist_ok=True)
        if not told.is_file():  # kept before the lists are made: no update is made twice
            done = _update(session, base, begin, seed)
            with whole_file(told) as beside:
                beside.write_text(json.dumps(done), encoding="utf-8")
        made.append(json.loads(told.read_text(encoding="utf-8")))
        if path.is_file():
            parts.append(pd.read_csv(path, dtype={"user": str, "item": str}, keep_default_na=False))
            session.skip(rows)
            continue
        parts.append(session.answer(Recommender.load(base), rows, begin))
        write_table(parts[-1], path)
    return parts, made


def _update(session, base, begin, seed):
    """The row of `Replayed.updates`."""
    frame = session.interactions.frame
    known = frame[frame["timestamp"] < begin - session.settings["lag"]]
    try:
        found = make_update(base, session.interactions.replace(known), seed=seed)
    except TooFewEvents as error:
        log.info("no update: %s", error)
        return {"begin": begin, "version": 0, "reason": str(error), "seconds": 0.0}
    version = 0 if found.version is None else int(found.version.name)
    what = f"published {found.version}" if version else "refused"
    log.info("update in %.0f s: %s, %s", found.seconds, what, found.reason)
    seconds = round(found.seconds, 2)
    return {"begin": begin, "version": version, "reason": found.reason, "seconds": seconds}


def _own_copy(session, model, work, more):
    """The folder of the copied model; made once, whole, with a note of what the replay is."""
    version = folders.find_version(model)
    frame, digest = session.interactions.frame, hashlib.sha256()
    for name in ("user_id", "item_id", "timestamp"):
        digest.update(pd.util.hash_pandas_object(frame[name], index=False).to_numpy().tobytes())
    for column in session.requests:
        digest.update(pd.util.hash_array(column).tobytes())
    manifest = hashlib.sha256((version / folders.MANIFEST).read_bytes()).hexdigest()
    told = {"model": manifest, "data": digest.hexdigest(), **session.settings, **more}
    note, base = work / _SETTINGS, work / "saved_models" / version.parent.name
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8")) != told:
            raise ValueError(
                f"{work} holds the replay of another model, log or requests, or with other "
                "options. Take another folder for work, or remove it."
            )
    elif base.exists():
        raise ValueError(f"work must be a folder of its own. Received: {work}, which holds {base}.")
    work.mkdir(parents=True, exist_ok=True)
    with whole_file(note) as beside:
        beside.write_text(json.dumps(told), encoding="utf-8")
    if not base.exists():
        copy = base.with_name(f".replay-{base.name}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(version, copy / version.name)
        copy.rename(base)
    return base
