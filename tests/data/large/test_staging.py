"""A log that is read in pieces is the log that is read at once: rows, order, report, refusals."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from kerasrec.data import read_interactions
from kerasrec.data.large import staging, streams
from kerasrec.data.large.database import open_database, run
from kerasrec.data.tables import write_table

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
dirty = importlib.import_module("dirty")
INPUTS = [one for one in dirty.INPUTS if not one.feedback]
COLUMNS = ["user_id", "item_id", "timestamp", "event", "value", "weight"]


def at_once(source, **options):
    """What the reader in memory gives, or its refusal."""
    try:
        found = read_interactions(source, **options)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return type(error).__name__, still(str(error))
    return found.columns, found.has_time, found.timezone, found.report, rows_of(found.frame)


def in_pieces(source, folder, **options):
    """The same of a log that is read into a database."""
    try:
        with open_database("2GB", folder) as connection:
            found = staging.stage(connection, source, **options)
            order = "timestamp, nanos, row"
            query = f"SELECT {', '.join(COLUMNS)} FROM events ORDER BY {order}"
            frame = connection.sql(query).df()
            assert found.num_rows == len(frame)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return type(error).__name__, still(str(error))
    return found.columns, found.has_time, found.timezone, found.report, rows_of(frame)


def rows_of(frame):
    """Rows in the order of their times, of equal times in their own."""
    frame = frame.sort_values("timestamp", kind="stable")
    return [tuple(map(str, row)) for row in frame[COLUMNS].to_numpy().tolist()]


def still(message):
    """A message without this machine's clock."""
    return re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", "now", message)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(
            one, id=f"{one.kind}: {one.what}", marks=() if place % 4 == 0 else pytest.mark.slow
        )
        for place, one in enumerate(INPUTS)  # one in four in the quick tests
    ],
)
def test_a_dirty_input_is_read_or_refused_as_in_memory(one, tmp_path):
    source = dirty._written(one, tmp_path)
    for on_bad in ("error", "skip"):
        options = {**one.options, "on_bad": on_bad}
        assert in_pieces(source, tmp_path, **options) == at_once(source, **options)


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of so few rows that a small log has many of them."""
    monkeypatch.setattr(streams, "PIECE", 23)
    monkeypatch.setattr(staging, "PIECE", 23)


def made_log(num_rows=300, seed=0):
    """A log with all kinds of dirt, as texts; the time has a fraction and the order is mixed."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": rng.choice([f"用户{n}" for n in range(20)], num_rows),
            "item": rng.choice([*"abcdefgh", " padded", "9007199254740993"], num_rows),
            "time": (1_700_000_000 + rng.integers(0, 90, num_rows)).astype(str),
            "event": rng.choice(["pv", "buy", "收藏"], num_rows),
            "value": rng.choice(["1", "2.5", ""], num_rows),
        }
    )
    frame["time"] += "." + pd.Series(rng.integers(0, 1000, num_rows)).astype(str).str.zfill(3)
    for column, wrong in (
        ("user", ["", "NULL"]),
        ("item", ["", r"\N", "1.23457E+15"]),
        ("time", ["", "soon", "-5", "9000000000", "N/A"]),
        ("event", ["", "teleport"]),
        ("value", ["many"]),
    ):
        for word in wrong:
            frame.loc[rng.choice(num_rows, 2, replace=False), column] = word
    return frame


def to_folder(frame, folder):
    """Three files in folders of Hive's, one of them tiny."""
    for name, part in (("1", frame[:7]), ("2", frame[7:200]), ("10", frame[200:])):
        write_table(part, folder / "hive" / f"dt=2024-01-{name}" / "part.csv")
    return folder / "hive"


def to_json(frame, folder):
    lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
    lines[50] = "no object"
    (folder / "log.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "log.jsonl"


def to_ragged_csv(frame, folder):
    lines = write_table(frame, folder / "log.csv").read_text("utf-8").split("\n")
    lines[20] += ",one,too,many"
    lines[90] = "short"
    (folder / "log.csv").write_text("\n".join(lines), "utf-8")
    return folder / "log.csv"


def to_gbk(frame, folder):
    # two words alone would be too little to know it by
    names = {"user": "用户", "item": "商品", "time": "时间", "event": "行为", "value": "评分"}
    frame = frame.rename(columns=names)
    text = write_table(frame, folder / "log.csv").read_text("utf-8")
    (folder / "log.csv").write_bytes(text.encode("gb18030"))
    return folder / "log.csv"


def to_broken_csv(frame, folder):
    raw = write_table(frame, folder / "log.csv").read_bytes().split(b"\n")
    raw[60] = b"\xff\xfe" + raw[60]
    (folder / "log.csv").write_bytes(b"\n".join(raw))
    return folder / "log.csv"


def to_parquet(frame, folder):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pa.parquet.write_table(table, folder / "log.parquet", row_group_size=37)
    return folder / "log.parquet"


def to_frame(frame, folder):
    return frame


def to_list(frame, folder):
    return [to_parquet(frame[:100], folder), write_table(frame[100:], folder / "more.tsv.csv")]


def to_sqlite(frame, folder):
    import sqlite3

    with sqlite3.connect(folder / "log.db") as connection:
        frame.to_sql("log", connection, index=False)
    return f"sqlite:///{folder / 'log.db'}?query=SELECT * FROM log ORDER BY rowid"


def to_duckdb(frame, folder):
    import duckdb

    with duckdb.connect(str(folder / "log.duckdb")) as connection:
        connection.register("frame", frame)
        connection.execute("CREATE TABLE log AS SELECT * FROM frame").fetchall()
    return f"duckdb:///{folder / 'log.duckdb'}?query=SELECT * FROM log"


FORMS = (
    to_ragged_csv, to_gbk, to_broken_csv, to_parquet, to_folder, to_json, to_frame, to_list,
    to_sqlite, to_duckdb,
)  # fmt: skip


@pytest.mark.parametrize("on_bad", ["skip", "error"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_in_memory(form, on_bad, tmp_path, small_pieces):
    source = form(made_log(), tmp_path)
    found = in_pieces(source, tmp_path, on_bad=on_bad, timezone="Asia/Shanghai")
    assert found == at_once(source, on_bad=on_bad, timezone="Asia/Shanghai")
    if on_bad == "skip":
        assert found[3].rows_before >= 300 and len(found[4]) == found[3].rows_after > 200
    assert [path.name for path in tmp_path.iterdir() if path.name[:10] == ".kerasrec-"] == []


def test_a_clean_log_of_whole_numbers_keeps_them(tmp_path, small_pieces):
    ids = 2**60 + np.arange(50)  # a float would make one of all these
    frame = pd.DataFrame({"uid": ids, "iid": ids[::-1], "ts": 1_700_000_000_000 + np.arange(50)})
    source = to_parquet(frame, tmp_path)
    found = in_pieces(source, tmp_path)
    assert found == at_once(source)
    assert [row[0] for row in found[4]] == ids.astype(str).tolist()


@pytest.mark.parametrize("late", ["soon", "3.5", "2023-11-14 22:13:20", ""])
def test_a_value_far_below_changes_how_the_column_is_read(late, tmp_path, small_pieces):
    times = [str(1_700_000_000 + n) for n in range(200)]
    times[5], times[150] = "N/A", late  # N/A is empty in a column of numbers, and a word in texts
    source = write_table(
        pd.DataFrame({"uid": list("ab") * 100, "iid": list("xyz") * 66 + ["x", "y"], "ts": times}),
        tmp_path / "log.csv",
    )
    assert in_pieces(source, tmp_path, on_bad="skip") == at_once(source, on_bad="skip")


def test_long_numbers_that_a_spreadsheet_has_rounded_are_bad_in_all_pieces(tmp_path, small_pieces):
    ids = [f"{number}000" for number in range(10**14 + 1, 10**14 + 200)]
    frame = pd.DataFrame({"uid": ids, "iid": "x", "ts": "2024-03-01"})
    frame.loc[::2, "uid"] = "short"
    source = write_table(frame, tmp_path / "log.csv")
    found = in_pieces(source, tmp_path, on_bad="skip")
    assert found == at_once(source, on_bad="skip")
    assert found[3].rows_after == 100
    frame.loc[99, "uid"] = "10000000000000123"  # one that is exact: all are
    source = write_table(frame, tmp_path / "log.csv")
    found = in_pieces(source, tmp_path, on_bad="skip")
    assert found == at_once(source, on_bad="skip")
    assert found[3].rows_after == 199


def test_times_of_two_forms_in_two_pieces_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 50)
    monkeypatch.setattr(staging, "PIECE", 50)
    times = [1_700_000_000] * 100 + [1_700_000_000_000] * 100
    source = to_parquet(pd.DataFrame({"uid": 1, "iid": 2, "ts": times}), tmp_path)
    kind, message = in_pieces(source, tmp_path)
    assert (kind, message) == (
        "ValueError",
        f"{source}: expected times that are written in one way. Received: times read as unix "
        "seconds up to data row 100, times read as unix milliseconds from data row 101 on. Bring "
        "them to one form, best UTC seconds.",
    )


def test_a_column_that_late_lines_of_json_bring_is_used(tmp_path, small_pieces, monkeypatch):
    monkeypatch.setattr(streams, "_HEAD", 5)
    rows = [{"user": "a", "item": n, "note": "x"} for n in range(100)]
    rows += [{"user": "b", "item": n, "time": 1_700_000_000 + n} for n in range(100)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    source = tmp_path / "log.jsonl"
    found = in_pieces(source, tmp_path, on_bad="skip")
    assert found == at_once(source, on_bad="skip")
    assert found[0]["timestamp"] == "time" and found[3].rows_after == 100


def test_a_date_and_a_clock_in_two_columns(tmp_path, small_pieces):
    days = [f"2024-03-{n % 28 + 1:02d}" for n in range(100)]
    clocks = [f"{n % 24:02d}:15:00" for n in range(100)]
    frame = pd.DataFrame({"uid": list("ab") * 50, "iid": "x", "日期": days, "时间": clocks})
    source = write_table(frame, tmp_path / "log.csv")
    found = in_pieces(source, tmp_path, timezone="+08:00")
    assert found == at_once(source, timezone="+08:00")
    assert found[0]["timestamp"] == "日期+时间"


def test_rows_of_one_second_lie_in_the_order_of_their_exact_times(tmp_path, small_pieces):
    rng = np.random.default_rng(1)
    times = 1_700_000_000_000 + rng.integers(0, 5_000, 200)  # milliseconds of five seconds
    frame = pd.DataFrame({"uid": "a", "iid": np.arange(200), "ts": times})
    source = to_parquet(frame, tmp_path)
    found = in_pieces(source, tmp_path)
    assert found == at_once(source)
    by_hand = np.argsort(times, kind="stable").astype(str).tolist()
    assert [row[1] for row in found[4]] == by_hand


def test_a_log_without_times_goes_by_its_places(tmp_path, small_pieces):
    frame = made_log()[["user", "item"]]
    source = write_table(frame, tmp_path / "log.csv")
    found = in_pieces([source, source], tmp_path, on_bad="skip")
    assert found == at_once([source, source], on_bad="skip")
    assert [int(row[2]) for row in found[4]] == list(range(1, len(found[4]) + 1))


def test_orders_that_were_cancelled_are_left_out_and_counted_once(tmp_path, small_pieces):
    frame = made_log()
    frame["订单状态"] = "交易成功"
    frame.loc[40:70, "订单状态"] = "已取消（超时）"
    frame["is_refund"] = "0"
    frame.loc[60:90, "is_refund"] = "1"
    source = write_table(frame, tmp_path / "log.csv")
    for options in ({}, {"columns": {"status": None}}, {"columns": {"status": "is_refund"}}):
        found = in_pieces(source, tmp_path, on_bad="skip", **options)
        assert found == at_once(source, on_bad="skip", **options)
    assert sum(step.count for step in found[3].steps if "refunded" in step.what) == 31


def test_files_without_a_header_line(tmp_path, small_pieces):
    lines = write_table(made_log(), tmp_path / "log.csv").read_text("utf-8").split("\n")
    (tmp_path / "log.csv").write_text("\n".join(lines[1:]), "utf-8")
    names = ["user", "item", "time", "event", "value"]
    found = in_pieces(tmp_path / "log.csv", tmp_path, on_bad="skip", columns=names)
    assert found == at_once(tmp_path / "log.csv", on_bad="skip", columns=names)
    assert found[3].rows_before == 300


def test_places_that_would_read_as_times_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "POSITIONS_BELOW", 150)
    source = write_table(made_log()[["user", "item"]], tmp_path / "log.csv")
    kind, message = in_pieces(source, tmp_path, on_bad="skip")
    assert kind == "ValueError" and "expected a column of times" in message


def test_a_warning_counts_events_far_older_than_the_rest(tmp_path, small_pieces):
    times = [1_700_000_000 + n * 3600 for n in range(100)] + [320_000_000]
    source = to_parquet(pd.DataFrame({"uid": 1, "iid": 2, "ts": times}), tmp_path)
    found = in_pieces(source, tmp_path)
    assert found == at_once(source)
    assert found[3].steps[-1].count == 1


def test_what_is_left_of_a_reading_that_begins_anew_is_nothing(tmp_path, small_pieces):
    times = ["1700000000"] * 199 + ["soon"]
    source = write_table(pd.DataFrame({"uid": 1, "iid": 2, "ts": times}), tmp_path / "log.csv")
    with open_database("2GB", tmp_path) as connection:
        staging.stage(connection, source, on_bad="skip")
        assert run(connection, "SELECT count(*), max(row) FROM events") == [(199, 198)]
