"""A fused score and its tables."""

import numpy as np
from toys import histories_of, planted_histories

from kerasrec.data.events import EVENT_CODES
from kerasrec.fusion import fusion
from kerasrec.fusion.fusion import Fusion, fit_tables
from kerasrec.fusion.recency import NEVER, Counts, fit_moments


def test_what_users_disliked_is_not_learned():
    click, dislike = EVENT_CODES["click"], EVENT_CODES["dislike"]
    histories = histories_of([[1, 2]] * 9, events=[[click, dislike]] * 9)
    for tables in fit_tables(histories, 3).values():
        assert not any(table.weights.any() for table in tables)


def test_at_end_adds_the_end_of_a_longer_log_as_a_moment():
    log = histories_of([[1, 2], [2, 1]], [[1_400_000_000, 1_400_000_060], [1_400_000_001] * 2])
    alone = Fusion.alone(3)
    moments = fit_moments(log, 3)
    known = alone._replace(
        starts=moments.starts,
        first=moments.first,
        prior=np.zeros((len(moments.starts), 4), np.float32),
        recency=alone.recency._replace(
            counts=moments.end, weights=np.ones(10), popular_weights=np.arange(10.0)
        ),
    )
    later = histories_of([[3]], [[1_400_009_999]])
    counts, count = Counts.of(3, log, later), len(moments.starts)
    brought = known.at_end(counts)
    # moments that were there know nothing of it: a user of that time is asked as before
    assert brought.starts.tolist() == [*moments.starts, 1_400_009_999]
    np.testing.assert_array_equal(brought.prior[:-1], known.prior)
    assert known.first[3] == NEVER and brought.first[3] == count
    np.testing.assert_array_equal(brought.first[:3], known.first[:3])
    features = counts.features()[:10]  # the weights are those of a version of before 2026-12
    np.testing.assert_allclose(brought.prior[-1], features.sum(axis=0))
    np.testing.assert_allclose(brought.popular, np.arange(10) @ features, rtol=1e-6)
    # a log that is no longer: the last moment takes its counts
    same = brought.at_end(Counts.of(3, log, later, histories_of([[1]], [[1_400_000_002]])))
    assert same.starts.tolist() == brought.starts.tolist()
    assert same.prior[-1, 1] > brought.prior[-1, 1] and same.prior[-1, 2] == brought.prior[-1, 2]


def test_fit_again_keeps_kinds_decays_and_what_it_cannot_fit():
    log = planted_histories()
    old = {name: found[0]._replace(decay=0.4) for name, found in fit_tables(log, 30).items()}
    again = fusion.fit_again(old, {"transitions": 2}, log, 30, parts=("transitions",))
    assert again["ease"] is old["ease"] and again["transitions"].decay == 0.4
    expected = fit_tables(log, 30)["transitions"][2]
    np.testing.assert_array_equal(again["transitions"].weights, expected.weights)
    unknown = fusion.fit_again(old, None, log, 30, parts=("transitions",))  # the middle one
    expected = fit_tables(log, 30)["transitions"][1]
    np.testing.assert_array_equal(unknown["transitions"].weights, expected.weights)


def test_a_lift_adds_to_items_without_an_event():
    lifted = Fusion.alone(3).lifted(2.0).at_end(Counts.of(3, histories_of([[1, 2]])))
    assert lifted.prior[:, 1:].tolist() == [[0, 0, 2]]
    assert lifted.popular[1:].tolist() == [0, 0, 0]


def test_other_moments_have_the_same_weights():
    log = histories_of([[1, 2], [2]], [[1_400_000_000, 1_400_003_600], [1_400_003_600]])
    moments = fit_moments(log, 3)
    fusion = Fusion.alone(3)
    weights = np.zeros(moments.num_plain)
    weights[-1] = 1.0  # what is new
    fusion = fusion._replace(
        recency=fusion.recency._replace(weights=weights, popular_weights=weights[None])
    )
    found = fusion.at_moments(moments)
    assert found.starts.tolist() == [1_400_000_000, 1_400_003_600]
    assert found.prior[:, 1:].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert found.first[1:3].tolist() == [1, 1] and found.popular_at is None
    assert found.recency.counts.total[1:].tolist() == [1, 2, 0]
