"""Columns by their values: what is proposed, what is read, what is refused."""

import math

import numpy as np
import pandas as pd
import pytest

from kerasrec.data import read_items
from kerasrec.data.datasets import load_mooccube
from kerasrec.features import choose_columns, propose, read_column
from kerasrec.features.columntypes import (
    Column,
    is_missing,
    parse_categories,
    parse_category,
    parse_declaration,
    parse_number,
    separators_of,
    unreadable,
)


def kinds(frame):
    return {name: column.type for name, column in propose(pd.DataFrame(frame)).items()}


def column(kind, separators=""):
    return Column(kind, 0.0, 1, "", "", separators)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("￥1,299.00", 1299.0),
        ("¥ 5", 5.0),
        ("12元", 12.0),
        ("1.2万", 12_000.0),
        ("3亿", 3e8),
        ("10w+", 100_000.0),
        ("１２．５", 12.5),
        ("85%", 0.85),
        ("−7", -7.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        (7, 7.0),
        (np.float32(2.5), 2.5),
    ],
)
def test_parse_number_reads(value, number):
    assert parse_number(value) == pytest.approx(number, abs=1e-12)


@pytest.mark.parametrize(
    "value", ["", "NULL", "免费", "5-7", "1,2", "12kg", "1.2.3", True, None, math.inf, [1], "1e999"]
)
def test_parse_number_refuses(value):
    assert math.isnan(parse_number(value))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("小说|经济", ("小说", "经济")),
        ("小说；经济;小说", ("小说", "经济")),
        ("甲、乙", ("甲", "乙")),
        ("a, b，c", ("a", "b", "c")),
        ("Toys, Games|Books", ("Toys, Games", "Books")),
        ("电脑/办公", ("电脑/办公",)),
        ('["a", "b, c", null]', ("a", "b, c")),
        ("['a', 'b']", ("a", "b")),
        ("[未完", ("[未完",)),
        (["x", " y ", "x"], ("x", "y")),
        (np.array(["x", "y"], object), ("x", "y")),
        ("a\x1fb c", ("a", "b c")),
        (5, ("5",)),
        ("", ()),
        (None, ()),
        ([], ()),
        ("|", ()),
    ],
)
def test_parse_categories(value, found):
    assert parse_categories(value) == found


def test_the_separator_of_the_column_splits_its_values_alone():
    # a value without the column's mark is one name, with the commas in it
    assert separators_of(["a|b", "Toys, Games"]) == "|"
    assert parse_categories("Toys, Games", "|") == ("Toys, Games",)


def test_missing_words_are_those_of_the_readers():
    for value in ("", " ", "nan", "NULL", "\\N", "<NA>", "N/A", None, pd.NA, pd.NaT, math.nan):
        assert is_missing(value), value
    for value in (0, "0", False, "无", "-"):
        assert not is_missing(value), value
    assert parse_category("NULL") == "" and parse_category(False) == "false"


def test_propose_says_the_type_of_every_kind_of_column():
    n = 60
    frame = {
        "item_id": [f"i{row}" for row in range(n)],
        "title": [f"标题 {row}" for row in range(n)],
        "brand": [["李宁", "耐克", ""][row % 3] for row in range(n)],
        "tags": [["甲|乙", "乙|丙", "丁"][row % 3] for row in range(n)],
        "price": [f"￥{row * 3 + 5}.50" for row in range(n)],
        "released": [f"19{40 + row}-03-01" for row in range(n)],
        "updated": [1_700_000_000 + row for row in range(n)],
        "is_new": ["1" if row % 2 else "0" for row in range(n)],
        "on_sale": [bool(row % 2) for row in range(n)],
        "brand_id": [str(row % 7) for row in range(n)],
        "sku": [f"{row:05}" for row in range(n)],
        "row": [row for row in range(n)],
        "shop": ["自营"] * n,
        "gift": ["有赠品" if row == 3 else "" for row in range(n)],
        "notes": [f"第{row}句，没有重复，说明这个商品的一些细节{row}" for row in range(n)],
        "empty": [None] * n,
        "images": [["x", "y"], ["x"]] * (n // 2),
    }
    assert kinds(frame) == {
        "item_id": "id",
        "title": "text",
        "brand": "category",
        "tags": "categories",
        "price": "number",
        "released": "time",
        "updated": "time",
        "is_new": "category",
        "on_sale": "category",
        "brand_id": "category",
        "sku": "id",
        "row": "id",
        "shop": "constant",
        "gift": "category",
        "notes": "text",
        "empty": "constant",
        "images": "categories",
    }
    brand = propose(pd.DataFrame(frame))["brand"]
    assert brand.missing == pytest.approx(1 / 3, abs=1e-4)
    assert (brand.distinct, brand.example) == (2, "李宁")
    assert propose(pd.DataFrame(frame))["tags"].distinct == 4


def test_propose_reads_texts_and_values_alike():
    frame = pd.DataFrame(
        {
            "item_id": range(100, 130),
            "title": "书",
            "price": [9.5, None, 12.0] * 10,
            "tags": [["科幻 小说", "经济"], ["经济"], []] * 10,
        }
    )
    raw, read = propose(frame), propose(read_items(frame).frame)
    for name in ("price", "tags"):
        assert raw[name][:3] == read[name][:3], name
        one = read_column(frame[name], raw[name])
        two = read_column(read_items(frame).frame[name], read[name])
        assert [str(value) for value in one] == [str(value) for value in two]
    assert read["tags"].distinct == 2  # the space within a name does not split it


def test_the_packaged_courses():
    _, items = load_mooccube()
    found = {name: column.type for name, column in propose(items.frame).items()}
    assert found == {"item_id": "id", "title": "text", "text": "text", "category": "category"}


def test_read_column_times_of_logs_and_of_old_books():
    values = ["1970-01-02", "1937/1/1", "2014-03-01T08:00:00+08:00", "", "soon"]
    seconds = read_column(values, column("time"))
    # 33 years of which 8 are leap years before 1970: 12053 days
    assert seconds[:3].tolist() == [86_400.0, -12_053 * 86_400.0, 1_393_632_000.0]
    assert np.isnan(seconds[3:]).all()
    assert read_column([1_393_632_000_000, None], column("time"))[0] == 1_393_632_000.0
    assert np.isnan(read_column([1, 2], column("time"))).all()  # positions are no times


def test_read_column_gives_one_value_for_a_row():
    assert read_column(["a", None, " a "], column("category")).tolist() == ["a", "", "a"]
    assert read_column(["5元", "x"], column("number"))[0] == 5.0
    lists = read_column([["a"], ["a", "b"], None], column("categories"))
    assert lists.tolist() == [("a",), ("a", "b"), ()]
    assert lists.shape == (3,)


def test_choose_columns_by_declaration_and_auto():
    frame = pd.DataFrame(
        {"item_id": ["a", "b"], "brand": ["x", "x"], "price": ["5", "7"], "tags": ["u|v", "v"]}
    )
    assert list(choose_columns(frame)) == ["price", "tags"]  # one brand says nothing
    declared = choose_columns(frame, "price:category tags:categories")
    assert [(name, one.type) for name, one in declared.items()] == [
        ("price", "category"),
        ("tags", "categories"),
    ]
    assert declared["price"].why == "declared" and declared["tags"].separators == "|"
    assert list(choose_columns(frame, ["auto", "price:text"])) == ["tags"]
    assert parse_declaration({"Unit Price": "number"}, ["Unit Price"]) == {"Unit Price": "number"}


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("brnd:category", "Did you mean 'brand'"),
        ("brand:catgory", "Did you mean 'category'"),
        ("brand", "expected words such as price:number"),
        ("brand:category brand:number", "expected one type of the column brand"),
        ("brand:number", "none of which reads so. Declare it as category"),
    ],
)
def test_a_wrong_declaration_names_what_was_meant(declaration, expected):
    frame = pd.DataFrame({"item_id": ["a", "b", "c"], "brand": ["x", "x", "y"]})
    with pytest.raises(ValueError, match="features: ") as error:
        choose_columns(frame, declaration)
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_does_not_read_is_counted_with_the_first_ones():
    column = Column("number", 0.0, 3, "", "")
    ages = pd.Series(["60岁", "31", "", "约二十", "60岁", "x", "y", "null"], name="age")
    assert unreadable(ages, column) == (
        "age: 5 of 6 values are no number and count as missing: '60岁', '约二十', 'x', ..."
    )
    assert unreadable(ages[:2], column) == (
        "age: 1 of 2 values is no number and counts as missing: '60岁'"
    )
    assert unreadable(ages[1:3], column) == ""
    assert unreadable(ages, column._replace(type="category")) == ""


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([f"书{n}" for n in range(12)], "category", "12 values, each in one row alone"),
        ([f"甲{n}|乙{n}" for n in range(12)], "categories", "24 values, each in one row alone"),
        ([""] * 12, "number", "no value in any row. Leave it:number out"),
        (["5"] * 12, "number", "'5' in all rows. Leave it:number out"),
        (["x"] * 12, "category", "'x' in all rows. Leave it:category out"),
        (["x"] * 12, "number", "none of which reads so. Leave it out."),
        (["免费", "面议"] * 6, "number", "none of which reads so. Declare it as category."),
    ],
)
def test_a_declared_column_that_says_nothing_is_refused(values, kind, expected):
    with pytest.raises(ValueError, match="features: expected values") as error:
        choose_columns(pd.DataFrame({"it": values}), f"it:{kind}")
    assert expected in str(error.value)
    assert choose_columns(pd.DataFrame({"it": values})) is not None  # auto refuses nothing
