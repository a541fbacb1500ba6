"""`condense`, and `inspect --memory`: what they print and what they refuse."""

import pandas as pd
import pytest

from kerasrec.cli import main
from kerasrec.data.tables import write_table

ROWS = {
    "uid": ["a", "a", "a", "b", "", "b"],
    "sku": ["x", "y", "x", "y", "x", "?"],
    "ts": [f"2024-03-{one}" for one in ("01 08:00", "01 09:00", "02", "01", "01", "03")],
}


@pytest.fixture
def files(tmp_path):
    write_table(pd.DataFrame(ROWS), tmp_path / "log.csv")
    items = pd.DataFrame({"sku": ["x", "y"], "title": ["围城", "红楼梦"]})
    write_table(items, tmp_path / "items.csv")
    return tmp_path


def test_condense(files, capsys):
    log, out = str(files / "log.csv"), str(files / "small")
    words = ["condense", "--interactions", log, "--items", str(files / "items.csv"), "--out", out]
    words += ["--last", "2", "--timezone", "Asia/Shanghai"]
    assert main(words) == 2
    assert "expected a user_id (column uid) in every row. Received: none in data row 5" in (
        capsys.readouterr().err
    )
    assert main([*words, "--on-bad", "skip"]) == 0
    shown = capsys.readouterr().out
    assert "events of items that the catalogue lacks" in shown
    assert "rows 6 -> 3" in shown and f"log: {out}" in shown
    found = pd.read_parquet(out).astype(str).to_numpy().tolist()
    assert found == [  # 2024-03-01 00:00 in Shanghai is 16:00 of the day before
        ["b", "y", "1709222400"],
        ["a", "y", "1709254800"],
        ["a", "x", "1709308800"],
    ]
    assert main([*words, "--on-bad", "skip"]) == 2
    assert "one that is there already" in capsys.readouterr().err


def test_condense_keeps_all_with_last_0(files, capsys):
    words = ["--interactions", str(files / "log.csv"), "--out", str(files / "small")]
    assert main(["condense", *words, "--last", "0", "--on-bad", "skip"]) == 0
    assert "rows 6 -> 5" in capsys.readouterr().out
    assert len(pd.read_parquet(files / "small")) == 5


def test_ids_that_hardly_meet_are_not_left_out_unless_asked(files, capsys):
    items = pd.DataFrame({"sku": ["X", "Y"], "title": ["围城", "红楼梦"]})
    write_table(items, files / "items.csv")
    words = ["condense", "--interactions", str(files / "log.csv"), "--out", str(files / "small")]
    words += ["--items", str(files / "items.csv"), "--on-bad", "skip"]
    assert main(words) == 2
    assert "capital and small letters were the same" in capsys.readouterr().err
    assert not (files / "small").exists()


@pytest.mark.parametrize("with_items", [False, True])
def test_inspect_within_a_memory_prints_the_same(with_items, files, capsys):
    words = ["inspect", "--interactions", str(files / "log.csv")]
    words += ["--items", str(files / "items.csv")] if with_items else []
    assert main(words) == 0
    right = capsys.readouterr().out
    assert main([*words, "--memory", "2GB"]) == 0
    assert capsys.readouterr().out == right
    assert main([*words, "--memory", "little"]) == 2
    assert "memory: expected an amount of 2GB or more" in capsys.readouterr().err


def test_without_duckdb_it_says_what_to_install(files, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    words = ["--interactions", str(files / "log.csv")]
    for verb in (["condense", "--out", str(files / "small")], ["inspect", "--memory", "2GB"]):
        assert main([*verb, *words]) == 2
        assert "pip install 'kerasrec[duckdb]'" in capsys.readouterr().err
    source = f"duckdb:///{files / 'log.duckdb'}?query=SELECT 1"
    assert main(["inspect", "--interactions", source]) == 2
    assert "pip install 'kerasrec[duckdb]'" in capsys.readouterr().err
