"""What must come before an item: read, checked and counted, by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from kerasrec.data.interactions import Items
from kerasrec.data.relations.order import Order, read_order
from kerasrec.data.sources import read_items, with_relations
from kerasrec.features.columntypes import choose_columns
from kerasrec.loop.updating import grown_catalogue


@pytest.fixture
def courses():
    return read_items(
        pd.DataFrame({"item": ["a", "b", "c", "d"], "title": ["甲", "乙", "丙", "丁"]})
    )


def rows(*pairs, relation="prerequisite"):
    triples = [(item, relation, before) for item, before in pairs]
    return pd.DataFrame(triples, columns=["item", "relation", "entity"])


def test_a_prerequisite_is_an_order_and_no_feature(courses):
    teachers = rows(("a", "张"), ("b", "张"), relation="teacher")
    found = with_relations(courses, pd.concat([rows(("c", "a"), ("c", "b"), ("b", "a")), teachers]))
    assert found.order == "prerequisite" and found.relations == ("teacher",)
    assert found.frame["prerequisite"].tolist() == ["", "a", "a\x1fb", ""]
    assert read_order(found).before == {2: (1,), 3: (1, 2)}
    assert list(choose_columns(found.feature_frame)) == ["teacher"]
    assert read_order(courses).before == {} and courses.feature_frame is not None
    again = with_relations(courses, rows(("c", "a")), order=None)
    assert again.order == "" and again.relations == ("prerequisite",)


def test_the_relation_may_have_another_name(courses):
    found = with_relations(courses, rows(("c", "a"), relation="先修"), order="先修")
    assert found.order == "先修" and read_order(found).before == {3: (1,)}


def test_what_is_wrong_with_an_order_is_said(courses, caplog):
    table = rows(("a", "a"), ("b", "?"), ("b", "c"), ("c", "d"), ("d", "b"), ("a", "b"))
    found = with_relations(courses, table)
    assert read_order(found).before == {1: (2,), 2: (3,), 3: (4,), 4: (2,)}
    lines = str(found.report)
    assert "items before themselves" in lines
    assert "what must come before is no item of the catalogue" in lines
    assert "groups of items that need each other" in lines
    assert "such as b before d before c before b" in caplog.text
    assert caplog.text.count("prerequisite:") == 3


def test_entities_that_are_no_items_make_no_order(courses, caplog):
    found = with_relations(courses, rows(("a", "高等数学"), ("b", "高等数学")))
    assert found.order == "" and found.relations == ("prerequisite",)
    assert "no entity is another item, so it is no order" in caplog.text
    alone = with_relations(courses, pd.concat([rows(("a", "a")), rows(("b", "张"), relation="t")]))
    assert alone.order == "" and alone.relations == ("t",)


def test_missing_steps_by_hand():
    order = Order({2: (1,), 4: (2, 3)})
    assert order.missing([], [1, 2, 4]) == [(), (), (3,)]
    assert order.missing([3], [2, 1, 4]) == [(1,), (), ()]
    assert order.missing([], []) == []
    assert order.table().tolist() == [[2, 1, 0], [4, 2, 3]]
    assert Order({}).table().shape == (0, 1)


def test_cycles_by_hand():
    assert Order({2: (1,), 3: (1, 2)}).cycles() == []
    two = Order({1: (2,), 2: (1, 3), 3: (1,), 5: (6,), 6: (5,), 7: (1, 5)})
    ways = two.cycles()
    assert len(ways) == 2 and ways[1] == [5, 6]
    for way in ways:  # each is needed by the next, and the last by the first
        for before, item in zip(way, [*way[1:], way[0]], strict=True):
            assert before in two.before[item]


def test_a_grown_catalogue_keeps_the_order(courses):
    known = with_relations(courses, rows(("c", "a")))
    new = pd.concat([courses.frame, pd.DataFrame({"item_id": ["e"], "title": ["戊"]})])
    assert grown_catalogue(known, Items(new), read=["title"]).order == "prerequisite"
    told = with_relations(Items(new), rows(("c", "a"), ("e", "c")))
    grown = grown_catalogue(replace(known, order=""), told)
    assert read_order(grown).before == {3: (1,), 5: (3,)}
