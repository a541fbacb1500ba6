"""The next version of a model from new events: real data, real versions."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from loopchecks import (
    _distance,
    broken_versions,
    difference,
    kill_update,
    send_shuffled,
    start_update,
)
from toys import disappointing_log

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items, read_interactions
from kerasrec.loop.updating import FEWEST, TooFewEvents, retrain, update, update_from_store
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders

DAY = 86400


def test_update_publishes_a_child_that_knows_what_is_new(
    toy_base, week_log, grown_items, exported_version
):
    found = update(toy_base, week_log, grown_items, force=True)
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
    # and what was published answers the same in a process that knows TensorFlow alone
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
        module, known = version._module, version.fusion()
        names = list(version.manifest["fusion"]["weights"])
        assert list(known.weights) == names
        np.testing.assert_allclose(
            module.part_weights.numpy(), list(known.weights.values()), rtol=1e-6
        )
        assert module.scorer_weight.numpy() == pytest.approx(version.manifest["scorer_weight"])
        # what is recent is weighed as the version was published, also when it moves on
        prior, popular = known.recency.priors()
        np.testing.assert_allclose(module.prior.numpy()[-1], prior, atol=1e-4)
        np.testing.assert_allclose(module.popularity.numpy(), popular, atol=1e-4)


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


def test_labels(toy_base, week_log, grown_items):
    found = update(toy_base, week_log, grown_items, label="canary", force=True)
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
    with pytest.raises(ValueError, match="columns of the parent's catalogue. Received: no"):
        update(toy_base, week_log, Items(pd.DataFrame({"item_id": ["a"], "name": ["b"]})))


def test_events_of_unknown_items_are_left_out(toy_base, week_log, caplog):
    """Without the new catalogue the new courses are unknown."""
    child = update(toy_base, week_log, force=True)
    assert "events with items outside the catalogue are left out" in caplog.text
    assert folders.read_manifest(child.version).num_items == len(
        Recommender.load(toy_base / "1").items
    )


@pytest.fixture
def store(week_log, tmp_path):
    """A store with the whole week_log, in which the new week came last."""
    from kerasrec.feedback.store import FeedbackStore

    with FeedbackStore(tmp_path / "feedback.db") as store:
        frame = week_log.frame.sort_values("timestamp", kind="stable")
        store.add(week_log.replace(frame[frame["timestamp"] <= frame["timestamp"].max() - 2 * DAY]))
        yield store


def test_from_a_store(toy_base, week_log, grown_items, store):
    """New is what came in, not only what happened, since the parent."""
    first = update_from_store(toy_base, store, grown_items, force=True)
    told = folders.read_manifest(first.version).as_dict()["update"]
    assert (told["seq"], told["store"]) == (store.last_seq(), store.id)  # an id: no path leaks
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(toy_base, store)
    stored = store.add(week_log).stored
    assert stored > 50
    late = week_log.frame[week_log.frame["item_id"] != "new-3"].iloc[:1]
    store.add([{"user_id": "late", "item_id": late["item_id"].iloc[0], "timestamp": 1_500_000_000}])
    second = update_from_store(toy_base, store, force=True)
    assert second.events == stored + 1
    facts = folders.read_manifest(second.version).as_dict()
    assert facts["data"]["interactions"] == store.stats().events


def test_an_erased_user_is_forgotten_by_training_from_nothing(
    toy_base, week_log, grown_items, store
):
    update_from_store(toy_base, store, grown_items, force=True)
    user = week_log.frame["user_id"].value_counts().index[0]
    rows = store.forget(user)
    found = update_from_store(toy_base, store)
    facts = folders.read_manifest(found.version).as_dict()
    assert found.reason == "trained from nothing, without 1 erased users"
    assert facts["update"]["erased"] == {"users": 1, "rows": rows}
    assert facts["parent"] == 2 and facts["data"]["users"] == store.stats().users
    assert facts["options"]["text_units"] == 8 and facts["trainer"]["epochs"] == 2
    # what was forgotten once is not forgotten again
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(toy_base, store)


def same_options(child, parent, *, seed):
    """Whether a manifest names the options of another one, but for the seed."""
    for name in ("preset", "encoder_options", "options", "parts", "refit", "text_template"):
        if name == "options":  # the catalogue may have grown
            assert {**child[name], "num_items": 0} == {**parent[name], "num_items": 0}
        else:
            assert child[name] == parent[name], name
    assert child["trainer"] == {**parent["trainer"], "seed": seed}
    assert child.get("generator_options") == parent.get("generator_options")


def test_retrain_begins_from_nothing_with_the_options_of_the_parent(
    toy_base, week_log, grown_items, exported_version
):
    found = retrain(toy_base, week_log, grown_items, label="canary", facts={"why": "x"}, seed=5)
    assert found.version == toy_base / "2" and found.evaluation is None
    assert (found.reason, found.events) == ("trained from nothing", len(week_log))
    assert folders.read_labels(toy_base) == {"stable": 1, "canary": 2}
    parent, child = (folders.read_manifest(toy_base / name).as_dict() for name in "12")
    same_options(child, parent, seed=5)
    assert child["parent"] == 1 and child["epochs"] == 2 and child["refit"] is False
    assert child["update"] == {"decision": "trained from nothing", "why": "x"}
    assert child["data"]["interactions"] == len(week_log)
    assert "generator_options" not in child and "generate" not in child["signatures"]
    # the catalogue is that of an update: old items in their places, new ones behind them
    old, new = Recommender.load(toy_base / "1"), Recommender.load(toy_base / "2")
    assert new.items.ids.tolist() == [*old.items.ids, "new-1", "new-2", "new-3"]
    # nothing of the parent's weights is left
    ids = list(old.items.ids)
    assert np.abs(new.item_vectors(ids) - old.item_vectors(ids)).max(axis=1).min() > 1e-3
    assert "new-1" in set(new.recommend([ids[:3]], k=len(new.items))["item_id"])
    for name in ("saved_model.pb", "assets.extra/train/state.npz"):
        assert (toy_base / "1" / name).read_bytes() == (exported_version / "1" / name).read_bytes()


@pytest.mark.slow
def test_retrain_of_a_version_with_a_generator_trains_one_anew(
    planning_version, toy_interactions, tmp_path
):
    base = shutil.copytree(planning_version, tmp_path / "plans")
    user = toy_interactions.frame["user_id"].iloc[0]
    left = toy_interactions.replace(
        toy_interactions.frame[toy_interactions.frame["user_id"] != user]
    )
    found = retrain(base, left)
    assert found.version == base / "2" == folders.find_version(base)
    parent, child = (folders.read_manifest(base / name).as_dict() for name in "12")
    same_options(child, parent, seed=0)
    wanted = {"levels": 2, "max_items": 12, "units": 16, "num_blocks": 1, "heads": 2, "epochs": 2}
    assert wanted.items() <= child["generator_options"].items()
    assert "run_folder" not in child["generator_options"]
    assert child["generator"]["options"] == parent["generator"]["options"]
    assert len(child["plans"]["epochs"]) == 2 and "generate" in child["signatures"]
    old, new = Recommender.load(base / "1"), Recommender.load(base / "2")
    ids = list(new.items.ids)
    assert len(new.generate([ids[:3], []], 4)) == 8
    weights = [r.plans.generator().decoder.training.get_weights() for r in (old, new)]
    assert any(
        w.shape != v.shape or np.abs(w - v).max() > 1e-3 for w, v in zip(*weights, strict=True)
    )


def test_a_derived_version_and_another_store_forget_no_erasure(
    toy_base, week_log, grown_items, store, tmp_path
):
    """Neither an export between erasure and update, nor a store that was moved, hides a user."""
    from kerasrec.feedback.store import FeedbackStore
    from kerasrec.loop.updating import _erased
    from kerasrec.versions.derive import export_again
    from kerasrec.versions.manifest import UpdateFacts

    first = update_from_store(toy_base, store, grown_items, force=True)
    store.forget(week_log.frame["user_id"].iloc[0])
    told = folders.read_manifest(export_again(first.version, k=7))
    assert len(_erased(told.update, store.erasures(), told)) == 1
    # of a first version, which knows no store: what was erased since it began to learn
    manifest = folders.read_manifest(toy_base / "1")
    assert len(_erased(UpdateFacts(), store.erasures(), manifest)) == 1
    # a store with next to nothing in it is no ground to train from nothing
    with FeedbackStore(tmp_path / "fresh.db") as fresh:
        fresh.add([{"user_id": "u", "item_id": "i"}, {"user_id": "v", "item_id": "i"}])
        fresh.forget("u")
        with pytest.raises(ValueError, match="Import the log .* into the store first"):
            update_from_store(toy_base, fresh)


def test_a_store_restored_from_a_copy_is_another_one(toy_base, store, caplog):
    """Its numbers say nothing: new is what is later than the log of the version."""
    path = toy_base / "1" / folders.MANIFEST
    manifest = folders.read_manifest(toy_base / "1").as_dict()
    end = Recommender.load(toy_base).log_end
    new = int((store.interactions().frame["timestamp"] > end).sum())
    lost = {"store": store.id, "seq": store.last_seq() + 9, "erasures": 0}
    path.write_text(json.dumps({**manifest, "update": lost}), encoding="utf-8")
    found = update_from_store(toy_base, store, force=True)
    assert "as after a restore" in caplog.text
    told = folders.read_manifest(found.version).as_dict()["update"]
    assert (told["seq"], told["since"]) == (store.last_seq(), end + 1)
    assert 0 < found.events <= new


def test_differences_of_versions_are_seen():
    """Also where a number has become none: NaN is no larger than any."""
    same = [0.0, np.nan, np.inf]
    assert _distance(same, same) == 0
    assert _distance([1.0, np.nan], [1.5, np.nan]) == 0.5
    for other in ([np.nan, np.nan, np.inf], [0.0, 1.0, np.inf], [0.0, np.nan, -np.inf]):
        assert _distance(same, other) == np.inf


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


def test_what_became_stable_meanwhile_is_not_outranked(toy_base, week_log, grown_items):
    """Rolled back while an update was at work: its child, though better, is not published."""
    shutil.copytree(toy_base / "1", toy_base / "2")
    folders.write_label(toy_base, "stable", 2)
    path = toy_base / "2" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "version": 2, "parent": 1}), encoding="utf-8")
    logger, handler = logging.getLogger("kerasrec.training.trainer"), RollBack(toy_base)
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


@pytest.mark.slow
def test_kills_repeated_events_and_their_order_change_nothing(
    toy_base, week_log, grown_items, tmp_path
):
    """Killed twice and started again, of events that came thrice and shuffled: the same version.

    Many kills and 100,000 events: benchmarks/feedback.py --only kill-update same.
    """
    from kerasrec.feedback.store import FeedbackStore

    path = toy_base / "1" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["trainer"]["deterministic"] = True
    path.write_text(json.dumps(manifest), encoding="utf-8")
    folders.write_label(toy_base, "stable", 1)
    twin = shutil.copytree(toy_base, tmp_path / "twin" / "toy")
    grown_items.frame.to_csv(tmp_path / "items.csv", index=False)
    rows = week_log.frame[["user_id", "item_id", "timestamp"]].astype(object)
    events = rows.to_dict("records")
    for number, event in enumerate(events):
        event["timestamp"] -= event["timestamp"] % 3600  # many at once, in no order of their own
        if number % 2:  # the others get ids from what they say
            event["event_id"] = f"event-{number}"
    with (
        FeedbackStore(tmp_path / "once.db") as once,
        FeedbackStore(tmp_path / "thrice.db") as thrice,
    ):
        assert once.add(events).stored == len(events)
        added = [send_shuffled(thrice, events, seed) for seed in range(3)]
        assert [some.stored for some in added] == [len(events), 0, 0]
        assert thrice.last_seq() == len(events) == len(thrice.read())
        for order, is_same in (("content", True), ("time", False)):
            tables = [store.interactions(order=order).frame for store in (once, thrice)]
            assert tables[0].equals(tables[1]) == is_same
    items = ("--items", tmp_path / "items.csv")
    undisturbed = start_update(twin, tmp_path / "once.db", *items)
    for phase, seconds, reached in (("start", 2, "learning"), ("writing", 0.2, "writing")):
        process = start_update(toy_base, tmp_path / "thrice.db", *items)
        assert kill_update(process, toy_base, phase, seconds) == reached
        assert folders.versions(toy_base) == [1]
    last = start_update(toy_base, tmp_path / "thrice.db", *items)
    assert [last.wait(), undisturbed.wait()] == [0, 0]
    assert folders.versions(toy_base) == [1, 2] and broken_versions(toy_base) == []
    assert folders.read_labels(toy_base) == {"stable": 2}
    with FeedbackStore(tmp_path / "thrice.db") as thrice:
        assert thrice.last_seq() == len(events) == len(thrice.read())
    largest, places = difference(toy_base / "2", twin / "2")
    assert largest <= 1e-5 and places == 0
