import ast
import io
import logging
import os
import subprocess
import sys

import pytest
from places import ROOT

from kerasrec.cli.entry import main
from kerasrec.cli.printing import VisibleFormatter, any_encoding, print_rows, say, visible

#: sets the title of a window, clears it, rings, turns the direction of writing, a half character
NASTY = "\x1b]0;mine\x07\x1b[2J\x9b1m\r\u202etxt\ud800"
SHOWN = r"\x1b]0;mine\x07\x1b[2J\x9b1m\r\u202etxt\ud800"


def test_rows_are_shown_as_they_are(capsys):
    print_rows(("what", "value"), [("[bold]", 1), ("物品", None)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["what", "value"], ["[bold]", "1"], ["物品", "None"]]


def test_control_characters_are_written_out():
    assert visible(NASTY) == SHOWN
    assert visible("标题 [x]\n\té\u200d👍") == "标题 [x]\n\té\u200d👍"
    assert visible("a\nb\tc", one_line=True) == r"a\nb\tc"


def test_words_rows_and_log_hold_none(capsys):
    say("title:", NASTY, 7)
    print_rows((f"a{NASTY}", "b"), [(NASTY, "x\ny")])
    record = logging.LogRecord("kerasrec", 30, "", 0, "%s left out", (NASTY,), None)
    text = capsys.readouterr().out
    assert text.splitlines()[0] == f"title: {SHOWN} 7"
    assert text.count(SHOWN) == 3 and r"x\ny" in text and "\x1b" not in text
    assert VisibleFormatter().format(record) == f"{SHOWN} left out"


def test_a_narrow_encoding_fails_nowhere(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with any_encoding():
        say("红楼梦 👍")
    stream.flush()
    assert raw.getvalue() == rb"\u7ea2\u697c\u68a6 \U0001f44d" + b"\n" and stream.errors == "strict"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])
@pytest.mark.parametrize("arguments", [[], ["--columns", "user_id=nobody"]])
def test_inspect_in_any_encoding(tmp_path, encoding, arguments):
    """The report, its examples and errors, with ids and names of columns that are nasty."""
    nasty, log = NASTY.removesuffix("\ud800"), tmp_path / "log.csv"
    log.write_text(
        f'user,item,"其他👍{nasty[:4]}"\nu1,"{nasty} ",1\nu2,"物品👍",2\n', "utf-8", newline="\n"
    )
    items = tmp_path / "items.csv"
    items.write_text(f'item,title\n物品👍,"{nasty}"\n', "utf-8", newline="\n")
    names = ["--interactions", str(log), "--items", str(items)]
    done = subprocess.run(
        [sys.executable, "-m", "kerasrec.cli", "inspect", *names, *arguments],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == (2 if arguments else 0), done.stderr
    said = (done.stderr if arguments else done.stdout).decode(encoding)
    assert r"\x1b" in said and not set(said) & set("\x1b\x07\x9b\r\u202e")
    assert ("👍" in said) == (encoding == "utf-8")


def test_errors_hold_none(tmp_path, capsys):
    assert main(["similar", "--model", str(tmp_path / "x\x1b[2J"), "--text", "a"]) == 2
    assert main([f"{NASTY}"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and r"\x1b[2J" in said


def test_every_word_on_the_terminal_comes_from_here():
    """Elsewhere in the package nothing prints but tables that print_rows or an evaluation made."""
    for path in (ROOT / "kerasrec" / "cli").glob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        names = {getattr(call.func, "id", None) for call in calls}
        assert "print" not in names or path.name == "printing.py", path
        written = {ast.unparse(call.func) for call in calls}
        assert not written & {"sys.stdout.write", "sys.stderr.write"}, path
