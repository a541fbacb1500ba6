"""Hooks of the documentation site: files of the repository as pages, API pages, Chinese search.

A page may link to any file of the repository, `../../notebooks/01_quickstart.ipynb`; the file
comes along into the site. `<!-- include: CHANGELOG.md -->` puts a Markdown file there, and
`<!-- include: README.md results -->` what that file has between `results:begin` and `results:end`.
`<!-- api: data -->` documents the names that the package's face lists, and `<!-- api-index -->`
lists the public names of all packages.
"""

import ast
import json
import os
import re
from pathlib import Path

import griffe
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

#: files of the repository that are pages of the site; the pages include them
PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"} | {
    f"benchmarks/{path.name}": f"benchmarks/{path.name.lower()}"
    for path in (ROOT / "benchmarks").glob("*.md")
}
_API = re.compile(r"^<!-- api: (\w+)(?: (\w+))? -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")
_CODE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
#: from its first line to the next blank one, as Python reads it
_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:.*\S.*\n?)*", re.MULTILINE)
_INCLUDE = re.compile(r"^<!-- include: (\S+)(?: (\w+))? -->$", re.MULTILINE)
_HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
#: where a page finds the search index
_BASE = re.compile(r'"base": "\.\./?([^"]*)"')
_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])")


def on_files(files, config):
    """Adds the files of the repository that pages link to."""
    wanted = {
        target
        for page in [*DOCS.rglob("*.md"), *(ROOT / name for name in PAGES)]
        for target in _linked(page)
        if DOCS not in target.parents and _name(target) not in PAGES
    }
    for path in sorted(wanted):
        files.append(File(_name(path), str(ROOT), config.site_dir, False))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts in what a page includes, and leads links out of docs/ to where the file is."""
    here = Path(page.file.src_uri).parent  # en/benchmarks
    markdown = _API.sub(lambda match: _api(*match.groups()), markdown)
    markdown = markdown.replace("<!-- api-index -->", _api_index())
    markdown = _moved(markdown, Path(page.file.abs_src_path), here)
    markdown = _INCLUDE.sub(lambda match: _included(*match.groups(), here), markdown)
    heading = _HEADING.search(markdown)
    if heading and heading[1] != config.site_name:
        page.meta.setdefault("title", heading[1])  # in the tab: "kerasrec.data", not "data"
    return markdown


def on_post_page(output, page, config):
    """Gives the Chinese pages a search of their own: it begins in their folder."""
    if page.file.dest_uri.startswith("zh/"):
        output = _BASE.sub(lambda match: f'"base": "{match[1] or "."}"', output)
    return output


@event_priority(-200)  # after the index of all pages is written
def on_post_build(config):
    """Cuts the search index in two, one for each language, each beside its pages."""
    site = Path(config.site_dir)
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    english, chinese = [], []
    for doc in index["docs"]:
        (chinese if doc["location"].startswith("zh/") else english).append(doc)
    for doc in chinese:
        doc["location"] = doc["location"].removeprefix("zh/")
        for field in ("title", "text"):  # else a sentence counts as one word
            doc[field] = _CHINESE.sub("\u200b", doc[field])
    _write_index(site / "search", index | {"docs": english})
    # any character may be asked for, so none is a stop word
    settings = index["config"] | {"pipeline": []}
    _write_index(site / "zh/search", {"config": settings, "docs": chinese})


class Doctests(griffe.Extension):
    """Shows the examples of docstrings as code."""

    def on_object(self, *, obj, **kwargs):
        """Fences each doctest of a docstring."""
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(
                lambda match: f"{match[1]}```pycon\n{match[0].rstrip()}\n{match[1]}```\n",
                obj.docstring.value,
            )


def _write_index(folder, index):
    """As JSON for a server, and as a script for pages that are opened from disk."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(index, separators=(",", ":"))
    (folder / "search_index.json").write_text(text, encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {text}", encoding="utf-8")


def _included(name, part, here):
    """A file of the repository as a page, or the part of it that stands between its marks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if part:
        text = text.partition(f"<!-- {part}:begin -->")[2].partition(f"<!-- {part}:end -->")[0]
    return _moved(text, ROOT / name, here)


def _moved(text, source, here):
    """The text of a file, with links as they are from the folder of a page."""

    def moved(match):
        before, target, anchor, after = match.groups()
        path = (source.parent / target).resolve()
        inside = DOCS in path.parents and DOCS in source.parents
        if ":" in target or inside or not path.exists():
            return match[0]
        name = PAGES.get(_name(path))
        goal = here.parts[0] + "/" + name if name else _name(path)
        return before + os.path.relpath(goal, here) + (anchor or "") + after

    parts = _CODE.split(text)
    return "".join(
        part if index % 2 else _LINK.sub(moved, part) for index, part in enumerate(parts)
    )


def _linked(page):
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    paths = {(page.parent / m[2]).resolve() for m in _LINK.finditer(text) if ":" not in m[2]}
    return {path for path in paths if path.is_file() and ROOT in path.parents}


def _name(path):
    return path.relative_to(ROOT).as_posix()


def _attached(init):
    """Module -> names, from the call of lazy_loader.attach in an `__init__.py`."""
    if not init.exists():
        return {}
    for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return ast.literal_eval(node.value)
    return {}


def _public():
    return _attached(ROOT / "kerasrec/__init__.py")


def _api(package, only=None):
    """Directives of mkdocstrings for one name of a module, or for those of a package's face."""
    public = {name for names in _public().values() for name in names}
    if only:
        return _directive(f"kerasrec.{package}.{only}", f"kerasrec.{only}")
    blocks = []
    for module, names in _attached(ROOT / "kerasrec" / package / "__init__.py").items():
        for name in names:
            shown = f"kerasrec.{name}" if name in public else f"kerasrec.{package}.{name}"
            path = f"kerasrec.{package}.{module}.{name}"
            blocks.append((name not in public, _directive(path, shown)))
    return "\n\n".join(text for _, text in sorted(blocks, key=lambda block: block[0]))


def _directive(path, heading):
    name = heading.rpartition(".")[2]
    return f"::: {path}\n    options:\n      heading: {heading}\n      toc_label: {name}"


def _api_index():
    """A table: package, its public names as links."""
    rows = ["| package | names |", "| --- | --- |"]
    for package, names in _public().items():
        face = _attached(ROOT / "kerasrec" / package / "__init__.py")
        if face:
            where = {name: module for module, found in face.items() for name in found}
            links = [f"[`{n}`][kerasrec.{package}.{where[n]}.{n}]" for n in names]
            rows.append(f"| [{package}]({package}.md) | {', '.join(links)} |")
    return "\n".join(rows)
