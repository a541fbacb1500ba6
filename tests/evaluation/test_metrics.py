"""Metrics against hand-worked numbers, the yardstick's score.py, ranx, and a full sort."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from kerasrec.evaluation.metrics import (
    gini,
    ndcg_from_ranks,
    paired_bootstrap,
    recall_from_ranks,
    score_recommendations,
)

SCORE_PY = ROOT / "benchmarks" / "yardstick" / "score.py"
LOG3 = math.log2(3)
RANKED = ("user_id", "item_id", "rank")


def table(text, columns=("user_id", "item_id")):
    """`"a x, a y"` -> rows; a recommendation table when `columns` names a rank or score."""
    rows = [row.split() for row in text.split(",") if row.strip()]
    frame = pd.DataFrame(rows, columns=list(columns), dtype=str)
    for name in ("rank", "score"):
        if name in frame:
            frame[name] = frame[name].astype(float)
    return frame


def values(recs, test, **options):
    return score_recommendations(recs, test, **options).values


def test_score_recommendations_one_target():
    recs = table("a x 1, a y 2, a z 3, b y 1, b x 2", RANKED)
    scores = score_recommendations(recs, table("a y, b z"), ks=[1, 3], catalogue=list("xyzw"))
    assert scores.values["recall@1"] == 0
    assert scores.values["recall@3"] == scores.values["hr@3"] == 0.5
    assert scores.values["ndcg@3"] == pytest.approx(0.5 / LOG3)
    assert scores.values["mrr@3"] == scores.values["map@3"] == 0.25
    assert scores.errors["recall@3"] == pytest.approx(0.5)  # sample sd of (1, 0) / sqrt 2
    assert scores.values["coverage@1"] == 0.5 and scores.values["coverage@3"] == 0.75
    assert scores.per_user.loc["a", "mrr@3"] == 0.5 and scores.per_user.loc["b", "mrr@3"] == 0
    assert scores.per_target["place"].tolist()[0] == 2 and np.isnan(scores.per_target["place"][1])


def test_score_recommendations_several_targets():
    recs = table("a x 1, a y 2, a z 3", RANKED)
    found = values(recs, table("a z, a x, a q"), ks=[2, 3])
    assert found["recall@3"] == pytest.approx(2 / 3)
    assert found["ndcg@3"] == pytest.approx((1 + 1 / 2) / (1 + 1 / LOG3 + 1 / 2))
    assert found["ndcg@2"] == pytest.approx(1 / (1 + 1 / LOG3))  # ideal of min(k, targets)
    assert found["map@3"] == pytest.approx((1 + 2 / 3) / 3)


def test_score_recommendations_repeats_and_seen_keep_their_place():
    recs = table("a s 1, a x 2, a x 3, a y 4", RANKED)
    scores = score_recommendations(recs, table("a x, a y, a s"), train=table("a s"), ks=[4])
    assert scores.values["recall@4"] == pytest.approx(2 / 3)
    ideal = 1 + 1 / LOG3 + 1 / 2
    assert scores.values["ndcg@4"] == pytest.approx((1 / LOG3 + 1 / math.log2(5)) / ideal)
    assert scores.counts["duplicates"] == scores.counts["seen"] == 1


def test_score_recommendations_users():
    recs = table("a x 1, stranger y 1", RANKED)
    scores = score_recommendations(recs, table("a x, b x"), ks=[5])
    assert scores.values["recall@5"] == 0.5
    assert scores.counts["users_missing"] == scores.counts["users_not_in_test"] == 1
    assert scores.values["coverage@5"] == 1  # y is in no list that counts


def test_score_recommendations_no_overlap_of_users(caplog):
    recs = table("c x 1", RANKED)
    for lists in (recs, recs[:0]):
        found = values(lists, table("a x, b y"), ks=[5], catalogue=["x", "y"])
        assert set(found.values()) == {0.0}
    assert "none of the 2 test users has a list" in caplog.text


def test_score_recommendations_order():
    test = table("a y")
    by_score = table("a x 0.5, a y 0.5, a z 0.9", ("user_id", "item_id", "score"))
    assert values(by_score, test, ks=[3])["mrr@3"] == pytest.approx(1 / 3)  # ties: file order
    by_rank = table("a x 30, a y 7, a z 10", RANKED)  # only the order of ranks matters
    assert values(by_rank, test, ks=[3])["mrr@3"] == 1
    assert values(by_rank.assign(score=[9, 1, 5]), test, ks=[3])["mrr@3"] == 1  # rank wins


def test_score_recommendations_one_user_and_long_k():
    scores = score_recommendations(table("a x 1", RANKED), table("a x"), ks=[1, 100])
    assert scores.values["ndcg@100"] == 1 and scores.errors["ndcg@100"] == 0
    assert scores.counts["users_with_fewer_than_100"] == 1


def test_score_recommendations_popularity_and_novelty():
    train = table("p x, p x, q x, q y")
    recs = table("a x 1, a y 2, b q 1", RANKED)
    found = values(recs, table("a y, b y"), train=train, ks=[1, 2])
    assert found["popularity@1"] == 1.5 and found["popularity@2"] == pytest.approx(4 / 3)
    rarity = {"x": -math.log2(4 / 3), "y": -math.log2(2 / 3), "q": -math.log2(1 / 3)}
    assert found["novelty@2"] == pytest.approx(sum(rarity.values()) / 3)


def test_score_recommendations_gini():
    recs = table("a x 1, b x 1, c y 1, d x 1", RANKED)
    test = table("a x, b x, c x, d x")
    # exposure 3, 1, 0: mean absolute difference / (2 * mean) = (12 / 9) / (8 / 3) = 1/2
    assert values(recs, test, ks=[1], catalogue=list("xyz"))["gini@1"] == pytest.approx(0.5)
    assert gini([5, 5]) == 0 and gini([]) == 0 and gini([0, 0]) == 0


def test_score_recommendations_diversity_of_vectors():
    vectors = [[1, 0], [3, 0], [0, 2], [0, 0]]
    recs = table("a x 1, a y 2, a z 3, b x 1, b n 2, c z 1, c unknown 2, c x 3", RANKED)
    test = table("a x, b x, c x")
    scores = score_recommendations(recs, test, ks=[2, 3], catalogue=list("xyzn"), vectors=vectors)
    column = scores.per_user["diversity@3"]
    assert column["a"] == pytest.approx(2 / 3)  # pairs: 0, 1, 1
    assert np.isnan(column["b"])  # n has no vector: fewer than two items
    assert column["c"] == pytest.approx(1)
    assert scores.values["diversity@3"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.values["diversity@2"] == pytest.approx(0)


def test_score_recommendations_diversity_of_categories():
    recs = table("a x 1, a y 2, a z 3", RANKED)
    options = {"ks": [3], "catalogue": list("xyz"), "categories": ["新闻", "新闻", "课程"]}
    assert values(recs, table("a x"), **options)["diversity@3"] == pytest.approx(2 / 3)


def test_score_recommendations_diversity_in_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    recs = random_lists(rng, users=23, items=15, k=6)
    test = table(", ".join(f"u{user} i1" for user in range(23)))
    vectors, catalogue = rng.normal(size=(15, 4)), [f"i{item}" for item in range(15)]
    whole = score_recommendations(recs, test, catalogue=catalogue, vectors=vectors)
    monkeypatch.setattr("kerasrec.evaluation.metrics._USERS_AT_ONCE", 5)
    blocks = score_recommendations(recs, test, catalogue=catalogue, vectors=vectors)
    pd.testing.assert_frame_equal(whole.per_user, blocks.per_user)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    user = recs["user_id"].value_counts().idxmax()
    mine = recs[recs["user_id"] == user].sort_values("rank")["item_id"].str[1:].astype(int)
    mine = mine.tolist()[:5]
    cosines = [unit[i] @ unit[j] for n, i in enumerate(mine) for j in mine[n + 1 :]]
    assert whole.per_user.loc[user, "diversity@5"] == pytest.approx(1 - np.mean(cosines))


def test_score_recommendations_ids_compare_as_strings():
    recs = pd.DataFrame({"user_id": [1], "item_id": pd.Categorical(["7"]), "rank": [1]})
    assert values(recs, pd.DataFrame({"user_id": ["1"], "item_id": [7]}), ks=[1])["hr@1"] == 1


def test_scores_table_is_tidy():
    found = score_recommendations(table("a x 1", RANKED), table("a x"), ks=[5, 1]).table()
    assert list(found.columns) == ["metric", "k", "value", "se"]
    assert found[found["metric"] == "ndcg"]["k"].tolist() == [1, 5]
    assert found[found["metric"] == "coverage"]["se"].isna().all()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"recs": table("a x", ("user", "item"))}, "recs needs a column 'user_id'"),
        ({"recs": table("a x")}, "a column 'rank' .* or 'score'"),
        ({"recs": table("a x 1", RANKED).assign(rank=np.nan)}, "1 of 1 rows without a number"),
        ({"recs": table("a x 1", RANKED).assign(rank="first")}, "1 of 1 rows without a number"),
        ({"recs": table("a x 1", RANKED).assign(user_id=None)}, "1 rows without one"),
        ({"test": table("")}, "test needs at least one row"),
        ({"ks": [0]}, "list lengths from 1 on"),
        ({"ks": []}, "list lengths from 1 on"),
        ({"vectors": np.ones((2, 2))}, "one row per item of catalogue"),
        ({"vectors": np.ones((2, 2)), "catalogue": ["x"]}, "Received: 2 rows for 1 items"),
        ({"categories": ["a", "b"], "catalogue": ["x"]}, "categories needs one row per item"),
    ],
)
def test_score_recommendations_errors(change, sentence):
    arguments = {"recs": table("a x 1", RANKED), "test": table("a x")} | change
    with pytest.raises(ValueError, match=sentence):
        score_recommendations(**arguments)


def random_lists(rng, users, items, k):
    rows = []
    for user in range(users):
        chosen = rng.integers(0, items, rng.integers(1, k + 1))  # repeats happen
        rows += [(f"u{user}", f"i{item}", rank) for rank, item in enumerate(chosen, start=1)]
    return pd.DataFrame(rows, columns=RANKED).sample(frac=1, random_state=0)


def random_case(seed):
    """Lists with repeats, seen and unknown items, strangers; test users without a list."""
    rng = np.random.default_rng(seed)
    recs = random_lists(rng, users=60, items=40, k=25)

    def pairs(count, low, high):
        users, items = rng.integers(low, high, count), rng.integers(0, 35, count)
        ids = [[f"u{user}", f"i{item}"] for user, item in zip(users, items, strict=True)]
        return pd.DataFrame(ids, columns=["user_id", "item_id"])

    return recs, pairs(90, 10, 70), pairs(200, 0, 70), [f"i{item}" for item in range(35)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given_catalogue", [True, False])
def test_score_recommendations_equals_the_yardstick(seed, given_catalogue):
    spec = importlib.util.spec_from_file_location("yardstick", SCORE_PY)
    yardstick = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(yardstick)
    recs, test, train, catalogue = random_case(seed)
    catalogue = catalogue if given_catalogue else None
    short = {"user_id": "user", "item_id": "item"}
    frames = [frame.rename(columns=short) for frame in (recs, test, train)]
    expected = yardstick.score(*frames, catalogue=catalogue and pd.Series(catalogue))
    scores = score_recommendations(recs, test, train=train, catalogue=catalogue)
    assert expected["duplicates"] > 0 and expected["seen"] > 0 and expected["users_missing"] > 0
    for name, value in expected.items():
        ours = scores.counts.get(name, scores.values.get(name))
        if name.endswith("_se"):
            ours = scores.errors[name[:-3]]
        assert ours == pytest.approx(value, abs=1e-9), name


RANX = """
import json, sys
import ranx
relevant, listed, names = json.load(sys.stdin)
runs = ranx.Qrels(relevant), ranx.Run(listed)
found = ranx.evaluate(*runs, names, make_comparable=True)
print(json.dumps({name: float(value) for name, value in found.items()}))
"""


def test_score_recommendations_equals_ranx():
    recs, test, _, _ = random_case(7)
    recs = recs.sort_values(["user_id", "rank"]).drop_duplicates(["user_id", "item_id"])
    relevant = {user: dict.fromkeys(rows["item_id"], 1) for user, rows in test.groupby("user_id")}
    listed = {
        user: dict(zip(rows["item_id"], -rows["rank"].astype(float), strict=True))
        for user, rows in recs.groupby("user_id")
    }
    theirs = {"recall": "recall", "hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr", "map": "map"}
    names = [f"{name}@{k}" for name in theirs.values() for k in (5, 10, 20)]
    # Plain Python instead of a minute of compiling; numba reads that at its import.
    out = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([relevant, listed, names]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    expected, ours = json.loads(out.stdout), values(recs, test)
    for name, their in theirs.items():
        for k in (5, 10, 20):
            assert ours[f"{name}@{k}"] == pytest.approx(expected[f"{their}@{k}"], abs=1e-9)


small_sets = st.dictionaries(
    st.integers(0, 5), st.sets(st.integers(0, 9), min_size=1, max_size=6), min_size=1
)


def long_table(of_user, ranked=False):
    rows = [
        (str(user), str(item), rank)
        for user, items in of_user.items()
        for rank, item in enumerate(items, start=1)
    ]
    frame = pd.DataFrame(rows, columns=RANKED)
    return frame if ranked else frame[["user_id", "item_id"]]


@settings(max_examples=40, deadline=None)
@given(relevant=small_sets)
def test_a_perfect_ranking_scores_1(relevant):
    found = values(long_table(relevant, ranked=True), long_table(relevant), ks=[6])
    for name in ("recall", "hr", "ndcg", "mrr", "map"):
        assert found[f"{name}@6"] == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(relevant=small_sets, listed=small_sets, seen=small_sets, seed=st.integers(0, 99))
def test_metrics_are_bounded_and_blind_to_the_order_of_rows(relevant, listed, seen, seed):
    recs, test, train = long_table(listed, ranked=True), long_table(relevant), long_table(seen)
    scores = score_recommendations(recs, test, train=train, ks=[3, 6])
    for name, value in scores.values.items():
        if not name.startswith(("novelty", "popularity")):
            assert 0 <= value <= 1 + 1e-12, name
    recs, test = (frame.sample(frac=1, random_state=seed) for frame in (recs, test))
    shuffled = score_recommendations(recs, test, train=train, ks=[6, 3])
    assert shuffled.values == pytest.approx(scores.values)
    per_user = shuffled.per_user.loc[scores.per_user.index, scores.per_user.columns]
    pd.testing.assert_frame_equal(per_user, scores.per_user)


def test_metrics_from_ranks_agree_with_the_table():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(30, 13)), rng.integers(1, 13, 30)
    order = np.argsort(-scores[:, 1:], axis=1) + 1
    ranks = np.nonzero(order == targets[:, None])[1] + 1
    rows = [(f"{u}", f"{i}", r) for u in range(30) for r, i in enumerate(order[u], start=1)]
    test = pd.DataFrame({"user_id": range(30), "item_id": targets})
    found = values(pd.DataFrame(rows, columns=RANKED), test, ks=[5])
    assert ndcg_from_ranks(ranks, 5).mean() == pytest.approx(found["ndcg@5"])
    assert recall_from_ranks(ranks, 5).mean() == pytest.approx(found["recall@5"])


def test_paired_bootstrap_agrees_with_resampling_by_index():
    rng = np.random.default_rng(1)
    a, b = rng.random(200), rng.random(200) - 0.05
    found = paired_bootstrap(a, b, samples=4000)
    naive = (a - b)[rng.integers(0, 200, (4000, 200))].mean(axis=1)
    p_value = 2 * min((naive <= 0).mean(), (naive >= 0).mean())
    assert found.difference == pytest.approx((a - b).mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.01)
    assert found.p_value == pytest.approx(p_value, abs=0.02)
    assert paired_bootstrap(a, b, seed=5) == paired_bootstrap(a, b, seed=5)


def test_paired_bootstrap_edges():
    assert paired_bootstrap([0.5, 1.0], [0.5, 1.0]) == (0, 0, 0, 1)
    assert paired_bootstrap([1.0], [0.0]).low == 1  # one user: no spread
    clear = paired_bootstrap(np.ones(50), np.zeros(50), samples=999)
    assert clear.p_value == pytest.approx(2 / 1000)
    a = pd.Series([1.0, 0.0], index=["u", "v"])
    assert paired_bootstrap(a, a[::-1]).difference == 0  # joined by user
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_bootstrap(a, a[:1])
    with pytest.raises(ValueError, match="for the same users"):
        paired_bootstrap(a, a.rename({"v": "w"}))


def test_score_recommendations_is_fast():
    users, items, k = 100_000, 5_000, 20  # a tenth of the stated million lists in under 20 s
    rng = np.random.default_rng(0)
    names = pd.Index([f"u{user}" for user in range(users)])
    ids = pd.Index([f"i{item}" for item in range(items)])
    recs = pd.DataFrame(
        {
            "user_id": pd.Categorical.from_codes(np.repeat(np.arange(users), k), names),
            "item_id": pd.Categorical.from_codes(rng.integers(0, items, users * k), ids),
            "rank": np.tile(np.arange(1, k + 1), users),
        }
    )
    test = pd.DataFrame({"user_id": names, "item_id": ids[rng.integers(0, items, users)]})
    start = time.process_time()
    found = values(recs, test, catalogue=ids)
    assert time.process_time() - start < 5  # 1 s on an idle machine
    assert found["recall@20"] == pytest.approx(k / items, rel=0.2)
