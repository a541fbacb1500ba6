"""When a version is called stale: means and intervals worked by hand on a real log."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.sources import read_interactions
from kerasrec.loop.drifting import PeriodLog
from kerasrec.loop.driftmetrics import verdict
from kerasrec.recommender.recommender import Recommender

DAY = 86400


@pytest.fixture(scope="module")
def make_log(exported_version, toy_interactions):
    """Gives `PeriodLog`: the toy log, then three days of 100 learners with one event each.

    It takes how many of the third day's events are on unknown items.
    """
    recommender = Recommender.load(exported_version)
    old = toy_interactions.frame[["user_id", "item_id", "timestamp"]]
    old = old.astype({"user_id": str, "item_id": str})
    end = int(old["timestamp"].max())

    def make(unknown=0):
        parts = [old]
        for day in range(3):
            items = old["item_id"].tail(100).to_numpy(object)
            if day == 2:
                items[:unknown] = "x"
            users = [f"new {number}" for number in range(100)]
            times = end + day * DAY + 1 + np.arange(100)
            parts.append(pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times}))
        log = read_interactions(pd.concat(parts, ignore_index=True))
        return PeriodLog(recommender, log, end, DAY)

    return make


def judged(first, newest, popularity, events=100):
    """Three days: `first` and `newest` of so many events are hits of rank 1, of users of their own.

    Recent popularity has as many hits as `popularity`, on the same events first.
    """
    parts = [
        pd.DataFrame(
            {
                "period": day + 1,
                "user": np.arange(events),
                "ndcg": (np.arange(events) < hits).astype(float),
                "popularity": (np.arange(events) < popularity).astype(float),
            }
        )
        for day, hits in enumerate((first, first, newest))
    ]
    return pd.concat(parts, ignore_index=True)


def test_nothing_is_wrong(make_log):
    warnings, notes = verdict(make_log(), judged(50, 50, 50))
    assert warnings == []
    assert notes == [
        "Too few events to tell whether what is chosen has moved: distances need 2,100 events "
        "until 2019-11-10T05:41:01 and 100 after it."
    ]


def test_worse_than_at_first_by_hand(make_log):
    """0.5 and 0.3 of 100: errors sqrt(0.25 / 99) and sqrt(0.21 / 99), 1.96 of both 0.1336."""
    [warning], _ = verdict(make_log(), judged(50, 30, 0))
    assert warning.startswith("It predicts worse than at first: NDCG@10 0.3000 on 100 events since")
    assert "2019-11-12T05:41:02, 0.5000 on the first 100 (difference -0.2000, " in warning
    assert "95 % -0.3336 to -0.0664). Learn what is new: kerasrec update." in warning
    assert verdict(make_log(), judged(50, 38, 0))[0] == []  # -0.12 is within 0.1368: not sure


def test_worse_than_popularity_by_hand(make_log):
    """It misses 8 of 100 that popularity hits: -0.08, 1.96 * sqrt(0.08 * 0.92 / 99) = 0.0534."""
    [warning], _ = verdict(make_log(), judged(30, 30, 38))
    assert warning.startswith("Recent popularity is better: NDCG@10 0.3800, the model's 0.3000 on")
    assert "(difference -0.0800, 95 % -0.1334 to -0.0266)" in warning
    assert verdict(make_log(), judged(30, 30, 32))[0] == []  # two events are no proof


def test_cold_by_hand(make_log):
    """40 of 100 less 1.96 * sqrt(0.24 / 99) = 0.0965 are above 30 %, 39 are not."""
    [warning], _ = verdict(make_log(40), judged(50, 50, 50))
    assert warning.startswith("40% of 100 events since 2019-11-12T05:41:02 are on items that it")
    assert "(30% is the limit), 40% on items that it cannot list" in warning
    assert verdict(make_log(39), judged(50, 50, 50))[0] == []


def test_few_events_prove_nothing(make_log):
    """99 events of a day reach back to the day before; 30 of all three days are too few."""
    warnings, notes = verdict(make_log(99), judged(99, 0, 99, events=30))
    assert warnings == [] and len(notes) == 1
    assert notes[0].startswith("Too few events to tell whether it has gone stale: 90 first choices")
    warnings, notes = verdict(make_log(), judged(60, 0, 0, events=60))
    assert warnings == []  # the first two days and the newest two share one
    assert notes[0] == "Too few events to tell whether it predicts worse than at first."


def test_events_of_few_users_prove_nothing(make_log):
    few = judged(100, 0, 100).assign(user=lambda rows: rows["user"] % 19)
    warnings, notes = verdict(make_log(), few)
    assert warnings == [] and "of 19 users after" in notes[0]
