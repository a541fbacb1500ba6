"""Public functions say their types, and a type checker sees of kerasrec what users see."""

import ast
import re
import subprocess
import sys

import pytest
from places import ROOT

PACKAGE = ROOT / "kerasrec"
MODULES = sorted(PACKAGE.rglob("*.py"))
#: packages within packages: no faces
INNER = ("datasets", "formats", "large", "times", "items", "choosing", "relations", "doors")
FACES = [path for path in MODULES if path.name == "__init__.py" and path.parent.name not in INNER]


def untyped(body, prefix="", in_class=False):
    """Public functions and methods in a body of code that lack a type, and what lacks one."""
    for node in body:
        name = getattr(node, "name", "_")
        makes = in_class and name == "__init__"
        if name.startswith("_") and not makes:
            continue
        if isinstance(node, ast.ClassDef):
            yield from untyped(node.body, f"{prefix}{node.name}.", in_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments += [one for one in (given.vararg, given.kwarg) if one]
            decorators = {getattr(one, "id", "") for one in node.decorator_list}
            if in_class and "staticmethod" not in decorators:
                arguments = arguments[1:]
            lacking = [one.arg for one in arguments if one.annotation is None]
            lacking += [] if node.returns or makes else ["its result"]
            if lacking:
                yield f"{prefix}{node.name}: {', '.join(lacking)}"


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_functions_have_types(path):
    assert list(untyped(ast.parse(path.read_text(encoding="utf-8")).body)) == []


def test_untyped_finds_what_lacks_a_type():
    code = """
def right(a: int, *, b: str = "") -> None: ...
def wrong(a, *rest, b: int = 1): ...
def _private(a): ...
class Thing:
    def __init__(self, a): ...
    def right(self, a: int) -> int: ...
    @staticmethod
    def wrong(a) -> int: ...
"""
    found = list(untyped(ast.parse(code).body))
    assert found == ["wrong: a, rest, its result", "Thing.__init__: a", "Thing.wrong: a"]


def lazy_names(tree):
    """Name -> part, of the table that `lazy_loader.attach` takes."""
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_loader.attach"
    )
    table = next(one.value for one in call.keywords if one.arg == "submod_attrs")
    parts = ast.literal_eval(table).items()
    return {name: part for part, names in parts for name in names}


def checked_names(tree, package):
    """Name -> part, as the branch for type checkers imports them."""
    branch = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    found = {}
    for node in branch.body:
        (alias,) = node.names
        # `import X as X` tells type checkers that the name is public
        assert alias.asname == alias.name and node.module.startswith(package + ".")
        found[alias.name] = node.module[len(package) + 1 :]
    return found


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_face_names_the_same_to_type_checkers(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ".".join(path.parent.relative_to(ROOT).parts)
    assert checked_names(tree, package) == lazy_names(tree)


#: code of a user -> what a type checker says of it; "" = nothing
USER_CODE = {
    "import kerasrec": "",
    "reader: kerasrec.Recommender = kerasrec.Recommender.load('a')": "",
    "error: type[Exception] = kerasrec.ArtifactError": "",
    "key: str = kerasrec.backend.api_key()": "",
    "reader.recommend([['a', 'b']], k=5)": "",
    "reader.recommend([['a', 'b']], number=5)": "Unexpected keyword argument",
    "log: kerasrec.Interactions = kerasrec.read_interactions('log.csv', on_bad='skip')": "",
    "kerasrec.read_interactions('log.csv', encodin='gbk')": "Unexpected keyword argument",
    "kerasrec.split_temporal('log.csv')": 'expected "Interactions"',
    "kerasrec.FeedbackStore(7)": "incompatible type",
    "users: str = log.num_users": "Incompatible types in assignment",
    "kerasrec.Recomender": "has no attribute",
}


@pytest.mark.slow
def test_a_type_checker_reads_code_of_users(tmp_path):
    source = tmp_path / "users.py"
    source.write_text("".join(f"{line}\n" for line in USER_CODE), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = dict.fromkeys(range(1, len(USER_CODE) + 1), "")
    for line in done.stdout.splitlines():
        if found := re.search(r"users\.py:(\d+): error: (.*)", line):
            said[int(found[1])] += found[2]
    for (code, expected), received in zip(USER_CODE.items(), said.values(), strict=True):
        assert bool(expected) == bool(received) and expected in received, (code, done.stdout)
