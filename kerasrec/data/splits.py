"""Splits interactions into train, validation and test, and checks that nothing leaks."""

from typing import Any

import numpy as np
import pandas as pd

from kerasrec.data.interactions import Interactions, Split
from kerasrec.data.times.forms import parse_times
from kerasrec.data.times.zones import read_zone, show_time


def split_leave_one_out(interactions: Interactions) -> Split:
    """Splits every history: the last event tests, the one before validates, the rest trains.

    Order is by time, file order where times are equal. Users with fewer than three events only
    train.

    Returns:
        `Split` with the protocol `"leave_one_out"`; each part keeps the file's row order.

    Raises:
        ValueError: no user has three events.

    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": list("aaabb"), "item": list("xyzxy"), "ts": [3, 1, 2, 1, 2]})
    >>> split = split_leave_one_out(read_interactions(log))
    >>> [part.frame["item_id"].tolist() for part in (split.train, split.valid, split.test)]
    [['y', 'x', 'y'], ['z'], ['x']]
    """
    frame = interactions.frame
    from_end, lengths = _places_from_end(frame)
    if not np.any(lengths >= 3):
        raise ValueError(
            "leave-one-out: expected at least one user with three events (train, valid, test). "
            f"Received: at most {int(lengths.max(initial=0))} per user in {len(frame)} events. "
            "Bring longer histories or split by time."
        )
    is_test = (from_end == 0) & (lengths >= 3)
    is_valid = (from_end == 1) & (lengths >= 3)
    return _split(interactions, is_valid, is_test, "leave_one_out")


def split_temporal(interactions: Interactions, *, share: float = 0.1, at: Any = None) -> Split:
    """Splits at one time for all users: later events test, the last `share` before them validates.

    Events of one timestamp are never parted.

    Args:
        interactions: `Interactions` with real times.
        share: of the events after each cut, above 0 and below 1.
        at: the test cut itself (UTC seconds, ISO date or datetime, of the time zone of the
            interactions unless it names one) instead of the one that `share` gives; the validation
            cut is still made by `share`.

    Returns:
        `Split` with the protocol `"temporal"`.

    Raises:
        ValueError: the timestamps are positions; a part would be empty; `share` out of range.

    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": 1, "item": range(10), "ts": range(1400000000, 1400000010)})
    >>> split = split_temporal(read_interactions(log), share=0.2)
    >>> len(split.train), len(split.valid), len(split.test)
    (6, 2, 2)
    """
    if not interactions.has_time:
        raise ValueError(
            "temporal split: expected UTC times. Received: positions in a history (all below 1e8). "
            "Use split_leave_one_out, or name the time column."
        )
    _check_share(share)
    times = interactions.frame["timestamp"].to_numpy()
    zone = read_zone(interactions.timezone)
    cut = _cut_time(times, share) if at is None else _as_seconds(at, zone)
    before = times < cut
    if not before.any() or before.all():
        cut, first, last = (show_time(edge, zone) for edge in (cut, times.min(), times.max()))
        raise ValueError(
            "temporal split: expected events before and after the cut. Received: "
            f"{int(before.sum())} events before and {int((~before).sum())} from {cut} on; the data "
            f"reaches from {first} to {last}. Choose another cut."
        )
    is_valid = before & (times >= _cut_time(times[before], share))
    if not np.any(before & ~is_valid):
        raise ValueError(
            "temporal split: expected events of more than one time before the cut. Received: all "
            f"{int(before.sum())} at {show_time(times[before].min(), zone)}. Choose a later cut."
        )
    return _split(interactions, is_valid, ~before, "temporal")


def split_users(interactions: Interactions, *, share: float = 0.1, seed: int = 0) -> Split:
    """Splits by user: `share` of the users test, as many validate, all the others train.

    This imitates users who are new at serving time. To score them, hide the last event of each:
    `split_leave_one_out(split.test)`.

    Returns:
        `Split` with the protocol `"users"`.

    Raises:
        ValueError: fewer than three users; `share` out of range (above 0, below 0.5).

    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": list("aabbccdd"), "item": 1, "ts": 1})
    >>> split = split_users(read_interactions(log), share=0.25)
    >>> split.train.num_users, split.valid.num_users, split.test.num_users
    (2, 1, 1)
    """
    _check_share(share, 0.5)
    codes = interactions.frame["user_id"].cat.codes.to_numpy()
    users = np.unique(codes)
    if users.size < 3:
        raise ValueError(
            "user split: expected at least three users (train, valid, test). "
            f"Received: {users.size}. Bring more users or use another split."
        )
    # By name, so that the same users fall into the same part whatever the order of the file.
    users = users[
        np.argsort(interactions.frame["user_id"].cat.categories[users].to_numpy(dtype=str))
    ]
    count = min(max(1, round(share * users.size)), (users.size - 1) // 2)
    drawn = np.random.default_rng(seed).permutation(users)
    is_test = np.isin(codes, drawn[:count])
    is_valid = np.isin(codes, drawn[count : 2 * count])
    return _split(interactions, is_valid, is_test, "users")


def check_leakage(split: Split) -> Split:
    """Raises when an earlier part knows something of a later one.

    For every protocol: no event (user, item, time) may be in two parts. Also `leave_one_out`: no
    event of a user in a later part may be older than one of the same user in an earlier part.
    `temporal`: no event of an earlier part may be as late as one of a later part. `users`: no user
    in two parts.

    Returns:
        The split, so that the call can stand in a chain.

    Raises:
        ValueError: what leaks, how often, and an example.
    """
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    for before, after in (("train", "valid"), ("train", "test"), ("valid", "test")):
        earlier, later = parts[before].frame, parts[after].frame
        if earlier.empty or later.empty:
            continue
        _check_shared_events(before, after, earlier, later)
        if split.protocol == "leave_one_out":
            _check_user_order(before, after, earlier, later)
        elif split.protocol == "temporal":
            _check_time_order(before, after, earlier, later)
        elif split.protocol == "users":
            _check_shared_users(before, after, earlier, later)
    return split


def _check_shared_events(before, after, earlier, later):
    columns = ["user_id", "item_id", "timestamp"]
    events = pd.concat(
        [part[columns].astype({"user_id": "str", "item_id": "str"}) for part in (earlier, later)]
    )
    # An event that stands twice in one part is no leak: count each once per part.
    part = np.repeat([0, 1], [len(earlier), len(later)])
    events = events.assign(part=part).drop_duplicates()
    shared = events[events.duplicated(columns)]
    if len(shared):
        raise ValueError(
            f"leakage: expected no event in two parts. Received: {len(shared)} events of {after} "
            f"that are also in {before}, such as user '{shared['user_id'].iloc[0]}', item "
            f"'{shared['item_id'].iloc[0]}', time {shared['timestamp'].iloc[0]}. Remove repeated "
            "events (clean(repeats='exact')) or split again."
        )


def _check_user_order(before, after, earlier, later):
    last = earlier.groupby(earlier["user_id"].astype("str"))["timestamp"].max()
    first = later.groupby(later["user_id"].astype("str"))["timestamp"].min()
    both = pd.concat([last.rename("last"), first.rename("first")], axis=1, join="inner")
    wrong = both[both["last"] > both["first"]]
    if len(wrong):
        raise ValueError(
            f"leakage: expected the events of a user in {before} to be no later than those in "
            f"{after}. Received: {len(wrong)} users with later events in {before}, such as "
            f"'{wrong.index[0]}' ({show_time(wrong['last'].iloc[0])} after "
            f"{show_time(wrong['first'].iloc[0])}). Split again by time."
        )


def _check_time_order(before, after, earlier, later):
    first = later["timestamp"].min()
    wrong = int((earlier["timestamp"] >= first).sum())
    if wrong:
        raise ValueError(
            f"leakage: expected every event in {before} to be older than all of {after}. "
            f"Received: {wrong} events of {before} at or after {show_time(first)}, where {after} "
            "begins. Split again by time."
        )


def _check_shared_users(before, after, earlier, later):
    users = later["user_id"].astype("str")
    shared = users[users.isin(earlier["user_id"].astype("str"))].unique()
    if len(shared):
        raise ValueError(
            f"leakage: expected no user in two parts. Received: {len(shared)} users of {after} "
            f"that are also in {before}, such as '{shared[0]}'. Split again by users."
        )


def _places_from_end(frame):
    """For every row: its place from the end of the user's history (0 = newest), and the length."""
    users = frame["user_id"].cat.codes.to_numpy()
    order = np.lexsort((frame["timestamp"].to_numpy(), users))  # stable: ties keep file order
    counts = np.bincount(users)
    ends = np.cumsum(counts)
    from_end = np.empty(len(frame), dtype=np.int64)
    from_end[order] = ends[users[order]] - 1 - np.arange(len(frame))
    return from_end, counts[users] if len(frame) else counts


def _split(interactions, is_valid, is_test, protocol):
    frame = interactions.frame
    parts = {"train": ~is_valid & ~is_test, "valid": is_valid, "test": is_test}
    made = {}
    for name, mask in parts.items():
        others = int(mask.size - mask.sum())
        report = interactions.report.add(
            "split", f"{protocol}: events of the other parts than {name}", others, removed=others
        )
        made[name] = interactions.replace(frame[mask], report)
    return Split(**made, protocol=protocol)


def _cut_time(times, share):
    """The time that starts the last `share` of the events."""
    place = int(len(times) * (1 - share))
    return np.partition(times, place)[place]


def _as_seconds(at, zone):
    times = parse_times(pd.Series([at]), "at", zone=zone)
    if any(bad.any() for bad in times.problems.values()):
        raise ValueError(
            f"at: expected UTC seconds, an ISO date or a datetime. Received: {at!r}. Correct it."
        )
    return int(times.seconds[0])


def _check_share(share, limit=1):
    if not 0 < share < limit:
        raise ValueError(
            f"share: expected a number above 0 and below {limit}. Received: {share}. 0.1 is usual."
        )
