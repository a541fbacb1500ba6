import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import histories_of

from kerasrec.data.events import EVENT_CODES
from kerasrec.fusion import recency
from kerasrec.fusion.recency import (
    HALF_LIVES,
    KINDS,
    NEVER,
    OPENING_HALF_LIVES,
    PAUSE,
    Counts,
    Recency,
    Visits,
    asked_at_the_end,
    fit_moments,
    log_shares,
    newest_times,
    opening_events,
)

DAY = 86400
START = 1_400_000_000
NAMES = [f"recent, half-life {hours} h" for hours in (1, 6, 24, 96, 384, 1536, 6144, 24576)]


def test_counts_by_hand():
    counts = Counts.none(2, time=START).after(
        np.array([1, 1, 2]),
        np.array([START, START + 3600, START + 7200]),
        np.array([1.0, 2.0, 1.0]),
        np.array([True, False, True]),
        until=START + 7200,
    )
    # half-life of an hour: 1 event two hours old, 2 (by weight) an hour old; 1 event now
    np.testing.assert_allclose(counts.recent[0], [0, 0.25 + 1, 1])
    np.testing.assert_allclose(counts.total, [0, 3, 1])
    np.testing.assert_allclose(counts.opening[0], [0, 0.25, 1])
    features = counts.features()
    plain = len(HALF_LIVES) + 2
    assert features.shape == (plain + len(OPENING_HALF_LIVES), 3)
    np.testing.assert_allclose(features[0], np.log([0.02, 1.27, 1.02]), rtol=1e-6)
    np.testing.assert_allclose(features[plain - 2], np.log([0.5, 3.5, 1.5]), rtol=1e-6)
    assert features[plain - 1].tolist() == [1, 0, 0]  # the padding column counts as new
    np.testing.assert_allclose(features[plain], np.log([0.02, 0.27, 1.02]), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 40 * DAY), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 40 * DAY),
)
def test_counts_in_two_steps_equal_counts_in_one(events, cut):
    items, times, opens = np.array(sorted(events, key=lambda event: event[1])).T
    times, opens = START + times, opens.astype(bool)
    until, ones = int(times[-1]), np.ones(len(items))
    columns = items, times, ones, opens
    at_once = Counts.none(5, START).after(*columns, until=until)
    first = times <= START + cut
    middle = int(min(START + cut, until))
    step = Counts.none(5, START).after(*(part[first] for part in columns), until=middle)
    step = step.after(*(part[~first] for part in columns), until=until)
    for name in ("recent", "opening"):
        got, expected = getattr(step, name), getattr(at_once, name)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(step.total, at_once.total)


def test_what_opens_a_visit():
    """The first event after half an hour of silence; of two in one second, the first."""
    times = [[START, START + 10, START + 10 + PAUSE, START + 9000], [START, START]]
    one = histories_of([[1, 2, 3, 1], [2, 2]], times)
    assert opening_events(one).tolist() == [True, False, True, True, True, False]
    # events of the same users in another table
    later = histories_of([[3], [1]], [[START + 9000 + PAUSE - 1], [START + 60]])
    assert opening_events(one, later).tolist()[-2:] == [False, False]
    assert opening_events(histories_of([[1, 2]])).tolist() == [False, False]  # no times


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4 * PAUSE)), min_size=1, max_size=20),
    st.integers(1, 20),
)
def test_visits_know_what_a_whole_log_says(events, size):
    """Read in parts, events open the same visits as in one table."""
    events = sorted(events, key=lambda event: event[1])
    users, times = np.array(events).T
    visits, found = Visits(), []
    for start in range(0, len(events), size):
        part = slice(start, start + size)
        found += visits.opens([f"u{user}" for user in users[part]], START + times[part]).tolist()
    order = np.argsort(users, kind="stable")
    rows = [times[users == user] + START for user in np.unique(users)]
    whole = opening_events(histories_of([[1] * len(row) for row in rows], rows))
    assert np.array(found)[order].tolist() == whole.tolist()


def test_moments_lie_where_lists_are_asked_for(monkeypatch):
    monkeypatch.setattr(recency, "MAX_MOMENTS", 40)
    log = rows(num_users=200)
    asked_from = int(np.quantile(log.timestamps, 0.9))
    starts = fit_moments(log, 9, asked_from=asked_from).starts
    assert len(starts) <= 41 and 0.7 < (starts >= asked_from).mean() < 0.8
    assert starts[-1] == log.timestamps.max() and (np.diff(starts) > 0).all()


def rows(num_users=40, num_items=9, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, num_users)
    items = [rng.integers(1, num_items, n) for n in lengths]  # the last item has no event
    times = [START + np.sort(rng.integers(0, 30 * DAY, n)) for n in lengths]
    return histories_of(items, times)


def test_moments_are_causal_and_equal_a_direct_count():
    histories = rows()
    moments = fit_moments(histories, 9)
    assert (np.diff(moments.starts) > 0).all() and moments.starts[-1] == histories.timestamps.max()
    for number, start in enumerate(moments.starts):
        is_end = number + 1 == len(moments.starts)
        before = histories.timestamps <= start if is_end else histories.timestamps < start
        items, age = histories.items[before], start - histories.timestamps[before]
        for feature, half_life in zip(moments.features[number], HALF_LIVES, strict=False):
            direct = np.bincount(items, 0.5 ** (age / half_life), 10)
            np.testing.assert_allclose(feature, np.log(direct + 0.02), rtol=1e-4, atol=1e-5)
        seen = np.bincount(items, minlength=10) > 0
        np.testing.assert_array_equal(moments.features[number][len(HALF_LIVES) + 1], ~seen)
        np.testing.assert_array_equal(moments.first <= number, seen)
    assert moments.first[9] == NEVER


def test_moment_of_a_time():
    moments = fit_moments(rows(), 9)
    last = len(moments.starts) - 1
    starts = moments.starts
    times = [starts[0] - 5, starts[0], starts[3], starts[4] - 1, starts[-1], starts[-1] + DAY, 0]
    assert moments.of(times).tolist() == [0, 0, 3, 3, last, last, last]


def test_one_moment_without_times_or_at_the_end():
    histories = rows()
    assert len(fit_moments(histories, 9, only_end=True).starts) == 1
    timeless = fit_moments(histories_of([[1, 2], [2]]), 3)
    assert timeless.features.shape == (1, 2, 4)  # all events, new
    np.testing.assert_allclose(timeless.features[0, 0], np.log([0.5, 1.5, 2.5, 0.5]), rtol=1e-6)
    assert timeless.features[0, 1].tolist() == [1, 0, 0, 1]
    assert timeless.first.tolist() == [NEVER, 0, 0, NEVER]


def test_large_catalogues_have_fewer_moments():
    assert len(fit_moments(rows(), 300_000).starts) < 15


def test_what_users_did_not_choose_is_not_counted():
    shown, click = EVENT_CODES["impression"], EVENT_CODES["click"]
    histories = histories_of([[1, 2]], [[START, START + 1]], [[shown, click]])
    assert fit_moments(histories, 2).end.total.tolist() == [0, 0, 1]


def test_newest_times():
    histories = histories_of([[1, 2], [], [1]], [[START, START + 9], [], [0]])
    assert newest_times(histories).tolist() == [START + 9, 0, 0]


@pytest.mark.parametrize(
    ("held_out", "expected"), [(START + DAY, True), (START - 1, False), (0, False)]
)
def test_asked_at_the_end(held_out, expected):
    log = histories_of([[1], [2]], [[START], [START + 5]])
    assert asked_at_the_end(log, histories_of([[1]], [[held_out]])) is expected
    assert not asked_at_the_end(log, histories_of([]))


def test_recency_takes_newer_events_only_and_survives_a_file(tmp_path):
    log = histories_of([[1, 2]], [[START, START + 60]])
    counts = Counts.of(3, log)
    known = Recency(counts, np.arange(10.0), np.ones(10))
    same, count = known.after(log)
    assert count == 0 and same is known
    newer = histories_of([[1, 3]], [[START + 60, START + 3660]])
    later, count = known.after(newer)
    assert count == 1 and later.counts.time == START + 3660
    np.testing.assert_allclose(later.counts.total, [0, 1, 1, 1])
    later.save(tmp_path / "recency.npz")
    loaded = Recency.load(tmp_path / "recency.npz")
    for got, expected in zip(loaded.priors(), later.priors(), strict=True):
        np.testing.assert_array_equal(got, expected)
    grown = later._replace(counts=later.counts.grown(2)).priors()
    assert [len(part) for part in grown] == [6, 6]
    np.testing.assert_array_equal(grown[0][:4], later.priors()[0])


def test_at_end_appends_replaces_and_forgets(monkeypatch):
    """Three items; item 3 has its first event at the later end."""
    log = histories_of([[1, 2], [2, 1]], [[START, START + 60], [START + 30] * 2])
    moments = fit_moments(log, 3)
    later = Counts.of(3, log, histories_of([[3]], [[START + 90]]))
    known = Recency(later, np.ones(10), np.arange(10.0))
    table = moments.starts, moments.first, np.zeros((len(moments.starts), 4), np.float32)
    count = len(moments.starts)
    assert count > 1
    starts, first, prior, popular, none = known.at_end(*table)
    assert none is None
    assert starts.tolist() == [*moments.starts, START + 90] and not prior[:-1].any()
    assert first[3] == count and first[:3].tolist() == moments.first[:3].tolist()
    features = later.features()[:10]  # the weights are those of a version of before 2026-12
    np.testing.assert_allclose(prior[-1], features.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(popular, np.arange(10) @ features, rtol=1e-6)
    assert known.description() == {
        "prior": dict.fromkeys([*NAMES, "all", "new"], 1.0),
        "popular": dict(zip([*NAMES, "all", "new"], range(10), strict=True)),
    }
    # a single moment stays the only one
    alone = known.at_end(np.array([START]), np.zeros(4, np.int32), np.zeros((1, 4), np.float32))
    assert alone[0].tolist() == [START + 90] and len(alone[2]) == 1
    # and with as many as there may be, the oldest goes
    monkeypatch.setattr(recency, "MAX_CELLS", 4 * count + 3)
    shifted = known.at_end(*table)
    assert shifted[0].tolist() == [*moments.starts[1:], START + 90] and len(shifted[2]) == count
    assert shifted[1].tolist() == [NEVER, *np.maximum(first[1:3] - 1, 0), count - 1]
    # the shares of what is popular go the same way, as logarithms
    before = log_shares(np.zeros((count, 4)))
    ended = known.at_end(*table, before)
    np.testing.assert_array_equal(ended.popular_at[:-1], before[1:])
    shares = np.exp(popular[1:].astype(float))
    np.testing.assert_allclose(np.exp(ended.popular_at[-1, 1:]), shares / shares.sum(), rtol=1e-5)


def test_what_a_user_was_shown_opens_no_visit():
    shown, click = EVENT_CODES["impression"], EVENT_CODES["click"]
    histories = histories_of([[1, 2]], [[START, START + 10]], [[shown, click]])
    assert opening_events(histories).tolist() == [False, True]


def test_a_version_of_before_counts_what_opens_from_now_on(tmp_path):
    """Its file has no such counts; an update weighs them, so they are there."""
    log = histories_of([[1, 2]], [[START, START + 60]])
    counts = Counts.of(2, log)
    old = {"time": counts.time, "recent": counts.recent, "total": counts.total}
    np.savez(tmp_path / "old.npz", **old, weights=np.ones(10), popular_weights=np.ones(10))
    loaded = Recency.load(tmp_path / "old.npz")
    assert loaded.counts.opening.shape == counts.opening.shape and not loaded.counts.opening.any()
    child = loaded._replace(popular_weights=np.ones((KINDS, 14)))
    assert child.priors()[1].shape == (KINDS, 3)
    later, _ = child.after(histories_of([[1]], [[START + 9000]]))
    assert later.counts.opening[0].tolist() == [0, 1, 0]
