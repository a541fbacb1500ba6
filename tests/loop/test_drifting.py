"""What has changed since the toy model was made: real enrolments, shifts that are seen."""

import functools

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.sources import read_interactions
from kerasrec.evaluation.baselines import fit_recent_popularity
from kerasrec.evaluation.toplists import recommend_top_k
from kerasrec.loop.drifting import drift
from kerasrec.loop.simulation import Replay, ndcg
from kerasrec.recommender.recommender import Recommender

DAY = 86400
COLUMNS = ["user_id", "item_id", "timestamp"]


STEP = 100 * DAY


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """`drift` changes nothing of the version that it loads, and loading takes half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recommender, "load", staticmethod(functools.cache(Recommender.load)))
        yield


def going_on(interactions, count=3, change=lambda frame, number: frame):
    """A log in which new learners do what the toy learners did, in each of 4 + `count` periods.

    The first four periods end where the toy log does; a learner begins at a random moment.

    Args:
        change: what happens to the events of a later period, of this number.
    """
    frame = interactions.frame[COLUMNS].astype({"user_id": str, "item_id": str})
    frame = frame.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    end, learner = int(frame["timestamp"].max()), pd.factorize(frame["user_id"])[0]
    rng, parts = np.random.default_rng(0), []
    for number in range(-3, count + 1):
        start = rng.integers(1, STEP - DAY, learner.max() + 1)[learner]
        times = end + (number - 1) * STEP + start + 60 * frame.groupby("user_id").cumcount()
        part = frame.assign(user_id=frame["user_id"] + f" in {number}", timestamp=times)
        parts.append(change(part, number) if number > 0 else part)
    return read_interactions(pd.concat(parts, ignore_index=True))


def test_a_log_that_goes_on_as_before(exported_version, toy_interactions):
    log = going_on(toy_interactions)
    found = drift(exported_version, log, step=STEP)
    assert found.warnings == [] and found.version == exported_version / "1"
    table = found.table.set_index("period")
    assert table.index.tolist() == [0, 1, 2, 3]
    count = len(toy_interactions)
    assert table["events"].tolist() == [4 * count, count, count, count]
    assert (table.loc[1:, "new_users"] == 1).all() and (table.loc[1:, "cold"] == 0).all()
    assert (table["share_click"] == 1).all() and (table["event_distance"] == 0).all()
    assert (table["item_distance"] <= table["item_distance_before"]).all()
    # the same figures by another way: `simulate`'s replay, whole lists, one event after another
    end, step = int(toy_interactions.frame["timestamp"].max()), STEP
    recommender = Recommender.load(exported_version)
    replay = Replay(log, recommender.items, end + 1, step, step // 24)
    places = replay.asked(end + 1, end + 1 + step)
    at = replay.histories.timestamps[places]
    lists = recommender.recommend(replay.before(places), k=10, at=at)
    ranks = replay.ranks(places, lists)
    assert table.loc[1, "asked"] == table.loc[1, "judged"] == len(places) > 500
    assert table.loc[1, "ndcg@10"] == pytest.approx(ndcg(ranks).mean())
    assert table.loc[1, "recall@10"] == pytest.approx((ranks > 0).mean())
    popular = []
    for begin, until in replay.blocks(end + 1, end + 1 + step):
        if len(inside := replay.asked(begin, until)):
            score = fit_recent_popularity(replay.known(begin), len(replay.items), now=begin)
            lists = recommend_top_k(score, replay.before(inside), replay.items, k=10)
            popular.append(ndcg(replay.ranks(inside, lists)))
    popular = np.concatenate(popular)
    assert table.loc[1, "recent_popularity"] == pytest.approx(popular.mean())
    # confidence among the lists of 50, list by list
    confidence, right = [], []
    at = replay.histories.timestamps[places]
    lists = recommender.recommend(replay.before(places), k=50, at=at)
    wanted = dict(zip(places.astype(str), replay.histories.items[places], strict=True))
    for place, part in lists.groupby("user_id"):
        items = replay.items.index_of(part["item_id"])
        if wanted[place] in items:
            share = np.exp(part["score"].to_numpy(float))
            confidence.append((share / share.sum()).max())
            right.append(items[0] == wanted[place])
    assert table.loc[1, "listed"] == len(right)
    assert table.loc[1, "confidence"] == pytest.approx(np.mean(confidence), rel=1e-5)
    assert table.loc[1, "right"] == pytest.approx(np.mean(right))


def test_new_items_that_take_over_are_warned_of(exported_version, toy_interactions):
    def change(frame, number):
        """In the last period two of three events are on courses that nobody knows."""
        is_new = (np.arange(len(frame)) % 3 > 0) & (number == 3)
        return frame.assign(item_id=frame["item_id"].where(~is_new, "new " + frame["item_id"]))

    found = drift(exported_version, going_on(toy_interactions, change=change), step=STEP)
    table = found.table.set_index("period")
    assert table.loc[3, "cold"] == table.loc[3, "outside"] == pytest.approx(2 / 3)
    assert table.loc[[1, 2], "cold"].tolist() == [0, 0]
    worse, cold, moved = (
        next((text for text in found.warnings if text.startswith(start)), None)
        for start in (
            "It predicts worse than at first",
            f"67% of {len(toy_interactions):,} events",
            "What is chosen",
        )
    )
    assert f"NDCG@10 {table.loc[3, 'ndcg@10']:.4f}" in worse
    assert f"{table.loc[1, 'ndcg@10']:.4f} on the first" in worse and "kerasrec update" in worse
    assert "67% on items that it cannot list" in cold and "kerasrec update" in cold
    assert f"distance of items {table.loc[3, 'item_distance']:.3f}" in moved
    # what was seen before the shift is no reason to warn
    early = going_on(toy_interactions, count=2, change=change)
    assert drift(exported_version, early, step=STEP).warnings == []


def test_other_tastes_are_warned_of(exported_version, toy_interactions):
    """All items are known, but what was loved is dropped; the model does not follow."""
    ids = toy_interactions.frame["item_id"].astype(str).value_counts().index
    swapped = dict(zip(ids, ids[::-1], strict=True))
    log = going_on(toy_interactions, change=lambda frame, _: frame.replace({"item_id": swapped}))
    found = drift(exported_version, log, step=STEP)
    assert (found.table["outside"] == 0).all() and (found.table["cold"][1:] == 0).all()
    starts = [text.split(":")[0] for text in found.warnings]
    assert starts == ["Recent popularity is better", "What is chosen has moved"]


def test_counts_by_hand(exported_version, toy_interactions):
    """Three events of two users after the log: by a known one twice, by a newcomer once."""
    frame = toy_interactions.frame[COLUMNS].astype({"user_id": str, "item_id": str})
    end, user = int(frame["timestamp"].max()), frame["user_id"][0]
    had = frame.loc[frame["user_id"] == user, "item_id"].iloc[0]
    other = next(
        i for i in frame["item_id"] if i not in set(frame["item_id"][frame.user_id == user])
    )
    lonely = Recommender.load(exported_version).items.ids[-1]  # in the catalogue, without events
    rows = [
        (user, had, end + 1, "click"),  # has it already: not asked
        (user, other, end + DAY, "purchase"),
        ("newcomer", "nowhere", end + DAY, "click"),
        ("newcomer", lonely, end + 2 * DAY + 1, "impression"),  # not chosen: not asked
    ]
    new = pd.DataFrame(rows, columns=[*COLUMNS, "event"])
    log = read_interactions(pd.concat([frame.assign(event="click"), new], ignore_index=True))
    found = drift(exported_version, log)
    table = found.table.set_index("period")
    assert table.index.tolist() == [0, 1, 2]
    assert table["events"].tolist() == [len(frame), 3, 1]
    assert table["users"].tolist() == [150, 2, 1]
    np.testing.assert_allclose(table["new_users"], [np.nan, 0.5, 0])
    np.testing.assert_allclose(table["share_purchase"], [0, 1 / 3, 0])
    np.testing.assert_allclose(table["share_impression"], [0, 0, 1])
    np.testing.assert_allclose(table["cold"], [np.nan, 1 / 3, 1])
    np.testing.assert_allclose(table["outside"], [0, 1 / 3, 0])
    assert table["asked"].tolist()[1:] == table["judged"].tolist()[1:] == [2, 0]
    assert found.warnings == []
    [note] = found.notes
    assert note.startswith("Too few events to tell whether it has gone stale: 2 first choices of 2")


def test_nothing_has_happened_since(exported_version, toy_interactions):
    found = drift(exported_version, toy_interactions)
    assert found.table["period"].tolist() == [0] and found.warnings == []
    assert found.notes[0].startswith("Too few events to tell")


def test_the_new_events_alone(exported_version, toy_interactions):
    """Without the old events there is no first row and no distance, and the note says so."""
    log = going_on(toy_interactions, count=1)
    end = int(toy_interactions.frame["timestamp"].max())
    found = drift(exported_version, log.replace(log.frame[log.frame["timestamp"] > end]), step=STEP)
    assert found.table["period"].tolist() == [1] and found.table["item_distance"].isna().all()
    assert found.table["cold"].tolist() == [0]  # the version itself knows what it learned from
    assert any("whether what is chosen has moved" in note for note in found.notes)


def test_a_sample_is_predicted(exported_version, toy_interactions):
    log = going_on(toy_interactions, count=1)
    whole = drift(exported_version, log, step=STEP).table.iloc[1]
    part, again = (drift(exported_version, log, step=STEP, sample=150).table for _ in range(2))
    pd.testing.assert_frame_equal(part, again)
    assert part["judged"].tolist() == [0, 150] and part["asked"][1] == whole["asked"]
    low, high = (part["ndcg@10"][1] + sign * 3 * part["ndcg_se"][1] for sign in (-1, 1))
    assert low < whole["ndcg@10"] < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "step .seconds. and sample must be at least 1. Received: 0 and 2000"),
        ({"sample": 0}, "must be at least 1"),
        ({"since": 1_500_000_000}, "since must not lie before the end of the version's log"),
    ],
)
def test_bad_arguments(exported_version, toy_interactions, change, message):
    log = going_on(toy_interactions, count=1)
    with pytest.raises(ValueError, match=message):
        drift(exported_version, log, **change)


def test_periods_without_events_are_left_out(exported_version, toy_interactions):
    """As between an old log and the first event of today; too many with events are refused."""
    log = going_on(toy_interactions, count=1)
    whole = drift(exported_version, log, step=STEP).table
    last = log.frame.iloc[[-1]]
    far = last.assign(timestamp=last["timestamp"] + 20 * STEP)
    found = drift(exported_version, log.replace(pd.concat([log.frame, far])), step=STEP).table
    assert found["period"].tolist() == [*whole["period"], len(whole)]
    assert found["events"].tolist() == [*whole["events"], 1]
    begins = pd.to_datetime(found["begin"])
    assert (begins.iloc[-1] - begins.iloc[-2]).days > 15 * STEP // DAY
    pd.testing.assert_series_equal(found["ndcg@10"][: len(whole)], whole["ndcg@10"])
    daily = pd.concat([last] * 1001).assign(
        timestamp=last["timestamp"].iloc[0] + DAY * np.arange(1, 1002)
    )
    with pytest.raises(ValueError, match=r"into 1,000 periods at most.*Take a longer one, such as"):
        drift(exported_version, log.replace(pd.concat([log.frame, daily])))


def test_bad_logs(exported_version, toy_interactions):
    frame = toy_interactions.frame
    with pytest.raises(ValueError, match="drift needs times"):
        drift(exported_version, read_interactions(frame[["user_id", "item_id"]]))
    other = frame[COLUMNS].assign(item_id="x " + frame["item_id"].astype(str))
    with pytest.raises(ValueError, match="none of its .* items is among the 82 of"):
        drift(exported_version, read_interactions(other))


def test_a_version_that_knows_no_end(text_version, toy_interactions):
    """It must be told what it has learned."""
    with pytest.raises(ValueError, match="does not know when its log ends"):
        drift(text_version, toy_interactions)
    times = toy_interactions.frame["timestamp"]
    since = int(times.quantile(0.8, "lower"))
    events = drift(text_version, toy_interactions, since=since, step=2000 * DAY).table["events"]
    assert events.tolist() == [int((times <= since).sum()), int((times > since).sum())]
