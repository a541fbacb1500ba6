"""Each wrong environment in a process of its own, and the helpers that need none."""

import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blocking import BLOCK

from kerasrec import backend


def run(code, *, block=(), env=None, whole=os.environ):
    """Run Python code in a fresh process without any Keras switch but those in `env`."""
    clean = {k: v for k, v in whole.items() if k not in (*backend.SWITCHES, "TF_CPP_MIN_LOG_LEVEL")}
    script = f"{BLOCK}\nBlocker.names = {set(block)!r}\n{code}" if block else code
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**clean, **(env or {})}
    )


def setup_error(code, **options):
    """The message of the SetupError that a process ends with."""
    done = run(code, **options)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    name, _, message = last.partition(": ")
    assert name == "kerasrec.backend.SetupError", done.stderr
    return message


POOL = "TF_CPU_ALLOCATOR_USE_BFC"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
LOAD = "import kerasrec; from kerasrec.backend import tf"


def test_import_is_light_and_needs_no_tensorflow():
    started = time.perf_counter()
    done = run(
        "import sys, time; t = time.perf_counter(); import kerasrec; t = time.perf_counter() - t;"
        "import kerasrec.backend, kerasrec.versions.folders;"
        "print(t, [m for m in ('tensorflow', 'tf_keras', 'numpy', 'pandas') if m in sys.modules])"
    )
    seconds, _, modules = done.stdout.strip().partition(" ")
    assert modules == "[]", done.stderr
    assert float(seconds) < 0.5
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("name", ["TF_USE_LEGACY_KERAS", "TF_KERAS"])
def test_load_refuses_a_conflicting_switch(name):
    message = setup_error(LOAD, env={name: "0"})
    assert f"{name} must be 1; it is '0'. Run: export {name}=1" in message


@pytest.mark.parametrize("module", ["tensorflow", "tf_keras"])
def test_load_refuses_a_missing_package(module):
    message = setup_error(LOAD, block=[module])
    assert message == f"kerasrec needs {module}, which is missing. Run: {backend.INSTALL[module]}"


def test_load_refuses_a_broken_package(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libfoo.so is gone')")
    message = setup_error(LOAD, env={"PYTHONPATH": str(tmp_path)})
    assert message == (
        "tensorflow is installed but its import fails (libfoo.so is gone). "
        "Run: pip install --force-reinstall 'tensorflow>=2.21,<2.22'"
    )


@pytest.mark.slow
def test_import_bert4keras_says_what_is_missing():
    done = run(
        "from kerasrec.backend import import_bert4keras, SetupError\n"
        "for names in ({'bert4keras'}, {'distutils', '_distutils_hack'}):\n"
        "    Blocker.names = names\n"
        "    for m in [m for m in sys.modules if m.startswith(('bert4keras', 'distutils'))]:\n"
        "        del sys.modules[m]\n"
        "    try:\n"
        "        import_bert4keras()\n"
        "    except SetupError as error:\n"
        "        print(error)\n"
        "Blocker.names = set()\n"
        "print(import_bert4keras().__name__)",
        block=["nothing"],
    )
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "kerasrec needs bert4keras, which is missing. pip cannot install it beside TensorFlow by "
        "itself, because it pins an old Keras. Run: pip install --no-deps bert4keras==0.11.5"
    ), done.stderr
    assert "kerasrec needs distutils, which is missing." in lines[1]
    assert lines[1].endswith("Run: pip install 'setuptools>=80'")
    assert lines[-1] == "bert4keras"


@pytest.mark.slow
def test_load_refuses_tensorflow_under_keras_3():
    message = setup_error(f"import keras, tensorflow as tf; tf.keras.Model\n{LOAD}")
    assert message.startswith("TensorFlow was used under Keras 3 before kerasrec")
    assert message.endswith("Run: export TF_USE_LEGACY_KERAS=1 TF_KERAS=1")


@pytest.mark.slow
def test_import_bert4keras_refuses_one_on_keras_3():
    message = setup_error(
        "import bert4keras.backend; import kerasrec.backend; kerasrec.backend.import_bert4keras()"
    )
    assert message.startswith("bert4keras was imported on another Keras before kerasrec")


@pytest.mark.slow
def test_tensorflow_first_is_fine_until_its_keras_is_used():
    done = run(
        "import tensorflow, keras, kerasrec\n"
        "from kerasrec.backend import import_bert4keras, keras, tf\n"
        "import_bert4keras()\n"
        "print(keras.__name__, tf.keras.layers.Dense(2)(tf.ones((1, 3))).shape)"
    )
    assert done.stdout.strip() == "tf_keras (1, 2)", done.stderr


def test_load_quietly_drops_chatter_and_nothing_else_and_calls_share_the_cores():
    """As many calls as cores: one thread for each."""
    script = "import os, sys\nfrom kerasrec import backend\nbackend.load(quiet=True)\n"
    script += f"backend.share_cores({CORES})\n"
    code = (
        "import builtins\noriginal = builtins.__import__\n"
        "import os, importlib\nreal = importlib.import_module\n"
        "def loud(name, *a):\n"
        "    if name == 'tensorflow': os.write(2, b'something else\\n')\n"
        "    return real(name, *a)\n"
        "importlib.import_module = loud\n" + script + "backend.tf.ones(2) + 1\n"
    )
    code += "print(backend.tf.config.threading.get_intra_op_parallelism_threads())"
    environment = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTRAOP_THREADS"}
    done = run(code, whole=environment)
    assert done.returncode == 0
    assert done.stderr == "something else\n" and done.stdout == "1\n"


@pytest.mark.slow
def test_load_quietly_leaves_the_log_level_of_the_user_alone():
    done = run(
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '0'\n"
        "from kerasrec import backend\nbackend.load(quiet=True)\nbackend.tf.ones(2) + 1\n"
    )
    assert "All log messages before absl::InitializeLog()" in done.stderr


def test_few_words_leaves_the_loggers_as_they_were(monkeypatch, capsys):
    from absl import logging as absl_logging

    monkeypatch.setattr(logging.root, "handlers", [])
    logger = logging.getLogger("absl")
    before = logger.level
    with backend.few_words():
        assert logger.level == logging.ERROR
        absl_logging.info("Sharding callback duration")  # else it gives the root a handler
    assert logger.level == before and logging.root.handlers == []
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_load_without_stderr():
    done = run(
        "import os; os.close(2)\nfrom kerasrec import backend\nbackend.load(quiet=True)\nprint(1)"
    )
    assert done.stdout == "1\n"


FAULTS = """
import resource, sys
import kerasrec
from kerasrec.backend import tf
x = tf.ones((2000, 1000))
for _ in range(5):
    x + 1.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    x + 1.0
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_tensorflow_keeps_its_memory_unless_told_otherwise():
    pages = 50 * 2000 * 1000 * 4 // 4096
    assert int(run(FAULTS).stdout) < pages / 10
    own = run(
        "import os, kerasrec.backend as b; b.load(); print(os.environ[%r])" % POOL, env={POOL: "0"}
    )
    assert own.stdout.strip() == "0"


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("KERASREC_CACHE", "/a/b")
    assert backend.cache_dir() == Path("/a/b")
    monkeypatch.delenv("KERASREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert backend.cache_dir() == Path("/c/kerasrec")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert backend.cache_dir() == Path.home() / ".cache" / "kerasrec"


def test_set_seed_repeats():
    from kerasrec.backend import set_seed, tf

    set_seed(7)
    first = tf.random.uniform((3,)).numpy()
    set_seed(7)
    assert (tf.random.uniform((3,)).numpy() == first).all()


def test_grappler_is_off_in_the_context_and_in_this_thread_alone():
    from concurrent.futures import ThreadPoolExecutor

    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.eager.context import context

    from kerasrec.backend import tf, without_grappler

    def options():
        return context().function_call_options.config_proto_serialized

    def is_off():
        config = ConfigProto.FromString(options())
        return config.graph_options.rewrite_options.disable_meta_optimizer

    with ThreadPoolExecutor(1) as pool:
        before, other = options(), pool.submit(is_off).result()
        squared = tf.function(lambda x: x * x + 0.0)
        with pytest.raises(KeyError), without_grappler():
            assert is_off() and pool.submit(is_off).result() == other
            with without_grappler():
                assert is_off()
            assert is_off() and squared(tf.constant(3.0)).numpy() == 9
            raise KeyError
        assert options() == before and squared(tf.constant(3.0)).numpy() == 9
        assert pool.submit(is_off).result() == other


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = backend.torch


@pytest.mark.slow
@pytest.mark.parametrize(("calls", "variable", "expected"), [(1, None, CORES), (CORES, "3", 0)])
def test_calls_share_the_cores(calls, variable, expected):
    """As many calls as cores: one thread for each; what the user has set is left alone (0)."""
    code = (
        f"from kerasrec import backend; backend.share_cores({calls});"
        "print(backend.tf.config.threading.get_intra_op_parallelism_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTRAOP_THREADS"}
    if variable:
        environment["TF_NUM_INTRAOP_THREADS"] = variable
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split()[-1] == str(expected)


def test_a_whole_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "labels.json", [], os.fsync
    path.write_text("old")

    def record(number):
        found = os.fstat(number)
        size = found.st_size if stat.S_ISREG(found.st_mode) else "a folder"
        synced.append((found.st_ino, size, path.read_text()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", record)
    with backend.whole_file(path) as beside:
        beside.write_text("newer")
    folder = (tmp_path.stat().st_ino, "a folder", "newer")
    assert synced == [(path.stat().st_ino, 5, "old"), folder]
    assert path.read_text() == "newer"


def test_a_whole_file_that_failed_leaves_the_old_one_and_nothing_beside(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), backend.whole_file(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


FORKED = """
import multiprocessing, os, pickle, signal, sys
from kerasrec import Recommender, build_model
from kerasrec.backend import tf

path = sys.argv[1]


def answer():
    return len(Recommender.load(path).recommend([[]], k=3))


def fork(work):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)
    signal.alarm(120)  # instead of waiting for ever
    try:
        print(work(), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)


if __name__ == "__main__":
    fork(answer)  # TensorFlow is imported in the parent, and has done nothing
    loaded = Recommender.load(path)
    fork(lambda: loaded.recommend([[]], k=3))
    fork(answer)
    fork(lambda: build_model(9))
    print(len(loaded.recommend([[]], k=3)), flush=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(answer))
    try:
        pickle.dumps(loaded)
    except TypeError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_forked_process_is_told_what_to_do_instead_of_waiting(exported_version, tmp_path):
    (tmp_path / "script.py").write_text(FORKED)
    command = [sys.executable, tmp_path / "script.py", exported_version]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    before, *refused, parent, spawned, pickled = done.stdout.splitlines()
    assert (before, parent, spawned) == ("3", "3", "3"), done.stderr
    assert len(refused) == 3
    for line in refused:
        assert line.startswith("TensorFlow does not work in a process that was forked after")
        assert line.endswith(
            'multiprocessing.get_context("spawn"), in the initializer of the pool.'
        )
    assert pickled.endswith("Send its path, and load it there: Recommender.load(path).")
