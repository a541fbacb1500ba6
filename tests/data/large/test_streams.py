"""Pieces have the asked size, hold the table, and say where a row lies."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from kerasrec.data.large import streams
from kerasrec.data.large.streams import Again, open_stream, size_of
from kerasrec.data.tables import open_table, write_table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 10)
    frame = pd.DataFrame({"uid": [f"用户{n}" for n in range(25)], "n": range(25)})
    write_table(frame, tmp_path / "log.csv")
    pa.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet", row_group_size=7)
    for number in (2, 10):
        write_table(frame[: number + 1], tmp_path / "many" / f"day={number}" / "part.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("log.csv", [10, 10, 5]), ("log.parquet", [10, 10, 5]), ("many", [3, 10, 1])],
)
def test_pieces_hold_the_table(name, sizes, folder):
    stream = open_stream(folder / name)
    names = list(stream.columns)
    pieces = list(stream.pieces(names, ["uid"], "error"))
    assert [size_of(piece) for piece in pieces] == sizes
    table, report = open_table(folder / name).read(names, ["uid"], "error")
    for column in names:
        found = [one for piece in pieces for one in piece[column].to_pylist()]
        assert found == table[column].to_pylist()
    assert stream.report == report and stream.refusals == []
    assert list(open_stream(folder / name).pieces(names, ["uid"], "error"))  # once more


def test_places_are_those_of_the_files(folder):
    stream = open_stream(folder / "many")
    list(stream.pieces(["uid"], ["uid"]))
    assert [stream.place(row) for row in (0, 2, 3, 13)] == [
        *("data row 1 of part.csv", "data row 3 of part.csv"),
        *("data row 1 of part.csv", "data row 11 of part.csv"),
    ]
    assert open_stream(folder / "log.csv").place(4) == "data row 5"


def test_bytes_of_another_encoding_are_met_late_and_read_anew(folder):
    lines = [b"uid,n"] + [f"{n},{n}".encode() for n in range(200_000)]
    lines += ["用户在中国的大学里学习,1".encode("gbk")] * 20
    (folder / "log.csv").write_bytes(b"\n".join(lines))
    stream = open_stream(folder / "log.csv")
    with pytest.raises(Again):
        list(stream.pieces(["uid"], ["uid"]))
    pieces = list(stream.pieces(["uid"], ["uid"]))
    assert pieces[-1]["uid"][-1].as_py() == "用户在中国的大学里学习"
    assert [step.what for step in stream.report.steps] == ["encoding: GBK/GB18030, by its bytes"]


def test_a_quote_that_is_never_closed_is_refused(folder):
    (folder / "log.csv").write_text('uid,n\na,1\n"b,2\nc,3\nd,4\n', "utf-8")
    with pytest.raises(ValueError, match="closing quote"):
        list(open_stream(folder / "log.csv").pieces(["uid", "n"], ["uid"]))


def test_a_damaged_file_is_refused(folder):
    raw = (folder / "log.parquet").read_bytes()
    (folder / "log.parquet").write_bytes(raw[:40] + b"\xff" * 60 + raw[100:])
    with pytest.raises(ValueError, match=r"log.parquet: expected a parquet file"):
        list(open_stream(folder / "log.parquet").pieces(["uid", "n"], ["uid"]))


def test_a_table_of_python_is_cut(folder):
    frame = pd.DataFrame({"n": np.arange(23)})
    for table in (frame, pa.table(frame)):
        pieces = list(open_stream(table).pieces(["n"]))
        assert [size_of(piece) for piece in pieces] == [10, 10, 3]
        assert pieces[2]["n"][2] in (22, pa.scalar(22))
