import dataclasses

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.data.cleaning import clean
from kerasrec.data.datasets import MOOCCUBE_FOLDER, load_mooccube
from kerasrec.data.sources import read_interactions
from kerasrec.data.splits import check_leakage, split_leave_one_out, split_temporal, split_users

START = 1_400_000_000  # 2014-05-13 16:53:20 UTC
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 8)), min_size=3, max_size=50
)


def log(rows):
    table = pd.DataFrame(rows, columns=["user", "item", "ts"])
    return read_interactions(table.assign(ts=table["ts"] + START))


def rows_of(part):
    frame = part.frame
    times = frame["timestamp"] - START
    return list(zip(frame["user_id"], frame["item_id"], times.tolist(), strict=True))


def parts_of(split):
    return [rows_of(part) for part in (split.train, split.valid, split.test)]


def as_table(part):
    """Sorted by time (stable), as the reference writes it."""
    frame = part.frame.sort_values("timestamp", kind="stable")
    table = frame[["user_id", "item_id", "timestamp"]].astype({"user_id": str, "item_id": str})
    return table.set_axis(["user", "item", "timestamp"], axis=1).reset_index(drop=True)


def reference_events():
    """The preparation of the benchmark, in plain pandas."""
    path = MOOCCUBE_FOLDER / "interactions.csv.gz"
    events = pd.read_csv(path, dtype={"user": str, "item": str})
    events = events[["user", "item", "timestamp"]].sort_values("timestamp", kind="stable")
    events = events.drop_duplicates(["user", "item"], keep="first")
    while True:
        of_user = events.groupby("user")["item"].transform("size")
        of_item = events.groupby("item")["user"].transform("size")
        if ((of_user >= 5) & (of_item >= 5)).all():
            return events.reset_index(drop=True)
        events = events[(of_user >= 5) & (of_item >= 5)]


def reference_leave_one_out(events):
    from_end = events.groupby("user").cumcount(ascending=False)
    length = events.groupby("user")["item"].transform("size")
    test = (from_end == 0) & (length >= 3)
    valid = (from_end == 1) & (length >= 3)
    return events[~test & ~valid], events[valid], events[test]


def reference_temporal(events, share=0.1):
    cut = events["timestamp"].iloc[int(len(events) * (1 - share))]
    before, test = events[events["timestamp"] < cut], events[events["timestamp"] >= cut]
    cut = before["timestamp"].iloc[int(len(before) * (1 - share))]
    return before[before["timestamp"] < cut], before[before["timestamp"] >= cut], test


@pytest.mark.parametrize(
    ("split_by", "reference"),
    [(split_leave_one_out, reference_leave_one_out), (split_temporal, reference_temporal)],
)
def test_equal_to_the_reference_on_real_data(split_by, reference):
    interactions, items = load_mooccube()
    cleaned = clean(interactions, items, repeats="first", min_user_events=5, min_item_events=5)
    split = check_leakage(split_by(cleaned))
    events = reference_events()
    assert len(events) == len(cleaned) == 26511
    for part, expected in zip(
        (split.train, split.valid, split.test), reference(events), strict=True
    ):
        expected = expected.reset_index(drop=True)
        pd.testing.assert_frame_equal(as_table(part), expected, check_dtype=False)


def test_leave_one_out_ties_keep_file_order():
    rows = [("a", "x", 1), ("a", "y", 1), ("a", "z", 1), ("b", "x", 0), ("b", "y", 5)]
    train, valid, test = parts_of(split_leave_one_out(log(rows)))
    assert train == [rows[0], rows[3], rows[4]] and valid == [rows[1]] and test == [rows[2]]


def test_leave_one_out_needs_three_events():
    with pytest.raises(ValueError, match="at most 2 per user in 3 events"):
        split_leave_one_out(log([("a", "x", 1), ("a", "y", 2), ("b", "x", 1)]))


def test_temporal_never_parts_a_moment():
    rows = [("a", str(item), time) for item, time in enumerate([0, 1, 2, 3, 4, 4, 4, 4, 4, 4])]
    train, valid, test = parts_of(split_temporal(log(rows), share=0.2))
    assert test == rows[4:] and valid == rows[3:4] and train == rows[:3]


@pytest.mark.parametrize(
    "at", [START + 8, pd.Timestamp(START + 8, unit="s", tz="UTC"), "2014-05-13T16:53:28"]
)
def test_temporal_cut_can_be_given(at):
    rows = [("a", str(item), item) for item in range(10)]
    train, valid, test = parts_of(split_temporal(log(rows), at=at))
    assert test == rows[8:] and valid == rows[7:8] and train == rows[:7]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"share": 0}, "share: expected a number above 0 and below 1"),
        ({"share": 1}, "share: expected a number above 0 and below 1"),
        ({"at": START}, "0 events before and 3 from 2014-05-13 16:53:20 on"),
        ({"at": START + 9}, "3 events before and 0 from"),
        ({"at": START + 1}, "all 1 at 2014-05-13 16:53:20"),
        ({"at": "soon"}, "at: expected UTC seconds"),
    ],
)
def test_impossible_cuts_are_refused(options, part):
    with pytest.raises(ValueError) as error:
        split_temporal(log([("a", "x", 0), ("a", "y", 1), ("a", "z", 2)]), **options)
    assert part in str(error.value)


def test_temporal_refuses_positions():
    interactions = read_interactions(pd.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3]}))
    with pytest.raises(ValueError, match="positions in a history"):
        split_temporal(interactions)


def test_users_are_disjoint_and_reproducible():
    rows = [(str(user), str(item), item) for user in range(40) for item in range(3)]
    split = check_leakage(split_users(log(rows), share=0.1, seed=3))
    users = [set(part.frame["user_id"]) for part in (split.train, split.valid, split.test)]
    assert [len(names) for names in users] == [32, 4, 4]
    assert set.union(*users) == {str(user) for user in range(40)}
    again = split_users(log(rows[::-1]), share=0.1, seed=3)
    assert set(again.test.frame["user_id"]) == users[2]  # whatever the order of the file
    assert set(split_users(log(rows), seed=4).test.frame["user_id"]) != users[2]


def test_users_needs_three():
    with pytest.raises(ValueError, match="at least three users"):
        split_users(log([("a", "x", 0), ("b", "x", 0)]))
    with pytest.raises(ValueError, match=r"below 0\.5"):
        split_users(log([("a", "x", 0), ("b", "x", 0), ("c", "x", 0)]), share=0.5)


def test_reports_count_the_rows_of_each_part():
    interactions = log([("a", str(item), item) for item in range(5)])
    split = split_leave_one_out(interactions)
    assert [part.report.rows_after for part in (split.train, split.valid, split.test)] == [3, 1, 1]
    assert split.test.report.rows_before == 5


def swap(split, **parts):
    return dataclasses.replace(split, **parts)


def test_leakage_of_the_same_event():
    split = split_leave_one_out(log([("a", str(item), item) for item in range(5)]))
    for protocol in ("leave_one_out", "temporal", "users", "my own"):
        leaking = swap(split, train=split.test, protocol=protocol)
        with pytest.raises(ValueError, match="events? of test that"):
            check_leakage(swap(leaking, valid=split.valid.replace(split.valid.frame[:0])))


def test_leakage_of_a_later_event_of_the_user():
    rows = [("a", str(item), item) for item in range(5)]
    rows += [("b", str(item), item) for item in range(3)]
    split = split_leave_one_out(log(rows))
    with pytest.raises(ValueError, match="1 users with later events in train, such as 'a'"):
        check_leakage(swap(split, train=log([("a", "9", 99), ("b", "8", 0)])))
    with pytest.raises(ValueError, match="in valid to be no later than those in test"):
        check_leakage(swap(split, valid=log([("b", "9", 99)])))


def test_leakage_of_time():
    split = split_temporal(log([(str(item % 3), str(item), item) for item in range(20)]))
    assert check_leakage(split) is split
    late = log([("7", "x", 0), ("8", "y", 18)])
    with pytest.raises(ValueError, match="1 events of train at or after 2014-05-13 16:53:36"):
        check_leakage(swap(split, train=late))


def test_leakage_of_users():
    rows = [(str(user), str(item), item) for user in range(9) for item in range(3)]
    split = split_users(log(rows))
    name = split.test.frame["user_id"].iloc[0]
    message = f"1 users of test that are also in train, such as '{name}'"
    with pytest.raises(ValueError, match=message):
        check_leakage(swap(split, train=log([(name, "99", 0)])))


def test_empty_validation_is_no_leak():
    split = split_leave_one_out(log([("a", str(item), item) for item in range(5)]))
    assert check_leakage(swap(split, valid=split.valid.replace(split.valid.frame[:0])))


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_leave_one_out_holds_back_only_the_newest(rows):
    interactions = log(rows)
    try:
        split = split_leave_one_out(interactions)
    except ValueError as error:
        assert "at least one user with three events" in str(error)
        return
    train, valid, test = parts_of(split)
    assert sorted(train + valid + test) == sorted(rows_of(interactions))
    for user in {row[0] for row in test}:
        times = [[row[2] for row in part if row[0] == user] for part in (train, valid, test)]
        assert [len(part) for part in times[1:]] == [1, 1]
        assert max(times[0]) <= times[1][0] <= times[2][0]


@given(EVENTS, st.floats(0.05, 0.6))
@settings(max_examples=100, deadline=None)
def test_temporal_has_nothing_from_the_future(rows, share):
    interactions = log(rows)
    try:
        split = split_temporal(interactions, share=share)
    except ValueError as error:
        assert "temporal split: expected events" in str(error)
        return
    train, valid, test = parts_of(split)
    assert sorted(train + valid + test) == sorted(rows_of(interactions))
    assert max(row[2] for row in train) < min(row[2] for row in valid)
    assert max(row[2] for row in valid) < min(row[2] for row in test)
    check_leakage(split)


@given(EVENTS, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_parts_keep_file_order(rows, seed):
    interactions = log(rows)
    if interactions.num_users < 3:
        return
    parts = parts_of(split_users(interactions, share=0.3, seed=seed))
    assert all(parts)
    for part in parts:
        users = {row[0] for row in part}
        assert part == [row for row in rows_of(interactions) if row[0] in users]


def test_a_cut_is_a_time_of_the_zone_of_the_log():
    start = 1709222400  # 2024-03-01 00:00 in Shanghai
    log = pd.DataFrame({"user": 1, "item": range(6), "ts": range(start - 3, start + 3)})
    local = read_interactions(log, timezone="Asia/Shanghai")
    split = split_temporal(local, at="2024-03-01", share=0.4)
    assert len(split.test) == 3 and split.test.timezone == "Asia/Shanghai"
    assert len(split_temporal(local, at="2024-02-29T16:00Z", share=0.4).test) == 3
    with pytest.raises(ValueError, match="reaches from 2024-02-29 23:59:57 to 2024-03-01 00:00:02"):
        split_temporal(local, at="2024-03-02", share=0.4)
