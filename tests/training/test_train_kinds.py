"""`train` for every kind of encoder; the versions reload in one fresh process and agree."""

import functools
import json
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from toys import tiny_options

from kerasrec.backend import keras, tf
from kerasrec.models.validation import Ranker
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import load_text_encoder
from kerasrec.training.pipeline import Trained, train
from kerasrec.versions import exporter, folders
from kerasrec.versions.graph import ServingModule
from kerasrec.versions.trainingstate import Rebuilt

KINDS = ("none", "vectors", "frozen", "lora", "members")
#: encoders of texts are in many other tests, ids alone too
SLOW = ("frozen", "lora", "none", "members")
OF_KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS]
)


class Made(NamedTuple):
    """trained: `Trained`.  module: the `ServingModule` in memory that was saved."""

    trained: Trained
    module: ServingModule

    @property
    def manifest(self):
        return self.trained.manifest

    @property
    def version(self):
        return self.trained.version


@pytest.fixture(scope="module")
def make(small, tiny_bert_folder, tmp_path_factory):
    """Function of a kind that gives `Made`, trained when it is first asked for."""
    interactions, items = small
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    np.savez(folder / "v.npz", ids=np.array(items.ids, str), vectors=rng.normal(size=(30, 12)))
    encoders = {
        "none": {"name": "none"},
        "vectors": {"name": f"vectors:{folder / 'v.npz'}"},
        "frozen": {"name": str(tiny_bert_folder)},
        "lora": {"name": str(tiny_bert_folder), "mode": "lora"},
        "members": {"name": str(tiny_bert_folder)},
    }
    more = {
        "none": {"sequence": "rnn"},
        "lora": {"loss": "bpr", "interest": "gmf"},
        "members": {"members": 2, "sequence": "hstu"},
    }

    @functools.cache
    def made(kind):
        modules = []
        options = tiny_options(encoders[kind], **more.get(kind, {}))
        given = dict(name=kind, out=folder / "saved_models", options=options, progress=False)
        # compared below, all versions in one fresh process
        with exporter.compared_by(lambda module, *_: modules.append(module)):
            return Made(train(interactions, items, **given), *modules)

    return made


@pytest.fixture(scope="module")
def load(make):
    """Function of a kind that gives its `Recommender`, loaded once."""
    return functools.cache(lambda kind: Recommender.load(make(kind).version))


HISTORIES = [["a,b", "书 籍", "中,文"], ["  spaced  "], [], ["?", "a\u2028b", 'say "hi"', "0"]]
TEXT = "机器学习与大学物理"
#: item indices, buckets of time gaps and event types
TIMED = [[[0, 0, 3, 7], [2, 9, 8, 1]], [[0, 0, 0, 9], [4, 1, 20, 7]], [[0] * 4] * 2]


def check_answers(kind, made, answers):
    """Whether answers (ids and scores of lists, a text's vector, interests of histories with times)
    are those of what was saved."""
    history = tf.constant([[""] * (4 - len(row)) + row for row in HISTORIES])
    with exporter._as_saved():  # the traces of the export are used again
        expected = made.module.serving_default(history)
    expected = {key: value.numpy() for key, value in expected.items()}
    listed = expected["scores"] > -np.inf
    items, scores, vectors, interests = answers
    np.testing.assert_allclose(interests, made.module.interest_rows(*TIMED), atol=1e-5)
    np.testing.assert_allclose(scores, expected["scores"][listed], atol=1e-4)
    assert items == [i.decode() for i in expected["item_ids"][listed]]
    if kind in ("frozen", "lora", "members"):
        tokens = load_text_encoder(made.version / folders.ENCODER).tokenizer
        encoded = made.module.encode_tokens(*map(tf.constant, tokens.encode_batch([TEXT])))
        np.testing.assert_allclose(vectors, encoded, atol=1e-4)
    else:
        assert vectors is False


@OF_KINDS
def test_loaded_versions_answer_as_what_was_saved(make, load, kind):
    recommender = load(kind)
    table = recommender.recommend(HISTORIES, k=30)
    encodes = recommender.manifest["encodes_texts"]
    vectors = encodes and recommender.encode([TEXT])
    interests = recommender.loaded.module.interest_rows(*TIMED)
    answers = (list(table["item_id"]), table["score"].tolist(), vectors, interests)
    check_answers(kind, make(kind), answers)


@pytest.mark.slow
def test_a_fresh_process_agrees(make):
    code = (
        "import json, sys\n"
        "import kerasrec\n"
        "answers = {}\n"
        "for version in sys.argv[2:]:\n"
        "    recommender = kerasrec.Recommender.load(version)\n"
        "    table = recommender.recommend(json.loads(sys.argv[1]), k=30)\n"
        "    answers[recommender.manifest['name']] = [\n"
        "        list(table['item_id']), table['score'].tolist(),\n"
        "        recommender.manifest['encodes_texts']\n"
        f"        and recommender.encode([{TEXT!r}]).tolist(),\n"
        f"        recommender.loaded.module.interest_rows(*{TIMED}).numpy().tolist()]\n"
        "print(json.dumps(answers))\n"
    )
    paths = [str(make(kind).version) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(HISTORIES), *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers.keys() == set(KINDS)
    for kind in KINDS:
        check_answers(kind, make(kind), answers[kind])


@OF_KINDS
def test_rebuild_gives_the_trained_model_back(make, load, kind):
    rebuilt = Rebuilt(make(kind).version)
    model, encoder, state = rebuilt.model, rebuilt.encoder, rebuilt.state
    recommender = load(kind)
    vectors = Ranker(model).item_vectors().numpy()
    np.testing.assert_allclose(
        vectors[1:], recommender.item_vectors(recommender.items.ids), atol=1e-5
    )
    history, gaps, none = np.array(TIMED, np.int32)
    interests = {}
    for name, known in (("timed", gaps), ("timeless", none)):
        interests[name] = model.interest([vectors[history], history, known, none]).numpy()
        found = recommender.loaded.module.interest_rows(history, known, none)
        np.testing.assert_allclose(interests[name], found, atol=1e-5)
    assert np.abs(interests["timed"] - interests["timeless"]).max() > 1e-4
    assert (encoder is None) == (kind == "none")
    if kind in ("frozen", "lora", "members"):
        tokens = encoder.tokenizer.encode_batch([TEXT])
        text = model.text_part(
            (encoder.model(list(tokens)) - state.whitening.mean) @ state.whitening.matrix
        )
        np.testing.assert_allclose(text, recommender.encode([TEXT]), atol=1e-5)


@pytest.mark.slow
def test_lora_trained_its_encoder(make):
    prints = [make(kind).manifest["encoder"]["fingerprint"] for kind in ("lora", "members")]
    assert prints[0] != prints[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_new_texts_with_a_bert_encoder(load, kind):
    recommender = load(kind)
    titles = recommender.items.frame["title"].tolist()
    nearest = recommender.similar(text=titles[:5], k=30)
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    cosine = (
        unit(recommender.encode(titles[:5])[:, :4])
        @ unit(recommender.item_vectors(recommender.items.ids)[:, :4]).T
    )
    best = np.sort(cosine, axis=1)[:, ::-1]
    np.testing.assert_allclose(nearest["score"].to_numpy().reshape(5, 30), best, atol=1e-4)
    text_part = recommender.encode(titles)[:, :4]
    np.testing.assert_allclose(
        text_part, recommender.item_vectors(recommender.items.ids)[:, :4], atol=1e-4
    )


@pytest.mark.slow
def test_new_texts_with_members(make, tmp_path):
    """A new item under the title of an old one: its text part in both members, and no id part."""
    recommender = Recommender.load(shutil.copytree(make("members").version, tmp_path / "m" / "1"))
    ids, titles = list(recommender.items.ids), recommender.items.frame["title"].tolist()
    nearest = recommender.similar(text=titles[4], k=30)
    assert (nearest["item_id"][0], nearest["score"][0]) == (ids[4], pytest.approx(1, abs=1e-5))
    blocks = recommender.item_vectors(ids).reshape(30, 2, 9)[:, :, :4]  # text, id and length
    unit = blocks / np.linalg.norm(blocks, axis=2, keepdims=True)
    cosine = np.einsum("md,nmd->n", unit[4], unit) / 2
    np.testing.assert_allclose(nearest["score"], np.sort(cosine)[::-1], atol=1e-5)
    recommender.add_items(pd.DataFrame({"item_id": ["n1"], "title": titles[4]}))
    new = recommender.item_vectors(["n1"]).reshape(2, 9)
    assert np.linalg.norm(new) == pytest.approx(1, abs=1e-5) and (new[:, 4:8] == 0).all()
    np.testing.assert_allclose(new[:, :4] * 2**0.5, unit[4], atol=1e-5)
    lists = recommender.recommend([["n1"], ids[:3]], k=30)  # 31 items, one or three of them seen
    assert len(lists) == 30 + 28 and "n1" in set(lists["item_id"][30:])
    again = Recommender.load(recommender.save()).recommend([["n1"], ids[:3]], k=30)
    pd.testing.assert_frame_equal(again, lists)


@pytest.mark.parametrize(
    ("kind", "why"),
    [pytest.param("none", "their id alone", marks=pytest.mark.slow), ("vectors", "ready vectors")],
)
def test_texts_without_an_encoder(load, kind, why):
    with pytest.raises(
        ValueError, match=f"cannot encode texts: its items were known by {why}. Train with"
    ):
        load(kind).similar(text=TEXT)
    assert len(load(kind).similar("a,b", k=4)) == 4


def test_add_items_with_ready_vectors(make):
    recommender = Recommender.load(make("vectors").version)
    new = pd.DataFrame({"item_id": ["n1", "n2"], "title": ["甲", "乙"]})
    for bad in (None, np.zeros((2, 3)), np.full((2, 12), np.nan)):
        with pytest.raises(ValueError, match=r"needs vectors of shape \(2, 12\), all finite"):
            recommender.add_items(new, vectors=bad)
    twin = np.load(make("vectors").manifest["encoder_options"]["name"].removeprefix("vectors:"))
    vectors = twin["vectors"][[4, 9]].astype(np.float32)
    assert recommender.add_items(new, vectors=vectors) == 2
    np.testing.assert_allclose(
        recommender.item_vectors(["n1", "n2"])[:, :4],
        recommender.item_vectors(recommender.items.ids[[4, 9]])[:, :4],
        atol=1e-5,
    )


@pytest.mark.slow
def test_add_items_without_any_text_part(make):
    recommender = Recommender.load(make("none").version)
    with pytest.raises(ValueError, match="known by their id alone"):
        recommender.add_items(pd.DataFrame({"item_id": ["n1"], "title": ["甲"]}))


# --- the manifest ---


@pytest.mark.slow
def test_manifest_is_complete(make, small, tiny_bert_folder):
    manifest = make("lora").manifest
    assert manifest == folders.read_manifest(make("lora").version).as_dict()
    assert manifest["name"] == "lora" and manifest["version"] == 1 and manifest["format"] == 2
    assert manifest["preset"] == "balanced" and manifest["validation"] == "last event of each user"
    assert manifest["asked"] == "newest event of the user"
    assert manifest["num_items"] == 30 and manifest["k"] == 30 and manifest["encodes_texts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["created"])
    assert {"kerasrec", "tensorflow", "tf-keras", "bert4keras", "numpy", "python"} == set(
        manifest["packages"]
    )
    assert manifest["encoder"]["kind"] == "bert" and manifest["encoder"]["dim"] == 16
    chosen = {"name": str(tiny_bert_folder), "mode": "lora", "max_tokens": 16, "layers": "all"}
    assert chosen.items() <= manifest["encoder_options"].items()
    assert {"epochs": 1, "learning_rate": 0.01, "optimizer": "adam"}.items() <= manifest[
        "trainer"
    ].items()
    assert {"loss": "bpr", "time_gaps": True, "heads": 2}.items() <= manifest["options"].items()
    data = manifest["data"]
    assert data["interactions"] == len(small[0]) and data["items"] == 30
    assert data["columns"] == {"user_id": "uid", "item_id": "iid", "timestamp": "ts"}
    assert manifest["metrics"] == make("lora").trained.metrics
    assert 0 <= manifest["metrics"]["valid_ndcg@10"] <= 1
    assert len(make("lora").trained.history) == manifest["epochs"] == 1


@pytest.mark.slow
def test_manifest_and_history_of_members(make):
    trained = make("members").trained
    assert trained.manifest["trainer"]["members"] == trained.manifest["options"]["members"] == 2
    assert make("none").manifest["trainer"]["members"] == 1
    assert "members" not in make("none").manifest["options"]
    assert trained.history["member"].tolist() == [1, 2] and trained.manifest["epochs"] == 2
    assert 0 <= trained.metrics["valid_ndcg_of_the_model_alone@10"] <= 1
    assert "member" not in make("none").trained.history


@pytest.mark.slow
def test_a_fit_of_ones_own_becomes_a_version(small, tmp_path):
    """A Keras layer, a loss and an optimizer of the user's; tables and weights come beside them."""
    interactions, items = small
    given = []

    def margin(positive, negative, valid_mask, num_items):
        return tf.reduce_sum(tf.nn.relu(1.0 + negative - positive[:, None]), axis=1)

    def fit(build, histories, validation):
        sequence = keras.layers.Conv1D(8, 2, padding="causal")
        model = build(sequence=sequence, loss=margin)
        model.compile(keras.optimizers.legacy.SGD(0.01))
        run = model.fit(histories, epochs=2, validation_data=validation, verbose=0)
        given.extend([model, run.history])
        return model, run

    options = tiny_options({"name": "tfidf"})
    del options["trainer"]["epochs"]
    trained = train(
        interactions,
        items,
        name="own",
        out=tmp_path,
        options=options,
        fit=fit,
        progress=False,
    )
    model, history = given
    assert list(trained.history["val_ndcg@10"]) == history["val_ndcg@10"]
    assert list(trained.history["epoch"]) == [1, 2]
    about = folders.read_manifest(trained.version).as_dict()
    assert about["options"]["sequence"] == "Conv1D" and about["options"]["loss"] == "margin"
    assert about["fusion"]["weights"] and about["epochs"] == 2
    # the version answers by the weights that fit gave
    recommender = Recommender.load(trained.version)
    vectors = Ranker(model).item_vectors().numpy()
    np.testing.assert_allclose(recommender.loaded.vectors(), vectors, atol=1e-6)
    assert len(recommender.recommend([list(items.ids[:3])], k=4)) == 4
