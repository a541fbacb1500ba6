"""The public names are exactly this list, and each is what it says, in any order of imports."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import kerasrec

NAMES = """
ArtifactError BASELINES Client FeedbackStore Interactions Items LOSSES LanguageModel Plan
Recommender SEQUENCE_MODELS SetupError Split TextEncoder Trainer add_lora build_encoder build_model
check_leakage clean deploy describe describe_plans drift evaluate export fit_generator
fit_product_codes fit_semantic_ids fit_whitening hold_out_last join_interactions load_mooccube
make_histories make_validation read_interactions read_items rollback run_baselines
score_recommendations serve set_trainable simulate split_leave_one_out split_temporal split_users
train update update_from_store write_report write_table
""".split()


def test_names_are_exactly_the_list():
    assert kerasrec.__all__ == sorted(NAMES)
    assert set(NAMES) <= set(dir(kerasrec)) and kerasrec.__version__


@pytest.mark.parametrize("name", NAMES)
def test_name_is_a_function_a_class_or_a_table(name):
    value = getattr(kerasrec, name)
    if name.isupper():
        assert isinstance(value, dict) and value
    else:
        assert inspect.isfunction(value) or inspect.isclass(value)
        assert value.__doc__


def test_no_name_is_hidden_by_a_module():
    """After `import kerasrec.x` the attribute `x` is the module, whatever x meant before."""
    for module in pkgutil.iter_modules(kerasrec.__path__):
        importlib.import_module(f"kerasrec.{module.name}")
    modules = [name for name in NAMES if inspect.ismodule(getattr(kerasrec, name))]
    assert modules == []


def test_star_import_and_unknown_names():
    with pytest.raises(AttributeError, match="module 'kerasrec' has no attribute 'rank'"):
        _ = kerasrec.rank


def test_data_half_needs_no_tensorflow():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tf_keras', 'bert4keras'): sys.modules[name] = None\n"
        "import kerasrec\n"
        "interactions, items = kerasrec.load_mooccube()\n"
        "split = kerasrec.split_leave_one_out(kerasrec.clean(interactions, items))\n"
        "histories = kerasrec.make_histories(split.train, items)\n"
        "import kerasrec.artifacts, kerasrec.metrics, kerasrec.baselines, kerasrec.evaluation\n"
        "import kerasrec.cli, kerasrec.doctor, kerasrec.datastats, kerasrec.report\n"
        "import kerasrec.feedback, kerasrec.describing\n"
        "print(histories.num_users)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2000\n", done.stderr
