import pytest

from kerasrec.training import options
from kerasrec.training.options import check_options, known_options, resolve_preset


def test_known_options_are_the_arguments_of_the_functions():
    known = known_options()
    assert list(known) == list(options.SECTIONS)
    assert known["encoder"]["name"] == "e5-small" and known["encoder"]["max_tokens"] == 64
    assert {"dropout", "sequence", "loss"} <= known["model"].keys()
    assert {"epochs", "optimizer", "run_folder"} <= known["trainer"].keys()
    assert known["encoder"]["model"] is None and "model" not in known["trainer"]
    assert known["trainer"]["members"] == 1 and known["trainer"]["seed"] == 0
    assert known["trainer"]["codes"] is False and "codes" not in known["model"]
    for hidden in (
        "stop_after",
        "build",
        "validation",
        "items",
        "text",
        "num_items",
        "self",
        "progress",
        "histories",
    ):
        assert not any(hidden in names for names in known.values())


@pytest.mark.parametrize("preset", options.PRESETS)
def test_presets_name_known_options(preset):
    assert resolve_preset(preset, {}) == {
        **{s: {} for s in options.SECTIONS},
        **options.PRESETS[preset],
    }


def test_resolve_preset_puts_the_users_options_over_it():
    found = resolve_preset(
        "fast", {"trainer": {"epochs": 3}, "model": None, "encoder": {"name": "none"}}
    )
    assert found == {
        "encoder": {"name": "none"},
        "model": options.PRESETS["fast"]["model"],
        "trainer": {"epochs": 3},
        "fusion": {},
        "generator": {},
    }
    assert options.PRESETS["fast"]["trainer"]["epochs"] == 15


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": {}}, "Unknown section 'modle'. Did you mean 'model'?"),
        ({"model": 3}, "The section 'model' must hold options. Received: 3"),
        ({"model": {"dropuot": 1}}, "Unknown option model.dropuot. Did you mean 'dropout'?"),
        ({"trainer": {"dropout": 1}}, "Unknown option trainer.dropout. Known: optimizer"),
        (
            {"model": {"sequence": "transfomer"}},
            "Unknown model.sequence 'transfomer'. Did you mean 'transformer'",
        ),
        ({"model": {"loss": "hinge"}}, "Unknown model.loss 'hinge'. Known: mse"),
        ({"encoder": {"mode": "thaw"}}, "Unknown encoder.mode 'thaw'. Known: frozen"),
        (
            {"trainer": {"epochs": "many"}},
            "trainer.epochs must be a whole number. Received: 'many'",
        ),
        ({"trainer": {"epochs": 2.5}}, "trainer.epochs must be a whole number. Received: 2.5"),
        ({"trainer": {"epochs": 0}}, "trainer.epochs must be at least 1. Received: 0"),
        ({"trainer": {"members": 0}}, "trainer.members must be at least 1. Received: 0"),
        ({"trainer": {"members": 1.5}}, "trainer.members must be a whole number. Received: 1.5"),
        ({"trainer": {"stop_after": [1]}}, "Unknown option trainer.stop_after"),
        ({"trainer": {"epochs": True}}, "trainer.epochs must be a whole number. Received: True"),
        ({"trainer": {"seed": -1}}, "trainer.seed must be at least 0"),
        ({"trainer": {"learning_rate": 0}}, "trainer.learning_rate must be above 0"),
        ({"trainer": {"learning_rate": "nan"}}, "trainer.learning_rate must be a number"),
        ({"trainer": {"deterministic": "perhaps"}}, "trainer.deterministic must be true or false"),
        ({"model": {"dropout": 1}}, "model.dropout must be a share from 0 to below 1"),
        ({"model": {"dropout": [0.1]}}, r"model.dropout must be a number. Received: \[0.1\]"),
        (
            {"model": {"max_length": None}},
            "model.max_length must be a whole number. Received: None",
        ),
        (
            {"trainer": {"strategy": "mirrored"}},
            "trainer.strategy must be a tf.distribute",
        ),
        ({"trainer": {"run_folder": 5}}, "trainer.run_folder must be a text. Received: 5"),
        ({"trainer": {"optimizer": 5}}, "trainer.optimizer must be a name or a function"),
        ({"model": {"loss": 5}}, "model.loss must be a name or a function. Received: 5"),
        ({"encoder": {"template": 5}}, "encoder.template must be a text. Received: 5"),
        ({"fusion": {"parts": "text"}}, "fusion.parts must be a list of some of transitions"),
        ({"fusion": {"parts": ["txet"]}}, "Unknown part 'txet' in fusion.parts. Did you mean"),
        ([], r"options must be a dict of sections .encoder, .*generator.. Received: \[\]"),
        (None, "options must be a dict of sections .* Received: None"),
    ],
)
def test_check_options_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        check_options(given)


def test_check_options_takes_what_fits():
    given = {
        "trainer": {"learning_rate": "1e-3", "clip_norm": None, "optimizer": print, "epochs": 4.0},
        "model": {"loss": None, "sequence": print, "text_units": 0},
        "encoder": {"layers": 2, "cache": "folder", "pooling": None},
        "fusion": {"parts": ["text"]},
    }
    found = check_options(given)
    assert found["trainer"] == {
        "learning_rate": 1e-3,
        "clip_norm": None,
        "optimizer": print,
        "epochs": 4,
    }
    assert found["fusion"] == {"parts": ("text",)}
    assert found["model"] == given["model"] and found["encoder"] == given["encoder"]


def test_resolve_preset_refuses_an_unknown_one():
    with pytest.raises(ValueError, match="Unknown preset 'fats'. Did you mean 'fast'"):
        resolve_preset("fats", {})
    with pytest.raises(ValueError, match="Unknown preset .'fast'.. Did you mean"):
        resolve_preset(["fast"], {})
