"""Imports point down, every module has its tests, every test is collected."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "kerasrec", ROOT / "tests"

#: all modules, from the ground up: a module may import those before it, never one behind it
ORDER = """
backend checks artifacts doctor

cleaningreport columns events timestamps csvtable tables readers data
cleaning datastats splits datasets sequences

feedbacktables feedbackwriter feedbackevents feedbackstats feedback livelists storedlog

lists draws encodedlists metrics transitions recency codes fusionweights fusion fusionchoice
baselines evaluation plots report driftmetrics driftverdict

tensorfiles text graphunigram architectures checkpointfolder e5small textmodel
plainencoders textvectors encoder

losses sequencemodels interest itemvectors scoring models
validation optimizers trainer ensemble fitting textpart
codedecoder beamsearch generative trainingstate

graphwordpiece graphtexts graphfusion itemmatrix servingmodule planningmodule warmup modelcard
exporter derive ann shortlist servinglimits indexedlists versiontexts versionlog versionplans
recommender generating options pipeline gate childversion
updating drifting simulation servingtransport clientinputs servingclient deployment chatendpoint
describing

servingmonitor servedversion modelversions predictcalls predictjson predictgrpc predictrest
feedbackrest livelog servingaccess serving

demo userinput arguments showing feedbackcli loopcli plancli modelverbs serveverb cli
""".split()

#: modules that must load where there is no TensorFlow (test_public_api loads them so)
LIGHT = """
artifacts checks cleaningreport columns events timestamps csvtable tables readers data cleaning
datastats splits datasets sequences lists encodedlists draws metrics baselines evaluation plots report
transitions recency fusionweights fusion feedbacktables feedbackwriter feedbackevents feedbackstats
feedback livelists storedlog driftmetrics driftverdict servingtransport chatendpoint describing
codes
""".split()


def sources(folder):
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path):
    """Names of kerasrec's modules that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "kerasrec":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerasrec."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kerasrec.")}
    return found


def modules():
    """Module -> file; a sub-package is its __init__."""
    found = {name: path for name, path in sources(PACKAGE).items() if name != "__init__"}
    packages = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    return {**found, **packages}


def test_order_names_every_module_once():
    assert sorted(ORDER) == sorted(modules())


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module):
    before = ORDER[: ORDER.index(module)]
    assert sorted(imports_of(modules()[module]) & set(ORDER) - set(before)) == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_light_modules_only(module):
    path = modules()[module]
    assert imports_of(path) & set(ORDER) <= {*LIGHT, "backend"}
    # backend loads TensorFlow when it is asked for it, not before
    assert taken_from_backend(path) <= {"cache_dir"}


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


def test_every_test_is_collected():
    helpers = {"conftest", "loopchecks", "numpybert", "postgres", "slowplans"}
    for name, path in sources(TESTS).items():
        names = [n.name for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef)]
        tests = [
            n for n in parsed(path).body if getattr(n, "name", "").startswith(("test", "Test"))
        ]
        if name in helpers:
            assert not tests, f"{name}.py is not collected"
        else:
            assert name.startswith("test_") and tests, f"{name}.py has no test"
        repeated = [n for n, count in Counter(names).items() if count > 1 and n.startswith("test")]
        assert repeated == [], f"{name}.py: the last definition hides the others"
    assert sorted(p.name for p in TESTS.rglob("test_*.py")) == sorted(
        p.name for p in TESTS.glob("test_*.py")
    )


def calls(path, name):
    return [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name
    ]


def test_only_the_command_line_prints():
    printing = [module for module, path in modules().items() if calls(path, "print")]
    assert sorted(printing) == ["cli", "feedbackcli", "loopcli", "modelverbs", "plancli", "serveverb"]


def test_the_environment_is_read_in_one_place():
    reading = [
        module
        for module, path in modules().items()
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            for node in ast.walk(parsed(path))
        )
    ]
    assert sorted(reading) == ["backend", "doctor"]  # the doctor shows what it is set to


def test_no_pickle():
    """Nothing is written as a pickle; torchfile reads those of others, tensors only."""
    users = {
        module
        for module, path in modules().items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        if {alias.name for alias in node.names} & {"pickle", "joblib", "dill", "shelve"}
    }
    assert users == {"tensorfiles"}
    assert "dump" not in modules()["tensorfiles"].read_text(encoding="utf-8")
