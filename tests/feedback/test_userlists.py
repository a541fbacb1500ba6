"""What a user's events do to the next list: rules by hand, and a Recommender with a real store."""

import time

import numpy as np
import pytest

import kerasrec
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import LiveLists, Rules, make_question

NOW = 1_700_000_000


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "f.db") as store:
        yield store


def add(store, *events):
    """Events `(item, kind)` of the user u, a second apart."""
    store.add(
        [
            {"user_id": "u", "item_id": item, "event": kind, "timestamp": NOW + n}
            for n, (item, kind) in enumerate(events)
        ]
    )


EVENTS = [("a", "view"), ("b", "purchase"), ("c", "dislike"), ("c", "click"), ("d", "like")]


@pytest.mark.parametrize(
    ("rules", "deny", "keep_seen"),
    [
        (Rules(), [], False),  # the model leaves out the history, a, b and d
        (Rules(keep_purchased=True), ["a", "c", "d"], True),
        (Rules(keep_seen=True), ["b", "c"], True),
        (Rules(keep_seen=True, keep_purchased=True), ["c"], True),
    ],
)
def test_rules(store, rules, deny, keep_seen):
    add(store, *EVENTS)
    asked = make_question(store, "u", rules, now=NOW + 60)
    assert asked.history == ["a", "b", "d"] and asked.timestamps == [NOW, NOW + 1, NOW + 4]
    assert asked.keep_seen is keep_seen
    assert asked.deny == (deny or ["c"])


def test_old_purchases_and_dislikes_are_still_known(store):
    add(store, ("bought", "purchase"), ("bad", "dislike"), *[(f"i{n}", "click") for n in range(9)])
    store.add_served("u", ["shown"], request_id="r", model="m", version=1).result()
    asked = make_question(store, "u", Rules(events=3), now=NOW)
    assert asked.history == ["i6", "i7", "i8"]
    assert asked.deny == ["bad", "bought"] and not asked.keep_seen
    kept = make_question(store, "u", Rules(events=3, keep_purchased=True), now=NOW)
    assert kept.deny == ["bad"] and not kept.keep_seen  # nothing purchased is in the history


def test_inputs_of_the_signature(store):
    add(store, *EVENTS)
    inputs = make_question(store, "u", now=NOW + 60).inputs()
    assert inputs["history"].tolist() == [["a", "b", "d", ""]]
    assert inputs["timestamps"].tolist() == [[NOW, NOW + 1, NOW + 4, NOW + 60]]
    assert inputs["deny"].tolist() == [["c"]] and inputs["allow"].shape == (1, 0)
    nobody = make_question(store, "nobody").inputs()
    assert nobody["history"].tolist() == [[""]] and nobody["deny"].shape == (1, 0)
    assert abs(nobody["timestamps"][0, 0] - time.time()) < 5


def test_rules_are_checked(store):
    with pytest.raises(ValueError, match="between 1 and 1000. Received: 0"):
        LiveLists(lambda question, k: None, store, Rules(events=0))


def test_a_recommender_in_a_notebook(exported_version, store):
    import tensorflow as tf

    recommender = kerasrec.Recommender.load(exported_version)
    lists = LiveLists(recommender, store)
    first = lists.recommend("u", k=4)
    assert list(first.columns) == ["user_id", "item_id", "rank", "score"] and len(first) == 4
    facts = first.attrs
    assert facts["model"] == "toy" and facts["version"] == 1
    item = first["item_id"][1]
    store.add([{"user_id": "u", "item_id": item, "request_id": facts["request_id"]}])
    again = lists.recommend("u", k=4, log=False)
    assert item not in set(again["item_id"])
    (row,) = store.stats().versions.to_dict("records")
    assert (row["impressions"], row["clicked"]) == (4, 1)
    # as the signature of the version answers
    inputs = make_question(store, "u").inputs()
    types = dict(history=tf.string, timestamps=tf.int64, allow=tf.string, deny=tf.string)
    given = {n: tf.constant(v, types.get(n, tf.bool)) for n, v in inputs.items()}
    answer = tf.saved_model.load(str(exported_version / "1")).signatures["recommend"](**given)
    ids = [item.decode() for item in answer["item_ids"].numpy()[0, :4]]
    assert again["item_id"].tolist() == ids
    np.testing.assert_allclose(again["score"], answer["scores"].numpy()[0, :4], atol=1e-4)
    everything = [{"user_id": "u", "item_id": i, "event": "dislike"} for i in recommender.items.ids]
    store.add([*everything, {"user_id": "u", "item_id": "no such item"}])
    assert len(lists.recommend("u")) == 0
