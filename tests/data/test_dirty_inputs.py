"""The inputs of benchmarks/dirty.py, what was expected of them by hand, and the exports of tools.

The page benchmarks/DIRTY.md shows the same.
"""

import importlib
import sys
from pathlib import Path

import pytest

from kerasrec.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
dirty, exports = (importlib.import_module(name) for name in ("dirty", "exports"))
NAMES = [f"{one.kind}: {one.what}" for one in dirty.INPUTS]


@pytest.mark.parametrize("one", dirty.INPUTS, ids=NAMES)
def test_a_dirty_input_is_read_as_meant_or_refused_in_words(one, tmp_path):
    found = dirty.outcome(one, tmp_path)
    assert dirty.verdict(one, found) != "wrong", found
    if one.right and not one.says:
        assert dirty.verdict(one, found) == "right", found
    for secret in ("hunter2", str(tmp_path)):
        assert secret not in found["error"]


def test_the_page_shows_these_inputs():
    page = (BENCHMARKS / "DIRTY.md").read_text("utf-8")
    rows = page.split("| --- |\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert len(rows) == len(set(NAMES)) >= 60
    assert not [row for row in rows if row.endswith("| wrong |")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("exports")
    frame = exports.write_all(path)
    return path, frame


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_inspect_finds_no_problem_in_an_export_of_a_tool(name, folder, capsys):
    path, frame = folder
    given = exports.arguments(name, path)
    assert sum(one.startswith("--") for one in given) <= 3  # the paths and one option
    assert main(["inspect", *given]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("problems found: none")
    assert f"rows {len(frame)} -> {len(frame)}" in shown
    first = frame["local"].min()
    zone = "Asia/Shanghai" if exports.ZONE in given else "UTC"
    moment = first if zone != "UTC" else first.tz_localize(exports.ZONE).tz_convert("UTC")
    assert f"first event ({zone})" in shown
    assert moment.strftime("%Y-%m-%d %H:%M") in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wechat", "spark"])  # all are read by `inspect` above
def test_train_takes_an_export_of_a_tool(name, folder, tmp_path, capsys):
    path, _ = folder
    out = ["--name", name, "--out", str(tmp_path), *exports.TRAIN.split()]
    assert main(["train", *exports.arguments(name, path), *out]) == 0
    assert "exported" in capsys.readouterr().out
