"""Conditions in their several forms, and what is refused in one line."""

import json

import pandas as pd
import pytest

from kerasrec.features.conditions import Branch, Leaf, read_where


def test_a_mapping_is_read_as_its_parts():
    where = {
        "category": ["图书", "音像"],
        "price": {"lt": 50, "ge": 5},
        "brand": None,
        "not": {"shop": "自营"},
        "or": [{"stock": {"gt": 0}}, {"tags": {"contains": "预售"}}],
    }
    read = read_where(where)
    assert read.tree == Branch(
        "and",
        (
            Leaf("category", "in", ("图书", "音像")),
            Leaf("price", "lt", 50),
            Leaf("price", "ge", 5),
            Leaf("brand", "exists", False),
            Branch("not", (Leaf("shop", "eq", "自营"),)),
            Branch("or", (Leaf("stock", "gt", 0), Leaf("tags", "contains", "预售"))),
        ),
    )
    assert read.columns == ("category", "price", "brand", "shop", "stock", "tags")
    assert read_where(json.dumps(where, ensure_ascii=False)) == read
    assert read_where(read) is read and read_where(read.key) == read


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("price<50", {"price": {"lt": "50"}}),
        (" price >= 50 ", {"price": {"ge": "50"}}),
        ("brand!=李宁", {"brand": {"ne": "李宁"}}),
        ("brand=a=b", {"brand": "a=b"}),
        ("Unit Price≤5", {"Unit Price": {"le": "5"}}),
        (["price<50", "category=图书"], {"and": [{"price": {"lt": "50"}}, {"category": "图书"}]}),
        (["category=图书", "category=音像"], {"category": ["图书", "音像"]}),
        (['{"a": 1}', "b=2"], {"and": [{"a": 1}, {"b": "2"}]}),
    ],
)
def test_short_forms(words, where):
    assert read_where(words) == read_where(where)


@pytest.mark.parametrize("where", [None, "", "  ", {}, [], {"and": []}, {"or": [{}]}])
def test_what_says_nothing_stands_for_all(where):
    assert read_where(where) is None


def test_values_of_numpy_and_dates_are_plain():
    values = pd.Series([3]).iloc[0], pd.Timestamp("2026-01-02")
    assert [read_where({"a": {"ge": value}}).tree.value for value in values] == [
        3,
        "2026-01-02T00:00:00",
    ]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"price": {"lte": 5}}, "unknown operator 'lte' of the column 'price'. Did you mean 'lt'"),
        ({"price": {}}, "expected an operator of the column 'price'"),
        ({"price": {"between": [1]}}, "expected two values as between"),
        ({"price": {"between": 1}}, "expected a list as between"),
        ({"price": {"exists": 1}}, "expected true or false as exists"),
        ({"price": float("nan")}, "expected a text or a number"),
        ({"price": {"lt": [1]}}, "expected a text or a number"),
        ({"price": [{}]}, "expected a text or a number"),
        ({"or": {"a": 1}}, "expected a list of conditions behind or"),
        ({"not": [1]}, "expected a mapping such as"),
        ({"": 1}, "expected the name of a column"),
        ('{"a": 1', "expected JSON such as"),
        ('{"a": NaN}', "NaN is no number"),
        ("price", "expected COLUMN=VALUE"),
        ([1], "expected a mapping such as"),
        (5, "expected a mapping such as"),
        ({"a": "x" * 2000}, "at most 1000 characters"),
        ({"a": list(range(20_000))}, "at most 10000 values"),
        ({"and": [{f"c{n}": 1} for n in range(300)]}, "at most 256 conditions"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_short_line(where, expected):
    with pytest.raises((ValueError, TypeError)) as error:
        read_where(where)
    message = str(error.value)
    assert message.startswith("where: ") and expected in message
    assert "\n" not in message and len(message) < 300


def test_conditions_inside_each_other_have_an_end():
    where = {"a": 1}
    for _ in range(40):
        where = {"not": where}
    with pytest.raises(ValueError, match="at most 16 conditions inside each other"):
        read_where(where)
    with pytest.raises(ValueError, match="expected JSON"):
        read_where('{"not":' * 100_000)
