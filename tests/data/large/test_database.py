"""An amount of memory, a database that leaves nothing, and places in an order."""

import time

import numpy as np
import pyarrow as pa
import pytest

from kerasrec import checks
from kerasrec.data.large.database import Progress, kth_values, open_database, put, run


@pytest.mark.parametrize("text", ["4", "1GB", "0GB", "four", "-4GB", ""])
def test_an_amount_of_memory_that_is_none_or_too_small(text, tmp_path):
    with (
        pytest.raises(ValueError, match="memory: expected an amount of 2GB or more"),
        open_database(text, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_database_works_in_the_folder_and_leaves_nothing(tmp_path):
    with open_database("2.5GB", tmp_path) as connection:
        run(connection, "CREATE TABLE x (n BIGINT)")
        put(connection, "x", pa.table({"n": [1, 2]}))
        assert run(connection, "SELECT sum(n) FROM x WHERE n > ?", [1]) == [(2,)]
        assert [path.name[:14] for path in tmp_path.iterdir()] == [".kerasrec-log-"]
        # 2.5 GB, and 1100 MiB of them for Python
        assert run(connection, "SELECT current_setting('memory_limit')")[0][0] == "1.2 GiB"
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_either(tmp_path):
    with pytest.raises(KeyError), open_database("2GB", tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said_in_words(tmp_path):
    numbers = "SELECT range AS n, md5(range::VARCHAR) AS t FROM range(20_000_000)"
    with (
        pytest.raises(MemoryError, match=r"memory: expected enough .*--memory 8GB"),
        open_database("2GB", tmp_path) as connection,
    ):
        run(connection, "SET memory_limit = '20MB'")
        run(connection, "SET temp_directory = ''")
        run(connection, f"SELECT count(*) FROM (SELECT * FROM ({numbers}) ORDER BY t)")


def test_a_full_disk_is_said_in_words(tmp_path):
    with (
        pytest.raises(OSError, match="expected room for the log"),
        open_database("2GB", tmp_path) as connection,
    ):
        run(connection, "SET memory_limit = '50MB'")
        run(connection, "SET max_temp_directory_size = '1MB'")
        run(connection, "CREATE TABLE x AS SELECT range AS n, random() AS r FROM range(5_000_000)")
        run(connection, "CREATE TABLE y AS SELECT * FROM x ORDER BY r")


def test_the_values_at_some_places_are_those_of_a_sorted_array(tmp_path):
    times = np.random.default_rng(0).integers(1_000_000, 2_000_000, 997)
    with open_database("2GB", tmp_path) as connection:
        run(connection, "CREATE TABLE events (timestamp BIGINT)")
        put(connection, "events", pa.table({"timestamp": times}))
        found = kth_values(connection, "events", [0, 249, 498, 996])
    assert found == np.sort(times)[[0, 249, 498, 996]].tolist()


def test_progress_is_a_line_of_the_log_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(checks, "SILENCE", 0.2)
    caplog.set_level("INFO", "kerasrec")
    with Progress("reading", 4000) as progress:
        progress.go_on(1000)
        time.sleep(0.25)
        progress.go_on(1000)
        progress.go_on(1000)  # right behind it
        time.sleep(0.25)
        progress.go_on(1000)
    assert caplog.messages == ["reading: 2,000 rows", "reading: 4,000 rows"]
