"""Rules of a shop, on lists that are ordered by hand."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.events import EVENT_CODES
from kerasrec.features.itemcolumns import ItemColumns
from kerasrec.features.shoprules import Most, Past, Pause, ShopRules, read_shop_rules

FRAME = pd.DataFrame(
    {
        "item_id": list("abcdef"),
        "title": list("abcdef"),
        "brand": ["x", "x", "x", "y", "", "y"],
        "tags": ["1|2", "2", "3", "1|3", "3", ""],
        "new": ["0", "0", "1", "0", "0", "1"],
    }
)
COLUMNS = ItemColumns(FRAME)
SCORES = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
NOON = 1_700_000_000.0


def ordered(rules, k=6, *, now=NOON, index=range(1, 7), **more):
    found = read_shop_rules(rules).order(
        list(index), SCORES[: len(list(index))], k, columns=COLUMNS, now=now, **more
    )
    return "".join(FRAME["item_id"].to_numpy()[np.array(list(index))[found.places] - 1]), found


def test_without_rules_the_list_is_cut():
    ids, found = ordered({}, 3)
    assert ids == "abc" and found.scores.tolist() == [5, 4, 3] and found.reasons == [""] * 3


def test_at_most_n_of_a_value():
    assert ordered({"most": [{"column": "brand", "number": 1}]})[0] == "ade"
    assert ordered({"most": [{"column": "brand", "number": 2}]})[0] == "abdef"
    # each value of a list counts: d has 1 and 3, of which a and c took one each
    assert ordered({"most": [{"column": "tags", "number": 1}]})[0] == "acf"
    both = [{"column": "brand", "number": 2}, {"column": "tags", "number": 2}]
    assert ordered({"most": both})[0] == "abdef"
    assert ordered({"most": both}, 3)[1].reasons == ["", "", "was 4"]


def test_a_boost_makes_items_so_many_times_as_likely():
    ids, found = ordered({"boost": [{"where": {"new": True}, "weight": float(np.exp(2.5))}]})
    assert ids == "cabfde"  # c 5.5, f 2.5
    assert found.scores.tolist() == pytest.approx([5.5, 5, 4, 2.5, 2, 1])
    assert found.reasons[0].startswith("boost 12.18") and found.reasons[1] == "was 1"
    assert ordered({"boost": [{"where": {"brand": "x"}, "weight": 0.01}]})[0] == "deafbc"


def test_a_pin_puts_the_best_that_meets_it_at_its_place():
    ids, found = ordered({"pin": [{"where": {"new": True}, "place": 2}]}, 4)
    assert ids == "acbd" and found.reasons[1] == "pin"
    pins = [{"where": {"brand": "y"}}, {"where": {"brand": "y"}, "place": 3}]
    assert ordered({"pin": pins}, 4)[0] == "dafb"
    # two for one place: the first; none meets: nothing happens; behind the list: nothing
    assert ordered({"pin": [{"where": "brand=y"}, {"where": "new=1"}]}, 3)[0] == "dab"
    assert ordered({"pin": [{"where": "brand=z"}]}, 3)[0] == "abc"
    assert ordered({"pin": [{"where": "brand=y", "place": 9}]}, 3)[0] == "abc"


def test_what_is_pinned_counts_among_the_most():
    rules = {
        "pin": [{"where": "item_id=b", "place": 3}],
        "most": [{"column": "brand", "number": 1}],
    }
    assert ordered(rules, 3)[0] == "deb"
    rules["most"] = [{"column": "tags", "number": 1}]
    assert ordered(rules, 6)[0] == "cfb"  # what is left has a value too many: the pin moves up


def test_rules_have_their_time():
    rules = {
        "boost": [
            {"where": "brand=y", "weight": 1e6, "from": "2023-11-14", "until": "2023-11-15T00:00Z"}
        ]
    }
    assert ordered(rules, 2)[0] == "df"  # NOON is 2023-11-14T22:13Z
    assert ordered(rules, 2, now=NOON - 86_400)[0] == "ab"
    assert ordered(rules, 2, now=NOON + 86_400)[0] == "ab"


def test_diversity_is_mmr():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]], float)

    def of(index):
        return vectors[np.asarray(index) - 1]

    assert ordered({"diversity": 0.0001}, vectors=of)[0] == "abcdef"
    # own scores 1, .8, .6, ...: c .5*.6 beats b .5*.8 - .5*1
    assert ordered({"diversity": 0.5}, 3, vectors=of)[0] == "acb"
    # the worst has 0 and the best 1 also where all scores lie below 0, as logarithms do: b keeps
    # .875 * .8 - .125 * 1 = .575 and beats c, .875 * .6 = .525
    rules = read_shop_rules({"diversity": 0.125})
    for add in (-10, 0, 10):
        found = rules.order(range(1, 7), SCORES + add, 2, columns=COLUMNS, now=NOON, vectors=of)
        assert found.places.tolist() == [0, 1], add
    with pytest.raises(ValueError, match="diversity needs item vectors"):
        ordered({"diversity": 0.5})


def test_a_file_is_read(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        "look: 50\nmost:\n  - {column: brand, number: 2}\nboost:\n"
        "  - {where: {brand: x}, weight: 2, from: 2026-12-01, until: 2026-12-12T00:00+08:00}\n",
        encoding="utf-8",
    )
    rules = read_shop_rules(path)
    assert rules.look == 50 and rules.most == (Most("brand", 2),)
    assert rules.boost[0].window == (1_796_083_200.0, 1_797_004_800.0)
    assert rules.check(COLUMNS) is rules
    assert read_shop_rules({}) == ShopRules()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"bost": []}, "unknown word 'bost'. Did you mean 'boost'"),
        ({"pin": [{"where": "a=1", "plase": 1}]}, "unknown word 'plase'. Did you mean 'place'"),
        ({"boost": [{"where": "a=1"}]}, "expected weight in boost 1"),
        (
            {"boost": [{"where": "a=1", "weight": 0}]},
            "boost 1 weight: expected a number above 0. Received: 0.",
        ),
        ({"most": [{"column": "b", "number": "x"}]}, "most 1 number: expected a whole number."),
        ({"most": {"column": "b"}}, "most: expected a list"),
        ({"look": 0}, "look: expected a number at least 1"),
        ({"boost": [{"where": {}, "weight": 2}]}, "expected a condition in every boost and pin"),
        ({"boost": [{"where": {"a": {"is": 1}}, "weight": 2}]}, "unknown operator 'is'"),
        ({"pin": [{"where": "a=1", "from": "soon"}]}, "must be"),
        ({"pin": [{"where": "a=1", "from": "2026-02-01", "until": "2026-01-01"}]}, "begins before"),
        ({"diversity": 1}, "diversity: expected a number below 1"),
        ([], "expected boost, pin, most"),
    ],
)
def test_a_wrong_rule_is_told_in_one_line(rules, expected, tmp_path):
    if not isinstance(rules, dict):
        path = tmp_path / "rules.yaml"
        path.write_text("- 1\n")
        rules = path
    with pytest.raises(ValueError, match=r"rules") as error:
        read_shop_rules(rules)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_shop_rules(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="expected YAML"):
        read_shop_rules(tmp_path / "bad.yaml")


def test_rules_name_columns_that_there_are():
    with pytest.raises(ValueError, match="Did you mean 'brand'"):
        read_shop_rules({"most": [{"column": "brnd", "number": 1}]}).check(COLUMNS)
    with pytest.raises(ValueError, match="Did you mean 'tags'"):
        read_shop_rules({"pin": [{"where": "tag=1"}]}).check(COLUMNS)


def test_what_has_no_effect_is_said():
    frame = FRAME.assign(price=["1.5", "2", "7", "9", "3", "4"])
    over, ahead = {"until": "2020-01-01"}, {"from": "2025-01-01"}
    rules = read_shop_rules(
        {
            "boost": [{"where": {"brand": "x"}, "weight": 2}, {"where": "brand=z", "weight": 2}],
            "pin": [{"where": {"brand": "y"}, **over}, {"where": {"brand": "y"}, **ahead}],
            "most": [{"column": "brand", "number": 1}, {"column": "price", "number": 1}],
        }
    )
    assert rules.remarks(ItemColumns(frame), NOON) == [
        "boost 2: no item meets its condition",
        "pin 1: its time is over",
        "pin 2: its time has not begun",
        "most 2: 'price' holds numbers, of which hardly two are the same; take a column of names",
    ]


# --- what a user had ---

DAY = 86_400


def past(*events):
    """Of `(item, days before noon, kind)`."""
    items, days, kinds = zip(*events, strict=True)
    times = [0 if day is None else int(NOON - DAY * day) for day in days]
    return Past(np.array(items), np.array(times), np.array([EVENT_CODES[k] for k in kinds]))


def paused(rules, *events):
    given = dict(columns=COLUMNS, moment=NOON)
    found = read_shop_rules({"pause": rules}).paused(np.arange(1, 7), past(*events), **given)
    return "".join(FRAME["item_id"].to_numpy()[found])


def test_nothing_twice_within_some_days():
    had = [(1, 1, "purchase"), (4, 6, "impression"), (3, 8, "click"), (6, None, "click")]
    assert paused([{"days": 7}], *had) == "ad"  # f has no time
    assert paused([{"days": 0.5}], *had) == "" and paused([{"days": 9}], *had) == "acd"
    assert paused([{"days": 7, "events": ["impression"]}], *had) == "d"
    assert paused([{"days": 7, "events": ["曝光", "buy"]}], *had) == "ad"
    assert paused([{"days": 7, "column": "brand"}], *had) == "abcdf"  # x and y, e has none
    assert paused([{"days": 2, "column": "brand"}], *had) == "abc"
    assert paused([{"days": 2, "column": "tags"}], *had) == "abd"  # 1 or 2
    assert paused([{"days": 2}, {"days": 7, "events": ["impression"]}], *had) == "ad"
    assert paused([{"days": 7, "column": "brand"}], (5, 1, "click")) == ""


def test_a_pause_ends_to_the_second():
    rules = read_shop_rules({"pause": [{"days": 1}]})
    given = dict(columns=COLUMNS, past=past((1, 1, "click")))
    assert not rules.paused(np.array([1]), moment=NOON, **given)[0]
    assert rules.paused(np.array([1]), moment=NOON - 1, **given)[0]


def test_what_may_be_bought_again():
    rules = read_shop_rules({"keep_purchased": {"brand": "x"}})
    assert rules.is_kept(np.array([1, 4, 5]), COLUMNS).tolist() == [True, False, False]
    assert not read_shop_rules({}).is_kept(np.array([1]), COLUMNS).any()
    none = read_shop_rules({"keep_purchased": {"brand": "z"}})
    assert none.remarks(COLUMNS, NOON) == [
        "keep_purchased: no item meets its condition, all bought ones are left out"
    ]


def test_pauses_are_read_and_checked():
    assert read_shop_rules({"pause": [{"days": 2, "events": ["pv"]}]}).pause == (
        Pause(2.0, "item_id", ("view",)),
    )
    for rules, expected in (
        ({"pause": [{"days": 0}]}, "pause 1 days: expected a number above 0. Received: 0."),
        ({"pause": [{"column": "brand"}]}, "expected days in pause 1"),
        ({"pause": [{"days": 1, "event": ["click"]}]}, "Did you mean 'events'"),
        ({"pause": [{"days": 1, "events": ["purchas"]}]}, "Did you mean 'purchase'"),
        ({"keep_purchased": {"brand": {"lte": 1}}}, "unknown operator 'lte'"),
    ):
        with pytest.raises(ValueError, match=expected):
            read_shop_rules(rules)
    with pytest.raises(ValueError, match="unknown column 'brnd'"):
        read_shop_rules({"pause": [{"days": 1, "column": "brnd"}]}).check(COLUMNS)
    with pytest.raises(ValueError, match="unknown column 'brnd'"):
        read_shop_rules({"keep_purchased": {"brnd": 1}}).check(COLUMNS)
