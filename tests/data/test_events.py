import math

import pandas as pd
import pytest

from kerasrec.data.events import EVENT_CODES, EVENT_WEIGHTS, event_table, look_up_events
from kerasrec.data.sources import read_interactions
from kerasrec.data.statistics import find_problems
from kerasrec.feedback.intake import event_rows


def test_default_weights():
    table = event_table()
    weights = {name: table[name].weight for name in ("impression", "view", "click", "like")}
    assert weights == {"impression": 0, "view": 1, "click": 1, "like": 2}
    weights = {name: table[name].weight for name in ("cart", "purchase", "rating", "dislike")}
    assert weights == {"cart": 2, "purchase": 3, "rating": None, "dislike": -1}


def test_the_codes_of_event_types_stay():
    """Saved weights have a row for each code: a new type goes to the end, none goes away."""
    names = ["impression", "view", "click", "like", "cart", "purchase", "rating", "dislike"]
    assert list(EVENT_CODES)[:8] == names and list(EVENT_CODES.values())[:8] == [*range(1, 9)]
    assert list(EVENT_CODES) == list(EVENT_WEIGHTS)


def test_synonyms_in_any_case_and_language():
    names = ["PV", "Buy", "order", "fav", "购买", "加购", "Add-to-Cart", "page view", "收藏"]
    events = [event.name for event in look_up_events(names, event_table())]
    assert events == [
        "view",
        "purchase",
        "purchase",
        "like",
        "purchase",
        "cart",
        "cart",
        "view",
        "like",
    ]


def test_unknown_event_is_none():
    assert look_up_events(["teleport"], event_table()) == [None]


def test_weight_of_a_canonical_name_reaches_its_synonyms():
    assert event_table({"purchase": 10})["buy"].weight == 10


def test_weight_of_a_synonym_stays_with_the_synonym():
    table = event_table({"pv": 0.5})
    assert (table["pv"].name, table["pv"].weight, table["view"].weight) == ("view", 0.5, 1.0)


def test_new_event_and_new_synonym():
    table = event_table({"share": 2, "4": "buy"})
    assert tuple(table["share"]) == ("share", 2.0)
    assert tuple(table["4"]) == ("purchase", 3.0)


@pytest.mark.parametrize("weight", [math.nan, math.inf, "heavy", True, [1]])
def test_impossible_weight_is_refused(weight):
    with pytest.raises(ValueError, match="event_weights: expected a finite number"):
        event_table({"share": weight})


def orders(**columns):
    """Five orders of which the columns say something."""
    plain = {"user": list("uvwxy"), "item": list("abcde"), "time": ["2024-03-01"] * 5}
    return pd.DataFrame({**plain, **columns})


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("订单状态", ["交易成功", "已取消", "已关闭", "退款成功", "待发货"], "ae"),
        (
            "订单状态",
            ["已完成", "已取消（超时未支付）", "交易关闭-买家取消", "部分退款", "退款中"],
            "ade",
        ),
        ("status", ["paid", "Cancelled", "REFUNDED", "Payment failed", "on-hold"], "ae"),
        ("Financial Status", ["paid", "refunded", "partially_refunded", "voided", None], "ace"),
        ("是否退款", ["否", "是", "", "0", "1"], "acd"),
        ("is_cancelled", [0.0, 1.0, None, 0.0, 0.0], "acde"),
        ("is_cancelled", [False, True, False, False, False], "acde"),
        ("退款状态", ["无退款", "退款成功", "退款关闭", "未退款", "售后中"], "acde"),
        ("remark", ["已取消"] * 5, "abcde"),
        ("status", [["cancelled"], [], [], [], []], "abcde"),
    ],
)
def test_cancelled_orders_are_left_out_and_said(name, values, kept):
    found = read_interactions(orders(**{name: values}))
    assert "".join(found.frame["item_id"]) == kept
    left = [step for step in found.report.steps if step.removed]
    assert sum(step.removed for step in left) == 5 - len(kept)
    for step in left:
        assert step.what.startswith(f"cancelled or refunded by the column {name} ")
        assert "--columns status= keeps them" in step.what and "data row 2" in step.example
    others = [step.what for step in found.report.steps if step.step == "columns"]
    assert (f"status = {name}" in others[0] or ", status" in others[0]) == bool(left)
    every = read_interactions(orders(**{name: values}), columns={"status": None})
    assert "".join(every.frame["item_id"]) == "abcde"


def test_a_column_is_named_and_two_columns_count():
    table = orders(结果=["已取消", "", "", "", ""])
    assert len(read_interactions(table)) == 5
    assert len(read_interactions(table, columns={"status": "结果"})) == 4
    both = orders(
        订单状态=["已取消", "", "", "", ""], 退款状态=["退款成功", "退款成功", "", "", ""]
    )
    found = read_interactions(both)
    assert "".join(found.frame["item_id"]) == "cde"
    assert [step.count for step in found.report.steps if step.removed] == [1, 1]
    with pytest.raises(ValueError, match="expected the column 'stat' that the mapping gives"):
        read_interactions(both, columns={"status": "stat"})
    # a column that is the event is no status
    events = orders(status=["buy", "view", "buy", "buy", "buy"])
    assert len(read_interactions(events, columns={"event": "status"})) == 5


def test_a_cancelled_order_needs_no_time(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text(
        "会员ID,商品ID,支付时间,订单状态\nu,a,2024-03-01,已完成\nv,b,,已取消\n", "utf-8"
    )
    assert len(read_interactions(path)) == 1
    with pytest.raises(ValueError, match="expected a time .* Received: none in data row 2"):
        read_interactions(path, columns={"status": None})
    path.write_text("会员ID,商品ID,支付时间,订单状态\nv,b,,已取消\n", "utf-8")
    with pytest.raises(ValueError, match="none of them usable .1 x cancelled or refunded"):
        read_interactions(path)


def test_inspect_names_cancelled_orders_among_the_problems():
    found = find_problems(read_interactions(orders(订单状态=["已取消", "", "", "", ""])))
    assert any(
        one.startswith("1 of 5 rows (20 %) left out: cancelled or refunded by the column 订单状态")
        and "'已取消'" in one
        for one in found
    )


def test_feedback_of_cancelled_orders_is_not_stored():
    assert [
        row["item_id"] for row in event_rows(orders(status=["ok", "refunded", "", "", ""]))
    ] == [*"acde"]
