import threading
import time

import pytest
import sqlalchemy as sa

from kerasrec.feedback.database import open_database
from kerasrec.feedback.intake import event_rows
from kerasrec.feedback.writer import Added, Writer

WRITER = "kerasrec-feedback"


@pytest.fixture
def database(tmp_path):
    opened = open_database(tmp_path / "f.db")
    yield opened
    opened.engine.dispose()


def rows(*items):
    return event_rows([{"user_id": "u", "item_id": i, "timestamp": 1_700_000_000} for i in items])


def test_waiting_batches_share_one_transaction(database):
    asked, committed = [], []

    def note(names):
        return lambda *_: names.append(threading.current_thread().name)

    writer = Writer(database)
    with database.reading():  # two connections: a new one would wait for the lock below
        writer.submit(rows("warm")).result()
    # just before SQLite is asked for the lock, and when it is let go
    sa.event.listen(database.engine, "set_connection_execution_options", note(asked))
    sa.event.listen(database.engine, "commit", note(committed))
    with database.writing():  # the first waits for this one, the others for the first
        futures = [writer.submit(rows("first"))]
        until = time.monotonic() + 20
        while WRITER not in asked and time.monotonic() < until:
            time.sleep(0.005)
        futures += [writer.submit(rows(f"i{n}", "shared")) for n in range(5)]
    assert [future.result() for future in futures] == [(1, 0, 0), (2, 0, 0), *[(1, 1, 0)] * 4]
    assert asked.count(WRITER) == committed.count(WRITER) == 2
    writer.close()


def test_a_group_is_bounded(database, monkeypatch):
    monkeypatch.setattr("kerasrec.feedback.writer.GROUP_EVENTS", 2)
    writer = Writer(database)
    with database.writing():
        futures = [writer.submit(rows(f"a{n}", f"b{n}")) for n in range(4)]
    assert [future.result().stored for future in futures] == [2] * 4
    writer.close()


def test_a_writer_that_wrote_nothing_closes(database):
    writer = Writer(database)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="this store is closed"):
        writer.submit([])


def test_the_log_of_sqlite_stays_short(database, tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrec.feedback.database._LOG_BYTES", 100_000)
    writer = Writer(database)
    for start in range(0, 6000, 100):
        writer.submit(rows(*(f"i{n}" for n in range(start, start + 100)))).result()
    writer.close()
    assert not writer._checkpoint.is_alive()
    # beside writes the log cannot start anew each time; without checkpoints it would be longer
    sizes = [(tmp_path / name).stat().st_size for name in ("f.db", "f.db-wal")]
    assert sizes[0] > 500_000 and sizes[1] < 12_000_000
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM feedback_events").scalar() == 6000


def test_added_adds_up():
    assert Added(1, 2) + Added(3, 4, 5) == Added(4, 6, 5)
