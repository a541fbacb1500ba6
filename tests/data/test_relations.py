import pandas as pd
import pytest

from kerasrec.data.cleaningreport import DirtyRows
from kerasrec.data.sources import read_items, with_relations
from kerasrec.features.columntypes import propose
from kerasrec.features.itemcolumns import ItemColumns


@pytest.fixture
def courses():
    frame = pd.DataFrame({"item": ["a", "b", "c"], "title": ["甲", "乙", "丙"]})
    return read_items(frame)


def rows(*triples):
    return pd.DataFrame(triples, columns=["item", "relation", "entity"])


def test_each_relation_is_a_column_of_lists(courses):
    table = rows(
        ("a", "teacher", "张"),
        ("b", "school", "清华"),
        ("a", "teacher", "李"),
        ("a", "teacher", "张"),  # said twice
        ("c", "school", "清华"),
        ("z", "school", "北大"),  # no item of the catalogue
    )
    found = with_relations(courses, table)
    assert found.frame["teacher"].tolist() == ["张\x1f李", "", ""]
    assert found.frame["school"].tolist() == ["", "清华", "清华"]
    assert found.relations == ("school", "teacher") and list(courses.frame) == ["item_id", "title"]
    lines = str(found.report)
    assert "relation teacher: 2 entities" in lines and "that the catalogue lacks" in lines


def test_the_columns_are_features_and_conditions(courses):
    found = with_relations(courses, rows(("a", "t", "张"), ("a", "t", "李"), ("b", "t", "李")))
    assert propose(found.frame)["t"].type == "categories"
    assert ItemColumns(found.frame).choose({"t": "李"}).mask.tolist() == [True, True, False]


def test_usual_names_and_own_names_of_columns(courses):
    usual = pd.DataFrame({"头实体": ["a"], "关系": ["教师"], "尾实体": ["张"]})
    assert with_relations(courses, usual).frame["教师"].tolist() == ["张", "", ""]
    own = pd.DataFrame({"x": ["a"], "y": ["t"], "z": ["张"]})
    named = {"item_id": "x", "relation": "y", "entity": "z"}
    assert with_relations(courses, own, columns=named).relations == ("t",)


def test_a_table_of_items_is_read(courses):
    found = with_relations(courses.frame, rows(("a", "t", "张")))
    assert found.frame["t"].tolist() == ["张", "", ""] and found.relations == ("t",)
    with pytest.raises(TypeError, match="expected a path or a table"):
        with_relations(["a"], rows(("a", "t", "张")))


def test_mistakes(courses):
    with pytest.raises(ValueError, match="none of which it has"):
        with_relations(courses, rows(("A", "t", "张")))
    with pytest.raises(ValueError, match="has a column 'title' already"):
        with_relations(courses, rows(("a", "title", "张")))
    with pytest.raises(ValueError, match="relation"):
        with_relations(courses, pd.DataFrame({"item": ["a"], "entity": ["张"]}))
    table = rows(("a", "t", "张"), ("b", "t", ""))
    with pytest.raises(DirtyRows, match="entity"):
        with_relations(courses, table)
    assert with_relations(courses, table, on_bad="skip").frame["t"].tolist() == ["张", "", ""]


def test_foreign_rows_and_rows_left_out_are_told(courses, caplog):
    table = rows(
        ("a", "t", "张"), ("z", "t", "李"), ("z", "t", "王"), ("y", "t", "李"), ("b", "t", "")
    )
    lines = str(with_relations(courses, table, on_bad="skip").report)
    assert "on items that the catalogue lacks (2 items)" in lines and "'z', 'y'" in lines
    assert "empty entity (row left out)" in lines
    assert "on items that the catalogue lacks (2 items): 3 of 4: 'z', 'y'" in caplog.text


def test_a_table_of_relations_is_asked_for_its_own_columns():
    items = read_items(pd.DataFrame({"item_id": ["a", "b"], "title": ["甲", "乙"]}))
    rows = pd.DataFrame({"课程": ["a"], "rel": ["x"], "e": ["b"]})
    with pytest.raises(ValueError, match="--columns relations.item_id=my_column") as refused:
        with_relations(items, rows)
    assert "user_id" not in str(refused.value)
