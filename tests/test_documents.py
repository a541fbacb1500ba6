"""The documents keep their word: their code runs, what they name exists, no line is a wall."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from places import ROOT

from kerasrec.cli.entry import VERBS, build_parser
from kerasrec.training.options import option_table

ENGLISH, CHINESE, CONTRIBUTING = (
    ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")
)
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ENGLISH, CHINESE, CONTRIBUTING, *PAGES]
#: English page -> Chinese page
TWINS = {ENGLISH: CHINESE} | {
    page: DOCS / "zh" / page.relative_to(DOCS / "en")
    for page in sorted((DOCS / "en").rglob("*.md"))
    if (DOCS / "zh" / page.relative_to(DOCS / "en")).exists()
}
#: pages whose Python trains
TRAINING = ("training.md",)
#: of prose: characters of a line, of a paragraph, of a cell of a table
LINE, PARAGRAPH, CELL = 200, 600, 320


def name_of(path):
    return path.relative_to(ROOT).as_posix()


by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
twins = pytest.mark.parametrize(("english", "chinese"), TWINS.items(), ids=map(name_of, TWINS))


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


# === Python ===


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


@pytest.fixture(scope="session")
def reader_folder(exported_version, planning_version, week_log, grown_items, tmp_path_factory):
    """A reader's folder: log.csv, next_week.csv, items.csv, saved_models/courses and plans.

    The models are those of tests/conftest.py: tiny, on a slice of the packaged courses.
    """
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(exported_version, folder / "saved_models" / "courses")
    shutil.copytree(planning_version, folder / "saved_models" / "plans")
    newest = week_log.frame["timestamp"].max() - 7 * 86400
    new = week_log.frame["timestamp"] >= newest
    week_log.frame[~new].to_csv(folder / "log.csv", index=False)
    week_log.frame[new].to_csv(folder / "next_week.csv", index=False)
    grown_items.frame.to_csv(folder / "items.csv", index=False)
    return folder


def _run_by_its_twin(page):
    english = [one for one, other in TWINS.items() if other == page]
    return english and blocks(page, "python") == blocks(english[0], "python")


PYTHON_PAGES = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] * (page.name in TRAINING))
    for page in PAGES
    if blocks(page, "python") and not _run_by_its_twin(page)
]


@pytest.mark.parametrize("path", PYTHON_PAGES)
def test_python_of_a_page_runs_in_order(path, reader_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(reader_folder, tmp_path / "reader")
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    for code in blocks(path, "python"):
        exec(compile(code, name_of(path), "exec"), names)


# === What is named exists ===


@twins
def test_both_languages_have_the_same_code(english, chinese):
    assert blocks(chinese) == blocks(english)


@by_name
def test_commands_named_by_a_document_exist(path):
    lines, spans = code_in(path)
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for code in lines + spans:
        if named := re.match(r"make ([a-z]+)", code):
            assert named[1] in targets, code
        if named := re.match(r"kerasrec (\w+)", code):
            assert named[1] in VERBS, code


@by_name
def test_command_lines_of_a_document_are_understood(path):
    for command in code_in(path)[0]:
        if command.startswith("kerasrec "):
            options = build_parser()[0].parse_args(shlex.split(command, comments=True)[1:])
            assert options.verb in VERBS


@pytest.mark.parametrize("path", sorted(DOCS.glob("*/commands.md")), ids=name_of)
def test_the_table_of_verbs_is_complete(path):
    verbs = re.findall(r"^\| `kerasrec (\w+)` \|", text_of(path), re.MULTILINE)
    assert sorted(verbs) == sorted(VERBS)


#: the packages from the ground up, as the architecture has them
ORDER = re.search('^ORDER = """(.*?)"""', text_of(ROOT / "tests/test_architecture.py"), re.M | re.S)


@pytest.mark.parametrize("path", [CONTRIBUTING, *sorted(DOCS.glob("*/packages.md"))], ids=name_of)
def test_the_table_of_packages_is_complete(path):
    rows = re.findall(r"^\| `(\w+)` \| .*(?:\| *\w* *)?\|$", text_of(path), re.MULTILINE)
    packages = [name for name in rows if (ROOT / "kerasrec" / name).is_dir()]
    assert packages == ORDER[1].split()[::-1]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*/serving.md")), ids=name_of)
def test_the_table_of_signatures_is_that_of_versions(path, text_version, planning_version):
    import tensorflow as tf

    signatures = {}
    for version in (text_version, planning_version):
        signatures |= tf.saved_model.load(str(version / "1")).signatures
    table = re.findall(r"^\| `(\w+)` \| (.*?) \| .*\|$", text_of(path), re.MULTILINE)
    rows = {name: inputs for name, inputs in table if name in signatures}
    assert set(rows) == set(signatures)
    for name in set(rows) - {"generate"}:  # its inputs are said to be those of recommend, and more
        given = signatures[name].structured_input_signature[1]
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(given), name


@pytest.mark.parametrize("path", sorted(DOCS.glob("*/training.md")), ids=name_of)
def test_the_table_of_options_is_that_of_the_code(path):
    def shown(default):
        if isinstance(default, tuple):
            return f"[{', '.join(default)}]"
        return {"None": "none", "True": "true", "False": "false"}.get(str(default), str(default))

    rows = re.findall(
        r"^\| `(\w+\.\w+)` \| `(.*?)` \| (.*?) \| \S.*\|$", text_of(path), re.MULTILINE
    )
    wanted = [(f"{o.section}.{o.name}", shown(o.default), o.values) for o in option_table()]
    words = 3 if path.parent.name == "en" else 2  # bounds in Chinese are words of that page
    assert [row[:words] for row in rows] == [row[:words] for row in wanted]


@by_name
def test_files_linked_by_a_document_exist(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose_of(path))
    missing = [link for link in links if ":" not in link and not (path.parent / link).exists()]
    assert missing == []
    named = re.findall(
        r"`((?:kerasrec|tests|notebooks|benchmarks|docs)/[\w/.-]+\.\w+)`", prose_of(path)
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


# === Readable ===


def paragraphs(path):
    """Paragraphs of prose, each a list of lines; an item of a list is one of its own."""
    found = [[]]
    for line in re.sub(r"<!--.*?-->", "", prose_of(path), flags=re.DOTALL).splitlines():
        ends = not line.strip() or line.lstrip().startswith(("|", "#", "![", ":::"))
        if ends or re.match(r"\s*([-*]|\d+\.) ", line):
            found.append([])
        if not ends:
            found[-1].append(line)
    return [lines for lines in found if lines]


def shown(text):
    """A text as it is read: a link without its target."""
    return re.sub(r"\]\([^)]*\)", "]", text)


@by_name
def test_no_line_and_no_paragraph_is_a_wall(path):
    assert [line for lines in paragraphs(path) for line in lines if len(shown(line)) > LINE] == []
    assert [p for p in map("\n".join, paragraphs(path)) if len(shown(p)) > PARAGRAPH] == []
    rows = re.findall(r"^\|.*\|$", prose_of(path), re.MULTILINE)
    cells = [cell for row in rows for cell in row.split(" | ")]
    assert [cell for cell in cells if len(shown(cell)) > CELL] == []


def test_readmes_and_contributing_are_read_in_one_go():
    most = {ENGLISH: 150, CHINESE: 150, CONTRIBUTING: 200}
    assert [name_of(path) for path in most if len(text_of(path).splitlines()) > most[path]] == []


# === The site ===


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    source = r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(\S+)\""
    for page in tmp_path.rglob("*.html"):
        assert [name for name in re.findall(source, text_of(page)) if "://" in name] == [], page

    # each language has a search of its own, beside its pages
    for folder in (tmp_path, tmp_path / "zh"):
        assert '"base": "."' in text_of(folder / "index.html")
        text = text_of(folder / "search/search_index.js").removeprefix("var __index = ")
        found = {doc["location"].partition("#")[0] for doc in json.loads(text)["docs"]}
        pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")}
        assert found == {name for name in pages if not name.startswith(("zh/", "404"))}
