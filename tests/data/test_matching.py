"""How ids of a log and a catalogue meet; each right value is seen by eye."""

import pandas as pd
import pytest

from kerasrec.data import clean, make_histories, read_interactions, read_items
from kerasrec.data.matching import format_share, match_ids

SKUS = [f"SKU{number:07d}" for number in range(442300, 442340)]
CODES = [f"{number:06d}" for number in range(300, 340)]
WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}


def tables(seen, known, **more):
    """A log of one event per id, by seven users, and a catalogue."""
    users = [f"u{row % 7}" for row in range(len(seen))]
    log = pd.DataFrame({"user": users, "item": seen})
    return read_interactions(log), read_items(pd.DataFrame({"item": known, "title": "书", **more}))


# the log's ids, the catalogue's, words of the rule
RULES = {
    "a spreadsheet formula": ([f'="{one}"' for one in SKUS], SKUS, 'formulas (="...")'),
    "an apostrophe": (["'" + one for one in CODES], CODES, "quotes"),
    "quotes": ([f'"{one}"' for one in CODES], CODES, "quotes"),
    "zeros lost": ([one.lstrip("0") for one in CODES], CODES, "zeros in front of numbers"),
    "zeros lost by the catalogue": (CODES, [one.lstrip("0") for one in CODES], "zeros in front"),
    "zeros lost behind letters": (
        ["A" + str(n) for n in range(9)],
        [f"A{n:04}" for n in range(9)],
        "zeros",
    ),
    "a float column": (
        [f"{n}.0" for n in range(1000, 1040)],
        [str(n) for n in range(1000, 1040)],
        "without .0",
    ),
    "thousands": (
        [f"{n:,}" for n in range(1000, 1040)],
        [str(n) for n in range(1000, 1040)],
        "commas",
    ),
    "other case": ([one.lower() for one in SKUS], SKUS, "capital and small letters"),
    "a prefix": (["jd_" + one for one in SKUS], SKUS, "'jd_' in front of the ids of the log"),
    "a prefix of the catalogue": (
        [one[3:] for one in SKUS],
        SKUS,
        "'SKU' in front of the ids of the catalogue",
    ),
    "a suffix": (SKUS, [one + "-2024" for one in SKUS], "'-2024' behind the ids of the catalogue"),
    "an address": (
        ["https://shop.example/p/" + one for one in SKUS],
        SKUS,
        "'https://shop.example/p/' in front",
    ),
    "full width": ([one.translate(WIDE) for one in CODES], CODES, "full-width"),
    "spaces": ([one + " " for one in SKUS], SKUS, "spaces and invisible"),
    "a no-break space": ([one + "\u00a0" for one in SKUS], SKUS, "spaces and invisible"),
    "a byte order mark": (["\ufeff" + one for one in SKUS], SKUS, "spaces and invisible"),
    "marks": (["0442-" + one[-3:] for one in SKUS], [one[3:] for one in SKUS], "- _ . /"),
    "zeros and a float column": (
        [one.lstrip("0") + ".0" for one in CODES],
        CODES,
        "without .0 and commas, and zeros",
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_the_rule_that_makes_them_meet(case):
    seen, known, words = RULES[case]
    match = match_ids(*tables(seen, known))
    assert (match.known_events, match.known_by_rule) == (0, len(seen)), match
    assert match.is_poor and words in match.rule
    # one example, of ids that there are
    first, _, second = match.rule.rpartition(" (")[2].rstrip(")").partition(" -> ")
    assert any(repr(one) == first for one in seen) and any(repr(one) == second for one in known)
    assert match.sentence().startswith(f"0 of {len(seen)} events (0 %) name an item of the catal")


def test_columns_that_were_exchanged():
    log = pd.DataFrame({"user": ["a", "b", "c"], "item": ["u1", "u2", "u1"]})
    items = read_items(pd.DataFrame({"item": ["a", "b", "c"], "title": "书"}))
    assert (
        "exchange its columns with --columns user_id=item item_id=user"
        in match_ids(read_interactions(log), items).sentence()
    )


def test_another_column_of_the_catalogue_holds_the_ids():
    sentence = match_ids(*tables(SKUS, CODES, code=SKUS)).sentence()
    assert sentence.endswith(
        "The column code of the catalogue holds the ids of the log: --item-columns item_id=code."
    )


def test_digits_that_a_spreadsheet_has_lost():
    seen = ["123456789012345000", "123456789012346000"]
    known = [f"1234567890123{number}" for number in range(10000, 10009)]
    assert "have lost digits" in match_ids(*tables(seen, known)).sentence()


def test_what_cannot_be_told_apart_is_no_match():
    """07 and 7 are two items: without zeros they would be one."""
    match = match_ids(*tables(["0007", "08"], ["07", "7", "8"]))
    assert (match.known_events, match.known_by_rule) == (0, 1)
    assert "'08' -> '8'" in match.rule


def test_ids_that_meet_or_have_nothing_in_common():
    good = match_ids(*tables(SKUS, SKUS))
    assert good.share == 1 and not good.is_poor and good.hint() == ""
    foreign = match_ids(*tables(["a", "b", "a"], ["c", "d"]))
    assert foreign.sentence() == (
        "0 of 3 events (0 %) name an item of the catalogue: the log has 'a', 'b', the catalogue "
        "'c', 'd'."
    )
    few = match_ids(*tables([*SKUS[:20], "x"], SKUS))
    assert (few.events, few.known_events, few.rule, few.is_poor) == (21, 20, "", False)


def test_events_count_and_not_ids():
    match = match_ids(*tables(["X1"] * 3 + ["x2"], ["x1", "x2"]))
    assert (match.events, match.known_events, match.ids, match.known_ids) == (4, 1, 2, 1)
    assert match.known_by_rule == 4 and match.unknown == ["X1"]


def test_shares_are_not_rounded_to_all_or_none():
    assert format_share(0, 9) == "0 %" and format_share(9, 9) == "100 %"
    assert format_share(1, 1000) == "under 1 %" and format_share(999, 1000) == "over 99 %"


def test_errors_open_with_ids_that_hardly_meet():
    interactions, items = tables([one.lower() for one in SKUS], SKUS)
    with pytest.raises(ValueError, match="^the ids of log and catalogue hardly meet: 0 of 40 ev"):
        clean(interactions, items)
    with pytest.raises(ValueError, match="Received: none of 40.*capital and small letters"):
        clean(interactions, items, unknown_items="skip")
    with pytest.raises(ValueError, match="0 of 40 events .*capital and small letters"):
        make_histories(interactions, items)
