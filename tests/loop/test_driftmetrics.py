"""Distances, calibration and errors of drift: by hand, or an independent slow way."""

import numpy as np
import pandas as pd
import pytest
from toys import histories_of

from kerasrec.evaluation.toplists import recommend_top_k
from kerasrec.loop.driftmetrics import (
    calibration,
    code_distance,
    distance_from,
    interval,
    mean_and_error_of_users,
    ranks_by,
    top_confidence,
)


def test_calibration_by_hand():
    """Bins 0.9..1: two answers of 0.95, one right; 0.3..0.4: three of 0.35, one right; 1.0: right.

    1.0 belongs to the highest bin: its three answers have confidence 2.9 / 3 and 2 / 3 right.
    """
    found = calibration([0.95, 0.95, 0.35, 0.35, 0.35, 1.0], [1, 0, 1, 0, 0, 1])
    assert found.confidence == pytest.approx(3.95 / 6)
    assert found.right == pytest.approx(0.5)
    assert found.error == pytest.approx((3 * (2.9 / 3 - 2 / 3) + 3 * abs(1 / 3 - 0.35)) / 6)


def test_calibration_of_who_knows_how_sure_it_is():
    rng = np.random.default_rng(0)
    confidence = rng.random(100_000)
    right = rng.random(100_000) < confidence
    assert calibration(confidence, right).error < 0.01
    assert calibration(confidence**0.5, right).error == pytest.approx(2 / 3 - 1 / 2, abs=0.01)
    assert np.isnan(calibration([], [])).all()


def test_top_confidence_is_a_softmax():
    """Lists of different lengths, huge scores, and a list that is empty."""
    found = top_confidence([0, 0, 0, 2, 2], [1.0, 2.0, 0.0, 900.0, 900.0], 3)
    softmax = np.exp(2) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(found, [softmax, np.nan, 0.5])


def test_code_distance_by_hand():
    """Shares (1, 0) and (1/2, 1/2): their mean is (3/4, 1/4)."""
    to_mean = np.log2(1 / 0.75), 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)
    assert code_distance([0, 0], [0, 1]) == pytest.approx((0.5 * sum(to_mean)) ** 0.5)
    assert np.isnan(code_distance([], [1]))


def test_distance_from_tells_a_shift_from_chance():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 50, 21_000)
    for codes in (rng.integers(0, 50, 5000), rng.integers(0, 50, 200)):
        distance, neighbours = distance_from(before, codes)
        assert len(neighbours) == 20
        # as far as neighbours are, though far by chance where events are few
        assert distance == pytest.approx(neighbours.mean(), abs=4 * neighbours.std())
    few, _ = distance_from(before, rng.integers(0, 50, 200))
    many, _ = distance_from(before, rng.integers(0, 50, 5000))
    assert few > 1.3 * many
    distance, neighbours = distance_from(before, rng.integers(10, 60, 200))
    assert distance > neighbours.max()


def test_distance_from_few_events():
    events = np.arange(2100) % 7
    assert np.isnan(distance_from(events, events[:99])[0])
    assert np.isnan(distance_from(events[:2099], events)[0])  # a stretch of 99
    assert len(distance_from(events, events[:100])[1]) == 20


def test_error_of_users_by_hand():
    """Mean 1/2, deviations of user a sum to 1, of b to -1: sqrt(2/1 * 2) / 4 = 1/2."""
    assert mean_and_error_of_users([1, 1, 0, 0], list("aabb")) == (0.5, 0.5)
    one_each = mean_and_error_of_users([1, 1, 0, 0], list("abcd"))
    assert one_each == pytest.approx((0.5, np.std([1, 1, 0, 0], ddof=1) / 2))
    assert np.isnan(mean_and_error_of_users([1, 0], ["a", "a"])[1])
    assert np.isnan(mean_and_error_of_users([], [])).all()
    assert interval(1.0, 0.5) == (pytest.approx(0.02), pytest.approx(1.98))


def test_ranks_by_agree_with_lists():
    """Scores with ties, histories with repeats: the rank in the whole list of `recommend_top_k`."""
    rng = np.random.default_rng(1)
    scores = np.concatenate([[0], rng.integers(0, 6, 30)]).astype(np.float32)
    rows = [rng.integers(1, 31, length) for length in (0, 1, 5, 12)]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(1, 31), row)) for row in rows])
    histories, ids = histories_of(rows), [str(number) for number in range(1, 31)]
    lists = recommend_top_k(lambda part: np.tile(scores, (part.num_users, 1)), histories, ids, k=30)
    wanted = pd.Series(targets.astype(str), histories.user_ids)
    hits = lists[lists["item_id"].astype(str) == wanted[lists["user_id"].astype(str)].to_numpy()]
    assert ranks_by(scores, histories, targets).tolist() == hits["rank"].tolist()
