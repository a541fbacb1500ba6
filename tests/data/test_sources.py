import gzip
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kerasrec.data.interactions import Interactions, join_interactions
from kerasrec.data.sources import read_interactions, read_items, read_user_ids

HEADER = b"user,item,timestamp\n"
GOOD = HEADER + b"1,a,1400000000\n2,b,1400000001\n"
MANY = HEADER + b"".join(b"%d,%d,%d\n" % (i, i * 7919 % 10007, 10**9 + i) for i in range(30000))
LOG = pd.DataFrame({"user": range(300), "item": list("abc") * 100, "ts": range(10**9, 10**9 + 300)})
PACKED = {"gz": gzip.compress(MANY[:4000]), "parquet": LOG.to_parquet(index=False)}
ITEMS = "item,title\na,甲\nb,乙\n".encode()

# name of the file, its bytes (None: no file), arguments, parts of the one-line message
BAD_INTERACTIONS = {
    "missing file": ("x.csv", None, {}, ["expected a file", "Check the path"]),
    "other kind": ("x.docx", b"1", {}, ["ends in .csv", "'.docx'"]),
    "empty": ("x.csv", b"", {}, ["header line", "an empty file (0 bytes)"]),
    "empty gzip": ("x.csv.gz", gzip.compress(b""), {}, ["an empty file"]),
    "blank lines": ("x.csv", b"\n\n\n", {}, ["blank lines only"]),
    "header only": ("x.csv", HEADER, {}, ["at least one row", "a header only"]),
    "header without line end": ("x.csv", HEADER[:-1], {}, ["a header only"]),
    "excel": ("x.csv", b"PK\x03\x04" + b"\0" * 99, {}, ["zip or Excel", "Save it as csv"]),
    "parquet as csv": ("x.csv", b"PAR1", {}, ["parquet", "ending .parquet"]),
    "no header": ("x.csv", b"1,a,1400000000\n", {}, ["a column user_id", "columns 1, a"]),
    "numbers only": ("x.csv", b"1,2,1400000000\n", {}, ["first line looks like data"]),
    "no user": ("x.csv", b"usr,item\n1,a\n", {}, ["columns usr, item", "nearest is 'usr'"]),
    "no item": ("x.csv", b"user,thing\n1,a\n", {}, ["a column item_id", "columns user, thing"]),
    "two users": ("x.csv", b"user,uid,item\n1,1,a\n", {}, ["one column for user_id", "user, uid"]),
    "same name twice": ("x.csv", b"user,user,item\n1,1,a\n", {}, ["'user' 2 times"]),
    "wrong mapping": ("x.csv", GOOD, {"columns": {"user_id": "usr"}}, ["'usr'", "mean 'user'"]),
    "unknown role": ("x.csv", GOOD, {"columns": {"usr_id": "user"}}, ["mean 'user_id'"]),
    "wrong on_bad": ("x.csv", GOOD, {"on_bad": "drop"}, ["'error' or 'skip'", "'drop'"]),
    "gbk header": (
        "x.csv",
        "用户,物品\n1,红楼梦\n".encode("gbk"),
        {},
        ["looks like GBK/GB18030", "--encoding gb18030"],
    ),
    "gbk ids": (
        "x.csv.gz",
        gzip.compress("user,item\n1,红楼梦\n2,西游记\n".encode("gbk")),
        {},
        ["looks like GBK/GB18030", "encoding='gb18030'"],
    ),
    "utf-16 called utf-16-be": (
        "x.csv",
        "user,item\n1,甲\n".encode("utf-16-le"),
        {"encoding": "utf-16-be"},
        ["a column user_id"],
    ),
    "utf-8 called gbk": (
        "x.csv",
        "user,item\n1,红楼梦\n".encode(),
        {"encoding": "gbk"},
        ["looks like UTF-8"],
    ),
    "unknown encoding": ("x.csv", GOOD, {"encoding": "klingon"}, ["encoding:", "'klingon'"]),
    "broken bytes": (
        "x.csv",
        "user,item\n1,红楼梦\n2,西游记\n".encode() + b"3,\xe7\x94\n",
        {},
        ["not in line 4", "1 such line"],
    ),
    "plain .gz": ("x.csv.gz", GOOD, {}, ["expected a gzip file", "Rename it to x.csv"]),
    "cut-off gzip": ("x.csv.gz", gzip.compress(MANY)[:-5000], {}, ["cut off or damaged", "lines"]),
    "gzip without a body": ("x.csv.gz", gzip.compress(GOOD)[:12], {}, ["cut off or damaged"]),
    "gzip with a wrong sum": (
        "x.csv.gz",
        gzip.compress(GOOD)[:-8] + b"\0" * 8,
        {},
        ["cut off or damaged", "CRC"],
    ),
    "broken parquet": ("x.parquet", b"PAR1" + b"x" * 99 + b"PAR1", {}, ["a parquet file", "read"]),
    "csv as parquet": ("x.parquet", GOOD, {}, ["a parquet file"]),
    "short row": ("x.csv", GOOD + b"3,c\n", {}, ["3 values", "2 in line 4", "'3,c'", "skip"]),
    "long row": ("x.csv", GOOD + b"3,c,1400000000,9\n", {}, ["4 in line 4"]),
    "open quote": ("x.csv", GOOD + b'3,"c,1\n4,d,1\n', {}, ["closing quote", "line 4", '3,"c']),
    "no time": ("x.csv", GOOD + b"3,c,\n", {}, ["a time", "none in data row 3"]),
    "unparsable time": (
        "x.csv",
        GOOD + b"3,c,soon\n4,d,later\n",
        {},
        ["unparsable time", "'soon' in data row 3", "(2 such rows)", "on_bad='skip'"],
    ),
    "negative time": ("x.csv", GOOD + b"3,c,-7\n", {}, ["negative time", "'-7' in data row 3"]),
    "absurd time": ("x.csv", GOOD + b"3,c,9999999999\n", {}, ["time after 2099", "9999999999"]),
    "zero time": ("x.csv", GOOD + b"3,c,0\n", {}, ["time before 1973", "timestamp='0'"]),
    "mixed units": ("x.csv", GOOD + b"3,c,1400000000000\n", {}, ["one unit", "data row 3"]),
    "empty user": ("x.csv", GOOD + b",c,1400000000\n", {}, ["a user_id", "none in data row 3"]),
    "blank item": ("x.csv", GOOD + b"3,  ,1400000000\n", {}, ["an item_id", "data row 3"]),
    "nan item": ("x.csv", GOOD + b"3,nan,1400000000\n", {}, ["an item_id", "data row 3"]),
    "unknown event": (
        "x.csv",
        b"user,item,event\n1,a,view\n2,b,teleport\n",
        {},
        ["'teleport'", "purchase", "event_weights={'teleport': 1.0}", "{'teleport': 'click'}"],
    ),
    "event misspelt": ("x.csv", b"user,item,event\n1,a,purchas\n", {}, ["mean 'purchase'"]),
    "value no number": ("x.csv", b"user,item,rating\n1,a,good\n", {}, ["rating='good'", "row 1"]),
    "rating without value": ("x.csv", b"user,item,rating\n1,a,5\n1,b,\n", {}, ["data row 2"]),
    "infinite weight": ("x.csv", b"user,item,weight\n1,a,inf\n", {}, ["weight='inf'"]),
    "nothing usable": (
        "x.csv",
        HEADER + b",a,1400000000\n1,b,soon\n",
        {"on_bad": "skip"},
        ["2 rows, none of them usable", "1 x empty user_id", "1 x unparsable time"],
    ),
}
BAD_ITEMS = {
    "no title": ("x.csv", b"item,text\na,b\n", {}, ["a column title", "columns item, text"]),
    "no id": ("x.csv", b"thing,title\na,b\n", {}, ["a column item_id"]),
    "repeated id": (
        "x.csv",
        ITEMS + b"a,c\n",
        {},
        ["every item_id once", "'a' in data row 1 and in data row 3", "on_bad='skip'"],
    ),
    "empty id": ("x.csv", ITEMS + b",c\n", {}, ["an item_id", "none in data row 3"]),
    "no text at all": ("x.csv", b"item,title\na,\nb, \n", {}, ["2 items without any text"]),
    "open quote": ("x.csv", b'item,title\na,"b\nc,d\ne,f\n', {}, ["closing quote", "line 2"]),
    "gbk": ("x.csv", "item,title\n1,红楼梦\n".encode("gbk"), {}, ["looks like GBK"]),
    "header only": ("x.csv", b"item,title\n", {}, ["a header only"]),
}


def check_message(read, tmp_path, name, raw, options, parts):
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600 and message.endswith(".")
    assert "expected" in message and "Received: " in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("case", BAD_INTERACTIONS)
def test_malformed_interactions_give_one_clear_line(tmp_path, case):
    check_message(read_interactions, tmp_path, *BAD_INTERACTIONS[case])


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_malformed_items_give_one_clear_line(tmp_path, case):
    check_message(read_items, tmp_path, *BAD_ITEMS[case])


@given(st.binary(max_size=60), st.sampled_from(["error", "skip"]), st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_bytes_give_interactions_or_one_clear_line(tail, on_bad, is_packed):
    raw = GOOD + tail
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.csv.gz" if is_packed else "x.csv")
        path.write_bytes(gzip.compress(raw) if is_packed else raw)
        check_outcome(path, on_bad)


@given(
    st.integers(0, 10_000), st.binary(min_size=1, max_size=8), st.sampled_from(["gz", "parquet"])
)
@example(place=1725, patch=b"\x03", kind="parquet")
@settings(max_examples=150, deadline=None)
def test_damaged_files_give_interactions_or_one_clear_line(place, patch, kind):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.parquet" if kind == "parquet" else "x.csv.gz")
        raw = bytearray(PACKED[kind])
        place %= len(raw)
        raw[place : place + len(patch)] = patch
        path.write_bytes(raw)
        check_outcome(path, "error")


def check_outcome(path, on_bad):
    try:
        interactions = read_interactions(path, on_bad=on_bad)
    except ValueError as error:
        assert "\n" not in str(error) and "Received: " in str(error)
    else:
        assert interactions.report.rows_after == len(interactions) > 0
        assert interactions.frame["user_id"].notna().all()


def test_folder_without_tables_is_refused(tmp_path):
    (tmp_path / "x.pdf").write_bytes(GOOD)
    check_message(read_interactions, tmp_path, ".", None, {}, ["a folder with tables"])


def test_bad_rows_are_skipped_and_counted(tmp_path):
    path = tmp_path / "x.csv"
    rows = [b",a,1400000000", b"1,,1400000000", b"1,q,soon", b"1,q,", b"1,q", b"1,q,-1", b"1,q,0"]
    path.write_bytes(GOOD + b"\n".join(rows) + b"\n3,c,1400000002\n")
    interactions = read_interactions(path, on_bad="skip")
    assert interactions.frame["user_id"].tolist() == ["1", "2", "3"]
    report = interactions.report
    assert (report.rows_before, report.rows_after) == (10, 3)
    removed = {step.what: step.removed for step in report.steps if step.removed}
    assert removed == {
        "rows without exactly 3 values": 1,
        "empty user_id": 1,
        "empty item_id": 1,
        "no time": 1,
        "unparsable time": 1,
        "negative time": 1,
        "time before 1973": 1,
    }
    examples = {step.what: step.example for step in report.steps}
    assert examples["empty user_id"] == "data row 3"
    assert examples["unparsable time"] == "data row 5, 'soon'"
    # an id that only bad rows named is gone
    assert interactions.frame["item_id"].cat.categories.tolist() == ["a", "b", "c"]


def test_types_of_the_frame(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(GOOD)
    frame = read_interactions(path).frame
    names = ["user_id", "item_id", "timestamp", "event", "value", "weight"]
    assert list(frame.columns) == names
    for name in ("user_id", "item_id", "event"):
        assert isinstance(frame[name].dtype, pd.CategoricalDtype)
        assert all(isinstance(text, str) for text in frame[name].cat.categories)
    assert frame["timestamp"].dtype == np.int64
    assert frame["value"].dtype == frame["weight"].dtype == np.float32
    assert frame["timestamp"].tolist() == [1400000000, 1400000001]
    assert frame["event"].tolist() == ["click", "click"] and frame["weight"].tolist() == [1, 1]
    assert frame["value"].isna().all()


def test_ids_stay_as_written(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"user,item\n007,1e5\n7,12.0\n+7,True\n0x7,2014-01-01\n")
    frame = read_interactions(path).frame
    assert frame["user_id"].tolist() == ["007", "7", "+7", "0x7"]
    assert frame["item_id"].tolist() == ["1e5", "12.0", "True", "2014-01-01"]


def test_ids_of_a_frame_and_of_parquet(tmp_path):
    log = pd.DataFrame({"user": [12.0, np.nan, 7.0], "item": [1, 2, 3], "ts": 1400000000})
    log.to_parquet(tmp_path / "x.parquet")
    for source in (log, tmp_path / "x.parquet"):
        with pytest.raises(ValueError, match="none in data row 2"):
            read_interactions(source)
        frame = read_interactions(source, on_bad="skip").frame
        assert frame["user_id"].tolist() == ["12", "7"] and frame["item_id"].tolist() == ["1", "3"]


def test_csv_gzip_parquet_and_frame_agree(tmp_path):
    log = pd.DataFrame(
        {
            "uid": ["二", "b", "二"],
            "iid": ["x", "y", "y"],
            "event_type": ["pv", "buy", "fav"],
            "time": ["2014-03-01", "2014-03-02 08:00:00+08:00", "2014-03-03"],
            "score": [None, 2.5, None],
        }
    )
    log.to_csv(tmp_path / "x.csv", index=False)
    log.to_csv(tmp_path / "x.csv.gz", index=False)
    log.to_csv(tmp_path / "gbk.csv", index=False, encoding="gbk")
    log.to_parquet(tmp_path / "x.parquet")
    expected = read_interactions(log)
    assert expected.frame["timestamp"].tolist() == [1393632000, 1393718400, 1393804800]
    assert expected.frame["event"].tolist() == ["view", "purchase", "like"]
    assert expected.frame["weight"].tolist() == [1, 3, 2]
    assert expected.has_time and expected.has_events
    for name, encoding in (("x.csv", "utf-8"), ("x.csv.gz", "utf-8"), ("x.parquet", "utf-8")):
        other = read_interactions(tmp_path / name, encoding=encoding)
        pd.testing.assert_frame_equal(other.frame, expected.frame)
        assert other.columns == expected.columns
    gbk = read_interactions(tmp_path / "gbk.csv", encoding="gbk")
    pd.testing.assert_frame_equal(gbk.frame, expected.frame)


def test_ratings_weigh_their_value():
    log = pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [4.5, 1]})
    frame = read_interactions(log).frame
    assert frame["event"].tolist() == ["rating", "rating"]
    assert frame["value"].tolist() == frame["weight"].tolist() == [4.5, 1]


def test_weight_column_beats_the_event():
    log = pd.DataFrame({"user": 1, "item": [1, 2, 3], "event": "buy", "weight": [7, None, -1]})
    assert read_interactions(log).frame["weight"].tolist() == [7, 3, -1]


def test_event_weights_and_ignored_event_column():
    log = pd.DataFrame({"user": 1, "item": [1, 2, 3], "type": ["1", "4", "share"]})
    weights = {"1": "view", "4": "purchase", "share": 2.5}
    frame = read_interactions(log, event_weights=weights).frame
    assert frame["event"].tolist() == ["view", "purchase", "share"]
    assert frame["weight"].tolist() == [1, 3, 2.5]
    ignored = read_interactions(log, columns={"event": None})
    assert ignored.frame["event"].tolist() == ["click"] * 3 and not ignored.has_events


def test_without_time_the_file_order_is_the_time():
    log = pd.DataFrame({"user": [1, 1, 2], "item": [3, 1, 2]})
    interactions = read_interactions(log)
    assert interactions.frame["timestamp"].tolist() == [1, 2, 3]
    assert not interactions.has_time and "timestamp" not in interactions.columns
    assert any("no time column" in step.what for step in interactions.report.steps)


def test_positions_are_no_times():
    log = pd.DataFrame({"user": [1, 1], "item": [3, 1], "timestamp": [1, 2]})
    assert not read_interactions(log).has_time


def test_milliseconds_out_of_order_within_a_second_are_put_in_order():
    base = 1_400_000_000_000
    times = [base + 900, base + 100, base, base + 1500]
    log = pd.DataFrame({"user": [1, 1, 2, 1], "item": list("badc"), "ts": times})
    interactions = read_interactions(log)
    assert interactions.frame["item_id"].tolist() == ["d", "a", "b", "c"]
    assert interactions.frame["timestamp"].tolist() == [1_400_000_000] * 3 + [1_400_000_001]
    assert interactions.report.steps[-1].count == 2  # 100 behind 900, and 0 behind 100


def test_only_rows_of_one_second_change_places():
    base = 1_400_000_000_000
    times = [base + 5900, base + 900, base, base + 5, base + 5100]
    log = pd.DataFrame({"user": [2, 2, 1, 1, 3], "item": list("abcde"), "ts": times})
    interactions = read_interactions(log)
    # of second 0: c, d, b in the places of b, c, d; of second 5: e, a
    assert interactions.frame["item_id"].tolist() == ["e", "c", "d", "b", "a"]
    assert interactions.report.steps[-1].count == 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.booleans())
def test_order_is_the_exact_time_then_the_row(times, as_text):
    """A stable sort by the seconds gives what a stable sort by the milliseconds gives."""
    exact = pd.Series(times) + 1_400_000_000_000
    stamps = pd.to_datetime(exact, unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
    log = pd.DataFrame({"user": "u", "item": range(len(times)), "ts": stamps if as_text else exact})
    frame = read_interactions(log).frame
    order = np.argsort(frame["timestamp"], kind="stable")
    expected = np.argsort(times, kind="stable")
    assert frame["item_id"].iloc[order].astype(int).tolist() == expected.tolist()


def test_milliseconds_in_order_keep_the_file_order():
    base = 1_400_000_000_000
    log = pd.DataFrame(
        {"user": [2, 1, 1], "item": list("abc"), "ts": [base + 9000, base, base + 5]}
    )
    assert read_interactions(log).frame["item_id"].tolist() == ["a", "b", "c"]


def test_several_files_are_joined_in_order(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(HEADER + b"2,c,1300000000\n9,a,1500000000\n"))
    interactions = read_interactions([tmp_path / "a.csv", tmp_path / "b.csv.gz"])
    assert interactions.frame["user_id"].tolist() == ["1", "2", "2", "9"]
    assert interactions.frame["item_id"].tolist() == ["a", "b", "c", "a"]
    assert interactions.num_users == 3 and interactions.num_items == 3
    assert (interactions.report.rows_before, interactions.report.rows_after) == (4, 4)


def test_several_files_without_time_go_on_counting():
    one, two = (pd.DataFrame({"user": [1], "item": [name]}) for name in "ab")
    assert read_interactions([one, two]).frame["timestamp"].tolist() == [1, 2]


def test_several_files_must_agree(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD)
    (tmp_path / "b.csv").write_bytes(b"uid,item,timestamp\n1,a,1400000000\n")
    (tmp_path / "c.csv").write_bytes(HEADER + b"1,a,1\n")
    with pytest.raises(ValueError, match="Give both files the same header"):
        read_interactions([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(ValueError, match="Received: positions"):
        read_interactions([tmp_path / "a.csv", tmp_path / "c.csv"])
    with pytest.raises(ValueError, match="an empty list"):
        read_interactions([])


def test_one_user_can_be_read():
    assert read_interactions(pd.DataFrame({"user": [1], "item": [1]})).num_users == 1


def test_spaces_around_ids_are_kept_and_noted():
    interactions = read_interactions(pd.DataFrame({"user": ["1", " 1"], "item": ["a", "a"]}))
    assert interactions.num_users == 2
    assert any("spaces around it" in step.what for step in interactions.report.steps)


def test_reading_does_not_change_the_given_frame():
    log = pd.DataFrame({"user": [1.0, None, 2.0], "item": [1, 2, 3], "rating": ["5", "x", "4"]})
    before = log.copy()
    assert len(read_interactions(log, on_bad="skip")) == 2
    pd.testing.assert_frame_equal(log, before)


def test_items_keep_all_columns_as_text():
    table = pd.DataFrame(
        {
            "sku": [1, 2],
            "name": ["甲", None],
            "price": [9.5, None],
            "year": [2014.0, None],
            "tags": [["a", "b"], None],
        }
    )
    items = read_items(table)
    assert items.frame.to_dict("records") == [
        {"item_id": "1", "title": "甲", "price": "9.5", "year": "2014", "tags": "a\x1fb"},
        {"item_id": "2", "title": "", "price": "", "year": "", "tags": ""},
    ]
    assert items.columns == {"item_id": "sku", "title": "name"}
    assert {step.what: step.count for step in items.report.steps if "(kept)" in step.what} == {
        "empty title (kept)": 1,
        "item without any text (kept)": 1,
    }


def test_items_of_csv_and_parquet_agree(tmp_path):
    table = pd.DataFrame({"item": ["007", "7"], "title": ['a,\n"b"', "c"], "n": ["01", ""]})
    table.to_csv(tmp_path / "x.csv", index=False)
    table.to_parquet(tmp_path / "x.parquet")
    one, two = read_items(tmp_path / "x.csv"), read_items(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(one.frame, two.frame)
    assert one.ids.tolist() == ["007", "7"] and one.frame["n"].tolist() == ["01", ""]
    assert one.ids.dtype == object


def test_repeated_item_keeps_the_first_when_skipped():
    table = pd.DataFrame({"item": ["a", "b", "a"], "title": ["1", "2", "3"]})
    items = read_items(table, on_bad="skip")
    assert items.frame["title"].tolist() == ["1", "2"]
    assert items.report.steps[-1][:4] == ("skip", "repeated item_id", 1, 1)


def test_second_title_column_is_renamed_not_lost():
    table = pd.DataFrame({"item": [1], "title": ["甲"], "title_en": ["A"]})
    items = read_items(table, columns={"title": "title_en"})
    assert items.frame.iloc[0].to_dict() == {"item_id": "1", "title": "A", "source_title": "甲"}


def test_user_ids_of_a_table_with_a_header(tmp_path):
    (tmp_path / "users.csv").write_bytes(b"user\n007\n7\n007\n")
    assert read_user_ids(tmp_path / "users.csv").tolist() == ["007", "7", "007"]
    (tmp_path / "users.csv").write_bytes(b"reader,uid\na,1\n")
    assert read_user_ids(tmp_path / "users.csv").tolist() == ["1"]
    assert read_user_ids(tmp_path / "users.csv", column="reader").tolist() == ["a"]
    assert read_user_ids(tmp_path / "users.csv", column="buyer").tolist() == ["1"]


def test_user_ids_without_a_header_are_not_guessed(tmp_path):
    (tmp_path / "users.csv").write_bytes(b"17\n18\n")
    with pytest.raises(ValueError, match="first line looks like data"):
        read_user_ids(tmp_path / "users.csv")
    (tmp_path / "users.csv").write_bytes(b"user\n17\n\n,\n")
    with pytest.raises(ValueError, match="expected 1 values in every row"):
        read_user_ids(tmp_path / "users.csv")


def test_mapped_text_columns_get_their_canonical_names():
    table = pd.DataFrame({"item": [1], "title": ["甲"], "intro": ["乙"], "text": ["丙"]})
    items = read_items(table, columns={"text": "intro"})
    expected = {"item_id": "1", "title": "甲", "text": "乙", "source_text": "丙"}
    assert items.frame.iloc[0].to_dict() == expected


# --- zones, and the clock ---


def test_local_times_of_a_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item,time\n1,a,2024-03-01 08:00:00\n1,b,2024-03-01T00:30:00Z\n")
    found = read_interactions(path, timezone="Asia/Shanghai")
    # 2024-03-01 00:00 UTC = 1709251200
    assert found.frame["timestamp"].tolist() == [1709251200, 1709253000]
    assert found.timezone == "Asia/Shanghai"
    notes = {step.what: step.count for step in found.report.steps}
    assert notes["times without a zone: read as Asia/Shanghai"] == 1
    path.write_text("user,item,time\n1,a,2024-03-01 08:00:00\n1,b,2024-03-01 08:30:00\n")
    notes = {step.what: step.count for step in read_interactions(path).report.steps}
    assert notes["times without a zone: read as UTC"] == 2


def test_a_zone_is_kept_and_shown():
    log = pd.DataFrame({"user": [1, 2], "item": ["a", "b"], "ts": [1709222400, 1709222400]})
    found = read_interactions(log, timezone="Asia/Shanghai")  # 2024-02-29 16:00 UTC
    assert repr(found) == "Interactions(2 events, 2 users, 2 items, 2024-03-01 to 2024-03-01)"
    assert found.replace(found.frame[:1]).timezone == "Asia/Shanghai"
    assert join_interactions([found, found]).timezone == "Asia/Shanghai"
    with pytest.raises(ValueError, match="timezone: expected the name of a time zone"):
        read_interactions(log, timezone="Asia/Shangri-La")
    with pytest.raises(ValueError, match="timezone: expected the name of a time zone"):
        Interactions(found.frame, timezone="x")


def test_a_clock_that_is_set_is_said():
    times = ["2024-03-31 02:30", "2024-10-27 02:30", "2024-10-27 12:00"]
    log = pd.DataFrame({"user": 1, "item": list("abc"), "time": times})
    report = read_interactions(log, timezone="Europe/Berlin").report
    counts = {step.what: step.count for step in report.steps}
    assert counts["times that a clock set back showed twice: the first is taken"] == 1
    assert counts["times that a clock set forward never showed: read as before it"] == 1


def test_events_of_the_future_are_bad_rows():
    now = int(time.time())
    log = pd.DataFrame(
        {"user": [1, 1, 2], "item": list("abc"), "ts": [now, now + 3600, 3_786_912_000]}
    )
    with pytest.raises(ValueError) as error:  # 2090-01-01
        read_interactions(log)
    assert "time in the future, ts='3786912000' in data row 3" in str(error.value)
    assert "--on-bad skip" in str(error.value) and "--max-ahead" in str(error.value)
    found = read_interactions(log, on_bad="skip")
    assert found.frame["timestamp"].tolist() == [now, now + 3600]
    removed = {step.what: step.removed for step in found.report.steps if step.removed}
    assert removed == {"time in the future": 1}
    assert len(read_interactions(log, max_ahead=None)) == 3
    with pytest.raises(ValueError, match="data row 2"):
        read_interactions(log, max_ahead=60)


def test_a_clock_far_in_the_past_is_a_warning(caplog):
    start = 1_750_000_000  # 2025-06-15
    times = [*range(start, start + 100), 315_532_800, 946_684_800]  # 1980-01-01, 2000-01-01
    log = pd.DataFrame({"user": 1, "item": range(102), "ts": times})
    found = read_interactions(log)
    step = found.report.steps[-1]
    assert step.step == "warning" and step.count == 2 and step.example == "1980-01-01 00:00:00"
    # five years before 2025-06-15, with one leap day among them
    assert step.what == ("events far older than the rest, before 2020-06-16: was a clock wrong?")
    assert "events far older than the rest, before 2020-06-16: 2" in caplog.text


def test_a_long_log_has_no_wrong_clock(caplog):
    years = pd.to_datetime([f"{year}-01-01" for year in range(1996, 2019)])
    log = pd.DataFrame({"user": 1, "item": range(23), "time": years})
    assert all(step.step != "warning" for step in read_interactions(log).report.steps)
    assert not caplog.text


# --- types that round ---

BIG = 2**53


@pytest.mark.parametrize(
    ("ids", "good"),
    [
        (pd.Series([BIG - 1, BIG + 1, 7], dtype="float64"), [True, False, True]),
        (pd.Series([2**24 - 1, 2**24 + 1, 7], dtype="float32"), [True, False, True]),
        (pd.Series([2047, 2049, 7], dtype="float16"), [True, False, True]),
        (pd.Series([BIG - 1, BIG + 2, None], dtype="Float64"), [True, False, False]),
        (pd.Series([7, float(BIG), "x"], dtype=object), [True, False, True]),
        (pd.Series(["1.23457E+15", "1e5", "12.0"]), [False, True, True]),
        (pd.Series(["1.2345678901234568e+18", "9007199254740994.0", "E+10"]), [False, False, True]),
        (
            pd.Series(["1234567890123450000", "1234567890123460000", "7", "1234567890123470000"]),
            [False, False, True, False],
        ),
        (pd.Series(["1234567890123450000", "1234567890123456789", "1234567890123456780"]), None),
        (pd.Series([BIG + 1, BIG + 2, 2**62]), None),
        (pd.Series([Decimal(BIG + 1), Decimal(BIG + 2), Decimal(7)], dtype=object), None),
    ],
)
def test_rounded_ids_are_bad_rows(ids, good, tmp_path):
    log = pd.DataFrame({"user": ids, "item": [*"abcd"][: len(ids)]})
    if good is None:
        assert read_interactions(log).frame["user_id"].nunique() == len(ids)
        return
    with pytest.raises(ValueError, match=r"expected whole ids as user_id \(column user\)"):
        read_interactions(log[log["user"].notna()])
    found = read_interactions(log, on_bad="skip").frame
    assert found["item_id"].tolist() == [
        item for item, is_good in zip("abcd", good, strict=False) if is_good
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_two_users_of_a_float_are_not_one(tmp_path, kind):
    """Three users, of which a float makes two."""
    log = pd.DataFrame({"user": [BIG, BIG + 1, 7], "item": list("abc"), "ts": 1_400_000_000})
    floats = log.astype({"user": float})
    assert floats["user"].nunique() == 2
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        floats.to_csv(path, index=False)
    elif kind == "parquet":
        floats.to_parquet(path)
    source = floats if kind == "frame" else path
    with pytest.raises(ValueError, match=r"Received: a rounded one.*read or export the column as"):
        read_interactions(source)
    found = read_interactions(source, on_bad="skip").frame
    assert found["user_id"].tolist() == ["7.0" if kind == "csv" else "7"]
    assert read_interactions(log).num_users == 3


def test_rounded_ids_of_a_catalogue():
    table = pd.DataFrame({"item_id": [float(BIG), 7.0], "title": ["a", "b"]})
    with pytest.raises(ValueError, match="expected whole ids as item_id"):
        read_items(table)
    assert read_items(table, on_bad="skip").ids.tolist() == ["7"]


@pytest.mark.parametrize(
    ("times", "received"),
    [
        (pd.Series([1_400_000_000, 1_400_000_001], dtype="float32"), "ts='1.4e+09'"),
        (pd.Series([1.4e18, 1.5e18]), "ts='1.4e+18'"),
        (pd.Series(["1.4E+12", "1.39363E+12"]), "ts='1.4E+12'"),
    ],
)
def test_rounded_times_are_bad_rows(times, received, tmp_path):
    log = pd.DataFrame({"user": 1, "item": ["a", "b"], "ts": times})
    with pytest.raises(ValueError) as error:
        read_interactions(log)
    assert f"time rounded by its type, {received} in data row 1 (2 such rows)" in str(error.value)
    assert "as text or whole numbers" in str(error.value)


def test_rounded_times_of_a_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item,ts\n1,a,1.39363E+12\n1,b,1393632000123\n")
    with pytest.raises(ValueError, match=r"time rounded by its type, ts='1.39363E\+12'"):
        read_interactions(path)
    assert read_interactions(path, on_bad="skip").frame["item_id"].tolist() == ["b"]


def test_fractions_of_a_csv_are_exact(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item,ts\n1,b,1393632000.000000002\n1,a,1393632000.000000001\n")
    found = read_interactions(path).frame
    assert found["item_id"].tolist() == ["a", "b"]
    assert found["timestamp"].tolist() == [1393632000, 1393632000]


def test_decimal_times_are_exact(tmp_path):
    stamps = [Decimal("1393632000.000000002"), Decimal("1393632000.000000001")]
    table = pa.table({"user": ["1", "1"], "item": ["b", "a"], "ts": pa.array(stamps)})
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (tmp_path / "x.parquet", table.to_pandas()):
        assert read_interactions(source).frame["item_id"].tolist() == ["a", "b"]


def test_nanoseconds_of_texts_stay_exact():
    log = pd.DataFrame({"user": 1, "item": ["b", "a", "c"], "ts": None}, dtype=object)
    log["ts"] = ["1393632000000000002", "1393632000000000001", "\\N"]
    found = read_interactions(log, on_bad="skip").frame
    assert found["item_id"].tolist() == ["a", "b"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_whole_ids_are_never_merged_or_changed(ids):
    log = pd.DataFrame({"user": pd.Series(ids, dtype="int64"), "item": "a"})
    try:
        found = read_interactions(log).frame["user_id"].astype(str).tolist()
    except ValueError as error:  # many long ids with zeros at the end, as Excel makes them
        assert "rounded" in str(error)
    else:
        assert found == [str(one) for one in ids]


# --- which columns ---


def notes_of(found):
    return {step.what: step.count for step in found.report.steps}


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
@pytest.mark.parametrize("name", ["下单时刻", "dt", "ds", "whenever"])
def test_a_column_of_dates_without_a_usual_name_is_taken_and_said(name, kind, tmp_path):
    log = pd.DataFrame({"user": [1, 1], "item": ["b", "a"], "city": "x", "n": [5, 6]})
    log[name] = ["2014-03-02 00:00:00", "2014-03-01 00:00:00"]
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        log.to_csv(path, index=False)
    elif kind == "parquet":
        log.to_parquet(path)
    found = read_interactions(log if kind == "frame" else path)
    assert found.frame["timestamp"].tolist() == [1393718400, 1393632000]
    assert found.columns == {"user_id": "user", "item_id": "item", "timestamp": name}
    notes = notes_of(found)
    assert notes[f"no usual name of a time: {name} holds times and is taken"] == 2
    assert notes[f"columns: user_id = user, item_id = item, timestamp = {name}"] == 3
    assert notes["columns not used: city, n"] == 2


def test_two_columns_of_dates_are_a_question():
    log = pd.DataFrame({"user": 1, "item": ["a", "b"], "出发": "2014-03-01", "到达": "2014-03-02"})
    with pytest.raises(ValueError) as error:
        read_interactions(log)
    assert str(error.value) == (
        "DataFrame: expected a column timestamp (or ts, time, 时间, ...). Received: no such name, "
        "but what reads as times in 出发, 到达. Say which one is the time of the event with "
        "columns={'timestamp': '出发'} (--columns timestamp=出发), or that none is with "
        "columns={'timestamp': None} (--columns timestamp=)."
    )
    assert read_interactions(log, columns={"timestamp": "到达"}).has_time
    assert not read_interactions(log, columns={"timestamp": None}).has_time


def test_a_birthday_alone_is_a_question_and_an_order_number_is_none():
    log = pd.DataFrame({"user": 1, "item": ["a", "b"], "生日": "1990-03-01"})
    with pytest.raises(ValueError, match="reads as times in 生日"):
        read_interactions(log)
    log = pd.DataFrame({"user": 1, "item": ["a", "b"], "订单号": [1400000001, 1400000002]})
    assert not read_interactions(log).has_time
    with pytest.raises(ValueError, match="reads as times in c3"):
        read_interactions(log.rename(columns={"订单号": "c3"}))


def test_columns_of_a_catalogue_are_said():
    table = pd.DataFrame({"sku": ["a"], "name": ["甲"], "price": [1], "city": ["x"]})
    notes = notes_of(read_items(table))
    assert notes["columns: item_id = sku, title = name"] == 2
    assert notes["columns kept as texts: price, city"] == 2


HEADLESS = "u1,a,5,2024-03-01 09:05:00\nu2,b,3,2024-03-01 15:05:00\n"


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", "", ".xlsx"])
def test_files_without_a_header_line(tmp_path, ending):
    """Each row is read, the first one too; `_` is a column of no use."""
    path = tmp_path / (f"log{ending}" if ending else "000000_0")
    if ending == ".xlsx":
        rows = [line.split(",") for line in HEADLESS.splitlines()]
        pd.DataFrame(rows).to_excel(path, index=False, header=False)
    else:
        text = HEADLESS.replace(",", "\x01") if not ending else HEADLESS
        path.write_bytes(gzip.compress(text.encode()) if ending == ".csv.gz" else text.encode())
    found = read_interactions(path, columns=["user", "item", "rating", "time"])
    assert found.frame["user_id"].tolist() == ["u1", "u2"]
    assert found.frame["value"].tolist() == [5, 3]
    assert found.frame["timestamp"].tolist() == [1709283900, 1709305500]
    without = read_interactions(path, columns=["user", "item", "_", "time"])
    assert without.frame["event"].tolist() == ["click", "click"]
    folder = read_interactions(f"{tmp_path}/*", columns=["user", "item", "_", "_"])
    assert folder.frame["item_id"].tolist() == ["a", "b"]


def test_bad_rows_of_a_file_without_a_header_line_are_named_by_their_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("u1,a\nu2,b,c\nu3,\n")
    with pytest.raises(ValueError, match="3 in line 2, 'u2,b,c'.*Besides: 1 x empty item_id"):
        read_interactions(path, columns=["user", "item"])
    assert len(read_interactions(path, columns=["user", "item"], on_bad="skip")) == 1


def test_a_file_without_a_header_line_is_refused_with_the_option(tmp_path):
    path = tmp_path / "log.csv"
    for text, guess in (
        (HEADLESS, ["user_id", "item_id", "value", "timestamp"]),
        ("1,2,1709283900\n2,3,1709283901\n", ["user_id", "item_id", "timestamp"]),
        ("20240301,u1,a,pv\n20240302,u2,b,pv\n", ["timestamp", "user_id", "item_id", "_"]),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="the first line looks like data") as refused:
            read_interactions(path)
        assert f"columns={guess} (--columns {','.join(guess)})" in str(refused.value)
        assert len(read_interactions(path, columns=guess)) == 2
    path.write_text("u1,a\nu2,b\n")
    with pytest.raises(ValueError, match="where the first line is data, name its columns"):
        read_interactions(path)
    path.write_text("7,围城\n8,活着\n")
    with pytest.raises(ValueError, match=r"--item-columns item_id,title\)"):
        read_items(path)
    items = read_items(path, columns=["item_id", "title"])
    assert items.frame["title"].tolist() == ["围城", "活着"]


def test_names_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEADLESS)
    with pytest.raises(ValueError, match="a name for each of its 4 columns. Received: 2 names"):
        read_interactions(path, columns=["user", "item"])
    with pytest.raises(TypeError, match="columns: expected a mapping such as"):
        read_interactions(path, columns="user,item")
    LOG.to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(ValueError, match="which is for files without a header line"):
        read_interactions(tmp_path / "log.parquet", columns=["user", "item", "ts"])
    bare = pd.DataFrame([["u1", "a"], ["u2", "b"]])
    assert read_interactions(bare, columns=["user", "item"]).num_users == 2


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path):
    texts = {"ok": "user,item\nu,a\n", "bad": "user,thing\nu,a\n", "dirty": "user,item\n,a\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    paths = [tmp_path / f"{name}.csv" for name in ("ok", "gone", "bad", "dirty")]
    with pytest.raises(ValueError) as refused:
        read_interactions(paths)
    gone, bad, dirty = refused.value.sentences
    assert "gone.csv: expected a file" in gone and "bad.csv: expected a column item_id" in bad
    assert "dirty.csv: expected a user_id" in dirty
    with pytest.raises(FileNotFoundError):
        read_interactions(paths[:2])
