"""A log replayed: figures worked by hand, and the whole loop on real events."""

import json

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions
from kerasrec.evaluation.baselines import fit_item_knn
from kerasrec.evaluation.livebaselines import LiveKnn, choose_options
from kerasrec.evaluation.plots import strategy_curves
from kerasrec.loop.simulation import STRATEGIES, Replay, ndcg, simulate
from kerasrec.versions.folders import versions

DAY = 86400
OPTIONS = {
    "encoder": {"name": "tfidf", "whitening_dim": 16},
    "model": {"text_units": 8, "id_units": 8, "max_length": 20, "scorer_units": 8},
    "trainer": {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2},
}


@pytest.fixture
def replay():
    """Two users, three days; u1 has item a twice."""
    rows = [
        ("u1", "a", 0),
        ("u1", "b", 1000),
        ("u2", "b", 2000),
        ("u1", "c", DAY + 10),
        ("u1", "a", DAY + 20),
        ("u2", "a", DAY + 5000),
        ("u2", "c", 2 * DAY + 1),
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    log["timestamp"] += 1_400_000_000
    items = Items(pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["甲", "乙", "丙"]}))
    return Replay(read_interactions(log), items, 1_400_000_000 + DAY, DAY, 3600)


def test_steps_and_what_is_asked(replay):
    start = 1_400_000_000 + DAY
    assert replay.steps == [(start, start + DAY), (start + DAY, start + DAY + 2)]
    asked = [replay.asked(*step) for step in replay.steps]
    # by user, then time: u1 a b c a, u2 b a c; the second a of u1 is nothing to predict
    assert [places.tolist() for places in asked] == [[2, 5], [6]]
    assert len(replay.past(start).frame) == 3
    assert list(replay.blocks(start, start + 5000)) == [
        (start, start + 3600),
        (start + 3600, start + 5000),
    ]


def test_before_is_what_the_user_did(replay):
    histories = replay.before(np.array([2, 5, 6]))
    assert histories.user_ids.tolist() == ["2", "5", "6"]
    rows = np.split(histories.items, histories.offsets[1:-1])
    assert [row.tolist() for row in rows] == [[1, 2], [2], [2, 1]]
    cut = replay.before(np.array([2, 5, 6]), until=replay.steps[0][0])
    assert [row.tolist() for row in np.split(cut.items, cut.offsets[1:-1])] == [[1, 2], [2], [2]]


def test_ranks(replay):
    lists = pd.DataFrame(
        {"user_id": ["2", "2", "6"], "item_id": ["b", "c", "a"], "rank": [1, 2, 1]}
    )
    assert replay.ranks(np.array([2, 5, 6]), lists).tolist() == [2, 0, 0]
    np.testing.assert_allclose(ndcg(np.array([1, 2, 0])), [1, 0.63093, 0], atol=1e-5)


def before_cut(replay, cut, begin):
    """Places, in the histories before a moment, of the events asked since another one."""
    known = replay.histories.timestamps < begin
    return (np.cumsum(known) - 1)[replay.asked(cut, begin)]


@pytest.mark.slow
def test_the_whole_loop(toy_interactions, toy_items, tmp_path, caplog):
    """All strategies on real enrolments; killed after a strategy, it goes on where it was."""
    given = dict(
        work=tmp_path, start=0.7, step=200 * DAY, refresh=50 * DAY, retrained=1, progress=False
    )
    given["options"] = OPTIONS
    caplog.set_level("INFO", logger="kerasrec")
    part = simulate(toy_interactions, toy_items, strategies=["static", "item_knn"], **given)
    assert part.table["strategy"].tolist() == ["static", "item_knn"]
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    (tmp_path / "steps.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])  # cut off
    found = simulate(toy_interactions, toy_items, **given)
    table = found.table.set_index("strategy")
    assert tuple(table.index) == STRATEGIES
    assert table.loc["static", "ndcg@10"] == part.table["ndcg@10"][0]
    events = table["events"]
    assert (events.drop("retrained") == events["static"]).all()
    assert events["retrained"] < events["static"]
    # predicted from what was known then, by an independent way: item-kNN of the last block
    replay = Replay(toy_interactions, toy_items, 0.7, 200 * DAY, 50 * DAY)
    assert events["static"] == sum(len(replay.asked(*step)) for step in replay.steps)
    *_, (start, stop) = replay.blocks(*replay.steps[-1])
    places = replay.asked(start, stop)
    score = fit_item_knn(replay.known(start), len(toy_items))
    histories = replay.before(places)
    scores = score(histories)
    row = np.repeat(np.arange(len(places)), histories.lengths)
    scores[row, histories.items] = -np.inf
    scores[:, 0] = -np.inf
    wanted = replay.histories.items[places]
    ranks = 1 + (scores > scores[np.arange(len(places)), wanted][:, None]).sum(axis=1)
    row = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()[1:]]
    [last] = [r for r in row if r["strategy"] == "item_knn" and r["step"] == len(replay.steps) - 1]
    expected = np.where(ranks <= 10, ranks, 0)
    np.testing.assert_array_equal(last["ranks"][-len(places) :], expected)
    # and the kNN whose counts grow with every event, over all events at once
    begin = replay.steps[0][0]
    cut = int(np.quantile(replay.known(begin).timestamps, 0.9, method="lower"))
    options = choose_options(replay.known(begin), before_cut(replay, cut, begin), len(toy_items))
    knn = LiveKnn(replay.histories, len(toy_items), (options,))
    ranks = knn.ranks(replay.asked(begin, replay.steps[-1][1]))[0]
    found_ndcg = ndcg(np.where(ranks <= 10, ranks, 0)).mean()
    np.testing.assert_allclose(table.loc["live_knn", "ndcg@10"], found_ndcg)
    # updates were made and judged
    told = [r.getMessage() for r in caplog.records if "NDCG@10" in r.getMessage()]
    published = [line for line in told if "published" in line]
    assert told and len(versions(tmp_path / "saved_models" / "loop")) == 1 + len(published)
    assert table.loc["loop", "seconds per step"] > 0
    # again: nothing is left to do
    again = simulate(toy_interactions, toy_items, **given)
    pd.testing.assert_frame_equal(again.table, found.table)
    svg = strategy_curves(found.steps)
    assert svg.startswith("<svg") and all(name in svg for name in STRATEGIES)
    with pytest.raises(ValueError, match="the replay of another log or of other options"):
        simulate(toy_interactions, toy_items, **{**given, "step": 100 * DAY})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ["magic"]}, "strategies are some of static, .*Received: .'magic'"),
        ({"strategies": []}, "strategies are some of"),
        ({"start": 5}, "start must lie between the first and the last event"),
        ({"step": 0}, "step and refresh must be at least 1 second"),
    ],
)
def test_bad_arguments(toy_interactions, toy_items, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        simulate(toy_interactions, toy_items, **{"work": tmp_path, **change})


def test_a_log_without_times(toy_interactions, toy_items, tmp_path):
    log = read_interactions(toy_interactions.frame[["user_id", "item_id"]])
    with pytest.raises(ValueError, match="simulate needs times"):
        simulate(log, toy_items, work=tmp_path)
