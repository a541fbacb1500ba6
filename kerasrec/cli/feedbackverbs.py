"""`kerasrec feedback`: events into the store, out of it, counted, erased."""

import argparse
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kerasrec import backend
from kerasrec.cli.parser import SHAPE, Parser, add_clock, add_files, add_reading
from kerasrec.cli.printing import print_rows, say
from kerasrec.cli.userinput import UserError, event_weights, log_columns, naming_of, period

if TYPE_CHECKING:
    from kerasrec.data.interactions import Users
    from kerasrec.feedback.store import Added, FeedbackStore

log = logging.getLogger(__name__)
_BATCH = 1000  # events of one transaction of --events


def feedback_verb(options: argparse.Namespace) -> None:
    """The store of what users did: add, import, export, count and forget events; what is known of
    users.

    The store is a SQLite file or a PostgreSQL database. An event that is sent again is stored once,
    and what was stored survives a crash.
    """
    _ACTIONS[options.action][1](options)


def add_feedback(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `feedback`, one parser for each action."""
    sub.usage = "kerasrec feedback add | import | export | users | stats | forget  [options]"
    group = sub.add_subparsers(
        dest="action",
        prog="kerasrec feedback",
        required=True,
        metavar="ACTION",
        help="add, import, export, users, stats or forget; `kerasrec feedback add --help` tells",
        parser_class=Parser,
    )
    for name, (add_options, function) in _ACTIONS.items():
        text = inspect.getdoc(function) or ""
        action = group.add_parser(name, help=text.splitlines()[0], description=text)
        action.formatter_class = SHAPE
        _add_store(action)
        add_options(action)
        hidden: dict[str, Any] = dict(action="store_true", default=argparse.SUPPRESS)
        action.add_argument("--verbose", help="say more", **hidden)
        action.add_argument("--debug", help="show the traceback of an error", **hidden)


def _add_store(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--store",
        metavar="S",
        help="path of a SQLite file or postgresql+psycopg://user:password@host/database (default: "
        "KERASREC_STORE in the environment, else feedback.db)",
    )


def _open(options: argparse.Namespace, *, create: bool = False) -> "FeedbackStore":
    from kerasrec.feedback.store import FeedbackStore

    return FeedbackStore(options.store or backend.store_url(), create=create)


def _said(added: "Added") -> str:
    parts = [f"{added.stored:,} {'event' if added.stored == 1 else 'events'} stored"]
    if added.repeated:
        parts.append(f"{added.repeated:,} known before")
    if added.erased:
        parts.append(f"{added.erased:,} of forgotten users refused")
    return ", ".join(parts)


# --- add ---


def _add_options_of_add(action: argparse.ArgumentParser) -> None:
    action.usage = "kerasrec feedback add --user U --item I [options] | --events FILE.jsonl"
    action.add_argument("--user", metavar="U", help="who")
    action.add_argument("--item", metavar="I", help="what")
    action.add_argument("--event", metavar="E", help="click (default), view, purchase, like, ...")
    action.add_argument("--value", type=float, metavar="N", help="such as the stars of a rating")
    action.add_argument("--time", metavar="T", help="UTC seconds or 2026-11-24T08:00 (default now)")
    action.add_argument("--request-id", metavar="R", help="of the list that the item stood in")
    action.add_argument("--event-id", metavar="ID", help="events of one id are stored once")
    action.add_argument(
        "--events", metavar="F", help="events as JSON objects, one a line; - reads standard input"
    )
    add_clock(action, shown="dates and times that name no zone", late="refused")


def add(options: argparse.Namespace) -> None:
    """Store one event, or JSON lines.

    A line is an object with user_id, item_id and, where known, event, value, timestamp, request_id,
    model, version, position, event_id.
    """
    single = dict(
        user_id=options.user,
        item_id=options.item,
        event=options.event,
        value=options.value,
        timestamp=options.time,
        request_id=options.request_id,
        event_id=options.event_id,
    )
    given = [name for name, value in single.items() if value is not None]
    if options.events is None and not (options.user and options.item):
        raise UserError("expected --user U and --item I, or --events F.")
    if options.events is not None and given:
        raise UserError("--events F goes without the options of a single event.")
    if options.events is None:
        with _open(options, create=True) as store:
            say(_said(store.add([single], **_times(options))))
    elif options.events == "-":
        with _open(options, create=True) as store:
            say(_said(_add_lines(store, sys.stdin, "standard input", _times(options))))
    else:
        with (
            open(options.events, encoding="utf-8-sig") as file,
            _open(options, create=True) as store,
        ):
            say(_said(_add_lines(store, file, options.events, _times(options))))


def _times(options: argparse.Namespace) -> dict[str, Any]:
    """How `FeedbackStore.add` reads times."""
    max_ahead = period(options.max_ahead, "--max-ahead", least=0)
    return {"timezone": options.timezone, "max_ahead": max_ahead}


def _add_lines(
    store: "FeedbackStore", file: Iterable[str], name: str, times: dict[str, Any]
) -> "Added":
    """Stores the events of JSON lines, a part at a time; a mistake names its line."""
    from kerasrec.feedback.store import Added

    added = Added(0, 0)
    batch: list[tuple[int, Any]] = []
    for number, line in enumerate(_lines(file, name), 1):
        if line.strip():
            batch.append((number, _event_of(line, f"{name}, line {number}")))
        if len(batch) >= _BATCH:
            added, batch = added + _store(store, batch, name, added, times), []
    return added + _store(store, batch, name, added, times)


def _lines(file: Iterable[str], name: str) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not utf-8 text (byte {error.start}). Save it as utf-8."
        ) from None


def _event_of(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(
            f'{where}: expected a JSON object such as {{"user_id": "u", "item_id": "i"}}. '
            f"Received: {line.strip()[:60]!r} ({error}). Correct it."
        ) from None


def _store(
    store: "FeedbackStore",
    batch: Sequence[tuple[int, Any]],
    name: str,
    before: "Added",
    times: dict[str, Any],
) -> "Added":
    from kerasrec.feedback.intake import check_json

    events = [event for _, event in batch]
    try:
        check_json(events)
        return store.add(events, **times)
    except (ValueError, TypeError) as error:
        problem = re.sub(
            r"^event (\d+)", lambda m: f"{name}, line {batch[int(m[1]) - 1][0]}", str(error)
        )
        stored = f"{before.stored:,} events of earlier lines are stored"
        raise UserError(problem.replace("nothing was stored", stored)) from None


# --- import and export ---


def _add_options_of_import(action: argparse.ArgumentParser) -> None:
    action.usage = "kerasrec feedback import --interactions F... [options]"
    add_files(action, "--interactions", "what users did", "--data", required=True)
    add_reading(action)


def import_(options: argparse.Namespace) -> None:
    """Store the events of files, folders or queries.

    They need a time column. Importing a file again stores nothing twice; an import that was
    interrupted is simply run again. Columns event_id, request_id, model, version and position are
    read too.
    """
    with _open(options, create=True) as store:
        added = store.import_file(
            options.interactions,
            columns=log_columns(options) or None,
            encoding=options.encoding,
            on_bad=options.on_bad,
            event_weights=event_weights(options.event_weights),
            timezone=options.timezone,
            max_ahead=period(options.max_ahead, "--max-ahead", least=0),
            progress=sys.stderr.isatty(),
        )
        say(f"{_said(added)} in {store.name}")


def _add_options_of_export(action: argparse.ArgumentParser) -> None:
    action.usage = "kerasrec feedback export --out F [options]"
    action.add_argument("--out", required=True, metavar="F", help="csv, csv.gz or parquet")


def export(options: argparse.Namespace) -> None:
    """Write all events as a table that `kerasrec feedback import` reads."""
    with _open(options) as store:
        say(f"{store.export_file(options.out):,} events in {options.out}")


# --- users ---


def _add_options_of_users(action: argparse.ArgumentParser) -> None:
    action.usage = (
        "kerasrec feedback users import F [--model M] [options] | kerasrec feedback users export F"
    )
    action.add_argument("what", choices=["import", "export"], help="into the store, or out of it")
    action.add_argument("file", metavar="F", help="table with a column of user ids")
    action.add_argument(
        "--model",
        metavar="M",
        help="saved_models/NAME: say which columns it uses, and count values that it cannot read",
    )
    action.add_argument(
        "--columns", nargs="+", metavar="user_id=C", help="name the column of the user ids"
    )
    action.add_argument("--encoding", default="utf-8", help="of text files (default utf-8)")
    action.add_argument(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="rows without an id, or of an id seen before: stop, or leave out (default error)",
    )


def users(options: argparse.Namespace) -> None:
    """Store what is known of users (age, city, ...) from a table, or write it as one.

    Lists of `kerasrec serve --store` use it from the next one on, where the version was trained
    with a table of users. A later table changes the columns that it has; an empty cell takes a
    value back. Who was forgotten is left out.
    """
    from kerasrec.data.tables import check_output, write_table

    if options.what == "export":
        check_output(options.file)
        with _open(options) as store:
            found = store.users()
        if found is None:
            raise UserError("the store has no table of users. Run: kerasrec feedback users import")
        write_table(found.frame, options.file)
        say(f"{len(found):,} users in {options.file}")
        return
    from kerasrec.data.sources import read_users

    columns = naming_of(options.columns, "--columns")
    if not isinstance(columns, dict):
        raise UserError("--columns takes user_id=COLUMN here: a table of users has a header line.")
    reading = {"encoding": options.encoding, "on_bad": options.on_bad}
    table = read_users(options.file, columns=columns or None, **reading)
    if table.report.rows_before != table.report.rows_after:
        log.warning("%s", table.report)
    if options.model:
        _say_use(table, options.model)
    with _open(options, create=True) as store:
        added = store.import_users(table)
        refused = f", {added.erased:,} forgotten users left out" if added.erased else ""
        say(f"{added.users:,} users, {added.values:,} values{refused} in {store.name}")


def _say_use(table: "Users", model: str) -> None:
    """Says which columns of a table of users a model uses, and what of them does not read so."""
    from kerasrec.checks import did_you_mean
    from kerasrec.features.columntypes import unreadable
    from kerasrec.features.usergroups import UserGroups
    from kerasrec.versions.folders import USERS, find_version

    groups = UserGroups.load(find_version(model) / USERS)
    if groups is None:
        raise UserError(
            f"--model {model} was trained without a table of users: it uses no column. Leave "
            "--model out to store the table, or name another model."
        )
    given = list(table.frame.columns.drop("user_id"))
    for name, one in groups.columns.items():
        if name not in given:
            say(f"{model} knows {name}, which the table lacks. {did_you_mean(name, given)}")
        elif text := unreadable(table.frame[name], one.column):
            log.warning("%s", text)
    used = [name for name in given if name in groups.columns]
    say(f"{model} uses {', '.join(used) or 'no column'} of {', '.join(given) or 'none'}")


# --- stats and forget ---


def _add_options_of_stats(action: argparse.ArgumentParser) -> None:
    action.usage = "kerasrec feedback stats [--model M] [--store S]"
    action.add_argument(
        "--model", metavar="M", help="saved_models/NAME: count events on items that it lacks"
    )
    action.add_argument(
        "--timezone",
        metavar="ZONE",
        help="in which times are shown: such as Asia/Shanghai or +08:00 (default UTC)",
    )


def stats(options: argparse.Namespace) -> None:
    """Events, users, items, and how often served lists were clicked, by version and position.

    With --model also events on items that the model does not know. Events more than a day ahead of
    the clock are counted: update and drift leave them out.
    """
    from kerasrec.data.times.zones import read_zone, show_time

    zone, items = read_zone(options.timezone), None
    if options.model:
        from kerasrec.versions.folders import find_version, read_catalogue

        items = read_catalogue(find_version(options.model))["item_id"]
    with _open(options) as store:
        found, name = store.stats(items), store.name
    rows = [("store", name), ("events", f"{found.events:,}")]
    rows += [(f"  {event}", f"{count:,}") for event, count in found.types.items()]
    rows += [("users", f"{found.users:,}"), ("items", f"{found.items:,}")]
    if found.events:
        rows += [("first", show_time(found.first, zone)), ("last", show_time(found.last, zone))]
    if found.ahead:
        dates = f"from {show_time(found.ahead_first, zone)}"
        rows.append(("more than a day ahead of the clock", f"{found.ahead:,}, {dates}"))
    if found.unknown is not None:
        unknown = found.unknown
        rows.append(("on items outside the catalogue", f"{unknown['events']:,}"))
        rows += [(f"  {item}", f"{count:,}") for item, count in unknown["most"].items()]
    rows.append(("clicks without an impression of their request", f"{found.unmatched:,}"))
    rows.append(("users forgotten", f"{found.erasures:,}"))
    print_rows(("what", "value"), rows)
    for table in (found.versions, found.positions):
        if len(table):
            say()
            shown = table.assign(rate=table["rate"].map("{:.4f}".format))
            shown = shown.astype(object).where(shown.notna(), "")
            print_rows(tuple(table.columns), shown.to_numpy().tolist())


def _add_options_of_forget(action: argparse.ArgumentParser) -> None:
    action.usage = "kerasrec feedback forget --user U [--yes]"
    action.add_argument("--user", required=True, metavar="U", help="who is to be forgotten")
    action.add_argument("--yes", action="store_true", help="do not ask")


def forget(options: argparse.Namespace) -> None:
    """Delete everything of a user, and refuse it when it is sent again.

    Models keep what they learned from the user until they are trained without these events.
    """
    with _open(options) as store:
        if not options.yes:
            count = len(store.read(users=[options.user]))
            _confirm(f"Delete {count:,} events of user {options.user!r} in {store.name} for good?")
        is_known = bool(store.user_values(options.user))
        count = store.forget(options.user)
        known = ", and what is known of the user" if is_known else ""
        say(f"{count:,} events deleted{known}; older ones of this user are refused from now on")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UserError("forget deletes for good: give --yes where nobody can be asked.")
    say(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was deleted.")


#: action -> (adds its options, runs it); the help text is the function's docstring
_ACTIONS = {
    "add": (_add_options_of_add, add),
    "import": (_add_options_of_import, import_),
    "export": (_add_options_of_export, export),
    "users": (_add_options_of_users, users),
    "stats": (_add_options_of_stats, stats),
    "forget": (_add_options_of_forget, forget),
}
