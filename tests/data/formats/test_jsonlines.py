import gzip
import json

import pandas as pd
import pyarrow as pa
import pytest

from kerasrec.data.formats.columntable import CHUNK
from kerasrec.data.formats.jsonlines import open_json
from kerasrec.data.sources import read_interactions, read_items

EVENTS = [
    {"user": "007", "item": 12, "ts": 1393607161, "tags": ["小说", "经典"]},
    {"user": "008", "item": 13, "ts": 1393607207, "more": {"page": 2, "at": {"x": 1.5}}},
]


def write(path, rows, pack=bytes, encoding="utf-8"):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(pack(text.encode(encoding)))
    return path


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.jsonl", bytes),
        ("x.ndjson", bytes),
        ("x.jsonl.gz", gzip.compress),
        ("x.jsonl.zst", lambda raw: pa.Codec("zstd").compress(raw).to_pybytes()),
    ],
)
def test_events_packed_or_not(tmp_path, name, pack):
    log = read_interactions(write(tmp_path / name, EVENTS, pack))
    assert log.frame["user_id"].tolist() == ["007", "008"]
    assert log.frame["item_id"].tolist() == ["12", "13"]
    assert log.frame["timestamp"].tolist() == [1393607161, 1393607207]


def test_objects_within_objects_are_columns_with_a_dot(tmp_path):
    table = open_json(write(tmp_path / "x.jsonl", EVENTS))
    assert table.columns == ["user", "item", "ts", "tags", "more.page", "more.at.x"]
    data, _ = table.read(["more.page", "more.at.x"])
    assert data["more.page"].to_pylist() == [None, 2]
    assert data["more.at.x"].to_pylist() == [None, 1.5]


def test_messages_of_kafka_with_one_option(tmp_path):
    rows = [
        {"offset": i, "value": {"uid": f"u{i % 3}", "sku": str(i), "ts": 1393607161 + i}}
        for i in range(6)
    ]
    columns = {"user_id": "value.uid", "item_id": "value.sku", "timestamp": "value.ts"}
    log = read_interactions(write(tmp_path / "x.jsonl", rows), columns=columns)
    assert log.frame["user_id"].tolist() == ["u0", "u1", "u2"] * 2
    assert log.frame["timestamp"].tolist() == list(range(1393607161, 1393607167))


def test_a_name_that_comes_late_is_a_column_of_all_rows(tmp_path):
    rows = [{"user": 1, "item": i} for i in range(CHUNK + 10)]
    rows[CHUNK + 5]["rating"] = 5
    data, report = open_json(write(tmp_path / "x.jsonl", rows)).read(["rating", "item"])
    assert report.rows_after == CHUNK + 10
    found = data["rating"].to_pylist()
    assert len(found) == CHUNK + 10 and found[CHUNK + 5] == 5 and found.count(None) == CHUNK + 9
    assert data["item"].to_pylist() == list(range(CHUNK + 10))


def test_ids_stay_exact_whatever_their_type(tmp_path):
    rows = [{"user": 2**53 + 1, "item": "0012"}, {"user": "9007199254740993", "item": 12}]
    log = read_interactions(
        write(tmp_path / "x.jsonl", [*rows, {"user": 2**70, "item": None}]), on_bad="skip"
    )
    assert log.frame["user_id"].tolist() == ["9007199254740993"] * 2
    assert log.frame["item_id"].tolist() == ["0012", "12"]


def test_lists_become_texts_of_items(tmp_path):
    rows = [{"id": 1, "name": "围城", "tags": ["小说", "经典"]}, {"id": 2, "name": "边城"}]
    items = read_items(write(tmp_path / "x.jsonl", rows))
    assert items.frame["tags"].tolist() == ["小说\x1f经典", ""]
    assert items.texts("{title} {tags}") == ["围城 小说 经典", "边城"]


def test_lines_that_are_no_objects_are_bad_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"user": 1, "item": 2}\n\n[1, 2]\n{"user": 1, "it\n{"user": 3, "item": 4}\n')
    with pytest.raises(ValueError, match=r"object in each line. Received: line 3, '\[1, 2\]' \(2"):
        read_interactions(path)
    log = read_interactions(path, on_bad="skip")
    assert log.frame["user_id"].tolist() == ["1", "3"]
    assert (log.report.rows_before, log.report.rows_after) == (4, 2)


@pytest.mark.parametrize("text", ["[\n{}\n]\n", "\n\n", '{"user": [}\n'])
def test_no_object_at_all(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected (a JSON object in each line|a column user_id)"):
        read_interactions(path)


def test_gbk_is_found_and_broken_bytes_are_named(tmp_path):
    rows = [{"user": 1, "item": 2, "title": title} for title in ("红楼梦", "大学物理", "中国历史")]
    path = write(tmp_path / "x.jsonl", rows, encoding="gbk")
    data, report = open_json(path).read(["title"])
    assert data["title"].to_pylist() == ["红楼梦", "大学物理", "中国历史"]
    assert report.steps[0].what == "encoding: GBK/GB18030, by its bytes"
    path.write_bytes(b'{"user": 1}\n{"user": "\xe4\xb9"}\n')
    with pytest.raises(ValueError, match="expected text in utf-8"):
        open_json(path)


def test_cut_off_gzip(tmp_path):
    path = write(
        tmp_path / "x.jsonl.gz",
        [{"user": i * 7919 % 10007, "item": i} for i in range(5000)],
        gzip.compress,
    )
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cut off or damaged"):
        open_json(path)


def test_what_pandas_writes(tmp_path):
    frame = pd.DataFrame(
        {"user": ["a", "b"], "item": [1.0, 2.0], "time": ["2024-03-01 08:00", "2024-03-02"]}
    )
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True, force_ascii=True)
    log = read_interactions(tmp_path / "x.jsonl")
    assert log.frame["item_id"].tolist() == ["1", "2"]
    assert log.frame["timestamp"].tolist() == [1709280000, 1709337600]
