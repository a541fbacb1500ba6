"""The only place that picks Keras: checks the environment, imports tf_keras and bert4keras.

`import kerasrec` sets TF_USE_LEGACY_KERAS=1 and TF_KERAS=1 before TensorFlow is imported; here the
result is checked. Each way to get it wrong ends in one `SetupError` with the command that mends it.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

BERT4KERAS = "bert4keras==0.11.5"
_SWITCHES = ("TF_USE_LEGACY_KERAS", "TF_KERAS")
_TRUE = ("1", "true", "True")


class SetupError(ImportError):
    """The environment cannot run kerasrec; the message says how to mend it."""


def _check_switches():
    for name in _SWITCHES:
        value = os.environ.setdefault(name, "1")
        if value not in _TRUE:
            raise SetupError(
                f"kerasrec needs Keras 2 (tf_keras), so {name} must be 1; it is {value!r}. "
                f"Run: export {name}=1"
            )


def _check_installed():
    for module, package in (
        ("tensorflow", "tensorflow>=2.21,<2.22"),
        ("tf_keras", "tf-keras>=2.21,<2.22"),
    ):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"kerasrec needs {module}, which is not installed. Run: pip install '{package}'"
            )


def _check_keras_of(tf):
    if "tf_keras" not in tf.keras.Model.__module__:
        raise SetupError(
            "TensorFlow was imported under Keras 3 before kerasrec could choose Keras 2. Import "
            "kerasrec before tensorflow, or start Python with both switches set. "
            "Run: export TF_USE_LEGACY_KERAS=1 TF_KERAS=1"
        )


_check_switches()
_check_installed()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

_check_keras_of(tf)


def import_bert4keras():
    """bert4keras with its sub-modules imported.

    Raises:
        SetupError: it is not installed, or its own imports fail.
    """
    if importlib.util.find_spec("bert4keras") is None:
        raise SetupError(
            "kerasrec needs bert4keras, which pip cannot install beside TensorFlow by itself (it "
            f"pins an old Keras). Run: pip install --no-deps {BERT4KERAS}"
        )
    try:
        for name in ("backend", "layers", "models", "tokenizers"):
            importlib.import_module(f"bert4keras.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("distutils"):
            raise SetupError(
                f"bert4keras needs {error.name}, which Python {sys.version_info.major}."
                f"{sys.version_info.minor} takes from setuptools. Run: pip install setuptools"
            ) from error
        raise
    return sys.modules["bert4keras"]


def set_seed(seed, *, deterministic=False):
    """Seed Python, numpy and TensorFlow.

    Args:
        seed: int.
        deterministic: True makes equal seeds give equal results on one machine, at some speed.
            It cannot be switched off again in the same process (TensorFlow's rule).
    """
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def cache_dir():
    """Folder of caches: $KERASREC_CACHE, else $XDG_CACHE_HOME/kerasrec, else ~/.cache/kerasrec."""
    own = os.environ.get("KERASREC_CACHE")
    if own:
        return Path(own)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "kerasrec"
