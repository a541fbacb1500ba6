"""Event types: canonical names, their weights, and the names that logs give them."""

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

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
