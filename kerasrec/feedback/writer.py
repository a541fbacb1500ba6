"""Writes in groups: events that threads add at the same time share one transaction."""

import hashlib
import logging
import queue
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

from kerasrec.feedback.database import ERASURES, EVENTS, Database, sa

log = logging.getLogger(__name__)
#: events of a transaction beyond which no further batch joins it
GROUP_EVENTS = 20_000
_LAST_SEQ = sa.select(sa.func.max(EVENTS.c.seq))


class Added(NamedTuple):
    """Counts what became of the events of one call: stored, known before, or refused.

    `stored` are new, `repeated` have an event id that was there already, `erased` belong to a user
    who was forgotten at or after their time. The three add up to what was sent.
    """

    stored: int
    repeated: int
    erased: int = 0

    def __add__(self, other):
        return Added(*(mine + yours for mine, yours in zip(self, other, strict=True)))


class Outcomes(NamedTuple):
    """Says what became of each event of one call, by its number as sent, from 1.

    `added` counts. `repeated` lists the events that were known before or came twice in the call,
    `erased` those of forgotten users; all others are new and stored.
    """

    added: Added
    repeated: list[int]
    erased: list[int]


class Writer:
    """Writes for all threads, in one thread of its own.

    Args:
        database: `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.insert_events()
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._checkpoint: threading.Thread | None = None  # the thread of one under way
        self._closed = False
        self._erased = Erased(database.salt)

    def submit(self, rows: list[dict[str, Any]]) -> Future[Added]:
        """Returns a future of `Added`; it is done when all rows, or none, are on the disk."""
        return self._submit(rows, None)

    def submit_each(self, rows: list[dict[str, Any]], numbers: list[int]) -> Future[Outcomes]:
        """Returns a future of `Outcomes`; `numbers` are those of the events that the rows hold."""
        return self._submit(rows, numbers)

    def _submit(self, rows, numbers):
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._database.name}: this store is closed. Open it again.")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="kerasrec-feedback", daemon=True
                )
                self._thread.start()
            self._jobs.put((rows, future, numbers))
        return future

    def close(self) -> None:
        """Writes what is waiting, then ends the thread."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread:
            self._jobs.put(None)
            thread.join()

    def _run(self):
        while job := self._jobs.get():
            group, size = [job], len(job[0])
            is_last = False
            while size < GROUP_EVENTS and not self._jobs.empty():
                if (job := self._jobs.get()) is None:
                    is_last = True
                    break
                group.append(job)
                size += len(job[0])
            self._write_group(group)
            self._tidy()
            if is_last:
                break
        if self._checkpoint:
            self._checkpoint.join()

    def _tidy(self):
        """Begin a checkpoint where one is due: it takes tens of milliseconds, callers do not."""
        is_running = self._checkpoint and self._checkpoint.is_alive()
        if not is_running and self._database.needs_checkpoint():
            self._checkpoint = threading.Thread(target=self._run_checkpoint, daemon=True)
            self._checkpoint.start()

    def _run_checkpoint(self):
        try:
            self._database.checkpoint()
        except Exception as error:  # the rows are safe in the log; the next one tries again
            log.warning("%s: checkpoint failed: %s", self._database.name, error)

    def _write_group(self, group):
        group = [job for job in group if job[1].set_running_or_notify_cancel()]
        try:
            with self._database.writing() as connection:
                added = [self._write(connection, rows, numbers) for rows, _, numbers in group]
        except BaseException as error:
            self._fail(group, error)
        else:
            for (_, future, _), result in zip(group, added, strict=True):
                future.set_result(result)

    def _fail(self, group, error):
        """Each caller gets the error; unless the disk or the server failed, that of its own."""
        is_shared = isinstance(error, OSError) or len(group) == 1
        for rows, future, numbers in group:
            if is_shared:
                future.set_exception(error)
                continue
            try:
                with self._database.writing() as connection:
                    added = self._write(connection, rows, numbers)
            except BaseException as own:
                future.set_exception(own)
            else:
                future.set_result(added)

    def _write(self, connection, rows, numbers):
        self._erased.refresh(connection)
        kept = self._erased.without(rows)
        before = None if numbers is None else connection.execute(_LAST_SEQ).scalar_one() or 0
        stored = connection.execute(self._insert, kept).rowcount if kept else 0
        added = Added(stored, len(kept) - stored, len(rows) - len(kept))
        if numbers is None:
            return added
        repeated = {}
        if (
            added.repeated
        ):  # new is what has a later seq than all that was there: nobody else writes
            of_this = sa.select(EVENTS.c.event_id).where(EVENTS.c.seq > before)
            new = set(connection.execute(of_this).scalars())
            for row in kept:
                if row["event_id"] in new:
                    new.remove(row["event_id"])  # the second of two is a repetition
                else:
                    repeated[id(row)] = row
        are_kept = {id(row) for row in kept}
        numbered = list(zip(numbers, rows, strict=True))
        return Outcomes(
            added,
            sorted(number for number, row in numbered if id(row) in repeated),
            sorted(number for number, row in numbered if id(row) not in are_kept),
        )


class Erased:
    """Knows who was forgotten and when, by hash; `refresh` reads what other processes added."""

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._last = 0
        self._until: dict[str, int] = {}

    def hash_of(self, user_id: str) -> str:
        """Hashes a user id: this is all that the store keeps of a forgotten user."""
        return hashlib.sha256(f"{self._salt}:{user_id}".encode()).hexdigest()

    def refresh(self, connection: sa.Connection) -> None:
        """Reads the new erasures."""
        columns = ERASURES.c.id, ERASURES.c.user_hash, ERASURES.c.timestamp
        new = sa.select(*columns).where(ERASURES.c.id > self._last).order_by(ERASURES.c.id)
        for number, user, timestamp in connection.execute(new):
            self._until[user] = max(timestamp, self._until.get(user, 0))
            self._last = number

    def has(self, user_id: str) -> bool:
        """Whether somebody of this id was forgotten."""
        return bool(self._until) and self.hash_of(user_id) in self._until

    def without(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Removes the rows that were erased."""
        if not self._until:
            return rows
        hashes = {user: self.hash_of(user) for user in {row["user_id"] for row in rows}}
        until = {user: self._until.get(found, -1) for user, found in hashes.items()}
        return [row for row in rows if row["timestamp"] > until[row["user_id"]]]
