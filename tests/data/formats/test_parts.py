import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kerasrec.data.cleaningreport import DirtyRows
from kerasrec.data.formats.parts import files_of, natural_key
from kerasrec.data.sources import read_interactions, read_items

HEADER = "user,item,ts\n"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.csv").write_text(text)
    return folder


def test_paths_are_sorted_as_people_count():
    names = ["part-10.csv", "part-9.csv", "day=2/x", "day=10/x", "part-9b.csv", "a", "Z"]
    assert sorted(names, key=natural_key) == [
        "Z", "a", "day=2/x", "day=10/x", "part-9.csv", "part-9b.csv", "part-10.csv"
    ]  # fmt: skip


def test_a_folder_is_one_table_in_the_order_of_its_paths(tmp_path):
    parts = {f"p{i}": f"{HEADER}u{i},a,139360716{i}\nu{i},b,139360717{i}\n" for i in (9, 0, 2)}
    parts["p10"] = HEADER + "u10,a,1393607161\n"
    log = read_interactions(write(tmp_path, **parts))
    assert log.frame["user_id"].tolist() == ["u0", "u0", "u2", "u2", "u9", "u9", "u10"]
    shown = str(log.report)
    assert "files, joined in the order of their paths: p0.csv ... p10.csv" in shown
    assert shown.count("user_id = user") == 1


def test_events_without_times_are_in_that_order_too(tmp_path):
    write(tmp_path, p2="user,item\na,3\n", p10="user,item\na,4\n", p1="user,item\na,1\na,2\n")
    log = read_interactions(tmp_path)
    assert log.frame["item_id"].tolist() == ["1", "2", "3", "4"]
    assert log.frame["timestamp"].tolist() == [1, 2, 3, 4]


def test_files_of_jobs_that_are_no_tables(tmp_path):
    write(tmp_path, a=HEADER + "1,2,3\n", empty="", _temporary__b=HEADER + "9,9,9\n")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".a.csv.crc").write_bytes(b"crc")
    assert read_interactions(tmp_path).frame["user_id"].tolist() == ["1"]


def test_folders_of_hive_give_a_column(tmp_path):
    for day, hour, user in (
        ("2024-01-02", "7", "b"),
        ("2024-01-01", "10", "a"),
        ("2024-01-01", "9", "c"),
    ):
        folder = tmp_path / f"dt={day}" / f"hour={hour}"
        folder.mkdir(parents=True)
        table = pa.table({"user": [user, user], "item": [1, 2]})
        pq.write_table(table, folder / "part-0.parquet")
    log = read_interactions(tmp_path)
    assert log.frame["user_id"].tolist() == ["c", "c", "a", "a", "b", "b"]
    nine, ten, seven = 1704099600, 1704103200, 1704178800  # seven of the next day
    assert log.frame["timestamp"].tolist() == [nine, nine, ten, ten, seven, seven]
    assert log.columns["timestamp"] == "dt+hour"


def test_what_spark_writes_into_names_of_folders(tmp_path):
    for name, item in (("channel=a%2Fb", 1), ("channel=__HIVE_DEFAULT_PARTITION__", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p0.csv").write_text(f"item,title\n{item},x\n")
    items = read_items(tmp_path)
    assert dict(zip(items.frame["item_id"], items.frame["channel"], strict=True)) == {
        "1": "a/b",
        "2": "",
    }


def test_a_pattern_in_quotes(tmp_path):
    write(
        tmp_path,
        log_1=HEADER + "1,a,1393607161\n",
        log_2=HEADER + "2,a,1393607161\n",
        items="item,title\na,b\n",
    )
    assert read_interactions(str(tmp_path / "log_*.csv")).frame["user_id"].tolist() == ["1", "2"]
    assert read_interactions(tmp_path / "log_[2].csv").frame["user_id"].tolist() == ["2"]
    with pytest.raises(FileNotFoundError, match="expected a pattern that names files"):
        read_interactions(tmp_path / "nothing_*.csv")


def test_a_pattern_over_folders_of_hive(tmp_path):
    write(tmp_path, **{f"dt=2024-01-0{day}__p0": f"user,item\n{day},a\n" for day in (1, 2, 3)})
    log = read_interactions(str(tmp_path / "dt=2024-01-0[12]" / "*.csv"))
    assert log.frame["timestamp"].tolist() == [1704067200, 1704153600]
    log = read_interactions(str(tmp_path / "dt=*"))
    assert log.frame["user_id"].tolist() == ["1", "2", "3"]
    assert files_of(str(tmp_path / "dt=*"))[0] == tmp_path


def test_other_tables_in_the_folder_are_refused(tmp_path):
    write(tmp_path, interactions="user,item\n1,a\n", items="item,title\na,b\n")
    with pytest.raises(
        ValueError, match="items.csv: expected the columns of .*no user and also title"
    ):
        read_interactions(tmp_path)


def test_numbers_in_one_part_and_texts_in_another(tmp_path):
    write(
        tmp_path,
        p0=HEADER + "1,a,1393607161\n",
        p1=HEADER + "x,a,1393607162\n",
        p2=HEADER + "2,a,soon\n",
    )
    with pytest.raises(DirtyRows, match="ts='soon' in data row 1 of p2.csv"):
        read_interactions(tmp_path)
    log = read_interactions(tmp_path, on_bad="skip")
    assert log.frame["user_id"].tolist() == ["1", "x"]
    assert log.frame["timestamp"].tolist() == [1393607161, 1393607162]


def test_bad_rows_are_named_by_their_file(tmp_path):
    write(
        tmp_path, p0=HEADER + "1,a,1393607161\n", p1=HEADER + "1,a,1393607161\n,b,1393607161\n1,b\n"
    )
    with pytest.raises(DirtyRows) as error:
        read_interactions(tmp_path)
    said = str(error.value)
    assert "p1.csv: expected 3 values in every row" in said and "2 in line 4, '1,b'" in said
    assert "1 x empty user_id (data row 2 of p1.csv)" in said
    report = read_interactions(tmp_path, on_bad="skip").report
    assert (report.rows_before, report.rows_after) == (4, 2)


def test_kinds_of_files_may_be_mixed(tmp_path):
    frame = pd.DataFrame({"user": ["007"], "item": ["a"], "ts": [1393607161]})
    frame.to_parquet(tmp_path / "1.parquet")
    (tmp_path / "2.csv.gz").write_bytes(gzip.compress(b"user,item,ts\n008,b,1393607162\n"))
    (tmp_path / "3.jsonl").write_text(json.dumps({"user": 9, "item": "c", "ts": 1393607163}))
    log = read_interactions(tmp_path)
    assert log.frame["user_id"].tolist() == ["007", "008", "9"]
    assert log.frame["timestamp"].tolist() == [1393607161, 1393607162, 1393607163]


def test_whole_numbers_of_two_widths_stay_numbers(tmp_path):
    for number, kind in enumerate((pa.int32(), pa.int64())):
        table = pa.table({"user": pa.array([2, 3], kind), "item": ["a", "b"]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    assert read_interactions(tmp_path).frame["user_id"].tolist() == ["2", "3", "2", "3"]
