"""Event types: canonical names, weights, the names that logs give them; what was cancelled."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.columns import YES, check_mapping, normalise

#: event type -> its weight; None: the weight is the row's value. A new type goes to the end: see
#: `EVENT_CODES`
EVENT_WEIGHTS = {
    "impression": 0.0,
    "view": 1.0,
    "click": 1.0,
    "like": 2.0,
    "cart": 2.0,
    "purchase": 3.0,
    "rating": None,
    "dislike": -1.0,
}
#: event type -> its code in histories; 0 is an unknown or missing one. Weights of saved versions
#: have a row for each code, so a code keeps its meaning forever
EVENT_CODES = {name: code for code, name in enumerate(EVENT_WEIGHTS, start=1)}
#: events that a user did not choose; they are never something to predict
PASSIVE_EVENTS = ("impression", "dislike")
_SYNONYMS = {
    "impression": "impressions show shown expose exposed exposure 曝光 展示 展现",
    "view": "pv views viewed browse page_view pageview detail visit read watch play "
    "浏览 查看 阅读 观看 播放",
    "click": "clicks clicked clk 点击",
    "like": "likes liked fav favor favorite favourite collect upvote thumbs_up 喜欢 收藏 点赞 赞",
    "cart": "add_to_cart addtocart cart_add 加购 加购物车 加入购物车 购物车",
    "purchase": "purchases purchased buy bought order ordered pay paid transaction "
    "购买 下单 支付 成交 买",
    "rating": "rate rated ratings review 评分 评价 打分",
    "dislike": "dislikes disliked downvote thumbs_down not_interested 不喜欢 不感兴趣 踩",
}
SYNONYMS = {word: name for name, words in _SYNONYMS.items() for word in words.split()}


class Event(NamedTuple):
    """Holds the canonical name and the weight of an event; weight None = the row's value."""

    name: str
    weight: float | None


def event_table(event_weights: Mapping[str, float | str | None] | None = None) -> dict[str, Event]:
    """Maps every known name of an event to its `Event`.

    Args:
        event_weights: additions: name -> weight (a number; None = the row's value), or name ->
            name of a known event. A synonym such as `pv` keeps its canonical name, a new name
            stays its own.

    Raises:
        ValueError: a weight that is neither a finite number nor the name of a known event.

    >>> events = event_table({"share": 2.5, "4": "purchase"})
    >>> events["share"], events["4"], events["pv"]
    (Event(name='share', weight=2.5), Event(name='purchase', weight=3.0), Event(name='view',
    weight=1.0))
    """
    weights = dict(EVENT_WEIGHTS)
    given = {_normalise(name): weight for name, weight in dict(event_weights or {}).items()}
    weights.update({name: weight for name, weight in given.items() if name in EVENT_WEIGHTS})
    table = {name: Event(name, weight) for name, weight in weights.items()}
    table.update({word: table[name] for word, name in SYNONYMS.items()})
    for name, weight in given.items():
        if isinstance(weight, str) and _normalise(weight) in table:
            table[name] = table[_normalise(weight)]
        elif weight is None or (_is_number(weight) and np.isfinite(weight)):
            table[name] = Event(SYNONYMS.get(name, name), None if weight is None else float(weight))
        else:
            raise ValueError(
                "event_weights: expected a finite number, None (= the row's value) or one of "
                f"{', '.join(EVENT_WEIGHTS)} for every event. Received: {name}={weight!r}. "
                "Correct it."
            )
    return table


def look_up_events(names: Iterable[object], events: Mapping[str, Event]) -> list[Event | None]:
    """Looks up the `Event` of every name of a log; None for an unknown name. Ignores case."""
    return [events.get(_normalise(name)) for name in names]


def unknown_event_message(name: object, events: Mapping[str, Event]) -> tuple[str, str, str]:
    """Words the refusal of an unknown event: what was expected, what came, what to do."""
    near = difflib.get_close_matches(_normalise(name), list(events), 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    names = list(dict.fromkeys(event.name for event in events.values()))
    return (
        f"a known event ({', '.join(names)} or a common synonym)",
        f"'{name}'{hint}",
        f"Say what it is with event_weights={{'{name}': 1.0}} (its weight) or {{'{name}': "
        "'click'} (a known event), or ignore the column with columns={'event': None}. On the "
        f"command line: --event-weights {name}=1 or {name}=click, or --columns event= (unread).",
    )


def _normalise(name):
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")


def _is_number(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


# --- orders that came to nothing ---

#: columns that say what became of an order, and those that say yes or no
_STATES = set(
    "status order_status orderstatus state order_state orderstate trade_status tradestatus "
    "pay_status paystatus payment_status paymentstatus financial_status refund_status refundstatus "
    "状态 订单状态 交易状态 支付状态 付款状态 退款状态 售后状态 退货状态".split()
)
_FLAGS = set(
    "cancelled canceled is_cancelled is_canceled iscancelled iscanceled refunded is_refunded "
    "is_refund isrefund 是否取消 是否已取消 是否退款 是否已退款 是否退货".split()
)
#: where the reason begins behind a state; a hyphen within an English word is none
_REASON = re.compile(r"\s*[（(【\[，,；;：:/|]|\s+[-–—]+\s+|[-–—]+(?=[^a-z])")
#: a partial refund, or one that is asked for, is none of them: the order stands
_CANCELLED = set(
    "cancelled canceled cancel order_cancelled order_canceled refunded fully_refunded refund "
    "refund_success refund_succeeded returned void voided chargeback charged_back failed "
    "payment_failed trade_closed trade_closed_by_taobao trade_closed_by_user "
    "已取消 取消 订单取消 订单已取消 取消订单 交易取消 买家取消 卖家取消 用户取消 商家取消 "
    "系统取消 超时取消 自动取消 已关闭 交易关闭 订单关闭 交易已关闭 订单已关闭 超时关闭 "
    "已作废 作废 无效订单 交易失败 支付失败 付款失败 已退款 退款成功 退款完成 全额退款 已全额退款 "
    "退款退货成功 退货退款成功 退货成功 退货完成 已退货 已拒收 拒收".split()
)


def cancelled_columns(
    names: Sequence[str], mapping: Mapping[str, str | None], taken: Iterable[str], source: str
) -> list[str]:
    """Names the columns that may say that an order was cancelled or its money given back.

    Args:
        names: columns of the table.
        mapping: as for `read_interactions`; its `status` names the column, None = none.
        taken: columns that play another role.
        source: name of the table, for messages.

    >>> cancelled_columns(["uid", "iid", "订单状态"], {}, ["uid", "iid"], "x.csv")
    ['订单状态']
    """
    if "status" in mapping:
        name = mapping["status"]
        check_mapping({"status": name}, names, {"status": []}, source)
        return [] if name is None else [name]
    usual, taken = _STATES | _FLAGS, set(taken)
    free = [name for name in names if normalise(name) in usual and name not in taken]
    return [name for name in free if names.count(name) == 1]


def is_cancelled(column: pd.Series, name: str) -> np.ndarray:
    """Says of which orders a column says that they were cancelled or refunded, bool `(n,)`.

    What stands behind a bracket, a dash or a comma is a reason, such as in `已取消（超时未支付）`.

    >>> column = pd.Series(["交易成功", "已取消（超时）", None, "部分退款"])
    >>> is_cancelled(column, "订单状态").tolist()
    [False, True, False, False]
    """
    words = YES if normalise(name) in _FLAGS else _CANCELLED
    try:
        codes, values = pd.factorize(column)
    except TypeError:  # lists: they say nothing of this kind
        return np.zeros(len(column), bool)
    known = [_state_of(value) in words for value in values]
    return np.array([*known, False])[codes]  # code -1 = missing


def _state_of(value: Any) -> str:
    text = str(value).strip().lower().removesuffix(".0")
    return re.sub(r"[\s-]+", "_", _REASON.split(text)[0])
