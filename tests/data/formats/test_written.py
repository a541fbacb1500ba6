"""What is written can be read again, whatever ids and titles hold."""

import csv
import json
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kerasrec.data.formats.written import guarded
from kerasrec.data.rows import MISSING_IDS
from kerasrec.data.sources import read_interactions, read_items
from kerasrec.data.tables import write_table
from kerasrec.feedback.store import FeedbackStore
from kerasrec.versions.folders import read_catalogue, write_catalogue

HARD = [
    "a\rb", "\r", "\r\n", "a\nb", 'a"b', '"', '""', "a,b", ",", ";", "\t", "a\0b", "=1+1", "@x",
    "-1", "+86", " a ", "\u3000", "\u200b", "\ufeffx", r"\N", "NA", "N/A", "null", "NaN", "None",
    "True", "007", "1.0", "1e5", "12345678901234567890", "红楼梦", "👍🏽", "'", "#x",
    "\x85", "\u2028", "\x1a",
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(HARD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(st.sampled_from([*'",;\t\r\n\0|=\\', "a", "中", "1"]), max_size=6).map("".join),
)
#: an id that says that there is none is refused, not written
ID = TEXT.filter(lambda text: text and text not in MISSING_IDS and not text.isspace())
ENDINGS = [".csv", ".csv.gz", ".parquet"]


def to_json(frame, path):
    lines = (json.dumps(row) + "\n" for row in frame.to_dict("records"))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def to_zstd(frame, path):
    plain = write_table(frame, path.with_name("x.csv")).read_bytes()
    path.write_bytes(pa.Codec("zstd").compress(plain).to_pybytes())
    return path


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(ID, TEXT, TEXT), min_size=1, max_size=6, unique_by=lambda row: row[0])
)
@example(rows=[(text, text, text) for text in HARD if text not in MISSING_IDS and text.strip()])
def test_items_are_read_as_they_were_written(folder, rows):
    frame = pd.DataFrame(rows, columns=["item_id", "title", "text"], dtype=object)
    items = read_items(frame, titles=False).frame
    assert items.to_numpy().tolist() == [list(row) for row in rows]
    paths = [write_table(items, folder / f"x{ending}") for ending in ENDINGS]
    paths += [to_json(items, folder / "x.jsonl"), to_zstd(items, folder / "x.csv.zst")]
    for path in paths:
        again = read_items(path, titles=False).frame
        assert again.to_numpy().tolist() == items.to_numpy().tolist(), path
    (folder / "assets.extra").mkdir(exist_ok=True)
    write_catalogue(folder, items)
    assert read_catalogue(folder).to_numpy().tolist() == items.to_numpy().tolist()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(ID, ID), min_size=1, max_size=6))
@example(rows=[(text, text) for text in HARD if text not in MISSING_IDS and text.strip()])
def test_events_are_read_as_they_were_written(folder, rows):
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"], dtype=object)
    frame["timestamp"] = 1393607161 + frame.index
    log = read_interactions(frame).frame.drop(columns=["value", "weight"])
    paths = [write_table(log, folder / f"y{ending}") for ending in ENDINGS]
    texts = log.astype({"user_id": str, "item_id": str, "event": str})
    for path in [*paths, to_json(texts, folder / "y.jsonl")]:
        again = read_interactions(path).frame
        assert again[["user_id", "item_id"]].to_numpy().tolist() == [list(row) for row in rows], (
            path
        )
        assert again["timestamp"].tolist() == frame["timestamp"].tolist()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_of_feedback_goes_out_and_in_again(tmp_path, ending):
    ids = [text for text in HARD if text not in MISSING_IDS and text.strip() and "\0" not in text]
    events = [
        {"user_id": text, "item_id": text, "event": "click", "timestamp": 1393607161 + number}
        for number, text in enumerate(ids)
    ]
    with FeedbackStore(tmp_path / "one.db") as one, FeedbackStore(tmp_path / "two.db") as two:
        assert one.add(events).stored == len(ids)
        one.export_file(tmp_path / f"x{ending}")
        two.import_file(tmp_path / f"x{ending}")
        pd.testing.assert_frame_equal(two.read(), one.read())
        assert two.read()["user_id"].tolist() == ids


def test_a_half_character_is_a_bad_id_and_a_mark_in_a_title():
    frame = pd.DataFrame({"user": ["a\ud83d", "b\udc4d", "c"], "item": ["x"] * 3}, dtype=object)
    with pytest.raises(
        ValueError, match=r"whole characters in .*user.* Received: 'a.ud83d' in data row 1 \(2"
    ):
        read_interactions(frame)
    assert read_interactions(frame, on_bad="skip").frame["user_id"].tolist() == ["c"]
    items = read_items(pd.DataFrame({"item": ["x"], "title": ["a\ud83d"]}, dtype=object))
    assert items.frame["title"].tolist() == ["a\ufffd"]


def test_half_characters_of_json(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"item": "x", "title": "\\ud83d\\udc4d"}\n{"item": "y", "title": "a\\ud83d"}\n'
    )
    assert read_items(path).frame["title"].tolist() == ["👍", "a\ufffd"]


def test_formulas_are_guarded_for_people_alone(tmp_path):
    frame = pd.DataFrame(
        {"item_id": ["=HYPERLINK(1)", "-5", "+86 1", "@x", "a=b"], "score": [-1.5] * 5}
    )
    found, count = guarded(frame)
    assert found["item_id"].tolist() == ["'=HYPERLINK(1)", "-5", "'+86 1", "'@x", "a=b"]
    assert found["score"].tolist() == [-1.5] * 5 and count == 3
    for kind in (object, "str", "category"):
        path = write_table(frame.astype({"item_id": kind}), tmp_path / "x.csv", for_people=True)
        with open(path, encoding="utf-8", newline="") as file:
            assert [row[0] for row in csv.reader(file)][1:] == found["item_id"].tolist()
    exact = write_table(frame, tmp_path / "x.csv")
    assert pd.read_csv(exact)["item_id"].tolist() == frame["item_id"].tolist()
    whole = write_table(frame, tmp_path / "x.parquet", for_people=True)
    assert pd.read_parquet(whole)["item_id"].tolist() == frame["item_id"].tolist()


def test_gaps_stay_gaps(tmp_path):
    frame = pd.DataFrame({"a": ["=1", None], "b": [None, "x\ry"], "c": [1, 2]})
    path = write_table(frame, tmp_path / "x.csv", for_people=True)
    assert path.read_bytes() == b'"a","b","c"\n"\'=1","",1\n"","x\ry",2\n'
