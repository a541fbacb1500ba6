"""Plans of a version that knows what must come before: counted, forbidden, kept."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.data.interactions import Items
from kerasrec.data.relations.order import read_order
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders


@pytest.fixture(scope="module")
def ordered(ordered_version):
    return ordered_version / "1"


@pytest.fixture(scope="module")
def recommender(ordered):
    return Recommender.load(ordered)


@pytest.fixture(scope="module")
def ids(recommender):
    return list(recommender.items.ids)


def plan(recommender, history, candidates, **options):
    table = recommender.generate([history], 3, 16, candidates=candidates, **options)
    return table["item_id"].tolist()


def test_the_version_knows_its_order(ordered, recommender):
    about = folders.read_manifest(ordered)
    assert about.order == "prerequisite" and "generate_in_order" in about.signatures
    assert read_order(recommender.items).before == {3: (2,), 5: (3, 4), 7: (6,)}


def test_steps_that_come_too_early_are_counted(recommender, ids):
    table = recommender.generate({"new": [], "old": [ids[1]]}, 1, 1, candidates=[ids[2]])
    assert table["missing"].tolist() == [ids[1], ""] and table.attrs["violations"] == 1
    table = recommender.generate([[]], 1, 1, candidates=[ids[4]])
    assert table["missing"].tolist() == [f"{ids[2]}|{ids[3]}"]
    both = recommender.generate([[]], 2, 16, candidates=[ids[5], ids[6]], num_lists=2)
    both = {tuple(part["item_id"]): list(part["missing"]) for _, part in both.groupby("list")}
    assert both == {(ids[5], ids[6]): ["", ""], (ids[6], ids[5]): [ids[5], ""]}


def test_nothing_comes_before_what_it_needs(recommender, ids):
    assert plan(recommender, [], [ids[2]], order=True) == []
    assert plan(recommender, [ids[1]], [ids[2]], order=True) == [ids[2]]
    assert plan(recommender, [], [ids[5], ids[6]], order=True) == [ids[5], ids[6]]
    chain = plan(recommender, [ids[1]], [ids[2], ids[3], ids[4]], order=True)
    assert chain[2] == ids[4] and set(chain[:2]) == {ids[2], ids[3]}
    drawn = dict(order=True, temperature=1.0, seed=3)
    assert plan(recommender, [], [ids[5], ids[6]], **drawn) == [ids[5], ids[6]]


def test_many_plans_have_no_violation(recommender, toy_interactions, ids):
    few = ids[:9]
    table = recommender.generate(toy_interactions, 4, 8, order=True, num_lists=2, candidates=few)
    assert table.attrs["violations"] == 0 and (table["missing"] == "").all()
    free = recommender.generate(toy_interactions, 4, 8, num_lists=2, candidates=few)
    assert free.attrs["violations"] == (free["missing"] != "").sum() > 0


def test_the_signature_plans_in_order(ordered, ids):
    served = tf.saved_model.load(str(ordered)).signatures
    given = {
        "history": tf.constant([[""], [ids[1]]]),
        "timestamps": tf.zeros([2, 1], tf.int64),
        "allow": tf.constant([[ids[2], ids[6]]] * 2),
        "deny": tf.zeros([2, 0], tf.string),
        "temperature": tf.zeros([2]),
        "top_p": tf.ones([2]),
        "seed": tf.zeros([2], tf.int32),
    }
    found = served["generate_in_order"](**given)["item_ids"].numpy()
    assert set(found[0]) == {b""} and found[1][0] == ids[2].encode() and found[1][1] == b""
    assert ids[6].encode() in served["generate"](**given)["item_ids"].numpy()[0]


@pytest.mark.slow
def test_new_and_corrected_items_have_their_place(ordered, ids, tmp_path):
    path = shutil.copytree(ordered.parent, tmp_path / "plans")
    changed = Recommender.load(path)
    new = pd.DataFrame({"item_id": ["new"], "title": ["深度学习"], "prerequisite": [ids[0]]})
    changed.add_items(Items(new))
    changed.correct_items(pd.DataFrame({"item_id": [ids[6]], "prerequisite": [ids[0]]}))
    for found in (changed, Recommender.load(changed.save())):
        assert read_order(found.items).before == {
            **{3: (2,), 5: (3, 4), 7: (1,)},
            len(ids) + 1: (1,),
        }
        assert plan(found, [], ["new", ids[6]], order=True) == []
        assert set(plan(found, [ids[0]], ["new", ids[6]], order=True)) == {"new", ids[6]}
        assert plan(found, [ids[5]], [ids[6]], order=True) == []


@pytest.mark.slow
def test_versions_without_an_order_say_so(planning_version, ids):
    plain = Recommender.load(planning_version)
    assert "missing" not in plain.generate([[ids[0]]], 2, 2)
    with pytest.raises(ValueError, match="knows no order of its items"):
        plain.generate([[ids[0]]], 2, 2, order=True)
    plain.items = replace(plain.items, order="title")
    with pytest.raises(ValueError, match="plans in no order"):
        plain.generate([[ids[0]]], 2, 2, order=True)
