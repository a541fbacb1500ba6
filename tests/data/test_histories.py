import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import histories_of

from kerasrec.data.events import EVENT_CODES
from kerasrec.data.histories import (
    gap_buckets,
    make_histories,
    make_windows,
    model_inputs,
    num_batches,
    pad_left,
    training_batches,
)
from kerasrec.data.sources import read_interactions, read_items

ITEMS = read_items(pd.DataFrame({"item_id": list("abcd"), "title": list("甲乙丙丁")}))
DAY = 86_400
START = 1_600_000_000


def interactions_of(rows, **columns):
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(**columns)
    return read_interactions(table, event_weights={"share": 1.5})


def rows_of(histories):
    """User id -> item indices, by a plain loop."""
    return {
        user: histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist()
        for row, user in enumerate(histories.user_ids)
    }


# --- Histories ---


def test_make_histories_sorts_by_time_and_keeps_ties_in_file_order():
    rows = [
        ("u2", "c", START + 2 * DAY),
        ("u1", "b", START + 5),
        ("u2", "a", START),
        ("u1", "d", START + 5),
        ("u1", "a", START + 4),
        ("u2", "b", START),
        ("u1", "b", START + 5),
    ]
    histories = make_histories(interactions_of(rows), ITEMS)
    assert rows_of(histories) == {"u1": [1, 2, 4, 2], "u2": [1, 2, 3]}
    assert (histories.timestamps - START).tolist() == [0, 0, 2 * DAY, 4, 5, 5, 5]
    assert histories.lengths.tolist() == [3, 4] and histories.num_users == 2
    assert histories.items.dtype == np.int32 and histories.offsets.dtype == np.int64


def test_make_histories_carries_events_and_weights_along():
    rows = [("u", "a", START + 9), ("u", "b", START + 1), ("u", "c", START + 5)]
    log = interactions_of(rows, event=["purchase", "view", "share"])
    histories = make_histories(log, ITEMS)
    assert histories.items.tolist() == [2, 3, 1]
    names = {code: name for name, code in EVENT_CODES.items()}
    assert [names.get(code, "?") for code in histories.events] == ["view", "?", "purchase"]
    assert histories.values.tolist() == [1, 1.5, 3]


def test_make_histories_without_times_keeps_file_order_and_no_times():
    log = read_interactions(pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["c", "a", "b"]}))
    histories = make_histories(log, ITEMS)
    assert histories.items.tolist() == [3, 1, 2]
    assert histories.timestamps.tolist() == [0, 0, 0]


def test_make_histories_takes_no_interactions_at_all():
    log = interactions_of([("u", "a", START)])
    histories = make_histories(log.replace(log.frame[:0]), ITEMS)
    assert histories.num_users == 0 and histories.offsets.tolist() == [0]


def test_make_histories_names_the_first_unknown_item():
    rows = [("u", "a", START), ("u", "zz", START), ("v", "yy", START), ("v", "zz", START)]
    with pytest.raises(ValueError, match=r"3 interactions name 2 unknown items, the first is 'zz'"):
        make_histories(interactions_of(rows), ITEMS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 6)), min_size=1))
def test_make_histories_equals_a_plain_sort(events):
    rows = [(f"u{u}", "abcd"[i], START + t) for u, i, t in events]
    expected = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # stable
        expected.setdefault(user, []).append("abcd".index(item) + 1)
    assert rows_of(make_histories(interactions_of(rows), ITEMS)) == expected


def test_select_takes_rows_in_any_order():
    histories = histories_of([[1, 2], [3], [], [4, 5, 6]], times=[[1, 2], [3], [], [4, 5, 6]])
    chosen = histories.select([3, 2, 0, 3])
    assert list(chosen.user_ids) == ["u3", "u2", "u0", "u3"]
    assert chosen.offsets.tolist() == [0, 3, 3, 5, 8]
    assert chosen.items.tolist() == [4, 5, 6, 1, 2, 4, 5, 6]
    assert chosen.timestamps.tolist() == chosen.items.tolist()
    assert histories.select([]).num_users == 0
    assert histories.select([]).items.tolist() == []


@pytest.mark.parametrize("row", [-1, 2])
def test_select_refuses_rows_that_do_not_exist(row):
    with pytest.raises(IndexError, match=rf"2 users\). Received: {row}. For users without a hist"):
        histories_of([[1, 2], [3]]).select([0, row])
    with pytest.raises(IndexError, match="0 users"):
        histories_of([]).select([row])


def test_histories_are_one_line_to_read():
    assert repr(histories_of([[1] * 1200, [3]])) == "Histories(1,201 events, 2 users)"


def test_of_users_gives_unknown_users_an_empty_history():
    histories = histories_of([[1, 2], [3]])
    chosen = histories.of_users(["nobody", "u1", "u0", "u1"])
    assert list(chosen.user_ids) == ["nobody", "u1", "u0", "u1"]
    assert chosen.lengths.tolist() == [0, 1, 2, 1] and chosen.items.tolist() == [3, 1, 2, 3]
    assert histories.of_users([]).num_users == 0


def test_of_users_of_no_histories():
    chosen = histories_of([]).of_users(["a", "b"])
    assert chosen.lengths.tolist() == [0, 0] and list(chosen.user_ids) == ["a", "b"]


# --- Gaps and padding ---


def test_gap_buckets_by_hand():
    minute, year = 60, 365 * DAY
    gaps = np.array([0, 1, 2, 3, minute, DAY, year, 10 * year])
    times = START + np.concatenate([[0], np.cumsum(gaps)])
    found = gap_buckets(times, np.array([0, len(times)]))
    # 61 < 64 = 2**6; 86401 < 2**17; 31536001 < 2**25; the last one is cut to 28
    assert found.tolist() == [0, 1, 2, 2, 3, 6, 17, 25, 28]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.just(0), st.integers(1, 2**31)), min_size=1), st.data())
def test_gap_buckets_equals_the_bit_length(times, data):
    cut = data.draw(st.integers(0, len(times)))
    expected = []
    for i, now in enumerate(times):
        first = i in (0, cut)
        gap = max(now - times[i - 1], 0)
        known = not first and now > 0 and times[i - 1] > 0
        expected.append(min((gap + 1).bit_length(), 28) if known else 0)
    offsets = np.array([0, cut, cut, len(times)])  # the second user has no events
    assert gap_buckets(np.array(times, np.int64), offsets).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 99), max_size=7), max_size=5), st.integers(1, 6))
def test_pad_left_equals_a_loop(rows, width):
    histories = histories_of(rows)
    padded = pad_left(histories.items, histories.offsets[:-1], histories.lengths, width)
    assert padded.shape == (len(rows), width) and padded.dtype == np.int32
    for row, found in zip(rows, padded, strict=True):
        newest = row[-width:]
        assert found.tolist() == [0] * (width - len(newest)) + newest


def test_model_inputs_keeps_the_newest_events():
    minutes = [[START + 60 * i for i in range(5)], [START]]
    histories = histories_of([[1, 2, 3, 4, 5], [6]], times=minutes, events=[[1, 2, 3, 4, 5], [6]])
    inputs = model_inputs(histories, 3)
    assert inputs["history"].tolist() == [[3, 4, 5], [0, 0, 6]]
    assert inputs["event"].tolist() == [[3, 4, 5], [0, 0, 6]]
    assert inputs["time_gap"].tolist() == [[6, 6, 6], [0, 0, 0]]  # gaps reach behind the cut
    assert {values.dtype for values in inputs.values()} == {np.dtype(np.int32)}
    assert model_inputs(histories, 50)["history"].shape == (2, 5)


@pytest.mark.parametrize("rows", [[[]], [[], []], [[7]], []])
def test_model_inputs_is_never_of_width_0(rows):
    for values in model_inputs(histories_of(rows), 10).values():
        assert values.shape == (len(rows), 1)
    assert model_inputs(histories_of(rows), 10)["history"].sum() == sum(map(sum, rows))


# --- Windows and batches ---


def numbered(lengths):
    """Histories whose item index is the number of the event + 1: each event is recognisable."""
    numbers = iter(range(1, sum(lengths) + 1))
    return histories_of([[next(numbers) for _ in range(n)] for n in lengths])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 23), max_size=8),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_every_event_but_the_first_is_a_target_once_and_sees_its_past_only(
    lengths, max_length, batch_size
):
    histories = numbered(lengths)
    windows = make_windows(histories, max_length)
    first_of = {}  # event -> first event of its user
    for row, start in enumerate(histories.offsets[:-1]):
        for event in range(start, histories.offsets[row + 1]):
            first_of[event + 1] = start + 1
    targets = []
    for batch in training_batches(windows, batch_size=batch_size, seed=1):
        assert len(batch["history"]) <= batch_size
        for history, target in zip(batch["history"], batch["target"], strict=True):
            for place in np.flatnonzero(target):
                event = target[place]
                targets.append(event)
                past = history[: place + 1][history[: place + 1] > 0]
                assert past.tolist() == list(range(event - len(past), event))
                assert len(past) and past[0] >= first_of[event]
            assert ((history > 0) == (target > 0)).all()
    expected = [event for event, first in first_of.items() if event != first]
    assert sorted(targets) == expected


def test_the_newest_window_is_full():
    windows = make_windows(numbered([8]), 3)  # 7 targets in windows of 3, 3 and 1 inputs
    assert windows.lengths.tolist() == [3, 3, 1]
    assert windows.starts.tolist() == [4, 1, 0]


def test_short_histories_make_no_windows():
    windows = make_windows(numbered([1, 0, 1]), 5)
    assert len(windows.starts) == 0
    assert list(training_batches(windows, batch_size=2, seed=0)) == []
    assert num_batches(windows, batch_size=2) == 0


def test_passive_events_are_inputs_but_never_targets():
    names = ["view", "impression", "purchase", "dislike", "click"]
    codes = [EVENT_CODES[name] for name in names]
    windows = make_windows(histories_of([[1, 2, 3, 4, 5]], events=[codes]), 10)
    (batch,) = training_batches(windows, batch_size=4, seed=0)
    assert batch["history"].tolist() == [[1, 2, 3, 4]]
    assert batch["target"].tolist() == [[0, 3, 0, 5]]
    assert batch["event"].tolist() == [codes[:4]]


def test_batches_hold_the_time_gap_of_each_input():
    histories = histories_of([[1, 2, 3, 4]], times=[[START, START + 1, START + 4, START + 4]])
    windows = make_windows(histories, 2)
    (batch,) = training_batches(windows, batch_size=4, seed=0)
    rows = {
        tuple(row): gaps.tolist()
        for row, gaps in zip(batch["history"], batch["time_gap"], strict=True)
    }
    assert rows == {(2, 3): [2, 3], (0, 1): [0, 0]}


def same(first, second):
    return len(first) == len(second) and all(
        a[name].shape == b[name].shape and (a[name] == b[name]).all()
        for a, b in zip(first, second, strict=True)
        for name in a
    )


def test_batches_of_one_seed_are_equal_and_of_two_seeds_are_not():
    windows = make_windows(numbered(range(2, 42)), 20)

    def drawn(seed):
        return list(training_batches(windows, batch_size=8, seed=seed))

    assert same(drawn((3, 1)), drawn((3, 1)))
    assert not same(drawn((3, 1)), drawn((3, 2)))


def test_batches_are_of_the_narrowest_width_and_as_many_as_announced():
    windows = make_windows(numbered(range(2, 42)), 20)
    drawn = list(training_batches(windows, batch_size=8, seed=0))
    assert len(drawn) == num_batches(windows, batch_size=8) == -(-len(windows.lengths) // 8)
    for batch in drawn:
        lengths = (batch["history"] > 0).sum(axis=1)
        assert batch["history"].shape[1] == lengths.max()


def test_batches_hold_windows_of_similar_lengths():
    windows = make_windows(numbered([2, 9] * 40), 20)
    drawn = list(training_batches(windows, batch_size=8, seed=0))
    assert sorted(batch["history"].shape[1] for batch in drawn) == [1] * 5 + [8] * 5
    # in which order they come is drawn
    assert [batch["history"].shape[1] for batch in drawn] != [1] * 5 + [8] * 5


def test_where_keeps_the_users():
    histories = histories_of([[1, 2], [3], [4, 5]])
    kept = histories.where(np.array([False, True, False, True, True]))
    assert kept.user_ids.tolist() == histories.user_ids.tolist()
    assert kept.items.tolist() == [2, 4, 5] and kept.lengths.tolist() == [1, 0, 2]


def test_events_of_no_weight_are_no_target():
    histories = histories_of([[1, 2, 3]])
    histories.values[1] = -1
    assert make_windows(histories, 5).targets.tolist() == [1, 0, 3]
