"""Stores what users were shown and did, for the next list and the next model.

A SQLite file, or a PostgreSQL database when several machines write.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import tzinfo
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.columns import Naming, split_naming
from kerasrec.data.events import EVENT_WEIGHTS, event_table
from kerasrec.data.interactions import Interactions, Users
from kerasrec.data.rows import as_categories
from kerasrec.data.sources import read_users
from kerasrec.data.tables import Source, check_output, open_table, write_table
from kerasrec.data.times.forms import LAST_SECOND
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment
from kerasrec.feedback.database import ACTION, DECIDED, ERASURES, EVENTS, SHOWN, open_database, sa
from kerasrec.feedback.intake import event_rows, numbered_rows, table_rows
from kerasrec.feedback.itemvalues import ItemChange, ItemValues
from kerasrec.feedback.queries import COLUMNS, StoredEvent, as_frame, event_names, select_events
from kerasrec.feedback.stats import Stats, read_stats
from kerasrec.feedback.uservalues import UserValues
from kerasrec.feedback.writer import Added, Erased, Outcomes, Writer

log = logging.getLogger(__name__)
_ORDERS = {
    "seq": ["seq"],
    "time": ["timestamp", "seq"],
    "content": ["timestamp", "event_id"],
    "users": ["timestamp", "user_id", "seq"],
}
_CHUNK = 50_000  # rows of one short read: a long one would keep old rows alive
_USERS = 5_000  # users of one query
_IMPORT = 10_000  # rows of one transaction


#: what `FeedbackStore.add` takes
Events: TypeAlias = Sequence[dict[str, Any]] | dict[str, Any] | pd.DataFrame | Interactions


class Erasure(NamedTuple):
    """Records that a user was forgotten, without a name.

    `timestamp`: UTC seconds, when; the user's events up to then are refused. `rows`: how many were
    deleted. `first_seq`: the least seq among them, None without rows; a model that was trained on
    events up to a seq >= `first_seq` may have learned from them.
    """

    timestamp: int
    rows: int
    first_seq: int | None


class UsersAdded(NamedTuple):
    """Tells what became of a table of users.

    users: how many were stored.  values: of them, without empty ones.  erased: users who were
    forgotten and left out.
    """

    users: int
    values: int
    erased: int


class FeedbackStore:
    """Stores events durably; sending one again changes nothing.

    Threads, processes and machines may share a store.

    Args:
        url: path of a SQLite file (the default kind), `sqlite:///path`, or
            `postgresql+psycopg://user:password@host/database`. Missing tables are made.
        create: False: a store that does not exist is an error.

    Raises:
        FileNotFoundError, ArtifactError, ConnectionError, ImportError, ValueError: no such store;
            a file that is something else; a server that does not answer or refuses the user; a
            missing driver; another kind of URL.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with FeedbackStore(f"{folder.name}/feedback.db") as store:
    ...     click = {"user_id": "u1", "item_id": "甲", "timestamp": 1393632000}
    ...     print(store.add([click]), store.add([click]))
    ...     print([event.item_id for event in store.latest("u1")])
    Added(stored=1, repeated=0, erased=0) Added(stored=0, repeated=1, erased=0)
    ['甲']
    """

    def __init__(self, url: str | os.PathLike[str], *, create: bool = True) -> None:
        self._database = open_database(url, create=create)
        self._writer = Writer(self._database)
        self._item_values = ItemValues(self._database)
        self._user_values = UserValues(self._database)
        latest = sa.select(*(COLUMNS[name] for name in StoredEvent._fields)).where(
            COLUMNS.user_id == sa.bindparam("user"),
            COLUMNS.timestamp.between(sa.bindparam("since"), sa.bindparam("until")),
        )
        newest_first = COLUMNS.timestamp.desc(), COLUMNS.seq.desc()
        self._latest = latest.order_by(*newest_first).limit(sa.bindparam("most"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"FeedbackStore({self.name})"

    @property
    def name(self) -> str:
        """Names the store: path or URL, without a password."""
        return self._database.name

    @property
    def id(self) -> str:
        """Identifies the store: the same id by whatever path or URL it is opened."""
        return self._database.id

    def close(self) -> None:
        """Writes what is waiting and closes the database."""
        self._writer.close()
        self._database.engine.dispose()

    # --- writing ---

    def add(
        self,
        events: Events,
        *,
        timezone: str | tzinfo | None = None,
        max_ahead: float | None = MAX_AHEAD,
    ) -> Added:
        """Stores events; when this returns they survive a crash and a power cut.

        Either all events are stored or, when one is malformed, none. Threads that add at the same
        time share one write to the disk.

        Args:
            events: a list of dicts with `user_id`, `item_id` and, where they are known, `event`
                (default click; synonyms as in tables), `value` (kept as float32), `timestamp` (UTC
                seconds or any form that tables may have; default now), `request_id`, `model`,
                `version`, `position` (from 1) and `event_id`; or a DataFrame, or `Interactions`.

                An event without `event_id` gets one from its user, item, event, timestamp, value
                and request id, so sending it again changes nothing (give a timestamp for that),
                and two equal ones within a second are one.
            timezone: of dates and times that name none, such as `"Asia/Shanghai"`; None = UTC.
            max_ahead: seconds that an event may lie ahead of this machine's clock, a day by
                default; a later one is malformed. None = any.

        Returns:
            `Added(stored, repeated, erased)`.

        Raises:
            ValueError, TypeError: a malformed event, by its number and field.
            OSError: the disk is full, the server is gone, another process writes for too long.
        """
        return self.submit(events, timezone=timezone, max_ahead=max_ahead).result()

    def submit(
        self,
        events: Events,
        *,
        timezone: str | tzinfo | None = None,
        max_ahead: float | None = MAX_AHEAD,
    ) -> Future[Added]:
        """Stores events like `add`, but returns a `concurrent.futures.Future` of `Added` at once.

        Malformed events are refused here; the rows are durable when the future is done.
        """
        return self._writer.submit(event_rows(events, timezone=timezone, max_ahead=max_ahead))

    def submit_each(
        self,
        events: Events,
        *,
        timezone: str | tzinfo | None = None,
        max_ahead: float | None = MAX_AHEAD,
    ) -> Future[Outcomes]:
        """Stores events like `submit`; the future says what became of each of them.

        Returns:
            `concurrent.futures.Future` of `Outcomes(added, repeated, erased)`: the numbers of the
            events, from 1, that were known before and that belong to forgotten users.
        """
        found = numbered_rows(events, timezone=timezone, max_ahead=max_ahead)
        return self._writer.submit_each(found.rows, found.numbers)

    def add_served(
        self,
        user_id: str,
        item_ids: Iterable[str],
        *,
        request_id: str | None,
        model: str | None,
        version: int | None,
        timestamp: Any = None,
    ) -> Future[Added]:
        """Stores a served list as impressions; returns a future as `submit` does.

        Args:
            user_id: who saw it.
            item_ids: in the order shown; the first has position 1.
            request_id: what clicks on the list will give to be attributed to it.
            model, version: what made the list.
            timestamp: when; None = now.
        """
        shared: dict[str, Any] = dict(user_id=user_id, event="impression", request_id=request_id)
        shared |= dict(model=model, version=version, timestamp=timestamp)
        events = [
            {**shared, "item_id": item, "position": position}
            for position, item in enumerate(item_ids, 1)
        ]
        return self.submit(events)

    def import_file(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        columns: Naming | None = None,
        encoding: str = "utf-8",
        on_bad: str = "error",
        event_weights: Mapping[str, float | str | None] | None = None,
        progress: bool = False,
        timezone: str | tzinfo | None = None,
        max_ahead: float | None = MAX_AHEAD,
    ) -> Added:
        """Stores the events of files, folders or queries; after an interruption, run it again.

        Columns are found as by `read_interactions`; a time column is needed. Columns named
        `event_id`, `request_id`, `model`, `version` and `position` are read too. Without
        `event_id`, rows with the same user, item, event, value and second are one event. The
        weight of a row is not stored: it follows from the event.

        Args:
            paths: one path or a list of them; each file is read whole, then stored in parts.
            columns, encoding, on_bad, event_weights: as for `read_interactions`; an event of
                another name is said to be a known one, `event_weights={"4": "purchase"}`.
            progress: True draws a bar.
            timezone, max_ahead: as for `read_interactions`.

        Returns:
            `Added` of all files.

        Raises:
            FileNotFoundError, ValueError: as `read_interactions`; a file without times.
        """
        added = Added(0, 0)
        mapping, names = split_naming(columns)
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            table = open_table(path, encoding, names=names)
            rows, report = table_rows(
                table,
                columns=mapping,
                on_bad=on_bad,
                event_weights=event_weights,
                timezone=timezone,
                max_ahead=max_ahead,
            )
            if report.rows_before != report.rows_after:
                log.warning("%s", report)
            equal = len(rows) - len({row["event_id"] for row in rows})
            if equal:
                log.warning(
                    "%s: rows that say the same as another one (user, item, event, value and "
                    "second, or event_id) are stored once: %d fewer",
                    table.name,
                    equal,
                )
            added += self._import_rows(rows, progress)
        return added

    def _import_rows(self, rows, progress):
        from tqdm import tqdm

        added = Added(0, 0)
        with tqdm(total=len(rows), unit="event", disable=None if progress else True) as bar:
            for start in range(0, len(rows), _IMPORT):
                part = rows[start : start + _IMPORT]
                added += self._writer.submit(part).result()
                bar.update(len(part))
        return added

    def forget(self, user_id: str) -> int:
        """Deletes everything of a user, also from the disk, and refuses it when it is sent again.

        What is known of the user beside the events (`set_users`) goes too. Kept is that somebody
        was forgotten, when and how many events, with a salted hash that knows the user's events up
        to now again: what the user does later is stored, and so is an event that a wrong clock has
        put into the future, when it is sent again. In SQLite the bytes are gone from the file and
        its log (the file is written anew: seconds for millions of events); in PostgreSQL the rows
        are deleted and vacuumed, and backups are the server's matter. Models that have learned from
        the rows keep what they learned until they are trained without them: see `erasures`.

        Returns:
            Number of events deleted.
        """
        user_id = str(user_id)
        mine = COLUMNS.user_id == user_id
        found = sa.select(sa.func.count(), sa.func.min(COLUMNS.seq))
        user_hash = Erased(self._database.salt).hash_of(user_id)
        with self._database.writing() as connection:
            count, first = connection.execute(found.where(mine)).one()
            connection.execute(sa.delete(EVENTS).where(mine))
            self._user_values.forget(user_id, connection)
            now = int(time.time())
            erasure = dict(user_hash=user_hash, timestamp=now, rows=count, first_seq=first)
            connection.execute(sa.insert(ERASURES).values(erasure))
        if not self._database.scrub():
            log.warning(
                "%s: another process was reading, so the log beside the file still holds deleted "
                "rows until its next checkpoint; run forget again when nobody reads",
                self.name,
            )
        return count

    def set_items(self, changes: Mapping[str, Mapping[str, Any]]) -> int:
        """Stores new values of items, such as `{"i1": {"stock": 0}}`, which servers use at once.

        They lie above the catalogue of every version, and are in none. All are stored, or none.

        Args:
            changes: item id -> column -> text, number, boolean, list or None (no value);
                `itemvalues.TAKEN_BACK`: the value of the catalogue counts again.

        Returns:
            The seq of the last one, 0 without any.

        Raises:
            ValueError: an id or a value that a store cannot hold, or a column called item_id.
        """
        return self._item_values.put(changes)

    def item_values(self, after: int = 0) -> list[ItemChange]:
        """Reads the values that `set_items` stored with a seq above `after`, in their order.

        The newest of an item and a column alone is there.
        """
        return self._item_values.after(after)

    # --- what is known of users ---

    def set_users(self, changes: Mapping[str, Mapping[str, Any]]) -> int:
        """Stores what is known of users, such as `{"u1": {"age": 30, "city": "上海"}}`.

        Lists that are made from this store use it from the next one on, where the version was
        trained with a table of users. All values are stored, or none.

        Args:
            changes: user id -> column -> text, number, boolean or list; None takes a value back.
                Columns that are not named stay as they are.

        Returns:
            How many values were given.

        Raises:
            ValueError: an id or a value that a store cannot hold, or a column called user_id.
        """
        return self._user_values.put(changes)

    def user_values(self, user_id: str) -> dict[str, Any]:
        """Reads what `set_users` and `import_users` stored of a user, column -> value."""
        return self._user_values.of(str(user_id))

    def users(self) -> Users | None:
        """Reads the whole table of users, as `kerasrec.train(users=...)` takes it; None = empty."""
        known = dict(self._user_values.all())
        if not known:
            return None
        names = dict.fromkeys(name for values in known.values() for name in values)
        columns = {name: [_cell(values.get(name)) for values in known.values()] for name in names}
        frame = pd.DataFrame({"user_id": list(known), **columns}, dtype=object)
        return Users(frame.astype("str"), {name: name for name in frame.columns})

    def import_users(
        self, table: Users | Source, *, columns: Mapping[str, str | None] | None = None
    ) -> UsersAdded:
        """Stores a table of users; an empty cell takes the value of that column back.

        Who was forgotten is left out: the table may be older than that. `set_users` stores the
        user again, who is there anew.

        Args:
            table: `Users`, or what `read_users` takes.
            columns: as for `read_users`.

        Returns:
            `UsersAdded(users, values, erased)`.
        """
        found = table if isinstance(table, Users) else read_users(table, columns=columns)
        erased = Erased(self._database.salt)
        with self._database.reading() as connection:
            erased.refresh(connection)
        names = list(found.frame.columns.drop("user_id"))
        rows = list(zip(found.frame["user_id"], *(found.frame[n] for n in names), strict=True))
        kept = [row for row in rows if not erased.has(row[0])]
        count = 0
        for start in range(0, len(kept), _IMPORT):
            part = {
                user: {name: text or None for name, text in zip(names, texts, strict=True)}
                for user, *texts in kept[start : start + _IMPORT]
            }
            self._user_values.put(part)
            count += sum(text is not None for values in part.values() for text in values.values())
        return UsersAdded(len(kept), count, len(rows) - len(kept))

    # --- reading ---

    def latest(
        self,
        user_id: str,
        limit: int = 200,
        *,
        since: int | None = None,
        until: int | None = None,
        impressions: bool = False,
    ) -> list[StoredEvent]:
        """Reads the newest events of a user, oldest first; a bounded read also among millions.

        Args:
            user_id: whose.
            limit: number of events at most.
            since, until: UTC seconds; older and newer ones are left out.
            impressions: True: also what the user was merely shown.

        Returns:
            list of `StoredEvent`, in order of time, within a second as they were stored.
        """
        kinds = (ACTION, SHOWN) if impressions else (ACTION,)
        return self._newest(user_id, kinds, limit, since, until)

    def decisions(self, user_id: str, limit: int = 1000) -> list[StoredEvent]:
        """Reads the newest purchases and dislikes of a user, however old; oldest first.

        Returns:
            list of `StoredEvent`, at most `limit`; a bounded read, as `latest` is.
        """
        return self._newest(user_id, (DECIDED,), limit)

    def _newest(self, user_id, kinds, limit, since=None, until=None):
        until = LAST_SECOND if until is None else until
        given = {"user": str(user_id), "since": since or 0, "until": until, "most": limit}
        with self._database.reading() as connection:
            rows = [r for k in kinds for r in connection.execute(self._latest.where(k), given)]
        rows.sort(key=lambda row: (row.timestamp, row.seq))
        return [StoredEvent(*row) for row in rows[-limit:]]

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        since: int | None = None,
        before: int | None = None,
        events: str | Iterable[str] | None = None,
        users: Iterable[str] | None = None,
        order: str = "seq",
        attribute: bool = True,
    ) -> pd.DataFrame:
        """Reads events as a table.

        Seq numbers grow in the order of commits. So a reader that continues `after` the last seq it
        has seen misses nothing, also when several machines write.

        Args:
            after, until: seq from (excluded) and to (included).
            since, before: UTC seconds from (included) and to (excluded).
            events: names; None = all, impressions too.
            users: ids; None = all.
            order: `"seq"`; `"time"` (within a second by seq); `"users"` (within a second by user,
                then by seq: what a model is trained on. A user's events stay in the order in which
                they arrived, and it does not matter how those of different users interleaved);
                `"content"` (within a second by event id: to compare two stores, not to train, as
                it loses the order within a second).
            attribute: True gives an event with a request id the model, version and position of the
                impression of that request and item, where it does not say them itself.

        Returns:
            DataFrame with the columns of `StoredEvent`; `version` and `position` are Int64,
            `value` is float64 with NaN for none.
        """
        if order not in _ORDERS:
            raise ValueError(f"order: expected one of {', '.join(_ORDERS)}. Received: {order!r}.")
        limits = dict(until=until, since=since, before=before)
        groups = [None] if users is None else _in_parts([str(user) for user in users], _USERS)
        names = event_names(events)
        parts = [
            part
            for some in groups
            for part in self._chunks(select_events(attribute, names, some, **limits), after)
        ]
        frame = as_frame([row for part in parts for row in part])
        if order == "seq" and len(groups) < 2:
            return frame
        return frame.sort_values(_ORDERS[order], kind="stable", ignore_index=True)

    def _chunks(self, query, after):
        """Rows in order of seq, in short reads."""
        query = query.where(COLUMNS.seq > sa.bindparam("last")).order_by(COLUMNS.seq)
        query = query.limit(_CHUNK)
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(query, {"last": after}).all()
            yield rows
            if len(rows) < _CHUNK:
                return
            after = rows[-1].seq

    def interactions(
        self,
        *,
        impressions: bool = False,
        order: str = "time",
        event_weights: Mapping[str, float | str | None] | None = None,
        **limits: Any,
    ) -> Interactions:
        """Reads events as `Interactions`, ready for `kerasrec.train`.

        Args:
            impressions: True: also what users were merely shown.
            order: as of `read`.
            event_weights: as for `read_interactions`.
            limits: `after`, `until`, `since`, `before`, `events`, `users` of `read`.

        Returns:
            `Interactions`; without a row where there is no such event.
        """
        table = event_table(event_weights)
        if not impressions and limits.get("events") is None:  # there may be many: not read at all
            limits["events"] = [name for name in EVENT_WEIGHTS if name != "impression"]
        frame = self.read(order=order, attribute=False, **limits)
        if not impressions:
            frame = frame[frame["event"] != "impression"].reset_index(drop=True)
        names = ("user_id", "item_id", "timestamp", "event", "value")
        columns = {name: as_categories(frame[name], name) for name in names[:2]}
        columns["timestamp"] = frame["timestamp"]
        columns["event"] = as_categories(frame["event"], "event")
        columns["value"] = frame["value"].astype(np.float32)
        weights = {name: table[name].weight for name in columns["event"].categories}
        weight = frame["event"].map(weights).astype(np.float32)
        columns["weight"] = weight.where(weight.notna(), columns["value"])
        report = CleaningReport(len(frame))
        return Interactions(pd.DataFrame(columns), dict(zip(names, names, strict=True)), report)

    def last_seq(self) -> int:
        """Gives the largest seq; 0 in an empty store."""
        return self._scalar(sa.func.max(COLUMNS.seq)) or 0

    def newest(self) -> int | None:
        """Gives the newest timestamp, UTC seconds; None in an empty store."""
        return self._scalar(sa.func.max(COLUMNS.timestamp))

    def _scalar(self, value):
        with self._database.reading() as connection:
            return connection.execute(sa.select(value)).scalar_one()

    def stats(self, items: Iterable[str] | None = None, *, max_ahead: float = MAX_AHEAD) -> Stats:
        """Counts events, and the clicks on lists by version and position.

        Args:
            items: ids of a catalogue; events on other items are counted as unknown.
            max_ahead: seconds ahead of this machine's clock; events later than that are counted.
        """
        with self._database.reading() as connection:
            return read_stats(connection, items, latest_moment(max_ahead))

    def erasures(self) -> list[Erasure]:
        """Lists the erasures, without names, oldest first."""
        columns = ERASURES.c.timestamp, ERASURES.c.rows, ERASURES.c.first_seq
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(ERASURES.c.id)).all()
        return [Erasure(*row) for row in rows]

    def export_file(self, path: str | os.PathLike[str]) -> int:
        """Writes all events as csv, csv.gz or parquet; `import_file` makes the same store from it.

        Returns:
            Number of events written.
        """
        check_output(path)
        frame = self.read(attribute=False).drop(columns="seq")
        write_table(frame, path)
        return len(frame)


def _in_parts(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


def _cell(value):
    """A value as the text that a table of users has of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "\x1f".join(map(str, value))
    return "" if value is None else str(value)
