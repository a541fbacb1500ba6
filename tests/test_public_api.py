"""The public names are exactly this list, and each is what it says, in any order of imports."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import kerasrec

#: what must load where there is no TensorFlow, as in test_architecture
LIGHT = """
checks data features fusion evaluation feedback client models.codes versions.folders
versions.manifest loop.driftmetrics loop.gate client.draws
""".split()
NAMES = """
ArtifactError BASELINES Client FeedbackStore Interactions Items LOSSES LanguageModel Model Plan
Recommender SEQUENCE_MODELS SetupError Split TextEncoder Trainer Users add_lora build_encoder
build_model
check_leakage clean condense deploy describe describe_plans drift evaluate export fit_generator
fit_product_codes fit_semantic_ids fit_whitening hold_out_last join_interactions load_mooccube
make_histories make_validation plot_model read_interactions read_items read_users replay rollback
run_baselines
score_recommendations serve set_trainable simulate split_leave_one_out split_temporal split_users
train update update_from_store with_relations with_vectors write_report write_table
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
    """After `import kerasrec.x.y` the attribute `y` is the module, whatever y meant before."""
    faces = [kerasrec]
    for module in pkgutil.walk_packages(kerasrec.__path__, "kerasrec."):
        if not module.name.endswith("__main__"):
            found = importlib.import_module(module.name)
            faces += [found] if module.ispkg else []
    for face in faces:
        hidden = [
            name for name in getattr(face, "__all__", []) if inspect.ismodule(getattr(face, name))
        ]
        assert hidden == [], face
    assert len(faces) > 10


def test_star_import_and_unknown_names():
    with pytest.raises(AttributeError, match="No kerasrec attribute rank"):
        _ = kerasrec.rank


def test_light_parts_need_no_tensorflow():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tf_keras', 'bert4keras'): sys.modules[name] = None\n"
        "import importlib, pkgutil, kerasrec\n"
        "interactions, items = kerasrec.load_mooccube()\n"
        "split = kerasrec.split_leave_one_out(kerasrec.clean(interactions, items))\n"
        "histories = kerasrec.make_histories(split.train, items)\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(f'kerasrec.{name}')\n"
        "    for part in pkgutil.iter_modules(getattr(module, '__path__', [])):\n"
        "        importlib.import_module(f'kerasrec.{name}.{part.name}')\n"
        "import kerasrec.cli.entry, kerasrec.cli.doctor\n"
        "print(histories.num_users)\n"
    )
    command = [sys.executable, "-c", code, *LIGHT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "2000\n", done.stderr
