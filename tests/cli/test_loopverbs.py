"""update, rollback and simulate on the command line: one sentence for each mistake."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from toys import disappointing_log

from kerasrec import backend
from kerasrec.cli.entry import main
from kerasrec.versions import folders

DAY = 86400
REPLAY = ["replay", "--model", "saved_models/toy", "--log", "log.csv", "--requests", "asked.csv"]
REPLAY += ["--out", "lists.csv"]


@pytest.fixture
def files(exported_version, toy_interactions, toy_items, tmp_path, monkeypatch):
    """saved_models/toy, log.csv (with a new week in it), items.csv and requests in asked.csv."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported_version, tmp_path / "saved_models" / "toy")
    old = toy_interactions.frame[["user_id", "item_id", "timestamp"]]
    new = old.groupby("user_id", observed=True).head(2).copy()
    shift = old["timestamp"].max() + 10 - new["timestamp"].min()
    new["timestamp"] += shift
    new["item_id"] = new["item_id"].to_numpy()[::-1]
    pd.concat([old, new]).drop_duplicates(["user_id", "item_id"]).to_csv("log.csv", index=False)
    toy_items.frame.to_csv("items.csv", index=False)
    asked = pd.read_csv("log.csv").nlargest(40, "timestamp").rename(columns={"user_id": "who"})
    asked["user"] = [f"r{n}" for n in range(40)]
    asked[["user", "who", "timestamp"]].to_csv("asked.csv", index=False)
    return tmp_path


def test_update_and_rollback(files, capsys):
    call = ["update", "--name", "toy", "--interactions", "log.csv", "--items", "items.csv"]
    assert main([*call, "--label", "canary", "--force"]) == 0
    shown = capsys.readouterr().out
    assert "published saved_models/toy/2" in shown and "recent_popularity" in shown
    assert folders.read_labels("saved_models/toy") == {"stable": 1, "canary": 2}
    assert main(["rollback", "--name", "toy", "--to", "2"]) == 0
    assert main(["rollback", "--name", "toy"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "stable: version 2 (was 1)",
        "stable: version 1 (was 2)",
    ]


def test_rollback_says_that_it_goes_behind_an_erasure(files, capsys):
    """The version before learned from who was erased: said, and done all the same."""
    base = files / "saved_models" / "toy"
    shutil.copytree(base / "1", base / "2")
    path = base / "2" / folders.MANIFEST
    manifest = {**json.loads(path.read_text(encoding="utf-8")), "version": 2, "parent": 1}
    manifest["update"] = {"erased": {"users": 1, "rows": 50}}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["rollback", "--name", "toy"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "stable: version 1 (was 2)\n"
    assert "Version 1 was trained with users who were erased before version 2" in shown.err
    assert main(["rollback", "--name", "toy", "--to", "2"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_refused_is_exit_code_1(files, toy_interactions, capsys):
    base = files / "saved_models" / "toy"
    disappointing_log(base, toy_interactions).frame.to_csv("log.csv", index=False)
    assert main(["update", "--name", "toy", "--interactions", "log.csv"]) == 1
    error = capsys.readouterr().err
    assert "refused, nothing was published: worse than its parent: NDCG@10 0." in error
    assert error.rstrip().endswith("--force publishes it.")
    assert folders.versions("saved_models/toy") == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["update", "--name", "nix", "--interactions", "log.csv"], "no such folder"),
        (["update", "--name", "toy", "--interactions", "no.csv"], "no.csv"),
        (["update", "--name", "toy"], "expected a feedback store"),
        (
            ["update", "--name", "toy", "--interactions", "log.csv", "--store", "s.db"],
            "expected --store S or --interactions F..., not both",
        ),
        (["drift", "--name", "nix", "--interactions", "log.csv"], "no such folder"),
        (["drift", "--interactions", "log.csv"], "--name"),
        (["drift", "--name", "toy", "--interactions", "no.csv"], "no.csv"),
        (["drift", "--name", "toy"], "expected a feedback store"),
        (
            ["drift", "--name", "toy", "--interactions", "log.csv", "--store", "s.db"],
            "expected --store S or --interactions F..., not both",
        ),
        (
            ["drift", "--name", "toy", "--interactions", "log.csv", "--step", "soon"],
            "--step takes a time such as 1d",
        ),
        (
            ["drift", "--name", "toy", "--interactions", "log.csv", "--since", "now"],
            "--since takes a time such as 2026-11-24T08:00",
        ),
        (
            ["drift", "--name", "toy", "--interactions", "log.csv", "--since", "2016-01-01"],
            "since must not lie before the end of the version's log",
        ),
        (
            ["drift", "--name", "toy", "--interactions", "log.csv", "--sample", "0"],
            "sample must be at least 1",
        ),
        (["rollback", "--name", "toy"], "has no parent to go back to"),
        (["rollback", "--name", "toy", "--to", "7"], "has no version 7"),
        ([*REPLAY, "--log", "no.csv"], "no.csv"),
        ([*REPLAY, "--requests", "log.csv"], "requests need the columns user"),
        ([*REPLAY, "--lag", "soon"], "--lag takes a time such as 1d"),
        ([*REPLAY, "--refresh", "0s"], "--refresh takes a time such as 1d"),
        ([*REPLAY, "--update", "1d"], "An update needs a folder"),
        ([*REPLAY, "--work", "w"], "--work is for the versions of --update"),
        ([*REPLAY, "--k", "0"], "k must be a whole number of at least 1"),
        ([*REPLAY, "--out", "lists.txt"], "lists.txt"),
        (
            ["simulate", "--interactions", "log.csv", "--items", "items.csv", "--work", "w"]
            + ["--step", "soon"],
            "--step takes a time such as 1d",
        ),
        (
            ["simulate", "--interactions", "log.csv", "--items", "items.csv", "--work", "w"]
            + ["--strategies", "magic"],
            "strategies are some of",
        ),
    ],
)
def test_mistakes(files, capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and "Traceback" not in error


def test_replay(files, capsys):
    """Lists of all requests; what was there before stays until they are whole."""
    assert main([*REPLAY, "--k", "7", "--lag", "1h"]) == 0
    assert "40 lists in" in capsys.readouterr().out
    lists = pd.read_csv("lists.csv")
    assert list(lists.columns) == ["user", "item", "rank"] and len(lists) == 280
    before = (files / "lists.csv").read_bytes()
    pd.read_csv("asked.csv").assign(user="same").to_csv("asked.csv", index=False)
    assert main([*REPLAY, "--k", "7"]) == 2
    assert "'same' twice" in capsys.readouterr().err
    assert (files / "lists.csv").read_bytes() == before
    assert not list(files.glob(".lists*"))


@pytest.mark.slow
def test_replay_with_updates(files, capsys):
    assert main([*REPLAY, "--update", "300d", "--work", "w"]) == 0
    shown, told = capsys.readouterr()
    assert "reason" in shown and "40 lists in" in shown
    assert "update in" in told or "no update" in told
    assert folders.versions("saved_models/toy") == [1]


def test_simulate(files, capsys):
    words = ["simulate", "--interactions", "log.csv", "--items", "items.csv", "--work", "w"]
    words += ["--strategies", "recent_popularity", "item_knn", "--start", "0.8", "--step", "90d"]
    assert main([*words, "--refresh", "30d"]) == 0
    shown = capsys.readouterr().out
    assert "item_knn" in shown and "ndcg@10" in shown
    assert {path.name for path in (files / "w").iterdir()} >= {
        "table.csv",
        "steps.csv",
        "curves.svg",
        "steps.jsonl",
    }


def test_drift_of_a_stale_model(files, capsys):
    """Exit code 1, the table and every reason on stdout, one sentence on stderr, two files."""
    log = pd.read_csv("log.csv")
    is_new = log["timestamp"] > log["timestamp"].max() - 7 * DAY
    is_new |= log.index >= len(log) - 250  # what the fixture has added
    log.loc[is_new, "item_id"] = [f"x{n % 9}" for n in range(is_new.sum())]
    log.drop_duplicates(["user_id", "item_id"]).to_csv("log.csv", index=False)
    words = ["drift", "--name", "toy", "--interactions", "log.csv", "--step", "300d"]
    assert main([*words, "--report", "found"]) == 1
    shown, error = capsys.readouterr()
    assert all(head in shown for head in ("events", "cold", "NDCG@10", "popular", "ECE"))
    assert "are on items that it never learned from (30% is the limit)" in shown
    assert shown.count("stale: ") >= 2
    assert "saved_models/toy/1 has gone stale, for" in error
    assert "kerasrec update --name toy" in error and len(error.strip().splitlines()) == 1
    table = pd.read_csv(files / "found" / "drift.csv")
    assert table["period"].tolist()[:2] == [0, 1] and table["cold"].max() > 0.5
    assert (files / "found" / "drift.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_times_are_shown_in_the_zone(files, toy_interactions, capsys):
    """The version ends at a known second; the tables show it by the clock of Shanghai."""
    end = int(toy_interactions.frame["timestamp"].max())
    local = datetime.fromtimestamp(end + 1, UTC).replace(tzinfo=None) + timedelta(hours=8)
    zone = ["--timezone", "Asia/Shanghai"]
    words = ["drift", "--name", "toy", "--step", "300d", *zone]
    main([*words, "--interactions", "log.csv", "--report", "found"])
    begins = pd.read_csv("found/drift.csv")["begin"]
    assert begins[1] == local.isoformat() + "+08:00"
    assert f"{local:%Y-%m-%d} " in capsys.readouterr().out
    toy_interactions.frame[["user_id", "item_id", "timestamp"]].to_csv("old.csv", index=False)
    assert main(["feedback", "import", "--interactions", "old.csv", "--store", "shop.db"]) == 0
    main([*words, "--store", "shop.db", "--report", "stored"])
    first = int(toy_interactions.frame["timestamp"].min())
    local_first = datetime.fromtimestamp(first, UTC).replace(tzinfo=None) + timedelta(hours=8)
    stored = pd.read_csv("stored/drift.csv")["begin"]
    assert stored[0] == local_first.isoformat() + "+08:00"
    capsys.readouterr()
    assert main(["feedback", "stats", "--store", "shop.db", *zone]) == 0
    assert f"{local_first:%Y-%m-%d %H:%M:%S}" in capsys.readouterr().out
    words = ["simulate", "--interactions", "log.csv", "--items", "items.csv", "--work", "w"]
    words += ["--strategies", "item_knn", "--start", str(end + 1), "--step", "300d", *zone]
    assert main(words) == 0
    assert pd.read_csv("w/steps.csv")["begin"][0] == local.isoformat() + "+08:00"


@pytest.mark.slow
def test_replay_reads_times_of_a_zone(files, capsys):
    """The same log as local texts gives the same lists."""
    assert main(REPLAY) == 0
    expected = (files / "lists.csv").read_bytes()
    for name in ("log.csv", "asked.csv"):
        table = pd.read_csv(name)
        local = pd.to_datetime(table["timestamp"] + 8 * 3600, unit="s")
        table.assign(timestamp=local.dt.strftime("%Y-%m-%d %H:%M:%S")).to_csv(name, index=False)
    assert main([*REPLAY, "--timezone", "+08:00"]) == 0
    assert (files / "lists.csv").read_bytes() == expected
    assert main(REPLAY) == 0  # eight hours later, the requests with them
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            ["recommend", "--histories", "bad.csv", "--users", "nobody.csv", "--out", "o.csv"],
            ["bad.csv: expected unix", "nobody.csv: expected a file", "gone.txt: no such file"],
        ),
        (
            ["evaluate", "--test", "bad.csv", "--histories", "nobody.csv"],
            ["bad.csv: expected unix", "nobody.csv: expected a file"],
        ),
        (
            ["replay", "--log", "bad.csv", "--requests", "log.csv", "--out", "o.csv"],
            ["bad.csv: expected unix", "log.csv: requests need the columns user"],
        ),
    ],
)
def test_all_bad_tables_are_told_at_once_without_tensorflow(files, capsys, words, found):
    Path("bad.csv").write_text("user,item,time\nu,i,soon\nu,j,1500000000\n")
    words = [words[0], "--model", "saved_models/toy", *words[1:]]
    words += ["--candidates", "gone.txt"] if "recommend" in words else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "load", lambda quiet=False: pytest.fail("TensorFlow is loaded"))
        assert main(words) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == f"kerasrec {words[0]}: {len(found)} problems with the tables:"
    for number, (line, text) in enumerate(zip(lines, found, strict=True), start=1):
        assert line.startswith(f"{number}. {text}")


def test_drift_of_a_store(files, toy_interactions, capsys):
    """Nothing has happened since the model was made: exit code 0, and it says what it lacks."""
    toy_interactions.frame[["user_id", "item_id", "timestamp"]].to_csv("old.csv", index=False)
    store = ["--store", "shop.db"]
    assert main(["feedback", "import", "--interactions", "old.csv", *store]) == 0
    capsys.readouterr()
    assert main(["drift", "--name", "toy", *store]) == 0
    shown = capsys.readouterr().out
    assert "Too few events to tell whether it has gone stale: 0 first choices" in shown
    assert "saved_models/toy/1: nothing says that it has gone stale" in shown
