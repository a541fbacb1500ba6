"""The documents keep their word: their Python runs, and what they name exists."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from places import ROOT

from kerasrec.cli.entry import VERBS, build_parser

ENGLISH, CHINESE, CONTRIBUTING = (
    ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")
)
DOCUMENTS = [ENGLISH, CHINESE, CONTRIBUTING]
by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def text_of(path):
    return path.read_text(encoding="utf-8")


def prose_of(path):
    return re.sub(r"^```.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def blocks(path, language=None):
    """Contents of the fenced blocks, of one language or of all."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL)
    return [code for name, code in found if language in (None, name)]


def code_in(path):
    """Shell lines of the blocks, and what stands between single backticks in the text."""
    lines = [line for block in blocks(path, "bash") for line in block.splitlines()]
    return lines, re.findall(r"`([^`\n]+)`", prose_of(path))


def table_verbs(path):
    return re.findall(r"^\| `kerasrec (\w+)` \|", text_of(path), re.MULTILINE)


@pytest.mark.slow
def test_python_of_the_readme_runs_in_order(tmp_path):
    code = "\n".join(blocks(ENGLISH, "python"))
    assert code.count("import kerasrec") == 1
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "saved_models" / "courses" / "1" / "saved_model.pb").is_file()
    assert "'深度学习与推荐系统'" in done.stdout  # the added course is near the text
    assert "unparsable time" in done.stdout  # the report of the skipped row
    *_, served = done.stdout.strip().splitlines()
    assert served.count("C_course") == 6  # two users, three items each


def test_both_readmes_have_the_same_code():
    assert blocks(CHINESE) == blocks(ENGLISH)


@by_name
def test_commands_named_by_a_document_exist(path):
    lines, spans = code_in(path)
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for code in lines + spans:
        if named := re.match(r"make ([a-z]+)", code):
            assert named[1] in targets, code
        if named := re.match(r"kerasrec (\w+)", code):
            assert named[1] in VERBS, code


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_command_lines_of_a_readme_are_understood(path):
    commands = [line for line in code_in(path)[0] if line.startswith("kerasrec ")]
    assert len(commands) > 5
    for command in commands:
        options = build_parser()[0].parse_args(shlex.split(command, comments=True)[1:])
        assert options.verb in VERBS


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_the_table_of_verbs_is_complete(path):
    assert sorted(table_verbs(path)) == sorted(VERBS)


def test_the_table_of_modules_is_complete():
    [section] = [s for s in text_of(CONTRIBUTING).split("\n## ") if s.startswith("Modules")]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]
    package = ROOT / "kerasrec"
    modules = {p.stem for p in package.glob("*.py")} | {
        p.parent.name for p in package.glob("*/__init__.py")
    }
    assert sorted(named) == sorted(modules - {"__init__"})


@by_name
def test_files_linked_by_a_document_exist(path):
    links = re.findall(r"\]\(([^)]+)\)", prose_of(path))
    named = re.findall(r"`((?:kerasrec|tests|notebooks|benchmarks)/[\w/]+\.\w+)`", prose_of(path))
    files = [link for link in links if "://" not in link] + named
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_signatures_of_the_readme_are_those_of_a_version(text_version):
    import tensorflow as tf

    signatures = tf.saved_model.load(str(text_version / "1")).signatures
    for path in (ENGLISH, CHINESE):
        rows = dict(
            re.findall(
                r"^\| `(\w+)` \| (`(?:history|item_ids|history_texts|texts)`.*?) \|",
                text_of(path),
                re.MULTILINE,
            )
        )
        assert set(rows) == set(signatures)
        for name, inputs in rows.items():
            given = signatures[name].structured_input_signature[1]
            assert set(re.findall(r"`(\w+)`", inputs)) == set(given), name


def test_documents_are_short_enough_to_read():
    assert all(len(text_of(path).splitlines()) < 300 for path in DOCUMENTS)
