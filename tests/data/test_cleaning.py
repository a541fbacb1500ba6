import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.data.cleaning import check_trainable, clean, crawler_limit, k_core
from kerasrec.data.sources import read_interactions, read_items

EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=60
)
START = 1_400_000_000


def log(rows):
    table = pd.DataFrame(rows, columns=["user", "item", "ts"])
    return read_interactions(table.assign(ts=table["ts"] + START))


def rows_of(interactions):
    frame = interactions.frame
    times = frame["timestamp"] - START
    return list(zip(frame["user_id"], frame["item_id"], times.tolist(), strict=True))


def test_nothing_asked_nothing_done():
    interactions = log([(1, 1, 5), (1, 1, 5), (2, 2, 1)])
    cleaned = clean(interactions)
    pd.testing.assert_frame_equal(cleaned.frame, interactions.frame)
    assert cleaned.report.rows_after == 3


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [
        ("keep", [0, 1, 2, 3, 4, 5]),
        ("exact", [0, 1, 3, 4, 5]),  # row 2 says what row 0 says
        ("first", [1, 3, 4]),
        ("last", [2, 3, 5]),  # at equal times the later row is the last one
    ],
)
def test_repeated_pairs(repeats, expected):
    rows = [("a", "x", 3), ("a", "x", 1), ("a", "x", 3)]
    rows += [("b", "x", 1), ("a", "y", 1), ("a", "y", 2)]
    assert rows_of(clean(log(rows), repeats=repeats)) == [rows[row] for row in expected]


def test_core_is_taken_again_and_again():
    # c goes first (1 event); then y is rare, then a
    rows = [("a", "x", 0), ("a", "y", 1), ("b", "x", 2), ("b", "z", 3), ("c", "y", 4)]
    rows += [("d", "x", 5), ("d", "z", 6)]
    cleaned = clean(log(rows), min_user_events=2, min_item_events=2)
    assert rows_of(cleaned) == [("b", "x", 2), ("b", "z", 3), ("d", "x", 5), ("d", "z", 6)]
    assert cleaned.report.steps[-1].example == "2 users, 1 items gone"
    assert "3 rounds" in cleaned.report.steps[-1].what


def test_only_users_can_be_filtered():
    rows = [("a", "x", 0), ("a", "y", 1), ("b", "z", 2)]
    assert rows_of(clean(log(rows), min_user_events=2)) == rows[:2]


def test_users_above_a_limit_go():
    rows = [("a", item, 0) for item in "vwxyz"] + [("b", "v", 0), ("b", "w", 0)]
    cleaned = clean(log(rows), max_user_events=4)
    assert cleaned.frame["user_id"].unique().tolist() == ["b"]
    assert cleaned.report.steps[-1][2:] == (1, 5, "a: 5 events")


def test_automatic_limit_finds_the_crawler_and_spares_heavy_users():
    rng = np.random.default_rng(0)
    counts = {f"u{user}": int(count) for user, count in enumerate(rng.integers(1, 31, 999))}
    counts["robot"] = 2000
    rows = [(user, item, 0) for user, count in counts.items() for item in range(count)]
    interactions = log(rows)
    assert crawler_limit(interactions) == 300  # 10 x 30
    cleaned = clean(interactions, max_user_events="auto")
    assert set(interactions.frame["user_id"]) - set(cleaned.frame["user_id"]) == {"robot"}


def test_automatic_limit_is_at_least_a_hundred():
    interactions = log([(user, item, 0) for user in range(200) for item in range(2)])
    assert crawler_limit(interactions) == 100
    assert len(clean(interactions, max_user_events="auto")) == 400


def test_unknown_items_are_an_error_or_skipped():
    items = read_items(pd.DataFrame({"item": ["x"], "title": ["甲"]}))
    interactions = log([("a", "x", 0), ("a", "q", 1), ("b", "q", 2), ("b", "r", 3)])
    with pytest.raises(ValueError) as error:
        clean(interactions, items)
    assert "2 unknown items in 3 of 4 events" in str(error.value)
    cleaned = clean(interactions, items, unknown_items="skip")
    assert rows_of(cleaned) == [("a", "x", 0)]
    assert cleaned.report.steps[-1][2:] == (3, 3, "q")


@pytest.mark.parametrize(
    ("known", "seen", "hint"),
    [
        ("12", "12.0", "without .0"),
        ("a", "a ", "if spaces and invisible characters were left out"),
        ("x", "y", "'x'"),
    ],
)
def test_unknown_items_name_the_usual_reason(known, seen, hint):
    items = read_items(pd.DataFrame({"item": [known], "title": ["甲"]}))
    with pytest.raises(ValueError) as error:
        clean(log([("a", seen, 0)]), items)
    assert hint in str(error.value) and "\n" not in str(error.value)


def test_report_goes_on_from_reading():
    table = pd.DataFrame({"user": ["a", None, "a", "b"], "item": ["x", "x", "x", "y"]})
    interactions = read_interactions(table, on_bad="skip")
    cleaned = clean(interactions, repeats="first")
    assert (cleaned.report.rows_before, cleaned.report.rows_after) == (4, 2)
    whats = [step.what for step in cleaned.report.steps if step.removed]
    assert whats == ["empty user_id", "repeated pairs of user and item, all but the first"]


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="none of 2 .*Ask for less"):
        clean(log([("a", "x", 0), ("b", "y", 0)]), min_user_events=5)


@pytest.mark.parametrize(
    "options",
    [
        {"repeats": "drop"},
        {"unknown_items": "drop"},
        {"max_user_events": "many"},
        {"max_user_events": 0},
        {"max_user_events": 2.5},
    ],
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        clean(log([("a", "x", 0)]), **options)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([("a", "x", 0), ("a", "y", 1)], "1 user"),
        ([("a", "x", 0), ("b", "x", 1)], "1 item"),
        ([("a", "x", 0), ("b", "y", 1)], "2 users with one event each"),
    ],
)
def test_check_trainable_refuses_what_teaches_nothing(rows, part):
    with pytest.raises(ValueError) as error:
        check_trainable(log(rows))
    assert f"Received: {part}." in str(error.value)


def test_check_trainable_passes_the_least_that_teaches():
    interactions = log([("a", "x", 0), ("a", "y", 1), ("b", "y", 1)])
    check_trainable(interactions)
    with pytest.raises(ValueError, match="1 unknown items"):
        check_trainable(interactions, read_items(pd.DataFrame({"item": ["x"], "title": ["甲"]})))


@given(EVENTS, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_core_is_a_fixed_point_and_the_largest(rows, min_user, min_item):
    users, items = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    mask, _ = k_core(users, items, min_user, min_item)
    if mask.any():
        assert np.unique(users[mask], return_counts=True)[1].min() >= min_user
        assert np.unique(items[mask], return_counts=True)[1].min() >= min_item
    # slow version: one poor event after the other, from the end
    left = list(range(len(rows)))
    while True:
        poor = [
            row
            for row in reversed(left)
            if sum(users[other] == users[row] for other in left) < min_user
            or sum(items[other] == items[row] for other in left) < min_item
        ]
        if not poor:
            break
        left.remove(poor[0])
    assert np.flatnonzero(mask).tolist() == left


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_repeats_first_keeps_the_earliest_and_the_order(rows):
    earliest = {}
    for row, (user, item, time) in enumerate(rows):
        if (user, item) not in earliest or time < rows[earliest[user, item]][2]:
            earliest[user, item] = row
    expected = [rows[row] for row in sorted(earliest.values())]
    cleaned = rows_of(clean(log(rows), repeats="first"))
    assert cleaned == [(str(user), str(item), time) for user, item, time in expected]


@given(EVENTS, st.integers(0, 3), st.sampled_from(["keep", "exact", "first", "last"]))
@settings(max_examples=100, deadline=None)
def test_cleaning_keeps_file_order_counts_every_row_and_is_idempotent(rows, least, repeats):
    interactions = log(rows)
    options = {"repeats": repeats, "min_user_events": least, "min_item_events": least}
    try:
        cleaned = clean(interactions, **options)
    except ValueError as error:
        assert "expected at least one event after cleaning" in str(error)
        return
    before, after = rows_of(interactions), rows_of(cleaned)
    rest = iter(before)
    assert all(row in rest for row in after)  # a subsequence
    assert cleaned.report.rows_before == len(before)
    assert cleaned.report.rows_after == len(after)
    assert rows_of(clean(cleaned, **options)) == after
