"""The verbs of the loop on the command line: update, rollback, drift, simulate, replay."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasrec import backend
from kerasrec.cli.parser import add_files, add_model, add_out_and_preset, add_reading
from kerasrec.cli.printing import make_console, print_rows, say
from kerasrec.cli.userinput import (
    Readings,
    UserError,
    period,
    read_catalogue,
    read_events,
    reading_options,
    reported,
    say_mismatch,
    training_options,
)
from kerasrec.versions.folders import find_version, read_manifest

if TYPE_CHECKING:
    import pandas as pd

    from kerasrec.data.interactions import Interactions
    from kerasrec.loop.requests import Requests


def add_update(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `update`."""
    sub.usage = (
        "kerasrec update --name NAME [--store S | --interactions F...] [--items F] [options]"
    )
    sub.add_argument("--name", required=True, help="of the model: OUT/NAME")
    sub.add_argument("--out", default="saved_models", metavar="DIR", help="where models are")
    sub.add_argument(
        "--store", metavar="S", help="feedback store (default: KERASREC_STORE in the environment)"
    )
    add_files(sub, "--interactions", "instead of a store: the whole log, old events and new")
    sub.add_argument(
        "--items", metavar="F", help="the catalogue as it is now (default: that of the model)"
    )
    sub.add_argument(
        "--label",
        choices=["stable", "canary"],
        default="stable",
        help="what the new version is to be (default stable: it answers where none is named)",
    )
    sub.add_argument("--force", action="store_true", help="publish it even if it is worse")
    sub.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    add_reading(sub, items=True)


def update_verb(options: argparse.Namespace) -> None:
    """Learn new events into the next version; it is published only if it is no worse.

    The newest fifth of the new events is held back: on it the new version is judged beside the one
    that answers now, recent popularity and item-kNN. Exit code 1: refused, the reason is printed.
    After `feedback forget` the next version is trained from nothing, and published.
    """
    base, given = Path(options.out) / options.name, options.interactions
    if options.store and given:
        raise UserError("expected --store S or --interactions F..., not both.")
    titles = read_manifest(find_version(base)).encoder is not None
    readings = Readings()
    items = readings.take(read_catalogue, options, titles) if options.items else None
    interactions = readings.take(read_events, options, given) if given else None
    readings.end()
    if interactions is not None and items is not None:
        say_mismatch(interactions, items, "--interactions")
    settings = dict(label=options.label, force=options.force, seed=options.seed)
    backend.load(quiet=not options.debug)
    from kerasrec.loop.updating import update, update_from_store

    if given:
        found = update(base, interactions, items, **settings)
    else:
        from kerasrec.feedback.store import FeedbackStore

        with FeedbackStore(options.store or backend.store_url(), create=False) as store:
            found = update_from_store(base, store, items, **settings)
    if found.evaluation is not None:
        console = make_console()
        console.print(found.evaluation.to_rich(console.width))
    if found.changed:
        say(f"{found.changed:,} texts changed")
    if found.withdrawn or found.returned:
        say(
            f"{found.withdrawn:,} items are in no list: the catalogue lacks them, or says so; "
            f"{found.returned:,} are listed again"
        )
    if found.version is None:
        raise NotGoodEnough(
            f"refused, nothing was published: {found.reason}. --force publishes it."
        )
    say(
        f"{found.events:,} new events in {found.seconds:.0f} s; {found.reason}; published "
        f"{found.version}"
    )


class NotGoodEnough(UserError):
    """Not a mistake: a version, the new one or the one that answers, is not good enough."""


def add_rollback(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `rollback`."""
    sub.usage = "kerasrec rollback --name NAME [--to N]"
    sub.add_argument("--name", required=True, help="of the model: OUT/NAME")
    sub.add_argument("--out", default="saved_models", metavar="DIR", help="where models are")
    sub.add_argument(
        "--to", type=int, metavar="N", help="version (default: the parent of what answers now)"
    )


def rollback_verb(options: argparse.Namespace) -> None:
    """Let an earlier version answer again (the label stable); servers follow within seconds."""
    from kerasrec.checks import ArtifactError
    from kerasrec.versions.folders import rollback

    base = Path(options.out) / options.name
    before, now = rollback(base, options.to)
    say(f"stable: version {now} (was {before})")
    with contextlib.suppress(
        ArtifactError, OSError, ValueError
    ):  # one goes back from a damaged version, too
        told = read_manifest(base / str(before)).update
        if told is not None and told.erased is not None and now < before:
            say(
                f"Version {now} was trained with users who were erased before version {before}: "
                "kerasrec update --store makes one without them.",
                file=sys.stderr,
            )


def add_drift(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `drift`."""
    sub.usage = "kerasrec drift --name NAME [--store S | --interactions F...] [options]"
    sub.add_argument("--name", required=True, help="of the model: OUT/NAME")
    sub.add_argument("--out", default="saved_models", metavar="DIR", help="where models are")
    sub.add_argument(
        "--store", metavar="S", help="feedback store (default: KERASREC_STORE in the environment)"
    )
    add_files(sub, "--interactions", "instead of a store: the whole log, old events and new")
    sub.add_argument("--step", default="1d", metavar="TIME", help="of a period (default 1d)")
    sub.add_argument(
        "--since",
        metavar="TIME",
        help="end of what the version has learned, where it does not know it",
    )
    sub.add_argument(
        "--sample",
        type=int,
        default=2000,
        metavar="N",
        help="events to predict in a period at most, drawn at random (default 2000)",
    )
    sub.add_argument("--report", metavar="DIR", help="write drift.csv (all columns) and drift.svg")
    sub.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    add_reading(sub)


#: the printed tables: heads -> columns of `Drift.table`; the csv has all columns
_SHOWN = (
    {
        "begin": "begin",
        "events": "events",
        "users": "users",
        "new users": "new_users",
        "cold": "cold",
        "outside": "outside",
        "items moved": "item_distance",
        "most before": "item_distance_before",
        "types moved": "event_distance",
    },
    {
        "begin": "begin",
        "judged": "judged",
        "NDCG@10": "ndcg@10",
        "±": "ndcg_se",
        "popular": "recent_popularity",
        "live kNN": "live_knn",
        "recall@10": "recall@10",
        "listed": "listed",
        "sure": "confidence",
        "right": "right",
        "ECE": "calibration_error",
    },
)


def drift_verb(options: argparse.Namespace) -> None:
    """What has changed since a version was made, and whether it has gone stale.

    Two tables with a row per period after the end of its log. What came (the first row is that
    log): events, users, share of new ones, share of events on items that it never learned from
    (cold) and cannot list (outside), distance of the items from those at the end of its log, the
    most that neighbours had before, distance of the event types. How well it predicts each first
    choice from what its user did before: NDCG@10, that of recent popularity and of a kNN whose
    counts grow with every event, recall@10; and of the lists of 50 that hold the item, how sure it
    was of the first one and how often that was right (ECE: expected calibration error). Exit code
    1: it has gone stale, the reasons are printed.
    """
    base, given = Path(options.out) / options.name, options.interactions
    if options.store and given:
        raise UserError("expected --store S or --interactions F..., not both.")
    step, since = period(options.step, "--step"), _since(options.since, options.timezone)
    find_version(base)
    interactions = read_events(options, given) if given else _stored_events(options)
    backend.load(quiet=not options.debug)
    from kerasrec.loop.drifting import drift

    settings = dict(step=step, since=since, sample=options.sample, seed=options.seed)
    found = drift(base, interactions, **settings)
    for heads in _SHOWN:
        print_rows(tuple(heads), _texts(found.table, heads.values(), in_days=step % 86400 == 0))
        say()
    if options.report:
        _write_drift(found.table, Path(options.report))
    for sentence in found.notes:
        say(sentence)
    for sentence in found.warnings:
        say(f"stale: {sentence}")
    if found.warnings:
        count = len(found.warnings)
        raise NotGoodEnough(
            f"{found.version} has gone stale, for {count} {'reason' if count == 1 else 'reasons'} "
            f"(above): kerasrec update --name {options.name} makes the next version."
        )
    say(f"{found.version}: nothing says that it has gone stale")


def _stored_events(options: argparse.Namespace) -> "Interactions":
    """All events of the store, for tables that show times in the zone of the options."""
    from kerasrec.data.times.zones import read_zone, zone_name
    from kerasrec.feedback.store import FeedbackStore

    with FeedbackStore(options.store or backend.store_url(), create=False) as store:
        found = store.interactions(order="users")
    return dataclasses.replace(found, timezone=zone_name(read_zone(options.timezone)))


def _since(text: str | None, timezone: str | None) -> int | None:
    from kerasrec.data.times.forms import read_moment
    from kerasrec.data.times.zones import read_zone

    read_zone(timezone)
    try:
        found = None if text is None else read_moment(text, timezone=timezone)
    except ValueError:
        found = "now"
    if isinstance(found, str):
        raise UserError(
            "--since takes a time such as 2026-11-24T08:00 (of --timezone unless it names a "
            f"zone) or UTC seconds. Received: {text!r}."
        )
    return found


def _texts(table: "pd.DataFrame", columns: Iterable[str], *, in_days: bool) -> list[list]:
    """Rows of some columns of `Drift.table`; a date is enough where periods are whole days."""
    shown = table[list(columns)].copy()
    shown["begin"] = shown["begin"].str.slice(0, 10 if in_days else 16).str.replace("T", " ")
    for name in shown.select_dtypes("float").columns:
        shown[name] = shown[name].map("{:.3f}".format).replace("nan", "")
    return shown.to_numpy().tolist()


def _write_drift(table: "pd.DataFrame", folder: Path) -> None:
    from kerasrec.data.tables import write_table
    from kerasrec.evaluation.plots import drift_curves

    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, folder / "drift.csv", for_people=True)
    (folder / "drift.svg").write_text(drift_curves(table), encoding="utf-8")
    say(f"drift.csv and drift.svg are in {folder}")


def add_simulate(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `simulate`."""
    sub.usage = "kerasrec simulate --interactions F... --items F --work DIR [options]"
    add_files(sub, "--interactions", "what users did, with times", required=True)
    sub.add_argument("--items", required=True, metavar="F", help="the catalogue with its texts")
    sub.add_argument(
        "--work",
        required=True,
        metavar="DIR",
        help="folder for versions, table and plot; a replay that was stopped goes on there",
    )
    sub.add_argument(
        "--start",
        default="0.67",
        metavar="SHARE|TIME",
        help="what comes before is trained on: a share of the events (default 0.67) or a time",
    )
    sub.add_argument("--step", default="1d", metavar="TIME", help="between updates (default 1d)")
    sub.add_argument(
        "--refresh",
        default="1h",
        metavar="TIME",
        help="after which recent events count without training (default 1h)",
    )
    sub.add_argument(
        "--retrained", type=int, default=10, metavar="N", help="trainings anew (default 10)"
    )
    sub.add_argument("--strategies", nargs="+", metavar="S", help="some of them only")
    add_out_and_preset(sub, out=False)
    sub.add_argument("--encoder", metavar="E", help="as in train")
    group = sub.add_argument_group("more options")
    group.add_argument("--config", metavar="YAML", help="as in train")
    group.add_argument("--set", nargs="+", action="extend", metavar="S.O=V", help="as in train")
    group.add_argument("--seed", type=int, help="of everything random (default 0)")
    sub.set_defaults(run_folder=None)
    add_reading(sub, items=True)


def simulate_verb(options: argparse.Namespace) -> None:
    """Replay a log in time order: what the loop of feedback is worth on it.

    Each event after --start is predicted, then learned from, by a model that never learns again
    (static), one that sees a user's newest events (history), the whole loop, models trained anew,
    recent popularity, item-kNN and a kNN whose counts grow with every event (live_knn). Table,
    steps and plot go into --work.
    """
    settings = training_options(options)
    readings = Readings()
    items = readings.take(read_catalogue, options)
    interactions = readings.take(read_events, options, options.interactions)
    readings.end()
    say_mismatch(interactions, items, "--interactions")
    backend.load(quiet=not options.debug)
    from kerasrec.evaluation.plots import strategy_curves
    from kerasrec.loop.simulation import STRATEGIES, simulate

    found = simulate(
        interactions,
        items,
        work=options.work,
        start=_start(options.start, options.timezone),
        step=period(options.step, "--step"),
        refresh=period(options.refresh, "--refresh"),
        retrained=options.retrained,
        strategies=options.strategies or STRATEGIES,
        preset=options.preset,
        options=settings,
        progress=sys.stderr.isatty(),
    )
    found.table.to_csv(found.work / "table.csv", index=False)
    found.steps.to_csv(found.work / "steps.csv", index=False)
    (found.work / "curves.svg").write_text(strategy_curves(found.steps), encoding="utf-8")
    say(found.table.round(4).to_string(index=False))
    say(f"table.csv, steps.csv and curves.svg are in {found.work}")


def add_replay(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `replay`."""
    sub.usage = "kerasrec replay --model M --log F --requests F --out F [options]"
    add_model(sub)
    sub.add_argument(
        "--log", required=True, metavar="F", help="who,item,timestamp: all events, old and new"
    )
    sub.add_argument(
        "--requests",
        required=True,
        metavar="F",
        help="user,who,timestamp: name of each request, its user, when it is asked",
    )
    sub.add_argument("--out", required=True, metavar="F", help="user,item,rank of each request")
    sub.add_argument("--k", type=int, default=20, metavar="N", help="list length (default 20)")
    sub.add_argument(
        "--update",
        metavar="TIME",
        help="update a copy of the model before the first request and after each such time, as 1d",
    )
    sub.add_argument(
        "--work",
        metavar="DIR",
        help="with --update: folder for the versions; a replay that was stopped goes on there",
    )
    group = sub.add_argument_group("what the server does")
    group.add_argument(
        "--lag",
        default="0s",
        metavar="TIME",
        help="until others learn from an event (default 0s); its user's own lists know it at once",
    )
    group.add_argument(
        "--refresh",
        default="60s",
        metavar="TIME",
        help="between two looks at what is new (default 60s)",
    )
    group.add_argument(
        "--remember",
        default="1h",
        metavar="TIME",
        help="between two whole fits of what follows what, at least (default 1h)",
    )
    sub.add_argument("--seed", type=int, default=0, help="of the updates (default 0)")
    add_reading(sub)


def replay_verb(options: argparse.Namespace) -> None:
    """Answer requests of the past, each with what a server would have known then.

    What `serve --store` learns by itself is known: a user's own events at once, what is recent and
    what follows what after a moment. With --update a copy of the model is updated on the way.
    """
    from kerasrec.data.tables import check_output, write_table
    from kerasrec.data.times.zones import iso_time, read_zone

    check_output(options.out)
    if options.work and not options.update:
        raise UserError("--work is for the versions of --update; without it there are none.")
    update = period(options.update, "--update") if options.update else None
    times: dict[str, Any] = {
        name: period(getattr(options, name), f"--{name}") for name in ("refresh", "remember")
    }
    times["lag"] = period(options.lag, "--lag", least=0)
    find_version(options.model)
    log, requests = _read_for_replay(options)
    backend.load(quiet=not options.debug)
    from kerasrec.loop.replaying import replay

    found = replay(
        options.model,
        log,
        requests,
        k=options.k,
        update=update,
        work=options.work,
        seed=options.seed,
        progress=sys.stderr.isatty(),
        **times,
    )
    write_table(found.lists, options.out)
    if len(found.updates):
        zone = read_zone(options.timezone)
        rows = found.updates.assign(
            begin=[iso_time(begin, zone) for begin in found.updates["begin"]],
            version=found.updates["version"].replace(0, "none"),
        )
        print_rows(tuple(rows.columns), rows.to_numpy().tolist())
    say(
        f"{found.lists['user'].nunique():,} lists in {found.seconds:.0f} s: "
        f"{found.ms_per_request:.1f} ms a request, {found.events_per_second:,.0f} events a second "
        f"learned; {options.out}"
    )


def _read_for_replay(options: argparse.Namespace) -> tuple["Interactions", "Requests"]:
    """Log and requests; all that is wrong with them is told at once."""
    from kerasrec.loop.requests import read_log, read_requests

    how = reading_options(options)
    readings = Readings()
    log = readings.take(lambda: reported(read_log(options.log, **how), options.verb))
    for name in ("columns", "event_weights"):
        del how[name]
    requests = readings.take(lambda: read_requests(options.requests, **how))
    readings.end()
    return log, requests


def _start(text: str, timezone: str | None) -> Any:
    try:
        return float(text)
    except ValueError:
        from kerasrec.data.times.forms import read_moment

        return read_moment(text, timezone=timezone)
