"""The signature `generate` of a version with a generator, called as TensorFlow Serving calls it."""

import numpy as np
import pandas as pd
import pytest
from manifests import real_manifest

from kerasrec.backend import keras, tf
from kerasrec.data.interactions import Items
from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.recency import AT_NEWEST_EVENT
from kerasrec.generation.decoder import build_decoder
from kerasrec.generation.generator import Generator
from kerasrec.models.build import build_model
from kerasrec.models.codes import fit_semantic_ids
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders
from kerasrec.versions.exporter import serving_module
from kerasrec.versions.plangraph import BEAMS, PLAN_ITEMS, _counts
from kerasrec.versions.warmup import read_signatures, read_warmup


@pytest.fixture(scope="module")
def served(planning_version):
    return tf.saved_model.load(str(planning_version / "1"))


@pytest.fixture(scope="module")
def recommender(planning_version):
    return Recommender.load(planning_version)


@pytest.fixture(scope="module")
def ids(recommender):
    return list(recommender.items.ids)


def rows(histories):
    width = max(len(history) for history in histories)
    return tf.constant([list(row) + [""] * (width - len(row)) for row in histories], tf.string)


def generate(served, histories, *, temperature=0.0, top_p=1.0, seed=0, **inputs):
    """Item ids and log-probabilities of the plans."""
    history, count = rows(histories), len(histories)
    none = tf.zeros((count, 0), tf.string)
    given = {
        "history": history,
        "timestamps": tf.zeros(history.shape, tf.int64),
        "allow": none,
        "deny": none,
        "temperature": tf.constant(np.full(count, temperature, np.float32)),
        "top_p": tf.fill([count], float(top_p)),
        "seed": tf.range(count) + seed,
    }
    given |= {name: tf.constant(value) for name, value in inputs.items()}
    answer = served.signatures["generate"](**given)
    found = [[i.decode() for i in row] for row in answer["item_ids"].numpy()]
    return found, answer["log_probabilities"].numpy()


def test_the_signature_is_listed_and_warmed_up(planning_version):
    version = planning_version / "1"
    inputs, outputs = read_signatures(version)["generate"]
    assert set(inputs) == {
        *("history", "timestamps", "allow", "deny"),
        *("temperature", "top_p", "seed"),
    }
    assert set(outputs) == {"item_ids", "log_probabilities"}
    assert "generate" in folders.read_manifest(version).signatures
    requests = dict(read_warmup(version))
    assert requests["generate"]["temperature"].tolist() == [0.0]


def test_plans_of_the_signature_are_those_of_the_recommender(served, recommender, ids):
    histories = [ids[:3], [], ids[10:40], [ids[70], "?"], ["?"]]
    found, logs = generate(served, histories)
    table = recommender.generate(histories, PLAN_ITEMS, BEAMS)
    for user, part in table.groupby("user_id"):
        assert part["item_id"].tolist() == found[user]
        np.testing.assert_allclose(part["log_probability"], logs[user], atol=1e-4)
    assert table["user_id"].nunique() == 5 and len(found[0]) == PLAN_ITEMS


def test_an_item_that_is_not_known_and_blanks_change_nothing(served, ids):
    plain, _ = generate(served, [ids[:3]])
    for history in ([*ids[:3], "", ""], ["", ids[0], "?", ids[1], ids[2]]):
        assert generate(served, [history])[0] == plain


def test_nothing_seen_is_planned(served, ids):
    found, logs = generate(served, [ids[:79], ids[2:], ids])
    assert set(found[0]) - {""} == set(ids[79:]) and found[0][3:] == ["", ""]
    assert set(found[1]) - {""} == set(ids[:2]) and found[1][2:] == [""] * 3
    assert found[2] == [""] * 5 and (logs[2] == -np.inf).all()
    assert (logs[0][:3] > -np.inf).all() and (logs[0][3:] == -np.inf).all()


def test_allow_and_deny(served, ids):
    found, _ = generate(
        served,
        [ids[:2], ids[:2], ids[:2], []],
        allow=[[ids[5], ids[9], ids[0]], ["", "", ""], ["?", "", ""], [ids[9], "?", ids[5]]],
        deny=[[ids[9], ""], [ids[7], "?"], ["", ""], [ids[5], ""]],
    )
    assert [[i for i in found[row] if i] for row in (0, 2, 3)] == [[ids[5]], [], [ids[9]]]
    assert ids[7] not in found[1] and all(found[1])
    denied, _ = generate(served, [ids[:2]], deny=[found[1]])
    assert not set(denied[0]) & set(found[1])


def test_drawn_plans_of_the_signature(served, ids):
    found, logs = generate(served, [ids[:3]] * 6, temperature=1.0)
    assert len({tuple(plan) for plan in found}) > 1
    again, _ = generate(served, [ids[:3]] * 6, temperature=1.0)
    assert again == found and (logs < 0).all()
    for plan in found:
        assert len(set(plan)) == 5 and not set(plan) & set(ids[:3])
    # rows are what they are alone: row r has the seed seed + r
    assert generate(served, [ids[:3]], temperature=1.0, seed=4)[0][0] == found[4]
    searched, _ = generate(served, [ids[:3]])
    mixed, _ = generate(served, [ids[:3]] * 2, temperature=[0.0, 1.0])
    assert mixed == [searched[0], found[1]]


def test_an_empty_batch(served):
    found, logs = generate_nothing(served)
    assert found.shape == logs.shape == (0, 5)


def generate_nothing(served):
    none = tf.zeros((0, 3), tf.string)
    answer = served.signatures["generate"](
        history=none,
        timestamps=tf.zeros((0, 3), tf.int64),
        allow=none,
        deny=none,
        temperature=tf.zeros(0),
        top_p=tf.zeros(0),
        seed=tf.zeros(0, tf.int32),
    )
    return answer["item_ids"], answer["log_probabilities"]


def test_counts_by_hand():
    found = _counts(tf.constant([[1, 3, 3], [0, 2, 1]]), 5).numpy()
    assert found.tolist() == [[0, 1, 0, 2, 0], [1, 1, 1, 0, 0]]
    assert not _counts(tf.zeros((2, 0), tf.int32), 3).numpy().any()


# --- by the recommender alone ---


@pytest.fixture(scope="module")
def by_scores(tmp_path_factory):
    """A Recommender in memory of 150 items whose MLP turns them about, with trust in it alone."""
    keras.utils.set_random_seed(0)
    num_items, rng = 150, np.random.default_rng(0)
    ids = [f"i{number}" for number in range(num_items)]
    model = build_model(num_items, id_units=8, max_length=10, scorer_units=4)
    model.scorer.output_kernel.assign(rng.normal(size=(4, 1)))
    # or shares would differ by more than e^30, which rounding does not tell apart
    model.loss.log_temperature.assign(np.log(0.2))
    vectors = model.item_vectors(np.arange(1, num_items + 1)).numpy()
    codes = fit_semantic_ids(vectors, levels=1)
    options = dict(max_items=12, units=4, num_blocks=1, heads=1)
    decoder = build_decoder(codes.codes, codes.sizes, vectors, **options)
    generator = Generator(codes, decoder, trust=0.0, prior=1.0)
    popular = rng.normal(size=num_items + 1).astype(np.float32)
    fusion = Fusion.alone(num_items)._replace(scorer_weight=2.0, popular=popular)
    asset = tmp_path_factory.mktemp("ids") / folders.ITEM_IDS.name
    folders.write_item_ids(asset, ids)
    module = serving_module(model, asset=asset, fusion=fusion, k=1, generator=generator)
    items = Items(pd.DataFrame({"item_id": ids, "title": ids}))
    facts = real_manifest(asked=AT_NEWEST_EVENT, num_items=num_items)
    return Recommender.in_memory(module, items, fusion.recency, facts)


def lists_of(table):
    """User -> item ids in their order."""
    return {user: rows["item_id"].tolist() for user, rows in table.groupby("user_id")}


def test_without_the_decoder_plans_are_the_reranked_lists(by_scores):
    ids = list(by_scores.items.ids)
    histories = {"a": ids[:3], "b": ids[30:33], "none": [], "many": ids[:60]}
    listed = by_scores.recommend(histories, k=150)
    expected = lists_of(listed)
    assert [len(expected[user]) for user in histories] == [147, 147, 150, 90]
    # lists of one item, one for each item that is left; behind the first 100 nothing is re-ranked
    assert lists_of(by_scores.generate(histories, 1, 256, num_lists=150)) == expected
    # it is not the order without the MLP, and some of the others are held down
    module = by_scores.loaded.module
    module.scorer_weight.assign(0.0)
    plain = lists_of(by_scores.recommend(histories, k=150))
    assert lists_of(by_scores.generate(histories, 1, 256, num_lists=150)) == plain
    module.scorer_weight.assign(2.0)
    assert plain["a"] != expected["a"] and plain["none"] == expected["none"]
    scores = listed[listed["user_id"] == "b"]["score"].to_numpy()
    assert (scores[100:] == scores[99]).any() and scores[0] - scores[-1] < 20


def test_without_the_decoder_a_plan_is_the_start_of_a_list(by_scores):
    ids = list(by_scores.items.ids)
    histories = {"a": ids[:3], "b": ids[30:33], "none": []}
    expected = lists_of(by_scores.recommend(histories, k=5))
    assert lists_of(by_scores.generate(histories, 5, 64)) == expected
    few = ids[40:50]
    expected = lists_of(by_scores.recommend(histories, k=5, candidates=few))
    assert lists_of(by_scores.generate(histories, 5, 64, candidates=few)) == expected
