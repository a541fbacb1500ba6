import numpy as np
import pandas as pd
import pytest

from kerasrec.data.interactions import Interactions, Split, join_interactions
from kerasrec.data.sources import read_interactions, read_items


def test_replace_drops_categories_without_rows():
    interactions = read_interactions(pd.DataFrame({"user": list("aab"), "item": list("xyz")}))
    part = interactions.replace(interactions.frame[2:])
    assert part.frame["user_id"].cat.categories.tolist() == ["b"]
    assert part.frame.index.tolist() == [0] and len(part) == 1
    assert part.columns == interactions.columns and part.report.rows_after == 1
    assert interactions.replace(interactions.frame).report is interactions.report
    assert len(interactions) == 3 and interactions.num_users == 2


def test_index_of():
    items = read_items(pd.DataFrame({"item": ["a", "b", "c"], "title": list("xyz")}))
    found = items.index_of(["c", "?", "a"])
    assert found.tolist() == [3, 0, 1] and found.dtype == np.int32
    column = pd.Series(["c", None, "?", "c"], dtype="category")
    assert items.index_of(column).tolist() == [3, 0, 0, 3]
    assert items.index_of(column).dtype == np.int32
    assert items.index_of([]).tolist() == []


def test_texts_from_a_template():
    table = pd.DataFrame(
        {"item": [1, 2, 3], "title": ["甲  乙", "", "丙"], "tag": [" x\ny ", "", ""]}
    )
    items = read_items(table)
    assert items.texts() == ["甲 乙", "", "丙"]
    assert items.texts("{title}，{tag}") == ["甲 乙，x y", "", "丙，"]
    assert items.texts("{{{title}}}") == ["{甲 乙}", "", "{丙}"]


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{name}", "'{name}'"),
        ("{title.__class__}", "'{title.__class__}'"),
        ("{title[0]}", "'{title[0]}'"),
        ("{title!r}", "'{title!r}'"),
        ("{title:>10}", "'{title:>10}'"),
        ("{}", "'{}'"),
        ("title", "at least one column name"),
        ("{title", "Close or double the brace"),
        ("{tag}", "empty values in all 2 items"),
    ],
)
def test_wrong_templates_are_refused(template, part):
    items = read_items(pd.DataFrame({"item": [1, 2], "title": ["a", "b"], "tag": ["", " "]}))
    with pytest.raises(ValueError) as error:
        items.texts(template)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_parts_join_again():
    interactions = read_interactions(pd.DataFrame({"user": list("abab"), "item": list("xyzx")}))
    frame = interactions.frame
    parts = [interactions.replace(frame[:2]), interactions.replace(frame[2:])]
    joined = join_interactions(parts)
    assert joined.frame["user_id"].tolist() == list("abab")
    assert joined.frame["item_id"].tolist() == list("xyzx")
    assert joined.frame["timestamp"].tolist() == [1, 2, 3, 4]
    assert joined.columns == interactions.columns and joined.report.rows_after == 4


def test_join_interactions_with_an_empty_part():
    timed = read_interactions(pd.DataFrame({"user": ["a"], "item": ["x"], "ts": [1_600_000_000]}))
    joined = join_interactions([timed, timed.replace(timed.frame[:0])])
    assert joined.frame["timestamp"].tolist() == [1_600_000_000]


def test_join_interactions_errors():
    timed = read_interactions(pd.DataFrame({"user": ["a"], "item": ["x"], "ts": [1_600_000_000]}))
    timeless = read_interactions(pd.DataFrame({"user": ["a"], "item": ["x"]}))
    with pytest.raises(ValueError, match="at least one part"):
        join_interactions([])
    with pytest.raises(ValueError, match="times in some, positions"):
        join_interactions([timed, timeless])


def test_tables_are_one_line_to_read():
    log = pd.DataFrame(
        {
            "user": ["a"] * 1000 + ["b"],
            "item": ["x", *["y"] * 1000],
            "ts": [1393632000, *[1396224000] * 1000],
        }
    )
    timed = read_interactions(log)
    assert repr(timed) == ("Interactions(1,001 events, 2 users, 2 items, 2014-03-01 to 2014-03-31)")
    timeless = read_interactions(log[["user", "item"]])
    assert repr(timeless) == "Interactions(1,001 events, 2 users, 2 items)"
    nothing = timed.replace(timed.frame[:0])
    assert repr(nothing) == "Interactions(0 events, 0 users, 0 items)"
    shown = timed._repr_html_()
    assert shown.startswith(f"<p>{timed!r}</p><table") and shown.count("<tr>") == 5  # first rows
    split = Split(timed, nothing, nothing, "leave-one-out")
    assert repr(split) == "Split(train 1,001, valid 0, test 0 events, leave-one-out)"
    items = read_items(pd.DataFrame({"item": ["x"], "title": ["甲"], "price": ["2"]}))
    assert repr(items) == "Items(1 items, columns item_id, title, price)"
    assert items._repr_html_().startswith(f"<p>{items!r}</p><table")


def test_interactions_refuse_a_frame_of_other_kinds():
    frame = read_interactions(pd.DataFrame({"user": [1], "item": ["a"], "ts": [1393607161]})).frame
    assert len(Interactions(frame)) == 1
    for name, column, received in (
        ("user_id", frame["user_id"].astype(str), "object|str"),
        ("timestamp", frame["timestamp"].astype(float), "float64"),
        ("weight", frame["weight"].astype(str), "object|str"),
    ):
        with pytest.raises(ValueError, match=rf"column {name}. Received: ({received})"):
            Interactions(frame.assign(**{name: column}))
    with pytest.raises(ValueError, match="column value. Received: no such column. Make them with"):
        Interactions(frame.drop(columns="value"))
