"""`train` for every kind of encoder; the versions reload in one fresh process and agree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys import histories_of

from kerasrec.backend import keras, tf
from kerasrec.data.interactions import Items, read_interactions
from kerasrec.loop.updating import retrain, update
from kerasrec.models.validation import Ranker, make_validation
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import build_encoder, load_text_encoder
from kerasrec.training import pipeline
from kerasrec.training.pipeline import fingerprint, train
from kerasrec.versions import exporter, folders
from kerasrec.versions.trainingstate import Rebuilt

KINDS = ("none", "vectors", "frozen", "lora", "members")
ODD = [
    "a,b",
    "  spaced  ",
    "书 籍",
    'say "hi"',
    "'",
    "a\u2028b",
    "tab\tbed",
    "#1",
    "-",
    "0",
    "中,文",
]


def options(encoder, *, members=1, **more):
    return {
        "encoder": {"whitening_dim": 8, "max_tokens": 16, **encoder},
        "model": {"text_units": 4, "id_units": 4, "max_length": 8, "scorer_units": 4, **more},
        "trainer": {"epochs": 1, "batch_size": 64, "learning_rate": "1e-2", "members": members},
    }


@pytest.fixture(scope="module")
def small(toy_interactions, toy_items):
    """30 courses and their learners, the courses under odd ids."""
    frame = toy_interactions.frame
    courses = frame["item_id"].value_counts().index[:30]
    frame = frame[frame["item_id"].isin(courses)]
    new = dict(zip(courses, ODD + [f"c{n}" for n in range(30 - len(ODD))], strict=True))
    log = pd.DataFrame(
        {"uid": frame["user_id"], "iid": frame["item_id"].map(new), "ts": frame["timestamp"]}
    )
    table = toy_items.frame[toy_items.frame["item_id"].isin(courses)]
    table = table.assign(item_id=table["item_id"].map(new)).reset_index(drop=True)
    return read_interactions(log.astype(str)), Items(table)


@pytest.fixture(scope="module")
def exported(small, tiny_bert_folder, tmp_path_factory):
    """Kind -> `Trained`, and kind -> the `ServingModule` in memory that was saved."""
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
    modules = []
    more = {
        "none": {"sequence": "rnn"},
        "lora": {"loss": "bpr", "interest": "gmf"},
        "members": {"members": 2, "sequence": "rnn"},
    }
    with pytest.MonkeyPatch.context() as patch:
        # compared below, all versions in one fresh process
        patch.setattr(exporter, "_compare", lambda module, *_: modules.append(module))
        trained = {
            kind: train(
                interactions,
                items,
                name=kind,
                out=folder / "saved_models",
                options=options(encoders[kind], **more.get(kind, {})),
                progress=False,
            )
            for kind in KINDS
        }
    return trained, dict(zip(KINDS, modules, strict=True))


@pytest.fixture(scope="module")
def made(exported):
    """Kind -> `Trained`."""
    return exported[0]


@pytest.fixture(scope="module")
def loaded(made):
    return {kind: Recommender.load(trained.version.parent) for kind, trained in made.items()}


HISTORIES = [["a,b", "书 籍", "中,文"], ["  spaced  "], [], ["?", "a\u2028b", 'say "hi"', "0"]]
TEXT = "机器学习与大学物理"


def test_a_fresh_process_agrees(made, exported):
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
        f"        and recommender.encode([{TEXT!r}]).tolist()]\n"
        "print(json.dumps(answers))\n"
    )
    paths = [str(trained.version) for trained in made.values()]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(HISTORIES), *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    history = tf.constant([[""] * (4 - len(row)) + row for row in HISTORIES])
    for kind, module in exported[1].items():
        expected = {key: value.numpy() for key, value in module.serving_default(history).items()}
        listed = expected["scores"] > -np.inf
        items, scores, vectors = answers[kind]
        np.testing.assert_allclose(scores, expected["scores"][listed], atol=1e-4)
        assert items == [i.decode() for i in expected["item_ids"][listed]]
        if kind in ("frozen", "lora", "members"):
            tokens = load_text_encoder(made[kind].version / folders.ENCODER).tokenizer
            encoded = module.encode_tokens(*map(tf.constant, tokens.encode_batch([TEXT])))
            np.testing.assert_allclose(vectors, encoded, atol=1e-4)
        else:
            assert vectors is False


@pytest.mark.parametrize("kind", KINDS)
def test_rebuild_gives_the_trained_model_back(made, loaded, kind):
    rebuilt = Rebuilt(made[kind].version)
    model, encoder, state = rebuilt.model, rebuilt.encoder, rebuilt.state
    recommender = loaded[kind]
    vectors = Ranker(model).item_vectors().numpy()
    np.testing.assert_allclose(
        vectors[1:], recommender.item_vectors(recommender.items.ids), atol=1e-5
    )
    history = np.array([[0, 0, 3, 7], [2, 9, 9, 1]], np.int32)
    none = np.zeros_like(history)
    np.testing.assert_allclose(
        model.interest([vectors[history], history, none, none]),
        recommender._module.interest_rows(history, none, none),
        atol=1e-5,
    )
    assert (encoder is None) == (kind == "none")
    if kind in ("frozen", "lora", "members"):
        tokens = encoder.tokenizer.encode_batch([TEXT])
        text = model.text_part(
            (encoder.model(list(tokens)) - state.whitening.mean) @ state.whitening.matrix
        )
        np.testing.assert_allclose(text, recommender.encode([TEXT]), atol=1e-5)


def test_lora_trained_its_encoder(made, loaded):
    assert (
        made["lora"].manifest["encoder"]["fingerprint"]
        != made["frozen"].manifest["encoder"]["fingerprint"]
    )


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_new_texts_with_a_bert_encoder(loaded, kind):
    recommender = loaded[kind]
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


def test_new_texts_with_members(made):
    """A new item under the title of an old one: its text part in both members, and no id part."""
    recommender = Recommender.load(made["members"].version)
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
    ("kind", "why"), [("none", "their id alone"), ("vectors", "ready vectors")]
)
def test_texts_without_an_encoder(loaded, kind, why):
    with pytest.raises(
        ValueError, match=f"cannot encode texts: its items were known by {why}. Train with"
    ):
        loaded[kind].similar(text=TEXT)
    assert len(loaded[kind].similar("a,b", k=4)) == 4


def test_add_items_with_ready_vectors(made):
    recommender = Recommender.load(made["vectors"].version)
    new = pd.DataFrame({"item_id": ["n1", "n2"], "title": ["甲", "乙"]})
    for bad in (None, np.zeros((2, 3)), np.full((2, 12), np.nan)):
        with pytest.raises(ValueError, match=r"needs vectors of shape \(2, 12\), all finite"):
            recommender.add_items(new, vectors=bad)
    twin = np.load(made["vectors"].manifest["encoder_options"]["name"].removeprefix("vectors:"))
    vectors = twin["vectors"][[4, 9]].astype(np.float32)
    assert recommender.add_items(new, vectors=vectors) == 2
    np.testing.assert_allclose(
        recommender.item_vectors(["n1", "n2"])[:, :4],
        recommender.item_vectors(recommender.items.ids[[4, 9]])[:, :4],
        atol=1e-5,
    )


def test_add_items_without_any_text_part(made):
    recommender = Recommender.load(made["none"].version)
    with pytest.raises(ValueError, match="known by their id alone"):
        recommender.add_items(pd.DataFrame({"item_id": ["n1"], "title": ["甲"]}))


# --- the manifest ---


def test_manifest_is_complete(made, small, tiny_bert_folder):
    manifest = made["lora"].manifest
    assert manifest == folders.read_manifest(made["lora"].version)
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
    assert manifest["metrics"] == made["lora"].metrics
    assert 0 <= manifest["metrics"]["valid_ndcg@10"] <= 1
    assert len(made["lora"].history) == manifest["epochs"] == 1


def test_manifest_and_history_of_members(made):
    trained = made["members"]
    assert trained.manifest["trainer"]["members"] == trained.manifest["options"]["members"] == 2
    assert made["frozen"].manifest["trainer"]["members"] == 1
    assert "members" not in made["frozen"].manifest["options"]
    assert trained.history["member"].tolist() == [1, 2] and trained.manifest["epochs"] == 2
    assert 0 <= trained.metrics["valid_ndcg_of_the_model_alone@10"] <= 1
    assert "member" not in made["frozen"].history


@pytest.mark.slow
def test_refit_of_members_goes_on_in_their_run_folders(small, tmp_path):
    given = options({"name": "none"}, members=2, sequence="rnn")
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
    given = options({"name": "tfidf"})
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
    assert folders.read_manifest(anew)["trainer"]["codes"] is True
    assert folders.read_manifest(anew)["num_items"] == 83


def test_fingerprint_changes_with_the_data(small):
    interactions, items = small
    same = fingerprint(interactions, items)["sha256"]
    assert fingerprint(interactions, items)["sha256"] == same
    fewer = interactions.replace(interactions.frame[1:])
    assert fingerprint(fewer, items)["sha256"] != same
    other = Items(items.frame.assign(title=items.frame["title"][::-1].to_numpy()))
    assert fingerprint(interactions, other)["sha256"] != same


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
    given = options(
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


# --- mistakes are found before the work ---


def test_a_time_in_the_future_is_worth_a_warning(caplog):
    log = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": "2024-01-01"})
    pipeline._check_times(read_interactions(log), None)
    assert not caplog.text
    log.loc[1, "timestamp"] = "2096-01-01"
    pipeline._check_times(read_interactions(log), None)
    assert "The newest event is of 2096-01-01 00:00:00, in the future" in caplog.text


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
    from kerasrec.training.pipeline import _check_not_known

    with caplog.at_level("WARNING"):
        _check_not_known(make_validation(train, valid))
    assert "4 of 5 validation events name an item that their user has already" in caplog.text
    with pytest.raises(ValueError, match="Received: 2 of 2 validation events"):
        _check_not_known(make_validation(train, histories_of([[1], [2]])))


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


# --- Plans ---

TINY_GENERATOR = {
    **{"levels": 1, "max_items": 6, "units": 8, "num_blocks": 1, "heads": 2},
    **{"epochs": 1, "batch_size": 64},
}


def train_plans(interactions, items, out, given):
    return train(
        interactions,
        items,
        name="plans",
        out=out,
        options={**given, "fusion": {"parts": []}, "generator": TINY_GENERATOR},
        generator=True,
        progress=False,
    )


def check_plans(recommender):
    """Plans of what is not in the histories, also far longer ones than the decoder reads."""
    ids = list(recommender.items.ids)
    histories = {"few": ids[:3], "none": [], "long": ids[:26], "longer": ids[2:25] * 9 + ids[:1]}
    found = recommender.generate(histories, 3, 8, num_lists=2)
    for (user, _), plan in found.groupby(["user_id", "list"]):
        assert len(set(plan["item_id"])) == 3 and not set(plan["item_id"]) & set(histories[user])
    assert len(found) == 4 * 2 * 3 and np.isfinite(found["log_probability"]).all()


def test_refit_with_a_generator_is_refused_before_the_work(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "text_part", None)  # what would be called next
    with pytest.raises(ValueError) as raised:
        train(*small, name="m", out=tmp_path, refit=True, generator=True, progress=False)
    assert str(raised.value) == (
        "refit trains the model anew on what the generator is weighed by. Give refit or "
        "generator, not both."
    )


@pytest.mark.slow
def test_a_generator_for_an_average_of_two_models_without_texts(small, tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrec.training.generating.TRUSTS", ((0.5, 0.5),))
    trained = train_plans(*small, tmp_path, options({"name": "none"}, members=2))
    recommender = Recommender.load(trained.version)
    check_plans(recommender)
    facts = trained.manifest
    assert facts["trainer"]["members"] == 2
    assert facts["generator_options"]["units"] == 8 and facts["generator_options"]["dropout"] == 0.2
    known = facts["generator"]["options"]
    assert (known["max_items"], known["num_items"]) == (6, 30)
    # the vectors of both members, and of neither is anything known of a new item
    assert known["dim"] == 2 * (4 + 1) == len(recommender.plans.ids.known)
    assert not recommender.plans.ids.known.any()


def test_items_too_alike_for_codes_give_a_version_without_a_generator(small, tmp_path, caplog):
    """Of 30 courses 26 have one title, and there is no id part to tell them apart."""
    interactions, items = small
    frame = items.frame.assign(title="大学英语")
    frame.loc[:3, "title"] = items.frame["title"][:4]
    given = options({"name": "tfidf"}, id_units=0)
    trained = train_plans(interactions, Items(frame), tmp_path, given)
    facts = trained.manifest
    assert facts["plans"].keys() == {"refused"} and facts["generator"] is None
    assert facts["plans"]["refused"].startswith("The semantic ids have collapsed: the first level")
    (warning,) = [r.getMessage() for r in caplog.records if "generator of plans." in r.getMessage()]
    assert warning == "the version comes without a generator of plans. " + facts["plans"]["refused"]
    assert "generate" not in facts["signatures"] and "recommend" in facts["signatures"]
    assert not (trained.version / folders.GENERATOR).exists()
    assert facts["generator_options"]["units"] == 8  # the next version tries again
    recommender = Recommender.load(trained.version)
    assert len(recommender.recommend([list(items.ids[:2])], k=5)) == 5
    with pytest.raises(ValueError, match="This version generates no plans"):
        recommender.generate([[]])
    assert "## Plans" not in (trained.version / exporter.CARD).read_text(encoding="utf-8")
