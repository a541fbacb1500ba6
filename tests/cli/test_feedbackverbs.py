"""`kerasrec feedback` on real stores."""

import io
import json
import os
import pty
import subprocess
import sys

import pandas as pd
import pytest

from kerasrec.cli.entry import main
from kerasrec.feedback.store import FeedbackStore


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASREC_STORE", str(tmp_path / "store.db"))
    return tmp_path / "store.db"


def run(*words, code=0):
    assert main(["feedback", *map(str, words)]) == code


def refused(capsys, *words):
    run(*words, code=2)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def stored(path):
    with FeedbackStore(path, create=False) as store:
        return store.read()


def test_add_one_event(path, capsys):
    words = ["--user", "u", "--item", "甲", "--event", "buy", "--value", 2, "--request-id", "r"]
    run("add", *words, "--time", "2024-03-01T00:00")
    run("add", *words, "--time", 1709251200)
    out = capsys.readouterr().out
    assert out == "1 event stored\n0 events stored, 1 known before\n"
    (row,) = stored(path).to_dict("records")
    assert (row["event"], row["value"], row["timestamp"]) == ("purchase", 2.0, 1709251200)


def test_stats_count_unknown_items_and_the_future(path, exported_version, capsys):
    with FeedbackStore(path) as store:
        sent = [
            {"user_id": "u", "item_id": f"new\x1b]0;{n % 2}", "timestamp": n} for n in (7, 8, 9)
        ]
        store.add([event | {"timestamp": event["timestamp"] + 1_700_000_000} for event in sent])
        store.add([{"user_id": "u", "item_id": "new", "timestamp": "2090-01-01"}], max_ahead=None)
    run("stats", "--model", exported_version)
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "more than a day ahead of the clock 1, from 2090-01-01 00:00:00" in out
    assert "on items outside the catalogue 4" in out and "new 1" in out
    run("stats")
    assert "outside the catalogue" not in capsys.readouterr().out


def test_times_of_a_zone_and_of_the_future(path, tmp_path, capsys):
    local = ["--user", "u", "--item", "a", "--time", "2023-11-15 06:13:20"]
    run("add", *local, "--timezone", "Asia/Shanghai")
    line = '{"user_id": "u", "item_id": "b", "timestamp": "2023-11-15 06:13:20"}\n'
    (tmp_path / "events.jsonl").write_text(line, encoding="utf-8")
    run("add", "--events", tmp_path / "events.jsonl", "--timezone", "+08:00")
    (tmp_path / "log.csv").write_text("user,item,time\nu,c,2023-11-15 06:13:20\n")
    run("import", "--interactions", tmp_path / "log.csv", "--timezone", "Asia/Shanghai")
    assert stored(path)["timestamp"].tolist() == [1_700_000_000] * 3
    capsys.readouterr()
    late = ["add", "--user", "u", "--item", "d", "--time", "2090-01-01"]
    assert "expected a time before 20" in refused(capsys, *late)
    assert "--max-ahead takes a time" in refused(capsys, *late, "--max-ahead", "ages")
    assert "time zone such as Asia/Shanghai" in refused(capsys, "add", *local, "--timezone", "Mars")
    (tmp_path / "log.csv").write_text("user,item,time\nu,d,2090-01-01\nu,e,2023-11-15\n")
    assert "future" in refused(capsys, "import", "--interactions", tmp_path / "log.csv")
    run("import", "--interactions", tmp_path / "log.csv", "--on-bad", "skip")
    assert stored(path)["item_id"].tolist() == ["a", "b", "c", "e"]
    run(*late, "--max-ahead", "40000d")
    assert len(stored(path)) == 5


def test_odd_numbers_are_refused_by_their_field(path, tmp_path, capsys):
    for text, field in (("NaN", "version"), ("1e999", "position"), ("true", "value")):
        line = f'{{"user_id": "u", "item_id": "a", "{field}": {text}}}\n'
        (tmp_path / "events.jsonl").write_text(line, encoding="utf-8")
        err = refused(capsys, "add", "--events", tmp_path / "events.jsonl")
        assert "events.jsonl, line 1: expected" in err and f"as {field}. Received" in err
    assert "as value" in refused(capsys, "add", "--user", "u", "--item", "a", "--value", "inf")


def test_add_json_lines(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kerasrec.cli.feedbackverbs._BATCH", 2)
    events = [{"user_id": n, "item_id": "a", "timestamp": 1_700_000_000} for n in range(5)]
    text = "\n\n".join(json.dumps(event) for event in events)
    (tmp_path / "events.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    run("add", "--events", tmp_path / "events.jsonl")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    run("add", "--events", "-")
    assert capsys.readouterr().out == "5 events stored\n0 events stored, 5 known before\n"
    assert len(stored(path)) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add"], "expected --user U and --item I, or --events F."),
        (["add", "--user", "u"], "expected --user U and --item I, or --events F."),
        (["add", "--events", "-", "--user", "u"], "--events F goes without the options of a sing"),
        (["add", "--user", "u", "--item", "i", "--event", "x"], "event 1: expected a known event"),
        (["add", "--user", "u", "--item", "i", "--time", "x"], "event 1: expected a time"),
        (["add", "--usr", "u"], "unknown option --usr. Did you mean '--user'?"),
        (["add", "--events", "no.jsonl"], "no.jsonl: no such file or directory."),
        (["stats"], "expected a feedback store. Received: a path where there is none."),
        (["stats", "--store", "mysql://h/d"], "store: expected the path of a file"),
        (["export", "--out", "a.xls"], "Received: a path where there is none."),
        (["import", "--interactions", "no.csv"], "no.csv: expected a file. Received: a path"),
        (["forget", "--user", "u", "--yes"], "Received: a path where there is none."),
        (["forgt"], "invalid choice: 'forgt'"),
        ([], "the following arguments are required: ACTION"),
    ],
)
def test_mistakes_are_one_sentence(words, message, capsys):
    assert message in refused(capsys, *words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": 1', "line 4: expected a JSON object such as"),
        ("[1]", "line 4: expected a dict with user_id and item_id. Received: list"),
        ('{"user_id": 1}', "line 4: expected a text or a whole number as item_id. Received: None"),
        ('{"user": 1, "item_id": 2}', "line 4: unknown field 'user'. Did you mean 'user_id'?"),
    ],
)
def test_a_bad_line_is_named(line, message, path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kerasrec.cli.feedbackverbs._BATCH", 2)
    good = '{"user_id": 1, "item_id": 2, "event_id": "%s"}\n'
    (tmp_path / "e.jsonl").write_text(good % "a" + good % "b" + good % "c" + line)
    assert message in refused(capsys, "add", "--events", tmp_path / "e.jsonl")
    assert len(stored(path)) == 2


def test_lines_that_are_no_utf8(tmp_path, capsys):
    (tmp_path / "e.jsonl").write_bytes('{"user_id": "书"}'.encode("gb18030"))
    assert "is not utf-8 text (byte" in refused(capsys, "add", "--events", tmp_path / "e.jsonl")


def test_import_export_stats(path, tmp_path, capsys):
    log = pd.DataFrame({"uid": [1, 1, 2], "sku": ["a", "a", "b"], "ts": 1_700_000_000})
    log.to_csv(tmp_path / "log.csv", index=False)
    other = f"sqlite:///{tmp_path}/other.db"
    names = ["--columns", "item_id=sku"]
    run("import", "--interactions", tmp_path / "log.csv", "--store", other, *names)
    out, err = capsys.readouterr()
    assert out == f"2 events stored, 1 known before in {tmp_path}/other.db\n"
    assert "are stored once: 1 fewer" in err
    run("export", "--out", tmp_path / "all.csv.gz", "--store", other)
    run("import", "--data", tmp_path / "all.csv.gz")
    run("add", "--user", "u", "--item", "a", "--request-id", "r")
    with FeedbackStore(path) as store:
        store.add_served("u", ["a", "b"], request_id="r", model="shop", version=4).result()
    capsys.readouterr()
    run("stats")
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["events", "5"] in shown and ["click", "3"] in shown and ["impression", "2"] in shown
    assert ["users", "3"] in shown and ["first", "2023-11-14", "22:13:20"] in shown
    assert ["shop", "4", "2", "1", "0.5000"] in shown and ["1", "1", "1", "1.0000"] in shown


def test_forget(path, capsys):
    for item in ("a", "b"):
        run("add", "--user", "u", "--item", item, "--time", "2024-03-01")
    capsys.readouterr()
    assert "give --yes where nobody can be asked" in refused(capsys, "forget", "--user", "u")
    assert len(stored(path)) == 2
    run("forget", "--user", "u", "--yes")
    assert capsys.readouterr().out.startswith("2 events deleted; older ones of this user are")
    run("add", "--user", "u", "--item", "a", "--time", "2024-03-01")
    assert capsys.readouterr().out == "0 events stored, 1 of forgotten users refused\n"


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("y\n", 0)])
def test_forget_asks_on_a_terminal(path, capsys, answer, left):
    run("add", "--user", "u", "--item", "a")
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "kerasrec.cli.entry", "feedback", "forget", "--user", "u"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.write(mine, answer.encode())
        said = process.stdout.read()
    os.close(mine)
    os.close(theirs)
    assert said.startswith(f"Delete 1 events of user 'u' in {path} for good? [y/N]")
    assert process.returncode == (2 if left else 0) and len(stored(path)) == left


def test_help_of_every_action(capsys):
    for action in ("add", "import", "export", "stats", "forget"):
        with pytest.raises(SystemExit):
            main(["feedback", action, "--help"])
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: kerasrec feedback {action}")
        assert "--store S" in shown


def test_a_table_of_users_goes_in_and_comes_out(path, tmp_path, town_version, capsys, caplog):
    table = tmp_path / "users.csv"
    table.write_text("uid,城市,age,note\nu1,上海,31,x\nu2,北京,60岁,\nu3,,,\n", encoding="utf-8")
    run("users", "import", table, "--model", town_version)
    out = capsys.readouterr().out
    assert "uses 城市, age of 城市, age, note" in out and "3 users, 5 values in" in out
    assert "knows tags, which the table lacks" in out
    assert "age: 1 of 2 values is no number and counts as missing: '60岁'" in caplog.text
    run("forget", "--user", "u2", "--yes")
    assert "0 events deleted, and what is known of the user" in capsys.readouterr().out
    run("users", "import", table)
    assert "2 users, 3 values, 1 forgotten users left out" in capsys.readouterr().out
    run("users", "export", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert found.to_dict("records") == [{"user_id": "u1", "城市": "上海", "age": "31", "note": "x"}]


def test_a_table_of_users_that_is_none(path, tmp_path, exported_version, capsys):
    run("add", "--user", "u", "--item", "i")
    capsys.readouterr()
    assert "no table of users" in refused(capsys, "users", "export", tmp_path / "out.csv")
    table = tmp_path / "users.csv"
    table.write_text("uid,age\nu1,31\nu1,32\n", encoding="utf-8")
    assert "every user_id once" in refused(capsys, "users", "import", table)
    table.write_text("uid,age\nu1,31\n", encoding="utf-8")
    words = ["users", "import", table, "--model", exported_version]
    assert "trained without a table of users" in refused(capsys, *words)
