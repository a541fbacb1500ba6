"""The only place that picks Keras: checks the environment, loads tf_keras and bert4keras.

`import kerasrec` sets TF_USE_LEGACY_KERAS=1 and TF_KERAS=1 before TensorFlow is imported; here the
result is checked. Each way to get it wrong ends in one `SetupError` with the command that mends it.

`tf` and `keras` (Keras 2) are loaded when they are first asked for, so this module itself is light.
It also reads the settings of the environment and replaces files whole.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

_Target = TypeVar("_Target")

#: module -> the command that installs what it is in (versions as in setup.py)
INSTALL = {
    "tensorflow": "pip install 'tensorflow>=2.21,<2.22'",
    "tf_keras": "pip install 'tf-keras>=2.21,<2.22'",
    "bert4keras": "pip install --no-deps bert4keras==0.11.5",
    "distutils": "pip install 'setuptools>=80'",
}
SWITCHES = ("TF_USE_LEGACY_KERAS", "TF_KERAS")
_TRUE = ("1", "true", "True")
#: lines of TensorFlow's C++ side that no setting silences, because it writes them while it loads
_CHATTER = re.compile(rb"WARNING: All log messages before absl::|[IWE]\d{4} \d\d:\d\d:")


class SetupError(ImportError):
    """The environment cannot run kerasrec; the message says how to mend it."""


def __getattr__(name: str) -> Any:
    if name not in ("tf", "keras"):
        raise AttributeError(f"module 'kerasrec.backend' has no attribute {name!r}")
    load()
    return globals()[name]


def share_cores(calls: int) -> None:
    """Shares the cores between calls of TensorFlow that run at once; call it before the first.

    If each call used all cores, two calls on two cores would slow each other down.

    Args:
        calls: how many run at once. `TF_NUM_INTRAOP_THREADS`, where it is set, has the last word.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
            load()[0].config.threading.set_intra_op_parallelism_threads(max(cores // calls, 1))


@contextlib.contextmanager
def without_grappler() -> Iterator[None]:
    """A context in which this thread runs graphs as they are, without Grappler.

    Grappler is TensorFlow's optimizer of graphs. It works before the first run of a graph and
    changes no answer; where a graph runs a few times it takes longer than it saves. TensorFlow's
    public setting is one of the whole process, so the options of this thread are changed instead,
    and are as they were at the end. Do not trace a graph for export here: it would keep them. A
    TensorFlow without such options keeps Grappler.
    """
    load()
    try:
        from tensorflow.core.protobuf.config_pb2 import ConfigProto
        from tensorflow.python.eager.context import FunctionCallOptions, context

        before = context().function_call_options
        config = ConfigProto.FromString(before.config_proto_serialized)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        context().function_call_options = FunctionCallOptions(before.executor_type, config)
    except (ImportError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        context().function_call_options = before


def load(*, quiet: bool = False) -> tuple[Any, Any]:
    """Imports TensorFlow under Keras 2; costs nothing the second time.

    Args:
        quiet: True keeps TensorFlow's C++ start-up lines off stderr (everything else it writes is
            passed on when it has loaded). The command line asks for it; a process that dies while
            TensorFlow loads takes its last words along, which `kerasrec doctor` then shows. Where
            the user has set `TF_CPP_MIN_LOG_LEVEL` below 3, that has the last word.

    Returns:
        `(tf, keras)`.

    Raises:
        SetupError: a switch says otherwise, a package is missing, or Keras 3 was there first.
    """
    if "tf" in globals():
        return globals()["tf"], globals()["keras"]
    _check_switches()
    for module in ("tensorflow", "tf_keras"):
        if not is_installed(module):
            raise _missing(module)
    # 3: also without lines on an error that is none, such as a machine without a GPU
    quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3" and quiet
    if quiet:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # each failed TLS handshake is a line
    # a pool of memory: glibc gives a large tensor back to the system and has the next one zeroed
    # page by page, which is a good part of a training step
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    with _without_chatter() if quiet else contextlib.nullcontext():
        tf, keras = _import("tensorflow"), _import("tf_keras")
        if "tf_keras" not in tf.keras.Model.__module__:
            raise SetupError(
                "TensorFlow was used under Keras 3 before kerasrec could choose Keras 2. Import "
                "kerasrec before tensorflow, or start Python with both switches set. "
                "Run: export TF_USE_LEGACY_KERAS=1 TF_KERAS=1"
            )
    globals().update(tf=tf, keras=keras)
    return tf, keras


#: whether this process was forked from one in which TensorFlow was at work
_was_at_work = False


def _note_fork():
    """In a child of a fork: note whether TensorFlow had begun to work, not only been imported."""
    global _was_at_work
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    _was_at_work |= getattr(context, "_context_handle", None) is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_process() -> None:
    """Refuses to work in a process that was forked from one in which TensorFlow was at work.

    Its threads do not come along with a fork, and the first call would wait for them for ever.

    Raises:
        RuntimeError: this is such a process.
    """
    if _was_at_work:
        raise RuntimeError(
            "TensorFlow does not work in a process that was forked after it had begun to work: its "
            "threads stay in the parent, and a call would wait for ever. Load the version in each "
            "process instead: under gunicorn without --preload, or in the first request; with "
            'multiprocessing.get_context("spawn"), in the initializer of the pool.'
        )


def import_bert4keras() -> Any:
    """Imports bert4keras with its sub-modules.

    Raises:
        SetupError: it is not installed, its own imports fail, or it runs on another Keras.
    """
    _, keras = load()
    if not is_installed("bert4keras"):
        raise _missing(
            "bert4keras",
            "pip cannot install it beside TensorFlow by itself, because it pins an old Keras. ",
        )
    try:
        base = importlib.import_module("bert4keras.backend")
    except ModuleNotFoundError as error:
        needed = (error.name or "").partition(".")[0]
        if needed == "distutils":
            python = f"{sys.version_info.major}.{sys.version_info.minor}"
            why = f"bert4keras imports it, and Python {python} takes it from setuptools. "
            raise _missing("distutils", why) from error
        raise SetupError(
            f"bert4keras is installed but its import fails ({error}). Run: pip install {needed}"
        ) from error
    if base.keras.Model is not keras.Model:
        raise SetupError(
            "bert4keras was imported on another Keras before kerasrec could choose Keras 2. Import "
            "kerasrec before bert4keras, or start Python with both switches set. "
            "Run: export TF_USE_LEGACY_KERAS=1 TF_KERAS=1"
        )
    for name in ("layers", "models", "tokenizers"):
        importlib.import_module(f"bert4keras.{name}")
    return sys.modules["bert4keras"]


def is_installed(module: str) -> bool:
    """Says whether a module can be found; imports nothing.

    >>> is_installed("json"), is_installed("no_such_module")
    (True, False)
    """
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # in sys.modules without a spec; None there means that it is forbidden
        return sys.modules.get(module) is not None


def switch_problem(name: str) -> str:
    """Says what is wrong with an environment variable of `SWITCHES`; "" when nothing is."""
    value = os.environ.get(name, "1")
    if value in _TRUE:
        return ""
    return (
        f"kerasrec needs Keras 2 (tf_keras), so {name} must be 1; it is {value!r}. "
        f"Run: export {name}=1"
    )


def _check_switches():
    for name in SWITCHES:
        if problem := switch_problem(name):
            raise SetupError(problem)
        os.environ.setdefault(name, "1")


def _missing(module, why=""):
    return SetupError(f"kerasrec needs {module}, which is missing. {why}Run: {INSTALL[module]}")


def _import(module):
    """Import an installed module; a broken installation becomes one sentence."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SetupError(
            f"{module} is installed but its import fails ({reason[0]}). "
            f"Run: {INSTALL[module].replace('install', 'install --force-reinstall', 1)}"
        ) from error


@contextlib.contextmanager
def _without_chatter():
    """Hold back stderr, also of C++ code, and pass on in the end what is no chatter."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # a process without a stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def few_words() -> Iterator[None]:
    """Without TensorFlow's remarks on names of inputs and on where and how it wrote files.

    absl, by which it says them, would also put a handler on Python's root logger where there is
    none yet: what this process logs would then be written twice, and a later
    `logging.basicConfig` of the user's would do nothing.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    nothing = logging.NullHandler()
    logging.root.addHandler(nothing)
    try:
        yield
    finally:
        logging.root.removeHandler(nothing)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def register(cls: _Target) -> _Target:
    """Registers a class with Keras under the package name kerasrec; for use as a decorator.

    A layer's `call` is left alone by AutoGraph, see `without_autograph`.
    """
    _, keras = load()
    keras.utils.register_keras_serializable("kerasrec")(cls)
    return without_autograph(cls) if hasattr(cls, "call") else cls


def without_autograph(target: _Target) -> _Target:
    """Keeps AutoGraph from translating a function, or the `call` of a layer class; a decorator.

    Keras has AutoGraph rewrite the `call` of every layer it does not know, so that an `if` on a
    tensor works in a graph. No function of kerasrec needs that, and it was most of the time of the
    first model of a process.
    """
    tf, _ = load()
    if inspect.isclass(target):
        layer: Any = target
        layer.call = without_autograph(layer.call)
        return target
    plain: Any = tf.autograph.experimental.do_not_convert(target)
    function: Any = target
    plain.__signature__ = inspect.signature(function)  # Keras looks for `training` in it
    return plain


def with_autograph(function: Callable) -> Callable:
    """A function of the user's for the graph: AutoGraph translates it, wherever it is called from.

    Its own `if` and `for` may then depend on tensors, though what calls it is not translated.
    """
    tf, _ = load()
    autograph = tf.__internal__.autograph
    return autograph.tf_convert(function, autograph.control_status_ctx())


def traced(function: Callable) -> Any:
    """`tf.function` of something that many objects have, each traced by itself.

    TensorFlow counts the traces of all of them together and warns of too many.
    """
    tf, _ = load()
    made = tf.function(function, reduce_retracing=True, autograph=False)
    made._omit_frequent_tracing_warning = True
    return made


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Makes TensorFlow run its functions operation by operation inside the block, in all threads.

    It is for functions that are called a few times only: tracing them would take longer. Nothing
    else may train in this process meanwhile. Loaded versions are not affected.
    """
    tf, _ = load()
    was = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(was)


def set_seed(seed: int, *, deterministic: bool = False) -> None:
    """Seeds Python, numpy and TensorFlow.

    Args:
        seed: int.
        deterministic: True makes equal seeds give equal results on one machine, at some speed.
            It cannot be switched off again in the same process (TensorFlow's rule).
    """
    tf, keras = load()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def api_key() -> str:
    """Reads the key that requests to a server must give, $KERASREC_API_KEY; "" = no key."""
    return os.environ.get("KERASREC_API_KEY", "")


def language_model_key() -> str:
    """Reads the key of the language model that describes plans, $KERASREC_LLM_KEY; "" = none."""
    return os.environ.get("KERASREC_LLM_KEY", "")


def endpoint_key() -> str:
    """Reads the key of an endpoint that makes vectors, $KERASREC_ENDPOINT_KEY; "" = none."""
    return os.environ.get("KERASREC_ENDPOINT_KEY", "")


def store_url(default: str = "feedback.db") -> str:
    """Names the feedback store, path or URL: $KERASREC_STORE, else the default, in this folder."""
    return os.environ.get("KERASREC_STORE") or default


def cache_dir() -> Path:
    """Names the cache folder: $KERASREC_CACHE, $XDG_CACHE_HOME/kerasrec or ~/.cache/kerasrec."""
    own = os.environ.get("KERASREC_CACHE")
    if own:
        return Path(own)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "kerasrec"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames what was written when all went well.

    A reader never sees half a file. The bytes are on the disk before the rename and the rename
    before this returns: after a power cut either the old file is there or the new one is whole,
    and what was said to be written is there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.json"
    ...     with whole_file(path) as beside:
    ...         _ = beside.write_text("{}")
    ...         before = path.exists()
    ...     before, path.read_text()
    (False, '{}')
    """
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Has the disk hold the names in a folder: what was made, renamed and removed in it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders and keeps names in its journal
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Has the disk hold a folder with all that is in it, the files before their names."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(Path(root) / name, "rb+") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))
