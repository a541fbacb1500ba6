import math

import pytest

from kerasrec.data.events import EVENT_CODES, EVENT_WEIGHTS, event_table, look_up_events


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
