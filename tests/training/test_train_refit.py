"""`train` with refit, with codes and from files: what is learnt from, twice or once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys import tiny_options

from kerasrec.backend import keras, tf
from kerasrec.data.interactions import Items
from kerasrec.data.statistics import fingerprint
from kerasrec.loop.updating import retrain, update
from kerasrec.models.validation import Ranker
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import build_encoder
from kerasrec.training.pipeline import train
from kerasrec.versions import folders
from kerasrec.versions.trainingstate import Rebuilt


@pytest.mark.slow
def test_refit_of_members_goes_on_in_their_run_folders(small, tmp_path):
    given = tiny_options({"name": "none"}, members=2, sequence="rnn")
    given["trainer"]["run_folder"] = str(tmp_path / "run")
    runs = [
        train(*small, name="m", out=tmp_path, options=given, refit=True, progress=False)
        for _ in range(2)
    ]
    assert sorted(
        path.parent.relative_to(tmp_path / "run") for path in tmp_path.glob("run/**/state.json")
    ) == sorted(Path(name) for name in ("member-1", "member-2", "refit/member-1", "refit/member-2"))
    pd.testing.assert_frame_equal(runs[0].history, runs[1].history)  # read, not trained again
    vectors = [Recommender.load(r.version).item_vectors(small[1].ids) for r in runs]
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.slow
def test_a_version_of_items_with_codes(toy_interactions, toy_items, tmp_path):
    """Trained, loaded, told of new items, updated, trained anew."""
    given = tiny_options({"name": "tfidf"})
    given["trainer"] |= {"codes": True, "epochs": 3, "learning_rate": 3e-3}
    new = toy_items.frame["item_id"].tolist()[-2:]  # nobody has taken them
    log = toy_interactions.frame.sort_values("timestamp")
    old, late = (toy_interactions.replace(part) for part in (log[:-60], log[-60:]))
    trained = train(old, toy_items, name="m", out=tmp_path, options=given, progress=False)
    facts = trained.manifest["codes"]
    assert facts["taken"] and facts["with"] - facts["without"] > facts["se"]
    known = trained.manifest["options"]
    assert len(known["code_sizes"]) == 8 and known["code_units"] == 64
    assert trained.manifest["trainer"]["codes"] is True
    recommender = Recommender.load(trained.version)
    vectors = recommender.item_vectors(toy_items.ids)
    rebuilt = Rebuilt(trained.version)
    assert vectors.shape == (82, 4 + 4 + 64) and np.abs(vectors[:, 8:]).max(axis=1).min() > 0
    np.testing.assert_allclose(Ranker(rebuilt.model).item_vectors()[1:], vectors, atol=1e-5)
    more = pd.DataFrame({"item_id": ["n1"], "title": toy_items.frame["title"][:1]})
    recommender.add_items(more)
    added = recommender.item_vectors(["n1"])
    assert np.abs(added[:, :4]).max() > 0 and not added[:, 4:].any()
    listed = recommender.recommend([["n1"], new], k=5)
    grown = Items(pd.concat([toy_items.frame, more], ignore_index=True))
    whole = toy_interactions.replace(log)
    updated = update(trained.version.parent, whole, grown, force=True)
    child = Recommender.load(updated.version)
    assert updated.events == len(late) and child.manifest["num_items"] == 83
    assert not child.item_vectors(["n1"])[:, 8:].any()
    assert np.abs(child.item_vectors(toy_items.ids) - vectors).max() > 1e-4
    assert len(child.recommend([["n1"], new], k=5)) == len(listed)
    anew = retrain(trained.version.parent, whole, grown).version
    assert folders.read_manifest(anew).trainer["codes"] is True
    assert folders.read_manifest(anew).num_items == 83


def test_fingerprint_changes_with_the_data(small):
    interactions, items = small
    same = fingerprint(interactions, items)["sha256"]
    assert fingerprint(interactions, items)["sha256"] == same
    fewer = interactions.replace(interactions.frame[1:])
    assert fingerprint(fewer, items)["sha256"] != same
    other = Items(items.frame.assign(title=items.frame["title"][::-1].to_numpy()))
    assert fingerprint(interactions, other)["sha256"] != same


@pytest.mark.slow
def test_refit_learns_from_what_was_held_out(tmp_path):
    """Item 9 is chosen in the events to validate on only."""
    start = 1_400_000_000
    rows = [
        (f"u{n}", f"i{1 + (n + k) % 8}", start + 1000 * n + k) for n in range(40) for k in range(4)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    valid = pd.DataFrame(
        {"user_id": [f"u{n}" for n in range(40)], "item_id": "i9", "timestamp": start + 10**6}
    )
    items = pd.DataFrame(
        {"item_id": [f"i{n}" for n in range(1, 11)], "title": list("甲乙丙丁戊己庚辛壬癸")}
    )
    options = {
        "encoder": {"name": "none"},
        "model": {"id_units": 8, "scorer_units": 4, "max_length": 8},
        "trainer": {"epochs": 2},
    }
    found = {}
    for refit in (False, True):
        trained = train(
            log,
            items,
            name=f"m{refit}",
            valid=valid,
            out=tmp_path,
            options=options,
            refit=refit,
            progress=False,
        )
        assert trained.manifest["refit"] is refit
        assert trained.manifest["asked"] == "end of the log"
        assert len(trained.history) == 2  # the epochs that were chosen from
        found[refit] = Recommender.load(trained.version)
        # one moment, the end of the log: the time of a question makes no difference
        module = tf.saved_model.load(str(trained.version))
        none = tf.constant([[""]])
        served = module.signatures["recommend"](
            history=tf.constant([["i1", "i2"]]),
            timestamps=tf.constant([[start, start + 60]], tf.int64),
            allow=none,
            deny=none,
            keep_seen=tf.constant([False]),
        )
        gaps = pd.DataFrame({"user_id": "u", "item_id": ["i1", "i2"]})
        gaps["timestamp"] = [start, start + 60]
        lists = found[refit].recommend(gaps, k=7)
        assert [i.decode() for i in served["item_ids"][0].numpy()[:7]] == list(lists["item_id"])
        np.testing.assert_allclose(served["scores"][0][:7], lists["score"], atol=1e-4)
    vectors = [model.item_vectors(["i1", "i9"]) for model in found.values()]
    assert np.abs(vectors[0] - vectors[1]).max(axis=1).min() > 1e-3
    assert found[False].manifest["metrics"] == found[True].manifest["metrics"]


@pytest.mark.slow
def test_refit_begins_with_the_pretrained_encoder_again(small, tiny_bert_folder, tmp_path):
    """The first fit moves the encoder, the second one does not learn: as if nothing had been."""
    variables = []  # of each fit

    class Noting(keras.optimizers.legacy.SGD):
        def apply_gradients(self, grads_and_vars, **more):
            pairs = list(grads_and_vars)
            variables.append([variable for _, variable in pairs])
            return super().apply_gradients(pairs, **more)

    rates = iter([0.5, 0.0])
    given = tiny_options(
        {"name": str(tiny_bert_folder), "mode": "finetune", "cache": False}, sequence="rnn"
    )
    given["trainer"]["optimizer"] = lambda _: Noting(next(rates))
    trained = train(*small, name="m", out=tmp_path, options=given, refit=True, progress=False)
    pretrained = build_encoder(tiny_bert_folder, max_tokens=16)
    matrices = [w.numpy() for w in pretrained.model.weights if len(w.shape) == 2]
    moved, still = ([variable.numpy() for variable in fit] for fit in variables)
    places = [[np.array_equal(value, old) for value in still].index(True) for old in matrices]
    assert len(set(places)) == len(matrices) > 10
    changes = [np.abs(moved[n] - old).max() for n, old in zip(places, matrices, strict=True)]
    assert max(changes) > 1e-3
    assert trained.manifest["encoder"]["fingerprint"] == pretrained.fingerprint
    texts = ["机器学习", "经济学原理"]
    tokens = pretrained.tokenizer.encode_batch(texts)
    rebuilt = Rebuilt(trained.version)
    model, state = rebuilt.model, rebuilt.state
    text = model.text_part(
        (pretrained.model(list(tokens)) - state.whitening.mean) @ state.whitening.matrix
    )
    np.testing.assert_allclose(Recommender.load(trained.version).encode(texts), text, atol=1e-5)


@pytest.mark.slow
def test_train_takes_what_the_readers_take(tmp_path):
    ids = list("abcd")
    log = pd.DataFrame([(user, item) for user in range(6) for item in ids])
    log.columns = ["user", "item"]
    log.to_csv(tmp_path / "log.csv", index=False)
    items = pd.DataFrame({"item": ids, "title": ids})
    options = {
        "encoder": {"name": "none"},
        "model": {"id_units": 4, "scorer_units": 2},
        "trainer": {"epochs": 1},
    }
    some = dict(name="m", out=tmp_path, options=options, progress=False)
    assert train(tmp_path / "log.csv", items, **some).manifest["data"]["interactions"] == 24
