"""Which items meet a condition: by hand, and against plain Python."""

import operator

import numpy as np
import pandas as pd
import pytest

from kerasrec.data import read_items
from kerasrec.features.columntypes import Column, kind_of
from kerasrec.features.itemcolumns import ItemColumns

BOOKS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e", "f"],
        "title": ["红楼梦", "围城", "边城", "活着", "家", "呐喊"],
        "category": ["图书", "图书", "音像", "", "玩具", "音像"],
        "tags": ["古典|小说", "小说", "", "小说|当代", "当代", "小说"],
        "price": ["￥59.00", "29", "49.5", "免费", "1.2万", "29"],
        "stock": ["3", "0", "7", "2", "", "0"],
        "released": ["1980-05-01", "2004-03-01", "2014-03-01T08:00:00+08:00", "", "2020-01-01", ""],
        "is_new": ["1", "0", "0", "1", "0", "1"],
    }
)


def chosen(where, frame=BOOKS):
    columns = ItemColumns(frame)
    mask = columns.choose(where).mask
    return "".join(frame["item_id"].to_numpy()[mask])


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (None, "abcdef"),
        ({"category": "图书"}, "ab"),
        ({"category": ["图书", "音像"]}, "abcf"),
        ({"category": {"ne": "图书"}}, "cef"),  # d has none: a missing value meets no comparison
        ({"not": {"category": "图书"}}, "cdef"),
        ({"category": None}, "d"),
        ({"category": {"exists": True}}, "abcef"),
        ({"category": {"contains": "图"}}, "ab"),
        ({"category": "没有"}, ""),
        ({"price": {"lt": 50}}, "bcf"),
        ({"price": {"lt": "￥50"}}, "bcf"),
        ({"price": {"ge": 29, "le": 59}}, "abcf"),
        ({"price": {"between": [29, 49.5]}}, "bcf"),
        ({"price": {"gt": "1万"}}, "e"),
        ({"price": 29}, "bf"),
        ({"price": {"in": [59, 49.5]}}, "ac"),
        ({"price": {"ne": 29}}, "ace"),
        ({"price": {"exists": False}}, "d"),
        ({"stock": {"gt": 0}}, "acd"),
        ({"tags": "小说"}, "abdf"),
        ({"tags": ["古典", "当代"]}, "ade"),
        ({"tags": {"contains": ["小说", "当代"]}}, "d"),
        ({"tags": {"contains": []}}, "abdef"),  # c has none
        ({"tags": {"ne": "小说"}}, "e"),
        ({"tags": None}, "c"),
        ({"released": {"lt": "2004-03-02"}}, "ab"),
        ({"released": {"ge": "2014-03-01T00:00:00Z"}}, "ce"),
        ({"released": {"gt": "2014-03-01T00:00:00+00:00"}}, "e"),
        ({"released": {"le": 1_393_632_000}}, "abc"),
        ({"is_new": True}, "adf"),
        ({"is_new": {"lt": 1}}, "bce"),
        ({"title": {"contains": "城"}}, "bc"),
        ({"item_id": ["a", "f", "x"]}, "af"),
        ({"or": [{"price": {"lt": 30}}, {"category": "玩具"}]}, "bef"),
        ({"or": []}, ""),
        ({"category": "音像", "not": {"or": [{"stock": 0}, {"stock": None}]}}, "c"),
        ("price<50", "bcf"),
        (["category=图书", "category=玩具", "stock>=0"], "ab"),
    ],
)
def test_conditions_worked_by_hand(where, ids):
    assert chosen(where) == ids
    assert chosen(where, read_items(BOOKS).frame) == ids


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"catgory": "图书"}, "unknown column 'catgory'. Did you mean 'category'? Known: item_id"),
        ({"category": {"lt": 5}}, "lt is for numbers and times; the column 'category' holds names"),
        ({"tags": {"gt": 5}}, "gt is for numbers and times; the column 'tags' holds lists"),
        ({"price": {"contains": 5}}, "contains is for lists and texts; the column 'price'"),
        ({"price": {"lt": "cheap"}}, "expected a number for the column 'price'. Received: 'cheap'"),
        ({"released": {"lt": "soon"}}, "expected a time, such as 2026-11-24T08:00+08:00 for"),
        (
            {"price": {"between": [500, "5"]}},
            "as between of the column 'price'. Received: [500, '5']",
        ),
        ({"released": {"between": ["2026-11-02", "2026-11-01"]}}, "the least and then the largest"),
        ({"is_new": {"lt": "x"}}, "expected a number for the column 'is_new'"),
    ],
)
def test_what_cannot_be_compared_is_refused(where, expected):
    with pytest.raises(ValueError, match="where: ") as error:
        ItemColumns(BOOKS).choose(where)
    assert expected in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_a_catalogue_of_ids_alone_says_what_to_do():
    columns = ItemColumns(BOOKS[["item_id", "title"]])
    with pytest.raises(ValueError, match="Train or update it with a table of items that has"):
        columns.choose({"price": 5})


def test_the_shorter_of_two_lists_is_given():
    columns = ItemColumns(BOOKS)
    few = columns.choose({"category": "图书"})
    assert (few.number, few.allow.tolist(), few.deny.tolist()) == (2, [1, 2], [])
    most = columns.choose({"stock": {"exists": True}})
    assert (most.number, most.allow.tolist(), most.deny.tolist()) == (5, [], [5])
    assert columns.choose({"category": "没有"}).allow.tolist() == [-1]
    every = columns.choose({"item_id": {"exists": True}})
    assert (every.number, every.allow.tolist(), every.deny.tolist()) == (6, [], [])


def test_values_change_at_once_and_kept_masks_with_them():
    columns = ItemColumns(BOOKS)
    where = {"stock": {"gt": 0}, "category": "图书"}
    assert columns.choose(where) is columns.choose(dict(where))
    assert columns.choose(where).mask.tolist() == [True, *[False] * 5]
    columns.change("stock", [0, 1], [columns.read_value("stock", v) for v in (0, "5")])
    assert columns.choose(where).mask.tolist() == [False, True, *[False] * 4]
    columns.change("category", [1], [columns.read_value("category", "新书")])
    assert columns.choose(where).number == 0
    assert columns.choose({"category": "新书"}).allow.tolist() == [2]
    columns.change("tags", [2], [columns.read_value("tags", ["小说", "新"])])
    assert columns.choose({"tags": {"contains": ["新", "小说"]}}).allow.tolist() == [3]
    columns.change("tags", [2], [columns.read_value("tags", None)])
    assert columns.choose({"tags": None}).allow.tolist() == [3]
    columns.change("released", [3], [columns.read_value("released", "2026-01-01")])
    assert columns.choose({"released": {"gt": "2025-01-01"}}).allow.tolist() == [4]


def test_a_new_value_is_checked():
    columns = ItemColumns(BOOKS)
    with pytest.raises(ValueError, match="items: expected a number for the column 'stock'"):
        columns.read_value("stock", "many")
    with pytest.raises(ValueError, match="Did you mean 'stock'"):
        columns.read_value("stok", 1)
    with pytest.raises(ValueError, match="expected a text or a number for the column 'category'"):
        columns.read_value("category", ["a"])
    for name in ("stock", "released"):
        with pytest.raises(ValueError, match=rf"expected a .* for the column '{name}'. Received"):
            columns.read_value(name, ["5"])
    assert columns.read_value("stock", None) is None


def test_names_take_no_number_where_none_of_them_is_one():
    frame = BOOKS.assign(shelf=["3", "4", "4", "A", "", "4"], sale=["是", "否", "", "", "是", "否"])
    columns = ItemColumns(frame, {"shelf": Column("category", 0.0, 3, "", "")})
    for value in (5, 1, True, 2.5):
        with pytest.raises(ValueError, match=r"expected a text such as '图书' for the column 'cat"):
            columns.read_value("category", value)
    assert columns.read_value("shelf", 5) == "5" and columns.read_value("category", "5") == "5"
    assert columns.read_value("sale", True) == "true" and columns.read_value("is_new", 0) == "0"
    assert columns.read_value("category", None) == "" == columns.read_value("category", np.nan)
    with pytest.raises(ValueError, match="expected a text"):
        columns.read_value("shelf", False)


class Changing(list):
    """Values that another thread changes, once, right after they were read or counted."""

    def __init__(self, values, when, change):
        super().__init__(values)
        self.changes = {when: [change]}

    def _done(self, what):
        if self.changes.get(what):
            self.changes[what].pop()()

    def __iter__(self):
        yield from super().__iter__()
        self._done("read")

    def __len__(self):
        size = super().__len__()
        self._done("counted")
        return size


def test_a_value_that_changes_while_its_column_is_read_is_not_lost(monkeypatch):
    columns, changes = ItemColumns(BOOKS), iter([1])

    def kind(name, series):
        for _ in changes:
            columns.change("stock", [1], [9.0])
        return kind_of(name, series)

    monkeypatch.setattr("kerasrec.features.itemcolumns.kind_of", kind)
    columns.choose({"stock": 9})
    assert columns.choose({"stock": 9}).allow.tolist() == [2]


def test_a_list_that_changes_while_rows_are_looked_up_is_not_kept_as_it_was():
    columns = ItemColumns(BOOKS)
    columns.choose({"tags": {"exists": True}})
    view = columns._view("tags")
    new = [("新", "鲜", "好", "贵")]
    view._values = Changing(view._values, "read", lambda: columns.change("tags", [2], new))
    columns.choose({"tags": "新"})
    assert columns.choose({"tags": "新"}).allow.tolist() == [3]


def test_a_new_name_that_comes_while_names_are_compared_does_no_harm():
    columns = ItemColumns(BOOKS)
    before = columns.choose({"category": ["图书", "玩具"]}).mask.tolist()
    columns.change("category", [0], ["图书"])  # or the mask of before is kept
    view = columns._view("category")
    new = ["新"]
    view._texts = Changing(view._texts, "counted", lambda: columns.change("category", [5], new))
    assert columns.choose({"category": ["图书", "玩具"]}).mask.tolist() == before
    assert columns.choose({"category": "新"}).allow.tolist() == [6]


def test_a_column_may_be_declared_and_added():
    columns = ItemColumns(BOOKS, {"stock": Column("category", 0, 3, "", "")})
    assert columns.choose({"stock": "3"}).number == 1
    assert columns.choose({"stock": {"ge": 3}}).number == 2  # as numbers all the same
    columns.add("views")
    assert columns.choose({"views": {"exists": True}}).number == 0
    columns.change("views", [4], [7.0])
    assert columns.choose({"views": {"gt": 5}}).allow.tolist() == [5]


def rows_that_meet(where, rows):
    """The same by plain Python; conditions on `n` (number), `c` (category) and `t` (tuple)."""

    def meets(node, row):
        return all(meets_one(name, value, row) for name, value in node.items())

    def meets_one(name, value, row):
        if name == "not":
            return not meets(value, row)
        if name in ("and", "or"):
            return (all if name == "and" else any)([meets(one, row) for one in value])
        found = row[name]
        if not isinstance(value, dict):
            value = {"in": value} if isinstance(value, list) else {"eq": value}
        return all(compare(op, found, given) for op, given in value.items())

    def compare(op, found, given):
        is_there = found not in (None, "", ())
        if op == "exists":
            return is_there == given
        if not is_there:
            return False
        if isinstance(found, tuple):
            values = given if isinstance(given, list) else [given]
            hits = [one in found for one in values]
            return {"contains": all(hits), "ne": not any(hits)}.get(op, any(hits))
        if op == "in":
            return found in given
        if op == "between":
            return given[0] <= found <= given[1]
        return getattr(operator, op)(found, given)

    return [meets(where, row) for row in rows]


def drawn_condition(rng, depth=0):
    kind = rng.integers(0, 7 if depth < 3 else 4)
    number = int(rng.integers(0, 20))
    names = [f"v{n}" for n in rng.integers(0, 8, rng.integers(1, 4))]
    if kind == 0:
        return {"n": {str(rng.choice(["lt", "le", "gt", "ge", "ne", "eq"])): number}}
    if kind == 1:
        return {"n": [{"between": [number, number + 5]}, [number, 3], {"exists": True}, number][
            rng.integers(4)
        ]}  # fmt: skip
    if kind == 2:
        return {"c": [names, names[0], {"ne": names[0]}, {"exists": False}][rng.integers(4)]}
    if kind == 3:
        return {"t": [names, {"contains": names}, {"ne": names[0]}, {"exists": True}][
            rng.integers(4)
        ]}  # fmt: skip
    inside = [drawn_condition(rng, depth + 1) for _ in range(rng.integers(1, 4))]
    if kind == 4:
        return {"not": inside[0]}
    return {"and" if kind == 5 else "or": inside}


def test_the_same_items_as_plain_python():
    rng = np.random.default_rng(7)
    rows = []
    for _ in range(200):
        number = None if rng.random() < 0.2 else int(rng.integers(0, 20))
        name = "" if rng.random() < 0.2 else f"v{rng.integers(0, 8)}"
        several = tuple({f"v{n}" for n in rng.integers(0, 8, rng.integers(0, 4))})
        rows.append({"n": number, "c": name, "t": several})
    frame = pd.DataFrame(rows)
    frame["t"] = ["|".join(value) for value in frame["t"]]
    columns = ItemColumns(frame)
    assert [columns.type_of(name) for name in "nct"] == ["number", "category", "categories"]
    for _ in range(500):
        where = drawn_condition(rng)
        assert columns.choose(where).mask.tolist() == rows_that_meet(where, rows), where


def test_kept_masks_have_a_bound(monkeypatch):
    monkeypatch.setattr("kerasrec.features.itemcolumns._KEPT_BYTES", 60)
    columns = ItemColumns(BOOKS)
    first = columns.choose({"stock": 0})
    for number in range(20):
        columns.choose({"price": number})
    assert columns.choose({"stock": 0}) is not first
