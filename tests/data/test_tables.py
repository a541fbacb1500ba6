import gzip

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kerasrec.data.tables import as_frame, check_output, is_frame, open_table, write_table

FRAME = pd.DataFrame({"user_id": ["007", "二"], "item_id": ["a", "b"], "rank": [1, 2]})


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet", "deep/er/x.csv"])
def test_write_table_by_ending_and_back(tmp_path, name):
    path = write_table(FRAME, tmp_path / name)
    table = open_table(path)
    assert table.columns == ["user_id", "item_id", "rank"]
    data, report = table.read(["user_id", "rank"], ["user_id"])
    assert data["user_id"].to_pylist() == ["007", "二"]
    assert data["rank"].to_pylist() == [1, 2]
    assert report.rows_after == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing beside


def test_write_table_keeps_the_column_names_of_the_source(tmp_path):
    columns = {"user_id": "user", "item_id": "item", "timestamp": "ts"}
    path = write_table(FRAME, tmp_path / "x.csv", columns)
    assert path.read_text(encoding="utf-8") == "user,item,rank\n007,a,1\n二,b,2\n"


def test_write_table_same_table_same_bytes(tmp_path):
    one = write_table(FRAME, tmp_path / "a.csv.gz").read_bytes()
    two = write_table(FRAME, tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress(one) == gzip.decompress(two) and one == two


def test_write_table_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    mixed = pd.DataFrame({"a": [1, "two", object()]})
    with pytest.raises(Exception):  # noqa: B017 (whatever pyarrow raises)
        write_table(mixed, path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_write_table_refuses_other_endings(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv, \.csv\.gz or \.parquet"):
        write_table(FRAME, tmp_path / "x.xlsx")
    (tmp_path / "y.csv").mkdir()
    with pytest.raises(ValueError, match="Received: a folder"):
        write_table(FRAME, tmp_path / "y.csv")


def test_missing_file_and_folder_say_what_is_there(tmp_path):
    write_table(FRAME, tmp_path / "clicks.csv")
    with pytest.raises(FileNotFoundError, match=r"That folder holds clicks\.csv"):
        open_table(tmp_path / "click.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a folder with tables"):
        open_table(tmp_path / "empty")


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="Received: dict"):
        open_table({"user": [1]})


def test_check_output_before_the_work(tmp_path):
    assert check_output(tmp_path / "new" / "x.CSV.gz") == ".csv.gz"
    assert check_output(tmp_path / "x.pq") == ".pq"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="/file, which is a file. Choose another place"):
        check_output(tmp_path / "file" / "x.csv")


def test_what_is_a_table_of_python():
    table = pa.table({"a": [1]})
    for frame in (pd.DataFrame(), pl.DataFrame(), table, table.to_reader()):
        assert is_frame(frame)
    for other in (pd.Series([1]), pl.Series([1]), table.column(0), [table], {"a": [1]}, "x.csv"):
        assert not is_frame(other)


def test_a_sheet_of_a_file_that_has_none(tmp_path):
    FRAME.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="'#Sheet1' behind 'x.csv', which has no sheets"):
        open_table(f"{tmp_path / 'x.csv'}#Sheet1")
    FRAME.to_csv(tmp_path / "x#1.csv", index=False)
    assert open_table(tmp_path / "x#1.csv").columns == list(FRAME.columns)


def test_a_lazy_frame_of_polars_is_collected():
    lazy = pl.LazyFrame({"user": ["u"], "item": ["a"]}).filter(pl.col("user") == "u")
    assert is_frame(lazy)
    assert open_table(lazy).read(["user"])[0]["user"].to_pylist() == ["u"]
    assert as_frame(lazy)["item"].tolist() == ["a"]
