"""What a child learns from, and what it keeps of its parent."""

import shutil

import numpy as np
import pytest
from toys import histories_of, tiny_options

from kerasrec.backend import tf
from kerasrec.data.interactions import Items
from kerasrec.generation.generator import read_ids
from kerasrec.loop.child import Child
from kerasrec.loop.updating import grown_catalogue, update
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.catchup import replayed
from kerasrec.training.pipeline import train
from kerasrec.versions import folders
from kerasrec.versions.manifest import read_manifest
from kerasrec.versions.trainingstate import Rebuilt, read_training_state


def test_replayed_by_hand():
    """Two new events of user 0: these and 2 before them; one of the others is drawn."""
    histories = histories_of([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [5, 6, 7], [8]])
    part = replayed(histories, np.array([2, 0, 0, 0]), 2, seed=0)
    assert part.num_users == 2 and part.user_ids[0] == "u0"
    assert part.items[: part.offsets[1]].tolist() == [3, 4, 5, 6]
    assert part.items[part.offsets[1] :].tolist() in ([3, 4], [6, 7])
    nobody = replayed(histories, np.array([0, 0, 0, 1]), 2, seed=0)
    assert nobody.num_users == 0  # one event alone has nothing before it


def test_a_grown_model_gives_old_items_their_vectors(toy_base, grown_items):
    parent = Recommender.load(toy_base / "1")
    items = grown_catalogue(parent.items, grown_items)
    rebuilt = Rebuilt(toy_base / "1", items)
    model, state = rebuilt.model, rebuilt.state
    vectors = model.item_vectors(np.arange(len(items) + 1)).numpy()
    old = len(parent.items)
    np.testing.assert_allclose(
        vectors[1 : old + 1], parent.item_vectors(parent.items.ids), atol=1e-6
    )
    new = parent.encode(["深度学习与推荐系统", "唐诗宋词鉴赏", ""])
    np.testing.assert_allclose(vectors[old + 1 :], new, atol=1e-5)
    assert (
        state.options["num_items"]
        == old
        == read_training_state(toy_base / "1").options["num_items"]
    )


# in the graph of the parent, or in a new one: a table's decay is a constant of the graph
@pytest.mark.slow
@pytest.mark.parametrize("has_room", [True, False])
def test_a_child_plans_with_its_parents_generator(
    planning_version, grown_items, toy_interactions, tmp_path, has_room
):
    base = shutil.copytree(planning_version, tmp_path / "plans")
    parent = Recommender.load(base / "1")
    items = grown_catalogue(parent.items, grown_items)
    with pytest.raises(ValueError, match="Add the new ones to the parent first"):
        Child(parent, items)
    parent.add_items(Items(items.frame[len(parent.items) :].reset_index(drop=True)))
    child = Child(parent, items, seed=0)
    if not has_room:  # so little that no score moves
        child.tables = {
            name: table._replace(decay=table.decay * (1 - 1e-6))
            for name, table in child.tables.items()
        }
    assert parent.has_room_for(child.fusion()) is has_room
    facts = {"ndcg": {"child": 0.5}}
    version = child.publish("stable", facts, toy_interactions, 1.0, labels={})
    published, ids = Recommender.load(version), list(items.ids)
    # what is new is planned, and what was there keeps its codes
    histories = [ids[:3], [], ["new-1", ids[5]]]
    for new in ("new-1", "new-2", "new-3"):
        found = published.generate([ids[:3]], candidates=[new])
        assert found["item_id"].tolist() == [new]
    old, known = read_ids(base / "1" / folders.GENERATOR), read_ids(version / folders.GENERATOR)
    np.testing.assert_array_equal(known.codes[: len(old.codes)], old.codes)
    assert len(known.codes) == len(items) == len(np.unique(known.codes, axis=0))
    before, now = parent.manifest["generator"], published.manifest["generator"]
    assert (now["trust"], now["prior"]) == (before["trust"], before["prior"])
    # as the parent that was told of the items would, for whoever asks
    expected = parent.generate(histories, 5, 16)
    found = published.generate(histories, 5, 16)
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    np.testing.assert_allclose(found["log_probability"], expected["log_probability"], atol=1e-3)
    served, none = tf.saved_model.load(str(version)), tf.zeros((1, 0), tf.string)
    answer = served.signatures["generate"](
        history=tf.constant([ids[:3]]),
        timestamps=tf.zeros((1, 3), tf.int64),
        allow=none,
        deny=none,
        temperature=tf.zeros(1),
        top_p=tf.ones(1),
        seed=tf.zeros(1, tf.int32),
    )
    planned = [item.decode() for item in answer["item_ids"].numpy()[0]]
    assert planned == found[found["user_id"] == 0]["item_id"].tolist()


@pytest.mark.slow
def test_a_child_whose_encoder_has_learned_can_be_a_parent(
    toy_interactions, toy_items, week_log, grown_items, tiny_bert_folder, tmp_path
):
    """Its manifest names the encoder as it is by now: else the next update would refuse it."""
    options = tiny_options({"name": str(tiny_bert_folder), "mode": "lora"}, sequence="hstu")
    given = dict(name="lora", out=tmp_path, options=options, progress=False)
    parent = train(toy_interactions, toy_items, **given)
    child = update(tmp_path / "lora", week_log, grown_items, force=True).version
    before, now = (read_manifest(one).encoder for one in (parent.version, child))
    assert now == before._replace(fingerprint=now.fingerprint)
    assert now.fingerprint != before.fingerprint
    assert Rebuilt(child).encoder.fingerprint == now.fingerprint
