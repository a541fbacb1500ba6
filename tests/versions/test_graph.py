"""The signatures of the exported toy version, called as TensorFlow Serving calls them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.backend import tf
from kerasrec.data.histories import gap_buckets, pad_left
from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import KINDS, log_shares
from kerasrec.models.build import build_model
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions.graph import ServingModule, gap_bucket

SECONDS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 40).map(lambda power: 2**power),
    st.integers(0, 40).map(lambda power: 2**power - 1),
    st.integers(0, 40).map(lambda power: max(2**power - 2, 0)),
    st.integers(0, 2**33),
)


@pytest.fixture(scope="module")
def recommender(exported_version):
    return Recommender.load(exported_version)


@pytest.fixture(scope="module")
def served(exported_version):
    return tf.saved_model.load(str(exported_version / "1"))


@pytest.fixture(scope="module")
def ids(recommender):
    return list(recommender.items.ids)


def call(served, name, **inputs):
    """Outputs of a signature as numpy arrays, ids as str."""
    given = {
        key: value if isinstance(value, tf.Tensor) else tf.constant(value)
        for key, value in inputs.items()
    }
    answer = {}
    for key, value in served.signatures[name](**given).items():
        value = value.numpy()
        is_text = value.dtype == object
        answer[key] = (
            np.array([i.decode() for i in value.flat]).reshape(value.shape) if is_text else value
        )
    return answer


def rows(histories):
    width = max(len(history) for history in histories)
    padded = [list(history) + [""] * (width - len(history)) for history in histories]
    return tf.constant(padded, tf.string)


def recommend(served, histories, **inputs):
    """The signature `recommend` with everything optional left empty."""
    history = rows(histories)
    batch = len(histories)
    none = tf.zeros((batch, 0), tf.string)
    defaults = {
        "timestamps": tf.zeros(history.shape, tf.int64),
        "allow": none,
        "deny": none,
        "keep_seen": tf.fill([batch], False),
    }
    return call(served, "recommend", history=history, **{**defaults, **inputs})


# --- names ---


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("serving_default", {"history": "string 2"}, {"item_ids": "string", "scores": "float32"}),
        (
            "recommend",
            {
                "history": "string 2",
                "timestamps": "int64 2",
                "allow": "string 2",
                "deny": "string 2",
                "keep_seen": "bool 1",
            },
            {"item_ids": "string", "scores": "float32"},
        ),
        ("interest", {"history": "string 2"}, {"interest": "float32"}),
        ("score", {"history": "string 2", "candidates": "string 2"}, {"scores": "float32"}),
        ("similar", {"item_ids": "string 1"}, {"item_ids": "string", "scores": "float32"}),
        ("item_vectors", {"item_ids": "string 1"}, {"vectors": "float32"}),
    ],
)
def test_signature_names(served, name, inputs, outputs):
    signature = served.signatures[name]
    given = {
        k: f"{s.dtype.name} {s.shape.rank}"
        for k, s in signature.structured_input_signature[1].items()
    }
    assert given == inputs
    assert {k: s.dtype.name for k, s in signature.structured_outputs.items()} == outputs
    assert signature.structured_outputs[next(iter(outputs))].shape.rank == 2


# --- histories of every shape ---


@pytest.mark.parametrize("name", ["serving_default", "interest", "score"])
def test_blanks_and_unknown_ids_change_nothing(served, ids, name):
    a, b, c = ids[3], ids[40], ids[7]
    more = {"candidates": rows([ids[:5]])} if name == "score" else {}
    plain = call(served, name, history=[[a, b, c]], **more)
    for history in (
        [a, b, c, "", ""],
        ["", "", a, b, c],
        ["", a, "", "", b, "no such item", c, ""],
    ):
        other = call(served, name, history=[history], **more)
        for key, value in plain.items():
            if value.dtype.kind == "U":
                assert (other[key] == value).all()
            else:
                np.testing.assert_allclose(other[key], value, atol=1e-5)


def test_order_of_a_history_matters(served, ids):
    there = call(served, "interest", history=[[ids[3], ids[40]]])["interest"]
    back = call(served, "interest", history=[[ids[40], ids[3]]])["interest"]
    assert np.abs(there - back).max() > 1e-3


def test_a_batch_answers_as_its_rows_alone(served, ids):
    histories = [ids[:1], [], ids[5:25], ["?", ids[2]], ids[:60], ["?"]]
    together = call(served, "serving_default", history=rows(histories))
    for number, history in enumerate(histories):
        alone = call(served, "serving_default", history=rows([history, []]))
        assert (alone["item_ids"][0] == together["item_ids"][number]).all()
        np.testing.assert_allclose(alone["scores"][0], together["scores"][number], atol=1e-5)


def test_nothing_known_is_answered_by_what_is_popular_now(served, recommender, ids):
    popular = recommender._knowledge.recency.priors()[1][-1]
    expected = np.argsort(-popular[1:], kind="stable")[:50]
    for history in (tf.zeros((2, 0), tf.string), [[""], ["?"]], [["", ""], ["", "?"]]):
        answer = call(served, "serving_default", history=history)
        assert answer["item_ids"].tolist() == [[ids[i] for i in expected]] * 2
        np.testing.assert_allclose(answer["scores"][0], popular[1:][expected], rtol=1e-6)
        assert not call(served, "interest", history=history)["interest"].any()  # of any width
    scores = call(served, "score", history=[[""]], candidates=[[ids[0], "?", ids[1]]])["scores"][0]
    np.testing.assert_allclose(scores[[0, 2]], popular[1:3])
    assert scores[1] == -np.inf


def test_an_empty_batch(served):
    answer = call(served, "serving_default", history=tf.zeros((0, 3), tf.string))
    assert answer["item_ids"].shape == answer["scores"].shape == (0, 50)


def test_only_the_newest_events_reach_the_interest(served, ids):
    history = (ids * 2)[:100]
    long = call(served, "interest", history=[history])["interest"]
    newest = call(served, "interest", history=[history[-20:]])["interest"]  # max_length of toy
    np.testing.assert_allclose(long, newest, atol=1e-5)
    seen = call(served, "serving_default", history=[ids[:60]])
    listed = [i for i in seen["item_ids"][0] if i]
    assert not set(listed) & set(ids[:60]) and len(listed) == len(ids) - 60
    assert (seen["scores"][0][len(listed) :] == -np.inf).all()


def test_interest_has_unit_length(served, ids):
    interest = call(served, "interest", history=rows([ids[:3], [], ids[:50]]))["interest"]
    np.testing.assert_allclose(np.linalg.norm(interest[[0, 2]], axis=1), 1, atol=1e-5)


# --- the lists of `recommend` ---


def test_recommend_without_wishes_is_serving_default(served, ids):
    histories = [ids[:4], [], ids[9:10]]
    plain = call(served, "serving_default", history=rows(histories))
    answer = recommend(served, histories)
    assert (answer["item_ids"] == plain["item_ids"]).all()
    np.testing.assert_allclose(answer["scores"], plain["scores"], atol=1e-5)


def test_allow_and_deny(served, ids):
    answer = recommend(
        served,
        [ids[:2], ids[:2], ids[:2], []],
        allow=[[ids[5], ids[9], ids[0]], ["", "", ""], ["?", "", ""], [ids[9], "?", ids[5]]],
        deny=[[ids[9], ""], [ids[7], "?"], ["", ""], [ids[5], ""]],
    )["item_ids"]
    assert [[i for i in row if i] for row in answer[[0, 2, 3]]] == [[ids[5]], [], [ids[9]]]
    assert ids[7] not in answer[1] and (answer[1] != "").all()


def test_keep_seen(served, ids):
    answer = recommend(served, [ids[:2], ids[:2]], keep_seen=[True, False], allow=[ids[:3]] * 2)
    assert set(answer["item_ids"][0][:3]) == set(ids[:3])
    assert [i for i in answer["item_ids"][1] if i] == [ids[2]]


def test_timestamps_follow_their_items(served, ids):
    history = [ids[3], ids[40], ids[7]]
    times = [1_400_000_000, 1_400_000_005, 1_450_000_000]
    plain = recommend(served, [history], timestamps=tf.constant([times], tf.int64))
    spread = recommend(
        served,
        [["", history[0], "?", history[1], "", history[2]]],
        timestamps=tf.constant([[9, times[0], 1_400_000_001, times[1], 0, times[2]]], tf.int64),
    )
    np.testing.assert_allclose(spread["scores"], plain["scores"], atol=1e-5)
    without = recommend(served, [history])
    assert np.abs(without["scores"] - plain["scores"]).max() > 1e-4  # toy knows time gaps


# --- the same answers as the Recommender ---


def test_signatures_equal_the_recommender_with_times(served, recommender, toy_interactions):
    histories = recommender.histories(toy_interactions)
    width = int(histories.lengths.max())
    place = (histories.offsets[:-1], histories.lengths, width)
    index = pad_left(histories.items, *place)
    times = pad_left(histories.timestamps, *place)
    table = recommender.recommend(histories, k=50)
    answer = recommend(
        served,
        np.array(["", *recommender.items.ids])[index].tolist(),
        timestamps=tf.constant(times, tf.int64),
    )
    for number, user in enumerate(histories.user_ids):
        mine = table[table["user_id"] == user]
        np.testing.assert_allclose(answer["scores"][number], mine["score"], atol=1e-4)
        order = np.abs(np.diff(mine["score"], prepend=np.inf)) > 1e-4  # not for near ties
        same = answer["item_ids"][number] == mine["item_id"].to_numpy()
        assert same[order & np.roll(order, -1)].all()


def test_signatures_equal_the_recommender_without_times(served, recommender, ids):
    histories = [ids[:3], ["?"], ids[10:40], ids[70:71]]
    np.testing.assert_allclose(
        call(served, "interest", history=rows(histories))["interest"],
        recommender.interests(histories),
        atol=1e-5,
    )
    table = recommender.recommend(histories, k=50)
    answer = call(served, "serving_default", history=rows(histories))
    lists = [[i for i in row if i] for row in answer["item_ids"]]
    assert [list(mine["item_id"]) for _, mine in table.groupby("user_id")] == lists


def test_score_gives_the_scores_of_the_lists(served, ids):
    histories = rows([ids[:3], ids[20:25]])
    answer = call(served, "serving_default", history=histories)
    scores = call(served, "score", history=histories, candidates=answer["item_ids"])["scores"]
    np.testing.assert_allclose(scores, answer["scores"], atol=1e-4)


# --- items ---


def test_similar_and_item_vectors(served, recommender, ids):
    vectors = call(served, "item_vectors", item_ids=[*ids, "?", ""])["vectors"]
    np.testing.assert_array_equal(vectors[:-2], recommender.item_vectors(ids))
    assert (vectors[-2:] == 0).all()
    unit = vectors[:-2] / np.linalg.norm(vectors[:-2], axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    answer = call(served, "similar", item_ids=[ids[4], "?", ids[-1]])
    for row, item in ((0, 4), (2, -1)):
        best = np.argsort(-cosine[item], kind="stable")[:50]
        np.testing.assert_allclose(answer["scores"][row], cosine[item][best], atol=1e-5)
        assert answer["item_ids"][row][0] == ids[best[0]]
        assert ids[item] not in answer["item_ids"][row]
    assert (answer["item_ids"][1] == "").all() and (answer["scores"][1] == -np.inf).all()


# --- gap buckets ---


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(SECONDS, st.booleans()), min_size=1, max_size=12), min_size=1, max_size=4
    )
)
def test_gap_bucket_equals_gap_buckets(gaps):
    width = max(len(row) for row in gaps)
    times = np.zeros((len(gaps), width), np.int64)
    for row, steps in zip(times, gaps, strict=True):
        seconds = 1_000_000_000 + np.cumsum([gap for gap, _ in steps])
        row[width - len(steps) :] = np.where([known for _, known in steps], seconds, 0)
    offsets = np.arange(len(gaps) + 1) * width
    expected = gap_buckets(times.reshape(-1), offsets).reshape(times.shape)
    np.testing.assert_array_equal(gap_bucket(tf.constant(times)), expected)


def test_gap_bucket_by_hand():
    start = 1_500_000_000
    gaps = [0, 1, 2, 3, 6, 7, 2**26 - 2, 2**26 - 1, 2**27 - 2, 2**27 - 1, 2**40]
    times = [[start, start + gap] for gap in gaps] + [[start, start - 9], [0, start], [start, 0]]
    found = gap_bucket(tf.constant(times, tf.int64)).numpy()
    assert (found[:, 0] == 0).all()
    assert found[:, 1].tolist() == [1, 2, 2, 3, 3, 4, 26, 27, 27, 28, 28, 1, 0, 0]
    assert gap_bucket(tf.zeros((2, 0), tf.int64)).shape == (2, 0)


def test_the_newest_time_of_a_request_says_when_it_is_asked(served, recommender, ids):
    """Also beside the id "": the list of a moment, whatever the events' own times."""
    moment = int(recommender.loaded.module.starts.numpy()[5])
    rows = dict(allow=np.full((1, 0), ""), deny=np.full((1, 0), ""), keep_seen=[False])
    early = call(
        served,
        "recommend",
        history=[[ids[0], ids[1], ""]],
        timestamps=np.array([[0, 0, moment]]),
        **rows,
    )
    expected = recommender.recommend([ids[:2]], k=50, at=moment)
    assert early["item_ids"][0].tolist() == expected["item_id"].tolist()
    np.testing.assert_allclose(early["scores"][0], expected["score"], atol=1e-5)
    now = call(
        served, "recommend", history=[ids[:2]], timestamps=np.zeros((1, 2), np.int64), **rows
    )
    assert np.abs(now["scores"] - early["scores"]).max() > 1e-4


# --- the fused score ---

NUM_ITEMS = 30


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A `ServingModule` of 30 items, two of them added later, and its `Fusion` with everything."""
    rng = np.random.default_rng(5)
    model = build_model(NUM_ITEMS, text_units=0, id_units=8, max_length=4, scorer_units=4)
    tables = {}
    for name, decay in (("text", 0.7), ("transitions", 0.5)):
        near = rng.integers(0, NUM_ITEMS - 1, (NUM_ITEMS - 1, 6)).astype(np.int32)
        tables[name] = NeighbourTable(near, rng.normal(size=near.shape).astype(np.float32), decay)
    width = NUM_ITEMS + 1
    fusion = Fusion.alone(NUM_ITEMS)._replace(
        tables=tables,
        weights={"model": (0.5, 0.3), "text": (0.2, 0.0), "mixture": (0.9, -0.4)},
        # by the wait: unknown, below a minute, ...
        mixture={
            "model": (0.2, 0.1, 0.3, 0.4, 0.2, 0.2, 0.2, 0.2),
            "text": 0.0,
            "transitions": (0.5, 0.8, 0.3, 0.1, 0.5, 0.5, 0.5, 0.5),
            "popular": (0.3, 0.1, 0.4, 0.5, 0.3, 0.3, 0.3, 0.3),
        },
        epsilon=1e-3,
        starts=np.array([100, 200, 300]),
        popular_at=log_shares(rng.normal(size=(KINDS, 3, width))),
        first=rng.integers(0, 5, width).astype(np.int32),
        prior=rng.normal(size=(3, width)).astype(np.float32),
        popular=rng.normal(size=width).astype(np.float32),
    )
    asset = tmp_path_factory.mktemp("fused") / "ids.txt"
    asset.write_text("".join(f"i{number}\n" for number in range(1, width)))
    vectors = rng.normal(size=(width, 8)).astype(np.float32)
    return ServingModule(model, item_vectors=vectors, asset=asset, fusion=fusion, k=10), fusion


HISTORIES = {
    "plain": [3, 9, 4],
    "an item twice": [3, 9, 3, 3],
    "longer than max_length": [7, 1, 2, 8, 5, 6, 1],
    "an added item": [30, 2],
    "all but one": list(range(1, 30)),
    "everything": list(range(1, 31)),
    "nothing": [],
}


def by_hand(module, fusion, history, interest, moment, bucket=0, kind=0):
    """The formula of `fusion` for one user, in float64; `history` is not empty."""
    width = NUM_ITEMS + 1
    cosine = interest.astype(float) @ module.item_matrix.numpy() / module.temperature.numpy()
    values = {"model": np.exp(cosine - cosine.max()) / np.exp(cosine - cosine.max()).sum()}
    for name, table in fusion.tables.items():
        votes = np.zeros(width)
        for age, item in enumerate(reversed(history[-4:])):
            if item < len(table.neighbours):
                real = np.where(table.neighbours[item] > 0, table.weights[item], 0)
                np.add.at(votes, table.neighbours[item], real * table.decay**age)
        values[name] = np.maximum(votes, 0)
    values["popular"] = np.exp(fusion.popular_at[kind, moment].astype(float))
    unseen = np.setdiff1d(np.arange(1, width), history)
    shares = {name: v / max(v[unseen].sum(), 1e-12) for name, v in values.items()}
    row = fusion.mixture_rows()[bucket]
    shares["mixture"] = sum(shares[n] * part for n, part in zip(fusion.mixture, row, strict=True))
    score = fusion.prior[moment].astype(float)
    for name, (weight, more) in fusion.weights.items():
        score += (weight + more * (fusion.first > moment)) * np.log(shares[name] + fusion.epsilon)
    return score


@pytest.mark.parametrize(
    "asked, moment, waited, bucket, kind",
    [
        (0, 2, 0, 0, 0),
        (99, 0, 59, 1, 0),
        (250, 1, 60, 2, 0),
        (0, 2, 1799, 3, 0),
        (0, 2, 1800, 4, 1),
        (250, 1, 72_000, 6, 2),
        (0, 2, 10**9, 7, 2),
    ],
)
def test_fused_scores_equal_the_formula(fused, asked, moment, waited, bucket, kind):
    module, fusion = fused
    width = max(map(len, HISTORIES.values()))
    history = np.zeros((len(HISTORIES), width), np.int32)
    for row, items in zip(history, HISTORIES.values(), strict=True):
        row[width - len(items) :] = items
    none = np.zeros((len(history), 0), np.int32)
    zeros = np.zeros_like(history)
    every = np.tile(np.arange(1, NUM_ITEMS + 1, dtype=np.int32), (len(history), 1))
    at, waits = np.full(len(history), asked), np.full(len(history), waited)
    interests = module.interest_rows(history, zeros, zeros).numpy()
    scores = module.score_rows(history, zeros, zeros, every, at, waits).numpy()
    lists = {
        keep: module.recommend_rows(
            history, zeros, zeros, none, none, np.full(len(history), keep), at, waits, NUM_ITEMS
        )
        for keep in (False, True)
    }
    for row, (name, items) in enumerate(HISTORIES.items()):
        expected = fusion.popular.astype(float)
        if items:
            expected = by_hand(module, fusion, items, interests[row], moment, bucket, kind)
        np.testing.assert_allclose(scores[row], expected[1:], atol=2e-5, err_msg=name)
        for keep, (index, values) in lists.items():
            listed = index.numpy()[row][index.numpy()[row] > 0]
            assert set(listed) == set(range(1, NUM_ITEMS + 1)) - (set() if keep else set(items))
            found = values.numpy()[row][: len(listed)]
            np.testing.assert_allclose(found, expected[listed], atol=2e-5, err_msg=name)
            assert (np.diff(found) <= 0).all()


# --- texts in ---

TEXTS = ["大学物理：力学与热学", "Java程序设计", "高等数学（2019春）", "古代汉语", "中国建筑史"]


@pytest.fixture(scope="module")
def with_texts(text_version):
    return tf.saved_model.load(str(text_version / "1"))


def grown(text_version, texts):
    """A `Recommender` that has learned of texts as items n0, n1, ..."""
    recommender = Recommender.load(text_version)
    names = [f"n{number}" for number in range(len(texts))]
    recommender.add_items(pd.DataFrame({"item_id": names, "title": texts}))
    return recommender


def encode(served, texts):
    return call(served, "encode_items", texts=tf.constant(texts, tf.string))["vectors"]


def by_text(served, histories):
    return call(served, "recommend_by_text", history_texts=rows(histories))


def test_signatures_that_take_texts(with_texts, served):
    of_texts = {"encode_items": "texts", "recommend_by_text": "history_texts"}
    assert not set(of_texts) & set(served.signatures)  # tfidf lives outside of the graph
    for name, key in of_texts.items():
        inputs = with_texts.signatures[name].structured_input_signature[1]
        assert list(inputs) == [key] and inputs[key].dtype == tf.string
    outputs = with_texts.signatures["recommend_by_text"].structured_outputs
    assert {k: (s.dtype.name, s.shape.rank) for k, s in outputs.items()} == {
        "item_ids": ("string", 2),
        "scores": ("float32", 2),
    }
    assert with_texts.signatures["encode_items"].structured_outputs["vectors"].shape[1] == 12


def test_encode_items_goes_the_way_of_the_parts(with_texts, text_parts):
    """Python's tokenizer, the Keras encoder, the whitening and the text part, one by one."""
    model, _, part = text_parts
    tokens, segments = part.encoder.tokenizer.encode_batch(TEXTS)
    white = part.whitening.apply(part.encoder.model([tokens, segments]).numpy())
    found = encode(with_texts, TEXTS)
    np.testing.assert_allclose(found, model.text_part(white), atol=1e-5)
    assert found[:, :8].any(axis=1).all() and not found[:, 8:].any()  # the id part


def test_encode_items_gives_the_vector_of_an_item_added_by_its_text(with_texts, text_version):
    names = [f"n{number}" for number in range(len(TEXTS))]
    np.testing.assert_allclose(
        encode(with_texts, TEXTS), grown(text_version, TEXTS).item_vectors(names), atol=1e-5
    )


def test_encode_items_of_many_texts_is_that_of_each(with_texts, toy_items):
    texts = [
        *toy_items.texts(),
        *toy_items.texts("{title} {text}"),
        "",
        " \u3000",
        "\x07",
        *TEXTS * 3,
    ]
    together = encode(with_texts, texts)
    assert (together[[text.strip() == "" for text in texts]] == 0).all()
    assert together[texts.index("\x07")].any()  # no word in it, but not blank
    for number in range(0, len(texts), 7):
        alone = encode(with_texts, [texts[number]])[0]
        np.testing.assert_allclose(together[number], alone, atol=1e-5)
    assert encode(with_texts, []).shape == (0, 12)
    assert np.isfinite(encode(with_texts, [b"\xff\xe4", "中" * 100_000, "x" * 100_000])).all()


@pytest.mark.parametrize(
    "history",
    [pytest.param([0], marks=pytest.mark.slow), [1, 1, 0], [0, 1, 2, 3, 4, 0, 1]],
)
def test_recommend_by_text_answers_as_for_items_added_by_these_texts(
    with_texts, text_version, history
):
    """Such items are seen, so they are not listed and take no share from the others."""
    texts = TEXTS[: max(history) + 1]
    answer = by_text(with_texts, [[texts[i] for i in history], []])
    recommender = grown(text_version, texts)
    expected = recommender.recommend([[f"n{i}" for i in history]], k=50, at="now")
    np.testing.assert_allclose(answer["scores"][0], expected["score"], atol=1e-4)
    assert answer["item_ids"][0].tolist() == expected["item_id"].tolist()


def test_blank_texts_change_nothing(with_texts):
    a, b, c = TEXTS[:3]
    plain = by_text(with_texts, [[a, b, c]])
    for history in (["", a, b, c], [a, " ", b, "\u3000\n", c, ""], [*[""] * 30, a, b, c]):
        answer = by_text(with_texts, [history])
        np.testing.assert_allclose(answer["scores"], plain["scores"], atol=1e-5)
        assert (answer["item_ids"] == plain["item_ids"]).all()
    assert np.abs(by_text(with_texts, [[c, b, a]])["scores"] - plain["scores"]).max() > 1e-4


def test_only_the_newest_texts_count(with_texts):
    history = (TEXTS * 3)[:11]
    newest = by_text(with_texts, [history[-6:]])  # max_length
    np.testing.assert_allclose(
        by_text(with_texts, [history])["scores"], newest["scores"], atol=1e-5
    )


def test_without_a_text_popular_items_answer(with_texts, text_version, text_parts):
    ids = Recommender.load(text_version).items.ids
    popular = text_parts[1].popular
    best = np.argsort(-popular[1:], kind="stable")[:50]
    for history in (tf.zeros((2, 0), tf.string), [[""], [" "]], [["", ""], ["", "\t"]]):
        answer = call(with_texts, "recommend_by_text", history_texts=history)
        assert answer["item_ids"].tolist() == [[ids[i] for i in best]] * 2
        np.testing.assert_allclose(answer["scores"][0], popular[1:][best], rtol=1e-6)
    mixed = by_text(with_texts, [[TEXTS[0]], [], TEXTS])
    assert (mixed["item_ids"][1] == ids[best]).all()
    for number, history in ((0, TEXTS[:1]), (2, TEXTS)):
        alone = by_text(with_texts, [history])
        np.testing.assert_allclose(mixed["scores"][number], alone["scores"][0], atol=1e-5)
    nobody = call(with_texts, "recommend_by_text", history_texts=tf.zeros((0, 3), tf.string))
    assert nobody["item_ids"].shape == nobody["scores"].shape == (0, 50)


def test_a_title_of_the_catalogue_is_a_text_like_others(with_texts, toy_items):
    """It is not taken for its item: this one may be listed, as nobody said it was seen."""
    listed = by_text(with_texts, [[title] for title in toy_items.frame["title"]])["item_ids"]
    own = [item in row for item, row in zip(toy_items.ids, listed, strict=True)]
    assert np.mean(own) > 0.3
