"""Counts that grow with every event, against a slow way that takes one event after the other."""

from collections import defaultdict

import numpy as np
import pytest

from kerasrec.data.histories import Histories, make_histories
from kerasrec.evaluation import livebaselines
from kerasrec.evaluation.livebaselines import OPTIONS, KnnOptions, LiveKnn, choose_options


def slow_scores(histories, place, num_items, options):
    """Scores for the user of an event: every event with an earlier time is taken alone."""
    row = np.searchsorted(histories.offsets, place, side="right") - 1
    user = np.repeat(np.arange(histories.num_users), histories.lengths)
    now, chosen = histories.timestamps[place], histories.chosen
    pairs, events = defaultdict(float), np.zeros(num_items + 1)
    popular, newest = np.zeros(num_items + 1), 0
    for one in np.flatnonzero((histories.timestamps < now) & chosen):
        item, time = histories.items[one], histories.timestamps[one]
        events[item] += 1
        popular[item] += 0.5 ** ((time - now) / -options.half_life)
        newest = max(newest, time)
        earlier = [n for n in range(one) if user[n] == user[one] and chosen[n]][::-1]
        for distance, other in enumerate(earlier[:10], 1):
            pairs[histories.items[other], item] += 1 / distance
            pairs[item, histories.items[other]] += 0.3 / distance
    own = [n for n in range(histories.offsets[row], place) if chosen[n]][::-1][:10]
    near = np.zeros(num_items + 1)
    for age, one in enumerate(own):
        item = histories.items[one]
        for other in range(1, num_items + 1):
            damped = (max(events[item], 1) * max(events[other], 1)) ** options.power
            near[other] += options.decay**age * pairs[item, other] / damped
    popular = popular / max(popular.sum(), 1e-300)
    found = popular
    if near.any():
        found = (1 - options.mix) * near / near.sum() + (options.mix + 1e-9) * popular
    found[histories.items[histories.offsets[row] : place]] = -1
    found[0] = -1
    return found


def random_log(num_users=9, num_items=12, num_events=150, seed=0):
    """Events with many ties in time, repeats, and some that users did not choose."""
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, num_users, num_events))
    offsets = np.searchsorted(user, np.arange(num_users + 1))
    times = 1000 + rng.integers(0, 60, num_events)
    times = times[np.lexsort((times, user))]
    values = (rng.random(num_events) > 0.1).astype(np.float32)
    ids = np.array([f"u{n}" for n in range(num_users)], object)
    items = rng.integers(1, num_items + 1, num_events).astype(np.int32)
    return Histories(ids, offsets, items, times, np.zeros(num_events, np.int16), values)


@pytest.mark.parametrize("most_dense", [4096, 5])
def test_scores_and_ranks_are_those_of_a_slow_way(monkeypatch, most_dense):
    """As one matrix, and as two sparse ones where the catalogue is large."""
    monkeypatch.setattr(livebaselines, "_MOST_DENSE", most_dense)
    histories, options = random_log(), (KnnOptions(half_life=20), KnnOptions(0.8, 0.25, 0.0, 7))
    places = np.random.default_rng(1).permutation(len(histories.items))[:80]
    ranks = LiveKnn(histories, 12, options).ranks(places)
    knn = LiveKnn(histories, 12, options)
    for number in np.argsort(histories.timestamps[places], kind="stable"):
        place = places[number]
        knn.learn(int(histories.timestamps[place]))
        found, item = knn.scores(int(place)), histories.items[place]
        for row, one in enumerate(options):
            expected = slow_scores(histories, place, 12, one)
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-8)
            own = found[row, item]
            better = (found[row] > own).sum() + (found[row, :item] == own).sum()
            assert ranks[row, number] == (0 if own < 0 else better + 1)
    assert (ranks == 0).any() and (ranks == 1).any()


def test_the_future_changes_nothing():
    """Ranks of early events are the same where the log ends after them."""
    histories = random_log(seed=3)
    until = int(np.median(histories.timestamps))
    early = histories.timestamps < until
    cut = histories.where(early)
    whole = LiveKnn(histories, 12).ranks(np.flatnonzero(early))
    np.testing.assert_array_equal(LiveKnn(cut, 12).ranks(np.arange(len(cut.items))), whole)
    with_zeros = LiveKnn(histories, 12)
    with_zeros.learn(until)
    with_zeros.learn(until - 30)  # an earlier moment: nothing is counted twice
    assert with_zeros._events.sum() == (early & histories.chosen).sum()


def test_options_are_chosen_on_the_events_given(toy_interactions, toy_items):
    histories = make_histories(toy_interactions, toy_items)
    size, places = len(toy_items), np.flatnonzero(histories.timestamps > 0)[::7]
    best = choose_options(histories, places, size)
    assert best in OPTIONS
    ranks = LiveKnn(histories, size, OPTIONS).ranks(places)
    gain = np.where((ranks > 0) & (ranks <= 10), 1 / np.log2(np.maximum(ranks, 1) + 1), 0)
    assert gain.sum(axis=1).max() == gain.sum(axis=1)[OPTIONS.index(best)]
    assert choose_options(histories, places[:0], size) == KnnOptions()
    empty = histories.where(np.zeros(len(histories.items), bool))
    assert LiveKnn(empty, size).ranks(np.zeros(0, int)).shape == (1, 0)
