"""The next version of a model from new events: real data, real versions."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import histories_of

from kerasrec import artifacts
from kerasrec.artifacts import ArtifactError
from kerasrec.backend import tf
from kerasrec.data import Items, read_interactions
from kerasrec.evaluation import evaluate
from kerasrec.recommender import Recommender
from kerasrec.sequences import make_histories
from kerasrec.trainingstate import read_training_state, rebuild
from kerasrec.transitions import NeighbourTable
from kerasrec.updating import (
    FEWEST,
    Child,
    TooFewEvents,
    decide,
    grown_catalogue,
    judge,
    replayed,
    update,
    update_from_store,
)

DAY = 86400


@pytest.fixture
def base(exported_version, tmp_path):
    """A copy of the toy model."""
    return shutil.copytree(exported_version, tmp_path / "saved_models" / "toy")


@pytest.fixture(scope="module")
def catalogue(toy_items):
    """The toy catalogue, shuffled, with three new courses."""
    new = pd.DataFrame(
        {
            "item_id": ["new-1", "new-2", "new-3"],
            "title": ["深度学习与推荐系统", "唐诗宋词鉴赏", ""],
        }
    )
    frame = toy_items.frame.sample(frac=1, random_state=0)
    return Items(pd.concat([frame, new], ignore_index=True).fillna(""))


@pytest.fixture(scope="module")
def log(toy_interactions):
    """The toy log, and a week in which 70 learners, 10 of them new, take what others took."""
    old = toy_interactions.frame
    rng = np.random.default_rng(0)
    newest = int(old["timestamp"].max())
    popular = old["item_id"].value_counts().index[:30].tolist() + ["new-1"] * 10 + ["new-2"] * 3
    learners = old["user_id"].cat.categories[:60].tolist() + [f"newcomer-{n}" for n in range(10)]
    rows = [
        (user, item, newest + int(second))
        for user in learners
        for item in rng.choice(popular, 4, replace=False)
        for second in rng.integers(1, 7 * DAY, 1)
    ]
    new = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    whole = pd.concat([old[["user_id", "item_id", "timestamp"]].astype({"user_id": str}), new])
    return read_interactions(whole.drop_duplicates(["user_id", "item_id"]).reset_index(drop=True))


def test_update_publishes_a_child_that_knows_what_is_new(base, log, catalogue, exported_version):
    found = update(base, log, catalogue, force=True)
    assert found.version == base / "2" and found.events > 200
    parent, child = Recommender.load(base / "1"), Recommender.load(base / "2")
    # the catalogue has grown at its end, and old items kept their places and their texts
    assert child.items.ids[: len(parent.items)].tolist() == parent.items.ids.tolist()
    assert child.items.ids[len(parent.items) :].tolist() == ["new-1", "new-2", "new-3"]
    facts = child.manifest
    assert facts["parent"] == 1 and facts["num_items"] == len(parent.items) + 3
    assert facts["update"]["events"] == found.events
    assert set(facts["update"]["ndcg"]) == {"child", "parent", "recent_popularity", "item_knn"}
    assert facts["data"]["interactions"] == len(log)
    # a new course that many took is listed, also for a learner whom training never saw
    lists = child.recommend({"newcomer": list(log.frame["item_id"][-1:])}, k=30)
    assert "new-1" in set(lists["item_id"])
    assert child.log_end == log.frame["timestamp"].max()
    # the parent is as it was
    for name in ("saved_model.pb", "assets.extra/train/state.npz"):
        assert (base / "1" / name).read_bytes() == (exported_version / "1" / name).read_bytes()
    # and what was published answers the same in a process that knows TensorFlow alone
    history = [log.frame["item_id"].astype(str).tolist()[:3]]
    code = (
        "import sys, json, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]);"
        "a = m.signatures['serving_default'](history=tf.constant(json.loads(sys.argv[2])));"
        "print(json.dumps([i.decode() for i in a['item_ids'].numpy()[0]]))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code, str(base / "2"), json.dumps(history)],
        capture_output=True,
        text=True,
        check=True,
    )
    here = tf.saved_model.load(str(base / "2")).signatures["serving_default"]
    expected = here(history=tf.constant(history))["item_ids"].numpy()[0]
    assert json.loads(out.stdout.splitlines()[-1]) == [item.decode() for item in expected]


def test_a_child_of_a_child(base, log, catalogue):
    """Half of the week, then all of it: the second update sees the second half alone as new."""
    times = log.frame["timestamp"]
    half = times.max() - 3 * DAY
    first = update(base, log.replace(log.frame[times <= half]), catalogue, force=True)
    second = update(base, log, force=True)
    assert (first.version, second.version) == (base / "2", base / "3")
    assert second.events == int((times > half).sum())
    assert artifacts.read_manifest(second.version)["parent"] == 2
    assert "new-1" in set(Recommender.load(base).items.ids)


def test_labels(base, log, catalogue):
    found = update(base, log, catalogue, label="canary", force=True)
    assert artifacts.read_labels(base) == {"stable": 1, "canary": int(found.version.name)}
    assert artifacts.find_version(base) == base / "1"  # nobody gets the canary unasked
    artifacts.write_label(base, "stable", 2)
    assert artifacts.rollback(base) == (2, 1)
    assert artifacts.find_version(base) == base / "1"
    assert artifacts.rollback(base, 2) == (1, 2)
    with pytest.raises(ArtifactError, match="has no version 9"):
        artifacts.rollback(base, 9)
    artifacts.rollback(base)
    with pytest.raises(ArtifactError, match="has no parent to go back to. Name a version"):
        artifacts.rollback(base)


def test_a_worse_child_is_refused(base, log, catalogue, monkeypatch):
    """A child whose weights were spoilt: nothing is published, the reason is told."""
    learn = Child.learn

    def spoil(self, interactions, *, since):
        learn(self, interactions, since=since)
        rng = np.random.default_rng(0)
        weights = self.model.training.get_weights()
        self.model.training.set_weights(
            [rng.normal(size=w.shape).astype(w.dtype) if w.ndim > 1 else w for w in weights]
        )
        self.tables = {
            name: NeighbourTable(t.neighbours, t.weights[::-1].copy(), t.decay)
            for name, t in self.tables.items()
        }

    monkeypatch.setattr(Child, "learn", spoil)
    before = sorted(path.name for path in base.iterdir() if not path.name.startswith("."))
    found = update(base, log, catalogue)
    assert found.version is None
    assert found.reason.startswith(("worse than its parent", "below "))
    assert before == sorted(path.name for path in base.iterdir() if not path.name.startswith("."))


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


def test_replayed_by_hand():
    """Two new events of user 0: these and 2 before them; one of the others is drawn."""
    histories = histories_of([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [5, 6, 7], [8]])
    part = replayed(histories, np.array([2, 0, 0, 0]), 2, seed=0)
    assert part.num_users == 2 and part.user_ids[0] == "u0"
    assert part.items[: part.offsets[1]].tolist() == [3, 4, 5, 6]
    assert part.items[part.offsets[1] :].tolist() in ([3, 4], [6, 7])
    nobody = replayed(histories, np.array([0, 0, 0, 1]), 2, seed=0)
    assert nobody.num_users == 0  # one event alone has nothing before it


def test_a_grown_model_gives_old_items_their_vectors(base, catalogue):
    parent = Recommender.load(base / "1")
    items = grown_catalogue(parent.items, catalogue)
    model, _, state = rebuild(base / "1", items)
    vectors = model.item_vectors(np.arange(len(items) + 1)).numpy()
    old = len(parent.items)
    np.testing.assert_allclose(
        vectors[1 : old + 1], parent.item_vectors(parent.items.ids), atol=1e-6
    )
    new = parent.encode(["深度学习与推荐系统", "唐诗宋词鉴赏", ""])
    np.testing.assert_allclose(vectors[old + 1 :], new, atol=1e-5)
    assert state.options["num_items"] == old == read_training_state(base / "1").options["num_items"]


def test_two_at_once(base, log, catalogue):
    with artifacts.alone(base), pytest.raises(ArtifactError, match="Another update of .* at work"):
        update(base, log, catalogue)


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
def test_bad_logs(base, log, change, message):
    with pytest.raises(ValueError, match=message):
        update(base, change(log))


def test_bad_arguments(base, log, tmp_path):
    with pytest.raises(ValueError, match="one of stable, canary. Received: 'best'"):
        update(base, log, label="best")
    with pytest.raises(ArtifactError, match="no such folder"):
        update(tmp_path / "nothing", log)
    with pytest.raises(ValueError, match="columns of the parent's catalogue. Received: no"):
        update(base, log, Items(pd.DataFrame({"item_id": ["a"], "name": ["b"]})))


def test_events_of_unknown_items_are_left_out(base, log, caplog):
    """Without the new catalogue the new courses are unknown."""
    child = update(base, log, force=True)
    assert "events with items outside the catalogue are left out" in caplog.text
    assert artifacts.read_manifest(child.version)["num_items"] == len(
        Recommender.load(base / "1").items
    )


def test_judge_looks_at_held_back_events(base, log, catalogue):
    """Figures of the parent are those of `evaluate` on the same lists."""
    parent = Recommender.load(base / "1", index="exact")
    times = log.frame["timestamp"]
    cut = times.max() - DAY
    learned, held = (log.replace(log.frame[rows]) for rows in (times <= cut, times > cut))
    items = grown_catalogue(parent.items, catalogue)
    parent.add_items(Items(items.frame[len(parent.items) :].reset_index(drop=True)))
    parent.observe(make_histories(learned, items))
    found = judge(parent, parent, learned, held)
    assert found.value("child", "ndcg") == found.value("parent", "ndcg")
    users = held.frame["user_id"].nunique()
    assert found.counts["child"]["users"] == users


@pytest.fixture
def store(log, tmp_path):
    """A store with the whole log, in which the new week came last."""
    from kerasrec.feedback import FeedbackStore

    with FeedbackStore(tmp_path / "feedback.db") as store:
        frame = log.frame.sort_values("timestamp", kind="stable")
        store.add(log.replace(frame[frame["timestamp"] <= frame["timestamp"].max() - 2 * DAY]))
        yield store


def test_from_a_store(base, log, catalogue, store):
    """New is what came in, not only what happened, since the parent."""
    first = update_from_store(base, store, catalogue, force=True)
    assert artifacts.read_manifest(first.version)["update"]["seq"] == store.last_seq()
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(base, store)
    stored = store.add(log).stored
    assert stored > 50
    late = log.frame[log.frame["item_id"] != "new-3"].iloc[:1]
    store.add([{"user_id": "late", "item_id": late["item_id"].iloc[0], "timestamp": 1_500_000_000}])
    second = update_from_store(base, store, force=True)
    assert second.events == stored + 1
    facts = artifacts.read_manifest(second.version)
    assert facts["data"]["interactions"] == store.stats().events


def test_an_erased_user_is_forgotten_by_training_from_nothing(base, log, catalogue, store):
    update_from_store(base, store, catalogue, force=True)
    user = log.frame["user_id"].value_counts().index[0]
    rows = store.forget(user)
    found = update_from_store(base, store)
    facts = artifacts.read_manifest(found.version)
    assert found.reason == "trained from nothing, without 1 erased users"
    assert facts["update"]["erased"] == {"users": 1, "rows": rows}
    assert facts["parent"] == 2 and facts["data"]["users"] == store.stats().users
    assert facts["options"]["text_units"] == 8 and facts["trainer"]["epochs"] == 2
    # what was forgotten once is not forgotten again
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(base, store)


def test_a_derived_version_and_another_store_forget_no_erasure(
    base, log, catalogue, store, tmp_path
):
    """Neither an export between erasure and update, nor a store that was moved, hides a user."""
    from kerasrec.derive import export_again
    from kerasrec.feedback import FeedbackStore
    from kerasrec.updating import _erased

    first = update_from_store(base, store, catalogue, force=True)
    store.forget(log.frame["user_id"].iloc[0])
    told = artifacts.read_manifest(export_again(first.version, k=7))
    assert len(_erased(told["update"], store.erasures(), told)) == 1
    # of a first version, which knows no store: what was erased since it began to learn
    manifest = artifacts.read_manifest(base / "1")
    assert len(_erased({}, store.erasures(), manifest)) == 1
    # a store with next to nothing in it is no ground to train from nothing
    with FeedbackStore(tmp_path / "fresh.db") as fresh:
        fresh.add([{"user_id": "u", "item_id": "i"}, {"user_id": "v", "item_id": "i"}])
        fresh.forget("u")
        with pytest.raises(ValueError, match="Import the log .* into the store first"):
            update_from_store(base, fresh)


def test_a_log_of_dates(base, log, catalogue):
    """All new events within two days, written as dates: the last day is held back."""
    frame = log.frame.copy()
    newest = Recommender.load(base / "1").log_end
    new = frame["timestamp"] > newest
    day = newest // DAY * DAY + DAY
    half = np.arange(len(frame)) % 2
    frame.loc[new, "timestamp"] = day + DAY * half[new.to_numpy()]
    found = update(base, log.replace(frame), catalogue, force=True)
    assert found.version is not None and found.evaluation.counts["child"]["users"] > 10
    frame.loc[new, "timestamp"] = day + 10 * DAY
    later = log.replace(frame)
    with pytest.raises(TooFewEvents, match="new events of one moment"):
        update(base, later)


def test_what_became_stable_meanwhile_is_not_outranked(base, log, catalogue, monkeypatch):
    """Rolled back while an update was at work: its child is not published."""
    artifacts.write_label(shutil.copytree(base / "1", base / "2").parent, "stable", 2)
    manifest = json.loads((base / "2" / artifacts.MANIFEST).read_text(encoding="utf-8"))
    (base / "2" / artifacts.MANIFEST).write_text(
        json.dumps({**manifest, "version": 2, "parent": 1})
    )

    def decided(evaluation):
        artifacts.rollback(base)
        return True, "better"

    monkeypatch.setattr("kerasrec.updating.decide", decided)
    with pytest.raises(ArtifactError, match="another version became the one that answers"):
        update(base, log, catalogue)
    assert artifacts.versions(base) == [1, 2]


def test_rollback_from_a_damaged_version(base):
    shutil.copytree(base / "1", base / "2")
    artifacts.write_label(base, "stable", 2)
    (base / "2" / "saved_model.pb").unlink()
    assert artifacts.rollback(base, 1) == (2, 1)
