"""Baselines against slow loops over the formulas."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from kerasrec.data.histories import Histories
from kerasrec.evaluation.baselines import (
    BASELINES,
    fit_item_knn,
    fit_popularity,
    fit_recent_popularity,
    fit_tfidf_text,
)
from kerasrec.evaluation.toplists import recommend_top_k

TEXTS = ["机器学习基础", "深度学习入门", "中国古代史", "世界古代史", "宏观经济学", ""]


def histories(rows, times=None, weights=None):
    items = np.concatenate([*rows, []]).astype(np.int32)
    offsets = np.cumsum([0] + [len(row) for row in rows])
    times = np.zeros(len(items), np.int64) if times is None else np.concatenate(times)
    weights = np.ones(len(items)) if weights is None else np.concatenate(weights)
    ids = np.array([f"u{number}" for number in range(len(rows))], object)
    events = np.zeros(len(items), np.int16)
    return Histories(ids, offsets, items, times, events, weights.astype(np.float32))


def random_histories(seed=0, users=25, num_items=6):
    rng = np.random.default_rng(seed)
    return histories([rng.integers(1, num_items + 1, rng.integers(0, 9)) for _ in range(users)])


def test_fit_popularity_counts_chosen_events():
    train = histories([[1, 2, 2], [2, 3]], weights=[[1, 1, 3], [-1, 0]])
    score = fit_popularity(train, 4)
    assert score(histories([[1], []])).tolist() == [[0, 1, 2, 0, 0]] * 2


def test_fit_recent_popularity_half_life_window_and_now():
    train = histories([[1, 1, 2], [3]], times=[[100, 100, 160], [190]])

    def scores(**options):
        return fit_recent_popularity(train, 3, **options)(histories([[]]))[0, 1:]

    half = np.array([2 * 0.5 ** (90 / 30), 0.5 ** (30 / 30), 1.0])
    assert scores(half_life=30) == pytest.approx(half / half.max(), abs=2e-6)
    assert scores(window=40) == pytest.approx([0, 1, 1], abs=2e-6)
    assert scores(window=1000).argmax() == 0  # twice as many, all alike
    assert scores(half_life=30, now=160) == pytest.approx([0.5, 1, 0], abs=2e-6)  # no future
    assert scores(half_life=30)[0] > scores(window=40)[0] > 0  # ties go to the popular item
    assert fit_recent_popularity(train, 3)(histories([[]])).argmax() == 3
    with pytest.raises(ValueError, match="half_life must be above 0"):
        scores(half_life=0)


def test_fit_recent_popularity_without_times_is_popularity(caplog):
    caplog.set_level("INFO")
    train = histories([[1, 2, 2]])
    assert (
        fit_recent_popularity(train, 2)(train).tolist() == fit_popularity(train, 2)(train).tolist()
    )
    assert "plain popularity" in caplog.text


def slow_item_knn(train, rows, num_items, *, decay, backward, source, target, recency, longest):
    """The formula of RECIPES.md section 7, pair by pair."""
    pairs, count = np.zeros((num_items + 1, num_items + 1)), np.zeros(num_items + 1)
    for mine in np.split(train.items, train.offsets[1:-1]):
        for place, i in enumerate(mine):
            count[i] += 1
            for distance in range(1, longest + 1):
                if place + distance < len(mine):
                    j = mine[place + distance]
                    pairs[i, j] += distance**-decay
                    pairs[j, i] += backward * distance**-decay
    count = np.maximum(count, 1)
    scores = np.zeros((rows.num_users, num_items + 1))
    for row, mine in enumerate(np.split(rows.items, rows.offsets[1:-1])):
        for age, i in enumerate(mine[::-1]):
            scores[row] += recency**age * pairs[i] / (count[i] ** source * count**target)
    return scores


def test_fit_item_knn_agrees_with_the_formula():
    train, rows = random_histories(0), random_histories(1)
    score = fit_item_knn(
        train, 6, distance_decay=0.4, backward=0.7, source_power=0.5, target_power=0.2,
        recency=0.6, max_distance=3,
    )  # fmt: skip
    options = {"decay": 0.4, "backward": 0.7, "source": 0.5, "target": 0.2}
    expected = slow_item_knn(train, rows, 6, **options, recency=0.6, longest=3)
    known = expected.max(axis=1) > 0
    assert known.sum() > 10
    scaled = expected[known] / expected[known].max(axis=1, keepdims=True)
    assert score(rows)[known] == pytest.approx(scaled, abs=3e-6)


def test_fit_item_knn_order_and_distance():
    train = histories([[1, 2], [1, 2], [3, 1], [1, 4, 5]])
    asked = histories([[1]])
    forward = fit_item_knn(train, 5, backward=0, target_power=0)(asked)[0]
    assert forward[2] > forward[4] > forward[5] > forward[3]  # 3 came before only
    assert fit_item_knn(train, 5, max_distance=1)(asked)[0, 5] < 1e-5


def test_fit_tfidf_text_agrees_with_dense_cosines():
    rows = random_histories(2)
    score = fit_tfidf_text(random_histories(3), 6, texts=TEXTS, recency=0.5)
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    vectors = grams.fit_transform(TEXTS).toarray()
    cosine = vectors @ vectors.T * (1 - np.eye(6))
    found = score(rows)
    for row, mine in enumerate(np.split(rows.items, rows.offsets[1:-1])):
        expected = sum((0.5**age * cosine[i - 1] for age, i in enumerate(mine[::-1])), np.zeros(6))
        if expected.max() > 0:
            assert found[row, 1:] == pytest.approx(expected / expected.max(), abs=3e-6)


def test_fit_tfidf_text_keeps_the_nearest_neighbours():
    train = random_histories()
    asked = histories([[1], [3]])
    few = fit_tfidf_text(train, 6, texts=TEXTS, num_neighbours=1)(asked)
    assert few.argmax(axis=1).tolist() == [2, 4]
    assert ((few > 1e-5).sum(axis=1) == 1).all()


def test_fit_tfidf_text_ignores_what_most_texts_share(monkeypatch):
    monkeypatch.setattr("kerasrec.evaluation.baselines._COMMON_TEXTS", 1)
    texts = ["课程甲", "课程乙", "课程丙"]  # every gram that two texts share is common here
    train = histories([[2, 2, 3]])
    assert fit_tfidf_text(train, 3, texts=texts)(histories([[1]]))[0].argmax() == 2


def test_fit_tfidf_text_errors():
    train = histories([[1]])
    with pytest.raises(ValueError, match=r"one text per item \(2\). Received: 1"):
        fit_tfidf_text(train, 2, texts=["甲"])
    with pytest.raises(ValueError, match="only empty ones"):
        fit_tfidf_text(train, 2, texts=["", " "])
    with pytest.raises(ValueError, match="recency must be in 0..1"):
        fit_tfidf_text(train, 2, texts=["甲", "乙"], recency=1.5)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_scores_any_user(name):
    options = {"texts": TEXTS} if name == "tfidf_text" else {}
    train = histories([[1, 2, 1, 5], [1, 3]])
    score = BASELINES[name](train, 6, **options)
    rows = histories([[1, 2], [], [6], [4, 4, 4]])
    scores = score(rows)
    assert scores.dtype == np.float32 and scores.shape == (4, 7)
    assert np.isfinite(scores).all() and (scores[:, 0] == 0).all()
    assert scores[1].argmax() == 1  # without a history: the most popular item
    lists = recommend_top_k(score, rows, list("abcdef"), k=6)
    assert lists.groupby("user_id", observed=False).size().tolist() == [4, 6, 5, 5]
    assert (score(rows.select([3, 0])) == scores[[3, 0]]).all()  # rows do not see each other


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_fits_without_events(name):
    options = {"texts": TEXTS} if name == "tfidf_text" else {}
    score = BASELINES[name](histories([]), 6, **options)
    assert np.isfinite(score(histories([[1, 2], []]))).all()


def test_weight_below_1_leaves_no_trace():
    train = histories([[1, 2, 3]], weights=[[1, -1, 1]])
    scores = fit_item_knn(train, 3)(histories([[1]]))[0]
    assert scores[2] < 1e-5 < scores[3]
    ignored = fit_item_knn(train, 3)(histories([[1, 2]], weights=[[1, 0]]))[0]
    assert (ignored == scores).all()
