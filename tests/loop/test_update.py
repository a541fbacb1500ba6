"""The next version of a model from new events: real data, real versions."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toys import disappointing_log

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions
from kerasrec.loop.updating import FEWEST, TooFewEvents, retrain, update
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders

DAY = 86400


@pytest.fixture(scope="module")
def updated(exported_version, week_log, grown_items, tmp_path_factory):
    """`(Update, folder of the model)`: version 2 is a canary. Tests must not change it."""
    base = shutil.copytree(exported_version, tmp_path_factory.mktemp("updated") / "toy")
    return update(base, week_log, grown_items, label="canary", force=True), base


def test_update_publishes_a_child_that_knows_what_is_new(
    updated, week_log, grown_items, exported_version
):
    found, toy_base = updated
    assert found.version == toy_base / "2" and found.events > 200
    parent, child = Recommender.load(toy_base / "1"), Recommender.load(toy_base / "2")
    # the grown_items has grown at its end, and old items kept their places and their texts
    assert child.items.ids[: len(parent.items)].tolist() == parent.items.ids.tolist()
    assert child.items.ids[len(parent.items) :].tolist() == ["new-1", "new-2", "new-3"]
    facts = child.manifest
    assert facts["parent"] == 1 and facts["num_items"] == len(parent.items) + 3
    assert facts["update"]["events"] == found.events
    assert set(facts["update"]["ndcg"]) == {"child", "parent", "recent_popularity", "item_knn"}
    assert facts["data"]["interactions"] == len(week_log)
    # a new course that many took is listed, also for a learner whom training never saw
    lists = child.recommend({"newcomer": list(week_log.frame["item_id"][-1:])}, k=30)
    assert "new-1" in set(lists["item_id"])
    assert child.log_end == week_log.frame["timestamp"].max()
    # the parent is as it was
    for name in ("saved_model.pb", "assets.extra/train/state.npz"):
        assert (toy_base / "1" / name).read_bytes() == (exported_version / "1" / name).read_bytes()


@pytest.mark.slow
def test_a_child_answers_the_same_in_a_process_that_knows_tensorflow_alone(updated, week_log):
    _, toy_base = updated
    history = [week_log.frame["item_id"].astype(str).tolist()[:3]]
    code = (
        "import sys, json, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]);"
        "a = m.signatures['serving_default'](history=tf.constant(json.loads(sys.argv[2])));"
        "print(json.dumps([i.decode() for i in a['item_ids'].numpy()[0]]))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code, str(toy_base / "2"), json.dumps(history)],
        capture_output=True,
        text=True,
        check=True,
    )
    here = tf.saved_model.load(str(toy_base / "2")).signatures["serving_default"]
    expected = here(history=tf.constant(history))["item_ids"].numpy()[0]
    assert json.loads(out.stdout.splitlines()[-1]) == [item.decode() for item in expected]


@pytest.mark.slow
def test_weights_chosen_anew_go_into_the_graph_of_the_parent(toy_base, toy_interactions):
    """Two weeks of many events: the second choice counts beside the first, by numbers of events."""
    old = toy_interactions.frame
    newest, rng = int(old["timestamp"].max()), np.random.default_rng(1)
    items = old["item_id"].value_counts().index[:20].astype(str)
    rows = [
        (f"newcomer-{user}", item, newest + 14 * DAY * user // 240 + 60 * place)
        for user in range(1, 240)
        for place, item in enumerate(rng.choice(items, 4, replace=False))
    ]
    new = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    whole = pd.concat([old[["user_id", "item_id", "timestamp"]].astype({"user_id": str}), new])
    whole = read_interactions(whole.reset_index(drop=True))
    first_week = whole.frame["timestamp"] <= newest + 7 * DAY
    found = [
        update(toy_base, whole.replace(whole.frame[rows]), force=True).version
        for rows in (first_week, slice(None))
    ]
    assert [version.name for version in found] == ["2", "3"]
    versions = [Recommender.load(toy_base / name) for name in "123"]
    graphs = {(v.version / "saved_model.pb").read_bytes() for v in versions}
    assert len(graphs) == 1  # derived: other numbers in the same graph
    facts = [v.manifest["fusion"] for v in versions]
    assert facts[0]["weights"] != facts[1]["weights"] != facts[2]["weights"]
    weighed = [v.manifest["update"]["weighed"] for v in versions[1:]]
    assert 300 < weighed[0] < weighed[1] <= 4 * 239
    for version in versions:
        module, known = version.loaded.module, version.fusion()
        names = list(version.manifest["fusion"]["weights"])
        assert list(known.weights) == names
        np.testing.assert_allclose(
            module.part_weights.numpy(), list(known.weights.values()), rtol=1e-6
        )
        assert module.scorer_weight.numpy() == pytest.approx(version.manifest["scorer_weight"])
        # what is recent is weighed as the version was published, also when it moves on
        prior, popular = known.recency.priors()
        np.testing.assert_allclose(module.prior.numpy()[-1], prior, atol=1e-4)
        np.testing.assert_allclose(module.popularity.numpy(), popular[-1], atol=1e-4)


@pytest.mark.slow
def test_a_child_of_a_child(toy_base, week_log, grown_items):
    """Half of the week, then all of it: the second update sees the second half alone as new."""
    times = week_log.frame["timestamp"]
    half = times.max() - 3 * DAY
    first = update(
        toy_base, week_log.replace(week_log.frame[times <= half]), grown_items, force=True
    )
    second = update(toy_base, week_log, force=True)
    assert (first.version, second.version) == (toy_base / "2", toy_base / "3")
    assert second.events == int((times > half).sum())
    assert folders.read_manifest(second.version).parent == 2
    assert "new-1" in set(Recommender.load(toy_base).items.ids)


def test_labels(updated, tmp_path):
    found, toy_base = updated[0], shutil.copytree(updated[1], tmp_path / "toy")
    assert folders.read_labels(toy_base) == {"stable": 1, "canary": int(found.version.name)}
    assert folders.find_version(toy_base) == toy_base / "1"  # nobody gets the canary unasked
    folders.write_label(toy_base, "stable", 2)
    assert folders.rollback(toy_base) == (2, 1)
    assert folders.find_version(toy_base) == toy_base / "1"
    assert folders.rollback(toy_base, 2) == (1, 2)
    with pytest.raises(ArtifactError, match="has no version 9"):
        folders.rollback(toy_base, 9)
    folders.rollback(toy_base)
    with pytest.raises(ArtifactError, match="has no parent to go back to. Name a version"):
        folders.rollback(toy_base)


def test_a_worse_child_is_refused(toy_base, toy_interactions):
    """The events held back are what the parent lists first: nothing is published."""
    before = sorted(path.name for path in toy_base.iterdir() if not path.name.startswith("."))
    found = update(toy_base, disappointing_log(toy_base, toy_interactions))
    assert found.version is None and found.events == 300
    assert found.evaluation.value("parent", "ndcg")[0] == pytest.approx(1)
    assert found.reason.startswith("worse than its parent: NDCG@10 0.")
    assert before == sorted(
        path.name for path in toy_base.iterdir() if not path.name.startswith(".")
    )


def test_two_at_once(toy_base, week_log, grown_items):
    with (
        folders.alone(toy_base),
        pytest.raises(ArtifactError, match="Another update of .* at work"),
    ):
        update(toy_base, week_log, grown_items)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda log: log.replace(log.frame[:600]), f"at least {FEWEST} new events"),
        (
            lambda log: read_interactions(log.frame[["user_id", "item_id"]]),
            "needs times, to tell new events from old ones",
        ),
    ],
)
def test_bad_logs(toy_base, week_log, change, message):
    with pytest.raises(ValueError, match=message):
        update(toy_base, change(week_log))


def test_bad_arguments(toy_base, week_log, tmp_path):
    with pytest.raises(ValueError, match="one of stable, canary. Received: 'best'"):
        update(toy_base, week_log, label="best")
    with pytest.raises(ArtifactError, match="no such folder"):
        update(tmp_path / "nothing", week_log)
    with pytest.raises(ValueError, match="columns of the parent's catalogue .*'title'.* without"):
        update(toy_base, week_log, Items(pd.DataFrame({"item_id": ["a"], "name": ["b"]})))


@pytest.mark.slow
def test_events_of_unknown_items_are_left_out(toy_base, week_log, caplog):
    """Without the new catalogue the new courses are unknown."""
    child = update(toy_base, week_log, force=True)
    assert "events with items outside the catalogue are left out" in caplog.text
    assert folders.read_manifest(child.version).num_items == len(
        Recommender.load(toy_base / "1").items
    )


@pytest.mark.slow
def test_a_log_of_dates(toy_base, week_log, grown_items):
    """All new events within two days, written as dates: the last day is held back."""
    frame = week_log.frame.copy()
    newest = Recommender.load(toy_base / "1").log_end
    new = frame["timestamp"] > newest
    day = newest // DAY * DAY + DAY
    half = np.arange(len(frame)) % 2
    frame.loc[new, "timestamp"] = day + DAY * half[new.to_numpy()]
    found = update(toy_base, week_log.replace(frame), grown_items, force=True)
    assert found.version is not None and found.evaluation.counts["child"]["users"] > 10
    frame.loc[new, "timestamp"] = day + 10 * DAY
    later = week_log.replace(frame)
    with pytest.raises(TooFewEvents, match="new events of one moment"):
        update(toy_base, later)


def test_newest_events_that_only_repeat_are_refused(toy_base, week_log):
    """Nothing to judge on: said before the work, not by the evaluation after it."""
    newest, old = week_log.frame["timestamp"].max(), week_log.frame[:200]
    repeated = old.assign(timestamp=newest + 1 + np.arange(len(old)))
    again = week_log.replace(pd.concat([week_log.frame, repeated]))
    with pytest.raises(TooFewEvents, match="Received: only what they had already"):
        update(toy_base, again)


class RollBack(logging.Handler):
    """Rolls back as soon as an update says that it is learning."""

    def __init__(self, base):
        super().__init__()
        self.base, self.done = base, None

    def emit(self, record):
        if self.done is None and record.getMessage().startswith("epoch"):
            self.done = folders.rollback(self.base)


@pytest.mark.slow
def test_what_became_stable_meanwhile_is_not_outranked(toy_base, week_log, grown_items):
    """Rolled back while an update was at work: its child, though better, is not published."""
    shutil.copytree(toy_base / "1", toy_base / "2")
    folders.write_label(toy_base, "stable", 2)
    path = toy_base / "2" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "version": 2, "parent": 1}), encoding="utf-8")
    logger, handler = logging.getLogger("kerasrec.training.run"), RollBack(toy_base)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(ArtifactError, match="another version became the one that answers"):
            update(toy_base, week_log, grown_items)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert handler.done == (2, 1) and folders.versions(toy_base) == [1, 2]


def test_rollback_from_a_damaged_version(toy_base):
    shutil.copytree(toy_base / "1", toy_base / "2")
    folders.write_label(toy_base, "stable", 2)
    (toy_base / "2" / "saved_model.pb").unlink()
    assert folders.rollback(toy_base, 1) == (2, 1)


def test_a_version_with_a_loss_of_ones_own_says_how_it_is_updated(toy_base, week_log):
    path = toy_base / "1/assets.extra/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["options"]["loss"] = "margin"
    path.write_text(json.dumps(manifest))
    for further in (update, retrain):
        with pytest.raises(ValueError, match=r"a function of yours.*kerasrec.LOSSES\['margin'\]"):
            further(toy_base, week_log)
