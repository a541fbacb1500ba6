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
    """Follows, eight half-lives, all events; half of these were of 1, which was seen."""
    parts = Counting({"follows": 0.0}).parts(np.array([1]), *known)
    assert parts.shape == (10, NUM_ITEMS + 1)
    np.testing.assert_allclose(parts[0, 2:4], 0.5, atol=1e-5)
    np.testing.assert_allclose(parts[1:, 2:4], 0.25, atol=0.01)
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
    assert counting.shares.min() > 5e-5  # what is never right may be right tomorrow


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


NOBODY = np.zeros(0, int)


def hour_of(guard, known, number, taken, listed, *, users=None, withdrawn=NOBODY):
    """Compares events of an hour: of users who took 1 and are asked a minute later."""
    count = len(taken)
    rows = histories_of([[1]] * count, [[T]] * count)
    times = np.full(count, T + 60 + 3600 * number)
    users = np.arange(count) if users is None else users
    listed = np.broadcast_to(listed, (count, CUT))
    return guard.compare((rows, times), users, np.array(taken), listed, known, withdrawn)


NOTHING, RIGHT = np.zeros(CUT, int), np.array([2, 3, 4] + [0] * 7)


def test_a_version_that_lists_nothing_right_is_lost_after_a_day(known):
    """10 events an hour: 200 after 20 hours, but a night may be unlike a day."""
    guard = Guard({"follows": 0.0})
    told = [hour_of(guard, known, hour, [2] * 10, NOTHING) for hour in range(40)]
    assert told.index(True) == 24 and sum(told) == 1 and guard.is_lost
    assert guard.gain == pytest.approx(0.7, abs=0.15)  # 2 and 3 follow alike: rank 1.5 at first
    assert guard.events == 400


def test_few_events_or_hours_prove_nothing(known):
    few, hours = Guard({"follows": 0.0}), Guard({"follows": 0.0})
    for hour in range(60):
        assert not hour_of(few, known, hour, [2] * 3, NOTHING)
        assert not hour_of(hours, known, hour * 6, [2] * 30, NOTHING) or hour >= 12
    assert few.events == 180 and not few.is_lost and hours.is_lost


def test_a_version_as_good_is_not_lost(known):
    guard = Guard({"follows": 0.0})
    for hour in range(60):
        assert not hour_of(guard, known, hour, [2, 3] * 10, RIGHT)
    assert abs(guard.gain) < 0.1 and not guard.is_lost


def swinging(guard, known, days, swing, mean, seed):
    """A version whose lists are as good as those of counting, but for a swing by the hour."""
    rng = np.random.default_rng(seed)
    for hour in range(24 * days):
        # counting has 2 first (or 3: their votes are equal); a miss costs it all
        share = 0.5 + mean + swing * np.sin(2 * np.pi * hour / 24)
        is_listed = rng.random(20) < share
        is_right = rng.random(20) < 0.5  # counting is right for half: 4 is in no table of it
        taken = np.where(is_right, 2, 4)
        listed = np.where(is_listed[:, None], np.array([[2, 4] + [0] * 8]), 0)
        hour_of(guard, known, hour, taken, listed)
        if guard.is_lost:
            return hour
    return None


@pytest.mark.parametrize("seed", range(3))
def test_a_swing_by_day_and_night_says_nothing(known, seed):
    """Ten days in which counting is ahead by night, and behind in the mean."""
    assert swinging(Guard({"follows": 0.0}), known, 10, 0.3, 0.35, seed) is None


def test_one_robot_is_one_user(known):
    """It takes what no version lists, 20 times an hour; ten people take what is listed."""
    guard = Guard({"follows": 0.0})
    for hour in range(72):
        hour_of(guard, known, hour, [3] * 20, NOTHING, users=["robot"] * 20)
        people = [f"p{number}" for number in range(10)]
        hour_of(guard, known, hour, [2] * 10, RIGHT, users=people)
    assert guard.events == 72 * 11 and not guard.is_lost


def test_items_in_no_list_take_no_place(known):
    """3 is withdrawn: 2 is first in what counting lists, alone."""
    guard = Guard({"follows": 0.0})
    hour_of(guard, known, 0, [2], NOTHING, withdrawn=np.array([3]))
    hour_of(guard, known, 1, [2], NOTHING, withdrawn=np.array([3]))
    assert guard.gain == pytest.approx(1)


def test_what_the_user_had_before_is_not_compared(known):
    guard = Guard({"follows": 0.0})
    hour_of(guard, known, 0, [1] * 5, NOTHING)
    assert guard.events == 0


def test_after_a_loss_counting_goes_on_learning(known):
    guard = Guard({"follows": 0.0})
    before = guard.counting.shares.copy()
    rows = histories_of([[1]], [[T]])
    told = guard.compare((rows, np.array([T + 60])), ["u"], [2], None, known, NOBODY)
    assert not told and guard.events == 0
    assert (guard.counting.shares[0] != before[0]).any()


def test_scores_by_hand(known):
    """What follows has 0.1; what is popular, one part as in the graph, 0.9: 2 and 3 are alike."""
    counting = Counting({"follows": 0.0})
    scores = counting.scores(counting.parts(np.array([1]), *known), 0)
    np.testing.assert_allclose(scores, [0, 0, 0.5, 0.5, 0], atol=1e-5)
