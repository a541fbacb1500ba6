"""Judging a child beside its parent: lists whose quality is known, and real ones."""

import numpy as np
import pandas as pd

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items
from kerasrec.evaluation.evaluation import evaluate
from kerasrec.loop.gate import decide, judge
from kerasrec.loop.updating import grown_catalogue
from kerasrec.recommender.recommender import Recommender

DAY = 86400


def test_decide(toy_interactions, toy_items):
    """By lists whose quality is known: the targets first, or nothing of use."""
    frame = toy_interactions.frame
    last = ~frame.duplicated("user_id", keep="last")
    test, past = (toy_interactions.replace(frame[rows]) for rows in (last, ~last))
    histories = make_histories(past, toy_items)
    users = test.frame["user_id"].astype(str)

    def lists(items):
        return pd.DataFrame({"user_id": users, "item_id": items, "rank": 1, "score": 1.0})

    good, bad = lists(test.frame["item_id"].astype(str)), lists(toy_items.ids[-1])
    middle = good.assign(
        item_id=np.where(np.arange(len(good)) % 2, good["item_id"], bad["item_id"])
    )
    for child, parent, other, expected in (
        (good, bad, bad, True),
        (bad, good, bad, False),
        (bad, bad, good, False),
        (good, good, good, True),  # no worse is good enough
        (middle, bad, good, True),  # far from the best, and far better than its parent
    ):
        models = {
            "child": child,
            "parent": parent,
            "recent_popularity": other,
            "item_knn": bad,
        }
        found = evaluate(models, test, histories=histories, train=past, items=toy_items, ks=(10,))
        better, reason = decide(found)
        assert better is expected
        if not expected:
            assert reason.startswith("worse" if parent is good else "below recent_popularity")


def test_judge_looks_at_held_back_events(toy_base, week_log, grown_items):
    """Figures of the parent are those of `evaluate` on the same lists."""
    parent = Recommender.load(toy_base / "1", index="exact")
    times = week_log.frame["timestamp"]
    cut = times.max() - DAY
    learned, held = (week_log.replace(week_log.frame[rows]) for rows in (times <= cut, times > cut))
    items = grown_catalogue(parent.items, grown_items)
    parent.add_items(Items(items.frame[len(parent.items) :].reset_index(drop=True)))
    parent.observe(make_histories(learned, items))
    found = judge(parent, parent, learned, held)
    assert found.value("child", "ndcg") == found.value("parent", "ndcg")
    users = held.frame["user_id"].nunique()
    assert found.counts["child"]["users"] == users
