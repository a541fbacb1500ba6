"""Imports point down, every package has its face, every test is collected."""

import ast
import importlib.util
import re
from collections import Counter

import pytest
from places import FILES, HELPERS, ROOT, TESTS

PACKAGE = ROOT / "kerasrec"

#: the packages, from the ground up: one may import those before it, never one behind it
ORDER = """
data features fusion evaluation feedback client text models generation versions recommender
training serving loop cli
""".split()
#: what every package may import
GROUND = ("checks", "backend")
#: packages, and files of the others, that load where there is no TensorFlow
LIGHT = """
checks data features fusion evaluation feedback client
models.codes versions.folders versions.manifest loop.driftmetrics loop.gate
loop.requests
""".split()
#: entries of the folder `kerasrec`, and files of a package, at most
MOST_ENTRIES, MOST_FILES = 19, 14


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def modules():
    """Dotted name below kerasrec -> file; a package is its __init__."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def imports_of(path):
    """Dotted names of kerasrec's modules that a file imports, also inside of functions.

    What a face imports for type checkers alone is never loaded (tests/test_types.py reads it).
    """
    found, tree = set(), parsed(path)
    if path.name == "__init__.py":
        for branch in [node for node in tree.body if ast.unparse(node).startswith("if TYPE_CHECK")]:
            branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kerasrec":
            below = node.module[len("kerasrec.") :]
            for alias in node.names:
                full = f"{below}.{alias.name}" if below else alias.name
                found.add(full if full in MODULES else below)
        elif isinstance(node, ast.Import):
            found |= {a.name[len("kerasrec.") :] for a in node.names if a.name[:9] == "kerasrec."}
    return found - {""}


IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def test_the_packages_are_those_of_the_list():
    inside = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    folders = {name for name in inside if (PACKAGE / name).is_dir()}
    assert folders == set(ORDER)
    assert {f"{name}.py" for name in GROUND} | {"__init__.py"} <= inside
    assert len(inside) <= MOST_ENTRIES, sorted(inside)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_is_small_and_has_a_face(package):
    files = sorted(path.name for path in (PACKAGE / package).glob("*.py"))
    assert len(files) <= MOST_FILES, files
    face = parsed(PACKAGE / package / "__init__.py")
    assert ast.get_docstring(face)
    # a face that imports more would load TensorFlow for whoever takes a light part
    assert not IMPORTS[package], "a face names its parts, it does not import them"


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package):
    allowed = {*GROUND, *ORDER[: ORDER.index(package) + 1]}
    upwards = {
        (name, other)
        for name in MODULES
        if name.split(".")[0] == package
        for other in IMPORTS[name]
        if other.split(".")[0] not in allowed
    }
    assert upwards == set()


def test_the_ground_imports_nothing_of_the_house():
    assert IMPORTS["checks"] == set()
    assert IMPORTS["backend"] <= {"checks"}


@pytest.mark.parametrize("package", ORDER)
def test_no_circle_within_a_package(package):
    inside = {name for name in MODULES if name.split(".")[0] == package}
    left = {name: IMPORTS[name] & inside - {name} for name in inside}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


def is_light(name):
    return name in LIGHT or name.split(".")[0] in LIGHT


@pytest.mark.parametrize("name", [name for name in MODULES if is_light(name)])
def test_light_modules_import_light_modules_only(name):
    # a package alone is its face, which imports nothing
    heavy = {other for other in IMPORTS[name] - {"backend"} if not is_light(other)}
    assert heavy - set(ORDER) == set()
    # backend loads TensorFlow when it is asked for it, not before
    assert taken_from_backend(MODULES[name]) & {"tf", "keras", "load", "import_bert4keras"} == set()


def taken_from_backend(path):
    """What a file takes from `backend`."""
    return {
        node.attr
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "backend"
    } | {
        alias.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.module == "kerasrec.backend"
        for alias in node.names
    }


def test_names_in_texts_exist():
    """What stands in quotes, as names of loggers or what a test patches, exists too."""
    wrong = []
    for path in [*MODULES.values(), *TESTS.rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"[\"'`]kerasrec\.([a-z_0-9.]+?)(?:\.[A-Z_]\w*)?[\"'`(]", text):
            parts = name.split(".")
            known = name in MODULES or ".".join(parts[:-1]) in MODULES
            if len(parts) > 1 and not known and len(parts[0]) > 2:
                wrong.append(f"{path.relative_to(ROOT)}: kerasrec.{name}")
    assert wrong == []


def cases_of(path):
    return [node for node in parsed(path).body if getattr(node, "name", "")[:4] in ("test", "Test")]


def test_every_test_is_collected():
    """Files of tests lie where pytest looks, have tests, and no test hides another one."""
    for path in sorted(TESTS.rglob("*.py")):
        if HELPERS in path.parents or FILES in path.parents or path.name == "conftest.py":
            assert not cases_of(path), f"{path} is not collected"
            continue
        assert path.name.startswith("test_") and cases_of(path), f"{path} has no test"
        names = [n.name for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef)]
        twice = [n for n, count in Counter(names).items() if count > 1 and n.startswith("test")]
        assert twice == [], f"{path}: the last definition hides the others"


def test_tests_mirror_the_packages():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*ORDER, "files", "helpers"}


def calls(path, name):
    return [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name
    ]


def test_only_the_command_line_prints():
    printing = {name.split(".")[0] for name, path in MODULES.items() if calls(path, "print")}
    assert printing == {"cli"}


def test_the_environment_is_read_in_one_place():
    reading = [
        name
        for name, path in MODULES.items()
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            for node in ast.walk(parsed(path))
        )
    ]
    assert sorted(reading) == ["backend", "cli.doctor"]  # the doctor shows what it is set to


def test_no_pickle():
    """Nothing is written as a pickle; tensorfiles reads those of others, tensors only."""
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        if {alias.name for alias in node.names} & {"pickle", "joblib", "dill", "shelve"}
    }
    assert users == {"text.tensorfiles"}
    assert "pickle.dump" not in MODULES["text.tensorfiles"].read_text(encoding="utf-8")


def test_the_modules_of_this_house_can_be_found():
    assert importlib.util.find_spec("kerasrec").origin == str(PACKAGE / "__init__.py")
