"""What `Rebuilt` gives for each kind of encoder is in test_train_kinds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpybert import make_config, make_weights, vocabulary, write_tf_folder

from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items
from kerasrec.models.build import build_model
from kerasrec.models.validation import Ranker
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import build_encoder
from kerasrec.versions import folders
from kerasrec.versions.exporter import export
from kerasrec.versions.trainingstate import Rebuilt, plain, read_training_state


@pytest.fixture
def copy(exported_version, tmp_path):
    shutil.copytree(exported_version / "1", tmp_path / "1")
    return tmp_path / "1"


def test_read_training_state(exported_version):
    state = read_training_state(exported_version / "1")
    assert state.options["num_items"] == 82 and state.options["text_units"] == 8
    assert state.whitening.matrix.shape[1] == 16
    assert all(isinstance(weight, np.ndarray) for weight in state.weights)


def test_rebuild_goes_on_where_training_stopped(exported_version):
    rebuilt = Rebuilt(exported_version / "1")
    model, encoder, state = rebuilt.model, rebuilt.encoder, rebuilt.state
    assert encoder.kind == "tfidf"
    recommender = Recommender.load(exported_version)
    vectors = Ranker(model).item_vectors()[1:]
    np.testing.assert_allclose(vectors, recommender.item_vectors(recommender.items.ids), atol=1e-6)
    assert len(model.training.get_weights()) == len(state.weights)


def test_rebuild_refuses_a_version_without_state(copy):
    shutil.rmtree(copy / folders.TRAIN)
    with pytest.raises(ArtifactError, match="holds no weights for further training"):
        Rebuilt(copy)


def test_rebuild_refuses_another_encoder(copy):
    path = copy / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["encoder"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        ArtifactError, match="The encoder tfidf is not the one that .*/1 was trained with"
    ):
        Rebuilt(copy).encoder.encode(["唐诗"])


@pytest.mark.slow
def test_rebuild_of_a_version_with_codes(toy_items, tmp_path):
    """Old items keep their codes, new ones have none; without the sizes there is no graph."""
    codes = np.stack(np.divmod(np.arange(len(toy_items)), 10), axis=1)
    model = build_model(len(toy_items), codes=codes, code_units=4, id_units=0, max_length=6)
    base = tmp_path / "saved_models" / "codes"
    version = export(model, base, items=toy_items, manifest={"name": "codes"})
    assert read_training_state(version).options["code_units"] == 4
    recommender = Recommender.load(version)
    vectors = recommender.item_vectors(toy_items.ids)
    np.testing.assert_allclose(vectors, Ranker(model).item_vectors()[1:], atol=1e-6)
    assert len(recommender.recommend([list(toy_items.ids[:3])], k=5)) == 5
    again = Ranker(Rebuilt(version).model).item_vectors()
    np.testing.assert_allclose(again, Ranker(model).item_vectors(), atol=1e-6)
    more = pd.DataFrame({"item_id": ["n1", "n2"], "title": "新课"})
    grown = Items(pd.concat([toy_items.frame, more], ignore_index=True))
    found = Ranker(Rebuilt(version, grown).model).item_vectors()
    np.testing.assert_allclose(found[:-2], again, atol=1e-6)
    assert not found[-2:].numpy().any()


def test_rebuild_knows_what_a_folder_is(copy, toy_items, tmp_path):
    """Neither its config nor its name says that the folder is nezha; the manifest does."""
    vocab = vocabulary(toy_items.texts())
    config = make_config("nezha", len(vocab), use_relative_position=None)
    folder = tmp_path / "download"
    write_tf_folder(folder, "nezha", config, make_weights("nezha", config), vocab)
    path = copy / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["encoder"] = build_encoder(folder, model="nezha", max_tokens=12).description
    manifest["encoder_options"]["name"] = str(folder)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert Rebuilt(copy).encoder.architecture == "nezha"


def test_plain_is_json():
    class Thing:
        pass

    options = {
        "a": 1,
        "b": None,
        "c": Path("x/y"),
        "d": Thing(),
        "e": test_plain_is_json,
        "f": True,
    }
    assert plain(options) == {
        "a": 1,
        "b": None,
        "c": "x/y",
        "d": "Thing",
        "e": "test_plain_is_json",
        "f": True,
    }
    json.dumps(plain(options))
