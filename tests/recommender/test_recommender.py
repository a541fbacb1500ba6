import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions, read_items
from kerasrec.recommender import answers
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import exporter, folders


@pytest.fixture(scope="module")
def recommender(exported_version):
    return Recommender.load(exported_version)


@pytest.fixture
def changed(exported_version, tmp_path):
    """A Recommender of a copy, free to change."""
    shutil.copytree(exported_version, tmp_path / "toy")
    return Recommender.load(tmp_path / "toy")


@pytest.fixture(scope="module")
def refusing(exported_version):
    """A Recommender that is asked for what it refuses, so that it stays as it is."""
    return Recommender.load(exported_version)


@pytest.fixture(scope="module")
def ids(recommender):
    return list(recommender.items.ids)


def lists_of(table):
    return {user: list(part["item_id"]) for user, part in table.groupby("user_id", sort=False)}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --- loading ---


@pytest.mark.slow
def test_training_code_is_not_loaded():
    """In a fresh process: who only serves or recommends loads neither optimizers nor losses."""
    script = (
        "import sys, kerasrec.recommender.recommender\n"
        "print(*sorted(name for name in sys.modules if name.startswith('kerasrec.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "kerasrec.recommender.recommender" in loaded
    packages = ("kerasrec.training", "kerasrec.loop", "kerasrec.generation")
    assert not {name for name in loaded if name.startswith(packages)}
    fitting = {"build", "losses", "interest", "itemvectors", "sequencemodels", "validation"}
    assert not loaded & {f"kerasrec.models.{name}" for name in fitting}


def test_load(recommender, exported_version, toy_items):
    assert recommender.version == exported_version / "1"
    assert recommender.manifest["name"] == "toy"
    assert repr(recommender) == "Recommender(toy 1, 82 items)"
    pd.testing.assert_frame_equal(
        recommender.items.frame.astype(object), toy_items.frame.astype(object), check_dtype=False
    )
    assert list(recommender.training_history()["epoch"]) == [1, 2]


def test_load_says_that_it_loads(exported_version, caplog):
    caplog.set_level("INFO", "kerasrec")
    Recommender.load(exported_version)
    begun, done = (record.getMessage() for record in caplog.records[:2])
    assert begun == f"loading {exported_version / '1'}" and done.startswith(f"{begun}: done in ")


def test_load_refuses_a_damaged_version(exported_version, tmp_path):
    for part, keep in (("saved_model.pb", 5000), ("variables/variables.index", 100)):
        copy = tmp_path / part.replace("/", "-")
        shutil.copytree(exported_version / "1", copy / "1")
        file = copy / "1" / part
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ArtifactError, match="is damaged and does not load"):
            Recommender.load(copy)


def test_load_refuses_a_damaged_catalogue(exported_version, tmp_path):
    shutil.copytree(exported_version / "1", tmp_path / "1")
    file = tmp_path / "1" / folders.ITEMS
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="is damaged and does not load"):
        Recommender.load(tmp_path)


# --- recommend ---


def test_recommend_gives_a_long_table(recommender, ids):
    table = recommender.recommend([ids[:3], ids[10:12]], k=4)
    assert list(table.columns) == ["user_id", "item_id", "rank", "score"]
    assert table["user_id"].tolist() == [0] * 4 + [1] * 4
    assert table["rank"].tolist() == [1, 2, 3, 4] * 2
    for user, part in table.groupby("user_id"):
        assert (np.diff(part["score"]) <= 0).all()
        assert not set(part["item_id"]) & set([ids[:3], ids[10:12]][user])
    assert table.attrs["popular_for"] == []


def test_recommend_is_the_best_of_all_items(recommender, ids):
    """The list against every item's score by the signature `score`, sorted by numpy."""
    history = ids[20:26]
    served = tf.saved_model.load(str(recommender.version))
    scores = served.signatures["score"](
        history=tf.constant([history]), candidates=tf.constant([ids])
    )["scores"].numpy()[0]
    scores[20:26] = -np.inf
    best = np.argsort(-scores, kind="stable")
    table = recommender.recommend([history], k=len(ids))
    assert table["item_id"].tolist() == [ids[i] for i in best[: len(ids) - 6]]
    np.testing.assert_allclose(table["score"], scores[best[: len(ids) - 6]], atol=1e-4)


def test_histories_of_all_kinds_agree(recommender, ids):
    rows = {"乙": ids[5:9], "a": ids[:2], "new": [], "?": ["no such item"]}
    long = [(user, item) for user, history in rows.items() for item in history if item in ids]
    interactions = read_interactions(pd.DataFrame(long, columns=["user", "item"]))
    by_dict = recommender.recommend(rows, k=5)
    assert list(lists_of(by_dict)) == ["乙", "a", "new", "?"]
    assert by_dict.attrs["popular_for"] == ["new", "?"]
    by_list = recommender.recommend(list(rows.values()), k=5)
    assert list(lists_of(by_list)) == [0, 1, 2, 3]
    assert by_list["item_id"].tolist() == by_dict["item_id"].tolist()
    histories = recommender.histories(interactions, users=list(rows))
    assert histories.user_ids.tolist() == list(rows)
    pd.testing.assert_frame_equal(recommender.recommend(histories, k=5), by_dict)
    known = by_dict[by_dict["user_id"].isin(["乙", "a"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(recommender.recommend(interactions, k=5), known)


def test_histories_of_other_containers(recommender, ids):
    expected = recommender.recommend([ids[:3]], k=5)
    for history in (tuple(ids[:3]), np.array(ids[:3]), pd.Series(ids[:3]), iter(ids[:3])):
        pd.testing.assert_frame_equal(recommender.recommend([history], k=5), expected)
    pd.testing.assert_frame_equal(recommender.recommend(iter([ids[:3]]), k=5), expected)


def test_numbers_stand_for_their_texts(changed):
    changed.add_items(pl.DataFrame({"item_id": [5, 12], "title": ["机器学习", "大学物理"]}))
    expected = changed.recommend([["5", "12"]], k=5)
    table = pl.DataFrame({"user": ["u", "u"], "item": [5, 12]})
    assert changed.recommend(table, k=5)["item_id"].tolist() == expected["item_id"].tolist()
    for history in ([5, 12], np.array([5, 12])):
        pd.testing.assert_frame_equal(changed.recommend([history], k=5), expected)
    assert changed.index_of([5, "12", 13]).tolist() == [83, 84, 0]


def test_a_batch_is_its_users_alone_in_any_cut(recommender, toy_interactions, monkeypatch):
    histories = recommender.histories(toy_interactions)
    whole = recommender.recommend(histories, k=8)
    assert lists_of(whole).keys() == set(histories.user_ids)
    assert list(lists_of(whole)) == list(histories.user_ids)
    for batch_size in (1, 7):
        cut = recommender.recommend(histories, k=8, batch_size=batch_size)
        assert cut["user_id"].tolist() == whole["user_id"].tolist()
        np.testing.assert_allclose(cut["score"], whole["score"], atol=1e-4)
        assert (cut["item_id"] == whole["item_id"]).mean() > 0.99  # but for near ties
    monkeypatch.setattr(answers, "MAX_CELLS", 1)
    pd.testing.assert_frame_equal(
        recommender.recommend(histories, k=8), recommender.recommend(histories, k=8, batch_size=1)
    )


def test_batches_cover_all_rows_once_and_stay_small(monkeypatch):
    monkeypatch.setattr(answers, "MAX_CELLS", 1000)
    lengths = np.array([3, 900, 0, 40, 3, 7, 2000, 1])
    batches = list(answers.make_batches(lengths, 4, 100))
    assert sorted(np.concatenate(batches)) == list(range(8))
    for rows in batches:
        assert len(rows) <= 4 and (
            len(rows) == 1 or len(rows) * (lengths[rows].max() + 100) <= 1000
        )


def test_candidates_deny_and_keep_seen(recommender, ids):
    some = [ids[8], ids[2], "?", ids[30], ids[8]]
    table = recommender.recommend([ids[:3], []], candidates=some, k=10)
    assert {u: set(i) for u, i in lists_of(table).items()} == {
        0: {ids[8], ids[30]},
        1: {ids[8], ids[2], ids[30]},
    }
    table = recommender.recommend([ids[:3]], candidates=some, deny=[ids[30], "?"], keep_seen=True)
    assert set(table["item_id"]) == {ids[8], ids[2]}
    everything = recommender.recommend([ids[:3]], k=500, keep_seen=True)
    assert sorted(everything["item_id"]) == sorted(ids)
    assert recommender.recommend([ids[:3]], candidates=ids[:2]).empty
    assert recommender.recommend([ids[:3]], k=500, deny=ids[3:]).empty


def test_k_beyond_the_catalogue(recommender, ids):
    table = recommender.recommend([ids[:3], []], k=10_000)
    assert table["user_id"].value_counts().to_dict() == {0: len(ids) - 3, 1: len(ids)}
    assert not table["item_id"].eq("").any() and np.isfinite(table["score"]).all()


def test_popular_items_for_an_empty_history(recommender, ids, caplog):
    popular = recommender._knowledge.recency.priors()[1][-1, 1:]
    expected = [ids[row] for row in np.argsort(-popular, kind="stable")]  # ties: file order
    with caplog.at_level("INFO"):
        table = recommender.recommend({"x": []}, k=len(ids))
    assert table["item_id"].tolist() == expected
    assert table.attrs["popular_for"] == ["x"]
    assert "1 users without a known item get popular items" in caplog.text


def test_observed_events_are_recent_and_survive_a_save(changed, toy_interactions, ids):
    end = changed.log_end
    before = changed.recommend([[]], k=82).set_index("item_id")["score"]
    rising = before.index[40]
    log = pd.DataFrame({"user_id": [f"v{n}" for n in range(60)], "item_id": rising})
    log["timestamp"] = end + 60
    history = [[item for item in ids[:3] if item != rising]]
    times = (end, end + 59, end + 60, end + 10**6)
    asked = {at: changed.recommend(history, k=82, at=at) for at in times}
    known = changed._knowledge.recency
    assert changed.observe(toy_interactions) == 0  # nothing newer
    assert changed.observe(read_interactions(log)) == 60
    assert changed.observe(log) == 0  # known by now
    after = changed.recommend([[]], k=82).set_index("item_id")["score"]
    assert after.rank(ascending=False)[rising] < before.rank(ascending=False)[rising]
    # asked before them, a list is as it was; asked with them or later it knows of them
    found = {at: changed.recommend(history, k=82, at=at) for at in times}
    for at in times[:2]:
        pd.testing.assert_frame_equal(found[at], asked[at])
    for at in times[2:]:
        pd.testing.assert_frame_equal(found[at], found[end + 60])
        then, now = (
            table.set_index("item_id")["score"][rising] for table in (asked[at], found[at])
        )
        assert now != then  # by the fitted weights, compared below
    moments, (index,) = changed.loaded.moments(), changed.index_of([rising])
    features = changed.counts.features()
    prior = known.weights @ features[: len(known.weights)]
    popular = known.popular_weights[-1] @ features
    assert moments.prior[-1, index] == pytest.approx(prior[index], abs=1e-3)
    shares = np.exp(popular[1:]) / np.exp(popular[1:]).sum()
    assert np.exp(moments.popular_at[-1, -1, index]) == pytest.approx(shares[index - 1], rel=1e-3)
    changed.save()
    again = Recommender.load(changed.version.parent)
    assert again.log_end == end + 60
    pd.testing.assert_series_equal(again.recommend([[]], k=82).set_index("item_id")["score"], after)


def test_events_of_the_future_are_not_observed(changed, caplog):
    end = changed.log_end
    log = pd.DataFrame({"user_id": ["v"], "item_id": [changed.items.ids[0]]})
    log["timestamp"] = int(pd.Timestamp("2096-01-01").timestamp())
    assert changed.observe(read_interactions(log, max_ahead=None)) == 0
    assert "events that lie in the future do not count as recent: 1" in caplog.text
    assert changed.observe(log) == 0
    assert changed.log_end == end


def test_at_chooses_the_moment(recommender, toy_interactions, ids):
    starts = recommender.loaded.module.starts.numpy()
    prior = recommender.loaded.module.prior.numpy()
    assert len(starts) > 100 and np.abs(prior[5] - prior[-1]).max() > 0
    history = [ids[:3]]
    scores = {
        at: recommender.recommend(history, k=79, at=at).set_index("item_id")["score"].sort_index()
        for at in (int(starts[5]), int(starts[-1]) + 9, "now", None)
    }
    early, late, now, default = scores.values()
    pd.testing.assert_series_equal(late, now)
    pd.testing.assert_series_equal(default, now)  # these histories have no times
    assert (early - now).abs().max() > 1e-4
    # with times, a list is asked for at the user's newest event
    past = recommender.histories(toy_interactions).select([0])
    times = past.timestamps
    pd.testing.assert_frame_equal(
        recommender.recommend(past), recommender.recommend(past, at=int(times.max()))
    )


@pytest.mark.parametrize("at", ["today", 5, float("nan"), True, -1])
def test_at_refuses_what_is_no_time(recommender, at):
    with pytest.raises(ValueError, match='at must be "now" or a time.* Received'):
        recommender.recommend([[]], at=at)


def test_no_user_at_all(recommender):
    for nobody in ([], {}):
        table = recommender.recommend(nobody)
        assert list(table.columns) == ["user_id", "item_id", "rank", "score"] and table.empty
    assert recommender.interests([]).shape == (0, 16)


def test_recommend_repeats_itself(recommender, toy_interactions):
    histories = recommender.histories(toy_interactions)
    pd.testing.assert_frame_equal(
        recommender.recommend(histories), recommender.recommend(histories)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: r.recommend([["a"]], k=0),
            "k must be a whole number of at least 1. Received: 0",
        ),
        (lambda r: r.recommend([["a"]], k=2.5), "Received: 2.5"),
        (lambda r: r.recommend([["a"]], k=True), "Received: True"),
        (
            lambda r: r.recommend(["a", "b"]),
            r"a list of str. For one user write recommend\(\[history\]\)",
        ),
        (lambda r: r.recommend("abc"), "histories must be a list of histories"),
        (lambda r: r.recommend([1, 2]), "a list of int"),
        (lambda r: r.recommend({"u": "abc"}), "histories must be a list of histories"),
        (lambda r: r.recommend(pd.DataFrame({"user": [1]})), "expected a column item_id"),
        (lambda r: r.recommend([["a"]], candidates="abc"), "candidates must be a list of item ids"),
        (lambda r: r.recommend([["a"]], candidates=["?", "!"]), "2 ids, none of them known"),
        (lambda r: r.recommend([["a"]], deny="abc"), "deny must be a list of item ids"),
        (lambda r: r.recommend([["a"]], batch_size=0), "batch_size must be at least 1"),
        (lambda r: r.similar(), "either an item or text"),
        (lambda r: r.similar("a", text="b"), "either an item or text"),
        (lambda r: r.similar("a"), "Received: 'a', which is unknown"),
        (lambda r: r.similar(""), "Received: '', which is unknown"),
        (lambda r: r.similar(text=" "), "a text with words in it"),
        (lambda r: r.similar(text="b", k=0), "k must be a whole number"),
    ],
)
def test_mistakes(recommender, call, message):
    with pytest.raises(ValueError, match=message):
        call(recommender)


# --- histories of a table ---


def test_histories_skip_unknown_items_and_say_so(recommender, ids, caplog):
    log = [("u", ids[3], 1_500_000_009), ("u", "?", 1_500_000_005), ("u", ids[4], 1_500_000_001)]
    log += [("v", "?", 1_500_000_000)]
    interactions = read_interactions(pd.DataFrame(log, columns=["user", "item", "ts"]))
    histories = recommender.histories(interactions)
    assert "2 interactions with items the model does not know are skipped" in caplog.text
    assert histories.user_ids.tolist() == ["u", "v"]
    assert recommender._ids[histories.items].tolist() == [ids[4], ids[3]]
    assert histories.timestamps.tolist() == [1_500_000_001, 1_500_000_009]
    assert histories.lengths.tolist() == [2, 0]


def test_candidates_that_nobody_knows_are_counted(recommender, ids, caplog):
    table = recommender.recommend([ids[:2]], candidates=[ids[5], "gone"], k=3)
    assert table["item_id"].tolist() == [ids[5]]
    assert "1 of 2 ids in candidates are unknown" in caplog.text


def test_histories_of_exactly_these_users(recommender, toy_interactions):
    some = list(toy_interactions.frame["user_id"].cat.categories[[5, 2]])
    histories = recommender.histories(toy_interactions, users=[some[0], "new", some[1]])
    assert histories.user_ids.tolist() == [some[0], "new", some[1]]
    assert histories.lengths[1] == 0 and (histories.lengths[[0, 2]] > 0).all()


# --- vectors ---


def test_cosine_over_the_exported_interest_layer(recommender, toy_interactions, ids):
    histories = recommender.histories(toy_interactions).select(range(20))
    interests = recommender.interests(histories)
    np.testing.assert_allclose(np.linalg.norm(interests, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(recommender.interests(histories, batch_size=3), interests, atol=1e-5)
    cosine = interests @ unit(recommender.item_vectors(ids)).T
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :5]
    none = np.zeros((20, 0), np.int32)
    index, scores = recommender.loaded.module.similar_rows(interests, none, tf.constant(5))
    np.testing.assert_allclose(scores, np.take_along_axis(cosine, best, 1), atol=1e-5)
    assert (index.numpy() - 1 == best).mean() > 0.98


def test_similar_item_is_the_nearest_by_cosine(recommender, ids):
    vectors = unit(recommender.item_vectors(ids))
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    table = recommender.similar([ids[4], ids[50]], k=6)
    assert list(table.columns) == ["query", "item_id", "rank", "score"]
    for item in (4, 50):
        mine = table[table["query"] == ids[item]]
        best = np.argsort(-cosine[item], kind="stable")[:6]
        assert mine["item_id"].tolist() == [ids[i] for i in best]
        np.testing.assert_allclose(mine["score"], cosine[item][best], atol=1e-5)
    one = recommender.similar(ids[4], k=6)
    assert one["item_id"].tolist() == table["item_id"].tolist()[:6]
    assert len(recommender.similar(ids[4], k=1000)) == len(ids) - 1


def test_similar_text(recommender, toy_items, ids):
    titles = toy_items.frame["title"].tolist()
    table = recommender.similar(text=[titles[7], "机器学习导论"], k=3)
    assert table["query"].tolist() == [titles[7]] * 3 + ["机器学习导论"] * 3
    one = recommender.similar(text="机器学习导论", k=3)
    assert one["item_id"].tolist() == table["item_id"].tolist()[3:]
    # by the text parts alone, the first 8 numbers of a vector: what users did has no say
    texts = recommender.item_vectors(ids)[:, :8]
    query = recommender.encode(["机器学习导论"])[0, :8]
    cosine = texts @ query / np.linalg.norm(texts, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(one["score"], np.sort(cosine)[::-1][:3], atol=1e-5)
    assert one["score"][0] == pytest.approx(cosine[ids.index(one["item_id"][0])], abs=1e-5)
    # "zzzqqq" has no n-gram that the encoder knows
    unknown = recommender.similar(text=["zzzqqq", titles[7]], k=3)
    assert unknown["query"].tolist() == [titles[7]] * 3
    several = recommender.similar(pd.Series(ids[:2]), k=1)
    assert several["query"].tolist() == ids[:2]


def test_whole_numbers_find_the_users_whose_ids_they_are(recommender, ids):
    log = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [ids[0], ids[1], ids[2]]})
    histories = recommender.histories(read_interactions(log), users=[2, 1, 3])
    assert histories.user_ids.tolist() == ["2", "1", "3"]
    assert histories.lengths.tolist() == [1, 2, 0]
    by_table, by_histories = recommender.recommend(log, k=3), recommender.recommend(histories, k=3)
    mine = by_histories[by_histories["user_id"] == "1"]["item_id"].tolist()
    assert by_table[by_table["user_id"] == "1"]["item_id"].tolist() == mine


def test_encode_gives_a_known_title_the_text_part_of_its_item(recommender, toy_items, ids):
    vectors = recommender.encode(toy_items.texts()[:70])
    assert vectors.shape == (70, 16) and (vectors[:, 8:] == 0).all()
    np.testing.assert_allclose(vectors[:, :8], recommender.item_vectors(ids[:70])[:, :8], atol=1e-5)
    assert recommender.encode([]).shape == (0, 16)
    with pytest.raises(TypeError, match="texts must be"):
        recommender.encode("one text")


@pytest.mark.slow
def test_a_version_without_a_tokenizer_in_its_graph_encodes_in_python(
    text_parts, toy_items, text_version, tmp_path, monkeypatch
):
    """As versions are that were exported before there was one: the vectors are the same.

    Only such an old version is made by the patch; what is tested is how it is read.
    """
    model, fusion, part = text_parts
    monkeypatch.setattr(exporter, "graph_tokenizer", lambda *_: None)
    old = exporter.export(
        model,
        tmp_path / "old",
        items=toy_items,
        manifest={},
        encoder=part.encoder,
        whitening=part.whitening,
        fusion=fusion,
    )
    old, new = Recommender.load(old), Recommender.load(text_version)
    assert "encode_items" not in old.manifest["signatures"]
    texts = ["Java程序设计（2019春）", "", " ", "没见过的 ÉTÉ 课程\x00", *toy_items.texts()] * 2
    np.testing.assert_allclose(new.encode(texts), old.encode(texts), atol=1e-5)
    assert old._texts._encoder is not None and new._texts._encoder is None
    assert new.encode([]).shape == (0, 12)
    assert np.isfinite(new.encode(["half of a pair \ud800"])).all()
    with pytest.raises(TypeError, match="texts must be"):
        new.encode([None])


def test_encode_gives_zeros_for_a_text_that_says_nothing(recommender):
    vectors = recommender.encode(["", "机器学习", " ", "zzzqqq"])
    assert vectors.any(axis=1).tolist() == [False, True, False, False]


def test_item_vectors_of_unknown_ids_are_zero(recommender, ids):
    assert (recommender.item_vectors(["?", ids[0]])[0] == 0).all()


def test_titles(recommender, toy_items, ids):
    assert recommender.titles([ids[2], "?"]).tolist() == [toy_items.frame["title"][2], ""]


# --- new items ---

NEW = pd.DataFrame(
    {
        "id": ['新,课 "1"', "n2"],
        "name": ["  深度学习与\n神经网络 ", "中国古代文学史"],
        "unused": ["x", "y"],
    }
)


def test_add_items_are_there_at_once(changed, ids):
    before = changed.recommend([ids[:3]], k=500)
    assert changed.add_items(NEW) == 2
    assert changed.items.ids[-2:].tolist() == ['新,课 "1"', "n2"]
    assert list(changed.items.frame.columns) == ["item_id", "title", "text", "category"]
    table = changed.recommend([ids[:3], ["n2"], []], k=500)
    lists = lists_of(table)
    assert set(lists[0]) == {*before["item_id"], "n2", '新,课 "1"'}
    assert "n2" not in lists[1] and table.attrs["popular_for"] == [2]
    new = changed.recommend([[]], k=500)
    new = new[new["item_id"].isin(['新,课 "1"', "n2", *before["item_id"][-2:]])]
    assert new["score"].nunique() <= 4  # to a user without a history, new items are alike
    nearest = changed.similar(text="深度学习与 神经网络", k=1)
    assert nearest["item_id"].tolist() == ['新,课 "1"'] and nearest["score"][0] > 0.9999
    assert changed.similar("n2", k=3)["rank"].tolist() == [1, 2, 3]
    assert changed.recommend([ids[:3]], candidates=["n2"])["item_id"].tolist() == ["n2"]


def test_add_items_takes_items_and_adds_up(changed):
    assert changed.add_items(read_items(NEW)) == 2
    assert changed.add_items(pd.DataFrame({"item": ["n3"], "title": ["微积分"]})) == 1
    assert changed.index_of(["n2", "n3"]).tolist() == [84, 85]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"item_id": ["n1", "n1"], "title": ["甲", "乙"]}, "expected every item_id once"),
        ({"item_id": ["a\nb"], "title": ["甲"]}, "no line break"),
        ({"item_id": ["n1"]}, "title"),
        ({"item_id": ["n1"], "title": [""]}, "text"),
    ],
)
def test_add_items_refuses(refusing, frame, message):
    with pytest.raises(ValueError, match=message):
        refusing.add_items(pd.DataFrame(frame))
    assert len(refusing.items) == 82


def test_add_items_refuses_known_ids_and_vectors(refusing, ids):
    with pytest.raises(
        ValueError, match=f"new ids only. Received: '{ids[0]}', known already".replace("+", r"\+")
    ):
        refusing.add_items(pd.DataFrame({"item_id": ["n1", ids[0]], "title": ["甲", "乙"]}))
    with pytest.raises(ValueError, match="leave vectors out"):
        refusing.add_items(NEW, vectors=np.zeros((2, 16)))


@pytest.mark.slow
def test_save_makes_a_version_that_any_process_can_read(changed, ids):
    changed.add_items(NEW)
    histories = [[ids[0], "n2", ids[5]], ['新,课 "1"'], []]
    expected = changed.recommend(histories, k=50)
    path = changed.save()
    assert path == changed.version.parent / "2"
    manifest = folders.read_manifest(path).as_dict()
    assert (manifest["num_items"], manifest["parent"], manifest["version"]) == (84, 1, 2)
    assert folders.read_manifest(changed.version).num_items == 82

    again = Recommender.load(changed.version.parent)
    pd.testing.assert_frame_equal(again.recommend(histories, k=50), expected)
    assert again.similar(text="深度学习与 神经网络", k=1)["item_id"].tolist() == ['新,课 "1"']

    code = (
        "import sys\nfor name in ('bert4keras', 'tf_keras', 'kerasrec'): sys.modules[name] = None\n"
        "import tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures\n"
        "history = tf.constant([[sys.argv[2], 'n2', sys.argv[3]], ['新,课 \"1\"', '', '']])\n"
        "print(serve['similar'](item_ids=tf.constant(['n2']))['item_ids'][0, 0].numpy().decode())\n"
        "for row in serve['serving_default'](history=history)['item_ids'].numpy():\n"
        "    print(' '.join(i.decode() for i in row[:20]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), ids[0], ids[5]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == changed.similar("n2", k=1)["item_id"][0]
    lists = lists_of(expected)
    assert lines[1:] == [" ".join(lists[0][:20]), " ".join(lists[1][:20])]


def test_histories_given_as_such_are_not_looked_up_again(recommender, ids):
    histories = Histories(
        np.array(["u"], object),
        np.array([0, 2]),
        np.array([1, 2], np.int32),
        np.zeros(2, np.int64),
        np.zeros(2, np.int16),
        np.ones(2, np.float32),
    )
    table = recommender.recommend(histories, k=3)
    assert table["item_id"].tolist() == recommender.recommend([ids[:2]], k=3)["item_id"].tolist()


# --- other rows of known items ---


def listed(recommender):
    return set(recommender.recommend([[]], k=500)["item_id"])


def test_corrected_items_leave_the_lists_and_come_back(changed, ids):
    a, b, c = ids[:3]
    changed.withdraw([c])
    rows = pd.DataFrame({"item_id": [a, b], "stock": [0, 7]})
    assert changed.correct_items(rows) == 0
    assert changed.items.withdrawn == {a, c}  # c was not given
    assert not {a, c} & listed(changed) and b in listed(changed)
    again = Recommender.load(changed.save())
    assert again.items.withdrawn == {a, c} and not {a, c} & listed(again)
    again.correct_items(pd.DataFrame({"item_id": [b], "stock": ["0"]}))  # all rows of this table
    assert again.items.withdrawn == {a, b, c}
    again.correct_items(pd.DataFrame({"item_id": [a], "category": ["x"]}))  # says nothing of it
    assert again.items.withdrawn == {a, b, c}
    again.correct_items(pd.DataFrame({"item_id": [a, b, c], "stock": ["3", "", "1"]}))
    assert again.items.withdrawn == set() and {a, b, c} <= listed(again)
    given = Items(pd.DataFrame({"item_id": [a, b], "category": "x"}), withdrawn=frozenset([b]))
    again.correct_items(given)
    assert again.items.withdrawn == {b}


def test_correct_items_takes_some_columns_of_a_table(changed, ids, tmp_path):
    before = changed.items.frame.copy()
    path = tmp_path / "prices.csv"
    pd.DataFrame({"item_id": [ids[1], "?"], "price": ["9", "5"]}).to_csv(path, index=False)
    assert changed.correct_items(path) == 0
    frame = changed.items.frame
    pd.testing.assert_frame_equal(frame[before.columns], before)
    assert frame["price"].tolist() == ["", "9", *[""] * (len(frame) - 2)]
    table = pd.DataFrame({"item_id": [ids[1]], "title": ["量子力学导论"]})
    assert changed.correct_items(table) == 1
    assert changed.titles([ids[1]]).tolist() == ["量子力学导论"]
    assert changed.items.frame["price"][1] == "9"


def test_wrong_tables_of_items(refusing, ids):
    with pytest.raises(ValueError, match=r"needs a column .* beside the ids. Received: item_id"):
        refusing.correct_items(pd.DataFrame({"item_id": [ids[0]]}))
    with pytest.raises(ValueError, match=r"Received: '\?' and others, none of which is known"):
        refusing.correct_items(pd.DataFrame({"item_id": ["?"], "title": ["甲"]}))
    for call in (refusing.add_items, refusing.correct_items):
        with pytest.raises(TypeError, match="expected a path or a table"):
            call(["x"])
