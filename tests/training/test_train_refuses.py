"""Mistakes that `train` finds before the work; and what it gives back, on one line."""

from pathlib import Path

import pandas as pd
import pytest
from toys import histories_of

from kerasrec.backend import keras
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions
from kerasrec.models.validation import make_validation
from kerasrec.training import stages
from kerasrec.training.pipeline import Trained, train

# --- mistakes are found before the work ---


def test_a_time_in_the_future_is_worth_a_warning(caplog):
    log = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": "2024-01-01"})
    stages._check_times(read_interactions(log), None)
    assert not caplog.text
    log.loc[1, "timestamp"] = "2096-01-01"
    with pytest.raises(ValueError, match="time in the future"):
        read_interactions(log)
    stages._check_times(read_interactions(log, max_ahead=None), None)
    assert "1 events lie in the future, the newest of 2096-01-01 00:00:00 (UTC)" in caplog.text


def test_refit_refuses_an_optimizer_that_is_made_already(small, tmp_path):
    given = {"trainer": {"optimizer": keras.optimizers.legacy.SGD(0.1)}}
    with pytest.raises(ValueError, match="refit trains twice.*Give its name, or a function"):
        train(*small, name="m", out=tmp_path, options=given, refit=True, progress=False)
    given["trainer"]["members"] = 2
    with pytest.raises(ValueError, match="members=2 trains several times.*Give its name"):
        train(*small, name="m", out=tmp_path, options=given, progress=False)


def test_codes_refuse_what_cannot_begin_anew(small, tmp_path):
    for encoder, optimizer, message in (
        ("lora", "adam", r"trainer.codes needs encoder.mode='frozen'.*codes=True, mode='lora'"),
        ("frozen", keras.optimizers.legacy.SGD(0.1), "codes=True trains twice.*Give its name"),
    ):
        given = {"trainer": {"codes": True, "optimizer": optimizer}, "encoder": {"mode": encoder}}
        with pytest.raises(ValueError, match=message):
            train(*small, name="m", out=tmp_path, options=given, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_titles_are_asked_for_by_an_encoder_alone(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\nu,i1\nv,i2\n")
    (tmp_path / "items.csv").write_text("sku\ni1\ni2\ni3\n")
    given = (tmp_path / "log.csv", tmp_path / "items.csv", None)
    _, items, _ = stages.read_tables(*given, {"encoder": {"name": "none"}})
    assert items.ids.tolist() == ["i1", "i2", "i3"]
    with pytest.raises(ValueError, match="title"):
        stages.read_tables(*given, {"encoder": {"name": "tfidf"}})


@pytest.mark.parametrize("mode", ["finetune", "lora"])
def test_members_refuse_an_encoder_that_learns(small, tmp_path, mode):
    given = {"trainer": {"members": 3}, "encoder": {"mode": mode}}
    with pytest.raises(ValueError, match=f"frozen.*Received: members=3, mode='{mode}'. Change"):
        train(*small, name="m", out=tmp_path, options=given, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timed", ["log", "valid"])
def test_times_in_one_table_only_are_refused_before_the_work(tmp_path, timed):
    rows = {"user_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "b", "a"]}
    log, valid = pd.DataFrame(rows), pd.DataFrame({"user_id": ["u"], "item_id": ["c"]})
    {"log": log, "valid": valid}[timed]["timestamp"] = 1_400_000_000
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["甲", "乙", "丙"]})
    with pytest.raises(ValueError, match="must both have times, or neither"):
        train(log, items, name="m", valid=valid, out=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a/b"}, "plain folder name"),
        ({"preset": "fats"}, "Did you mean 'fast'"),
        ({"options": {"model": {"dropuot": 1}}}, "Did you mean 'dropout'"),
        ({"options": {"encoder": {"name": "tfidf", "mode": "lora"}}}, "tfidf has no weights"),
        ({"options": {"encoder": {"name": "tfidf", "template": "{titel}"}}}, "Received: '{titel}'"),
    ],
)
def test_train_refuses(small, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(*small, **{"name": "x", "out": tmp_path, "progress": False, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_train_refuses_ids_with_line_breaks(small, tmp_path):
    interactions, items = small
    frame = items.frame.copy()
    frame.loc[0, "item_id"] = "a\nb"
    with pytest.raises(ValueError, match=r"no line break.*Received: 'a\\nb'. Rename"):
        train(interactions, Items(frame), name="x", out=tmp_path)


def test_train_refuses_validation_without_a_past(small, tmp_path):
    interactions, items = small
    strangers = pd.DataFrame({"user": ["new1", "new2"], "item": items.ids[:2]})
    strangers["timestamp"] = 1_600_000_000
    with pytest.raises(ValueError, match="no validation user has a training event"):
        train(interactions, items, name="x", out=tmp_path, valid=read_interactions(strangers))


def test_train_refuses_a_file_as_folder(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="Choose another out"):
        train(*small, name="x", out=tmp_path / "file")


def test_split_says_when_the_training_events_hold_much_of_the_validation(caplog):
    train, valid = histories_of([[1, 2, 3], [2, 3, 4]]), histories_of([[1, 2, 5], [2, 3]])
    from kerasrec.training.stages import _check_not_known

    with caplog.at_level("WARNING"):
        _check_not_known(make_validation(train, valid))
    assert "4 of 5 validation events name an item that their user has already" in caplog.text
    with pytest.raises(ValueError, match="Received: 2 of 2 validation events"):
        _check_not_known(make_validation(train, histories_of([[1], [2]])))


def test_refit_with_a_generator_is_refused_before_the_work(small, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "text_part", None)  # what would be called next
    with pytest.raises(ValueError) as raised:
        train(*small, name="m", out=tmp_path, refit=True, generator=True, progress=False)
    assert str(raised.value) == (
        "refit trains the model anew on what the generator is weighed by. Give refit or "
        "generator, not both."
    )


def test_a_fit_of_ones_own_leaves_no_option_unread(small, tmp_path):
    def fit(build, histories, validation):
        raise AssertionError

    def refused(message, **options):
        with pytest.raises(ValueError, match=message):
            train(*small, name="m", out=tmp_path, progress=False, **{"fit": fit, **options})

    refused("trainer.epochs would count for nothing", options={"trainer": {"epochs": 3}})
    refused("refit fits anew .*Leave one of them out", refit=True)
    nothing = {"encoder": {"name": "none"}}
    refused("fit gives back the Model.*Received: None", options=nothing, fit=lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_what_train_gives_back_is_one_line_to_read():
    quality = {"valid_ndcg@10": 0.12345, "valid_recall@10": 0.5}
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.123456, 0.1]})
    trained = Trained(Path("saved_models/shop/1"), history, quality, {"much": "more"})
    assert repr(trained) == (
        "Trained(saved_models/shop/1, validation NDCG@10 0.1235, recall@10 0.5000, 2 epochs)"
    )
    shown = trained._repr_html_()
    assert shown.startswith(f"<p>{trained!r}</p><table") and "<td>0.1235</td>" in shown
