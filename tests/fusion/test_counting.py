"""Counting alone, and when it is said to be ahead; values worked by hand."""

import numpy as np
import pytest
from toys import histories_of

from kerasrec.fusion.counting import CUT, Counting, Guard
from kerasrec.fusion.following import Following
from kerasrec.fusion.fusion import POPULAR
from kerasrec.fusion.recency import Counts, LastMoment

NUM_ITEMS, T = 4, 1_700_000_000
#: 2 and 3 followed 1 once each; 4 was never taken
LOG = histories_of([[1, 2], [1, 3]], [[T, T + 60], [T, T + 60]])


@pytest.fixture
def known():
    return Following(LOG, NUM_ITEMS, None), Counts.of(NUM_ITEMS, LOG)


def test_parts_by_hand(known):
    """Follows, eight half-lives, all events: each sums to 1 over what was not seen."""
    parts = Counting({"follows": 0.0}).parts(np.array([1]), *known)
    assert parts.shape == (10, NUM_ITEMS + 1)
    np.testing.assert_allclose(parts[:, 2:4], 0.5, atol=1e-5)
    assert not parts[:, :2].any() and (parts[1:, 4] < 1e-5).all()


def test_nothing_follows_an_unknown_item(known):
    parts = Counting({"follows": 0.0}).parts(np.array([4]), *known)
    assert not parts[0].any()  # no row of the table
    np.testing.assert_allclose(parts[-1], [0, 0.5, 0.25, 0.25, 0], atol=1e-5)


def test_an_event_moves_the_shares_of_its_kind():
    """The 1st event counts as one of 31: a tenth becomes 0.1 + 0.9 / 31 where it was likely."""
    counting = Counting({"follows": 0.0})
    counting.learn(np.eye(10)[0], 1)
    np.testing.assert_allclose(counting.shares[1], [0.1 + 0.9 / 31] + [0.1 - 0.1 / 31] * 9)
    np.testing.assert_allclose(counting.shares[[0, 2]], 0.1)
    before = counting.shares.copy()
    counting.learn(np.zeros(10), 1)
    np.testing.assert_array_equal(counting.shares, before)


def test_shares_go_to_the_part_that_is_right():
    counting = Counting({"transitions": 0.5, "follows": 0.5})
    rng = np.random.default_rng(0)
    for _ in range(500):
        likely = rng.uniform(0, 0.1, 11)
        likely[3] = 0.6
        counting.learn(likely, 0)
    assert counting.shares[0].argmax() == 3 and counting.shares[0, 3] > 0.8
    np.testing.assert_allclose(counting.shares.sum(axis=1), 1)


def test_the_mixture_by_wait():
    """Who goes on: up to half an hour, or unknown; back the same day; who comes: from 20 hours."""
    counting = Counting({"follows": 0.0})
    counting.shares[:] = np.eye(10)[[0, 1, 9]]
    mixture = counting.mixture()
    assert mixture["follows"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert mixture[POPULAR].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_now_by_counts(known):
    counting = Counting({"follows": 0.0})
    none = np.zeros(NUM_ITEMS + 1, np.float32)
    last = LastMoment(T, np.ones(NUM_ITEMS + 1, np.int32), none + 7, none, none)
    now = counting.moment(last, known[1])
    assert now.start == T and not now.prior.any()
    np.testing.assert_allclose(np.exp(now.popular_at[0]), [0, 0.5, 0.25, 0.25, 0], atol=1e-3)
    assert now.popular_at.shape == (3, NUM_ITEMS + 1) and now.popular[1:].argmax() == 0


def asked(count):
    """`count` users who took 1 and are asked a minute later."""
    rows = histories_of([[1]] * count, [[T]] * count)
    return rows, np.full(count, T + 60)


def test_a_version_that_lists_nothing_right_is_lost_after_200_events(known):
    guard = Guard({"follows": 0.0})
    nothing = np.zeros((20, CUT), int)
    told = [guard.compare(asked(20), np.full(20, 2), nothing, known) for _ in range(12)]
    assert told == [False] * 9 + [True] + [False] * 2 and guard.is_lost
    assert guard.gain == pytest.approx(1) and guard.events == 240


def test_a_version_as_good_is_not_lost(known):
    guard = Guard({"follows": 0.0})
    right = np.tile([2, 3, 4] + [0] * 7, (20, 1))
    for _ in range(30):
        assert not guard.compare(asked(20), np.full(20, 2), right, known)
    assert guard.gain == 0 and not guard.is_lost


def test_chance_alone_says_nothing(known):
    """Counting has 2 at rank 1 and 4 at rank 3; a version that tosses a coin is as good."""
    guard, rng = Guard({"follows": 0.0}), np.random.default_rng(0)
    for number in range(1000):
        taken = rng.choice([2, 4], 20)
        listed = np.where(rng.random((20, 1)) < 0.5, [[2, 0, 4]], [[4, 0, 2]])
        guard.compare(asked(20), taken, listed, known)
        assert not guard.is_lost, number


def test_what_the_user_had_before_is_not_compared(known):
    guard = Guard({"follows": 0.0})
    guard.compare(asked(5), np.full(5, 1), np.zeros((5, CUT), int), known)
    assert guard.events == 0
