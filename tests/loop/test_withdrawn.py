"""Items that a catalogue no longer has: in no list, known to histories, back when it has them."""

import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_items
from kerasrec.loop.updating import grown_catalogue, update
from kerasrec.recommender.recommender import Recommender
from kerasrec.recommender.shortlist import Shortlist
from kerasrec.versions.derive import export_again
from kerasrec.versions.loaded import LoadedVersion, read_withdrawn


@pytest.fixture(scope="module")
def gone(toy_items):
    """Every second item of the catalogue."""
    return set(toy_items.ids[::2])


@pytest.fixture(scope="module")
def updated(exported_version, week_log, grown_items, gone, tmp_path_factory):
    """`(Updated, folder of the model)` of a catalogue that has lost half of its items."""
    import shutil

    base = shutil.copytree(exported_version, tmp_path_factory.mktemp("gone") / "toy")
    left = grown_items.frame[~grown_items.frame["item_id"].isin(gone)]
    return update(base, week_log, Items(left.reset_index(drop=True)), force=True), base


def listed_by_signatures(version, history):
    signatures = tf.saved_model.load(str(version)).signatures
    found = signatures["serving_default"](history=tf.constant([history, [""] * len(history)]))
    return [{one.decode() for one in row if one} for row in found["item_ids"].numpy()]


def test_withdrawn_items_are_in_no_list(updated, gone, toy_items):
    found, base = updated
    assert (found.withdrawn, found.returned) == (len(gone), 0)
    child = Recommender.load(found.version)
    assert child.items.withdrawn == gone == read_withdrawn(found.version)
    assert child.about.update.more["withdrawn"] == len(gone)
    everybody = {"knows": list(toy_items.ids[:6]), "new": []}
    every = len(child.items)
    lists = child.recommend(everybody, k=every, keep_seen=True)
    # all others are listed, for who has a history and who has none
    assert set(lists["item_id"]) == set(child.items.ids) - gone
    assert lists["user_id"].value_counts().tolist() == [every - len(gone)] * 2
    allowed = child.recommend(everybody, k=every, candidates=[*sorted(gone)[:3], toy_items.ids[1]])
    assert not set(allowed["item_id"]) & gone
    similar = child.similar(list(toy_items.ids[:2]), k=every)
    assert not set(similar["item_id"]) & gone and len(similar)
    assert not set(child.similar(text="数学", k=every)["item_id"]) & gone
    # as TensorFlow Serving answers
    for row in listed_by_signatures(found.version, list(toy_items.ids[:6])):
        assert row and not row & gone


def test_they_keep_their_vectors_for_histories(updated, gone, toy_items):
    found, base = updated
    child = Recommender.load(found.version)
    old = sorted(gone)
    assert child.item_vectors(old).any(axis=1).all()
    assert child.interests([old[:3]]).any()


def test_an_index_leaves_them_out_too(updated, gone, toy_items, monkeypatch):
    pytest.importorskip("faiss")
    found, base = updated
    loaded = LoadedVersion.load(found.version)
    shortlist = Shortlist(loaded, folder=False)
    history = loaded.items().index_of(list(toy_items.ids[:6]))[None]
    given = shortlist.candidates(history, shortlist.interests(history), [0], k=10, keep_seen=True)
    ids = set(loaded.items().ids[given.items[given.items > 0] - 1])
    assert ids and not ids & gone


@pytest.mark.slow
def test_versions_made_of_it_leave_them_out_and_they_come_back(
    updated, gone, week_log, grown_items, tmp_path
):
    import shutil

    found, base = updated
    base = shutil.copytree(base, tmp_path / "toy")
    again = export_again(base, k=7)
    assert read_withdrawn(again) == gone
    # no catalogue: as it was
    later = Recommender.load(again)
    later.add_items(pd.DataFrame({"item_id": ["later"], "title": ["线性代数"]}))
    assert read_withdrawn(later.save()) == gone
    assert later.withdraw(sorted(gone)[:2]) == 2 and later.items.withdrawn == set(sorted(gone)[:2])
    assert Recommender.load(base).items.withdrawn == gone
    full = Items(
        pd.concat(
            [grown_items.frame, pd.DataFrame({"item_id": ["later"], "title": ["线性代数"]})]
        ).fillna("")
    )
    back = grown_catalogue(Recommender.load(base).items, full)
    assert back.withdrawn == frozenset()


def test_a_version_of_before_denies_them(exported_version, gone, toy_items):
    before = LoadedVersion.load(exported_version)
    before.abilities -= {"withdraws"}  # as of a graph without the variable
    old = Recommender(before)
    assert old.withdraw(gone) == len(gone)
    lists = old.recommend([list(toy_items.ids[:3]), []], k=len(toy_items), deny=[toy_items.ids[1]])
    assert not set(lists["item_id"]) & (gone | {toy_items.ids[1]}) and len(lists)


def test_a_catalogue_of_new_items_alone_is_refused(toy_items):
    new = Items(
        pd.DataFrame({"item_id": ["n1"], "title": ["新"]}).reindex(
            columns=toy_items.frame.columns, fill_value=""
        )
    )
    with pytest.raises(
        ValueError, match="must be the whole catalogue as it is now. Received: 0 of"
    ):
        grown_catalogue(toy_items, new)


def test_columns_that_say_so():
    table = pd.DataFrame(
        {
            "item_id": list("abcdefgh"),
            "title": "书",
            "available": ["1", "0", "1", "", "true", "1", "1", "1"],
            "下架": ["否", "否", "是", "否", "否", "否", "否", "否"],
            "库存": ["3", "3", "3", "0", "-1", "", "3", "3"],
            "end_date": ["2099-01-01", "", "", "", "", "2001-01-01", "someday", ""],
            "status": ["on"] * 7 + ["下架"],
        }
    )
    items = read_items(table)
    assert items.withdrawn == set("bcdefh")
    notes = {step.what: step.count for step in items.report.steps if "in no list" in step.what}
    assert notes == {
        "not to be had by the column available: in no list": 1,
        "not to be had by the column 下架: in no list": 1,
        "not to be had by the column 库存: in no list": 2,
        "not to be had by the column end_date: in no list": 1,
        "not to be had by the column status: in no list": 1,
    }
    # where no item were left the column means something else
    assert (
        read_items(table.assign(available="0")[["item_id", "title", "available"]]).withdrawn
        == frozenset()
    )


def test_columns_that_the_model_does_not_read_may_be_missing(caplog):
    frame = pd.DataFrame(
        {"item_id": ["a", "b"], "title": ["甲", "乙"], "brand": ["x", "y"], "stock": ["0", "1"]}
    )
    known = Items(frame.assign(teacher=["张\x1f李", "王"]), withdrawn=frozenset("a"))
    now = Items(pd.DataFrame({"item_id": ["b", "c", "a"], "title": ["乙", "丙", "甲甲"]}))
    grown = grown_catalogue(known, now, read=["title"])
    assert grown.frame.to_dict("list") == {
        "item_id": ["a", "b", "c"],
        "title": ["甲甲", "乙", "丙"],
        "brand": ["x", "y", ""],
        "stock": ["", "", ""],  # of another day
        "teacher": ["张\x1f李", "王", ""],
    }
    assert grown.withdrawn == frozenset() and known.frame["stock"].tolist() == ["0", "1"]
    assert "does not read: 'brand', 'stock', 'teacher'." in caplog.text
    expected = (
        "that the model reads: 'brand', 'teacher'. Received: a catalogue without 'brand', 'stock', "
        "'teacher'. Add them. 'teacher' came from relations, as it seems: give these again by "
        "--relations"
    )
    with pytest.raises(ValueError, match=expected):
        grown_catalogue(known, now, read=["title", "brand", "teacher"])
