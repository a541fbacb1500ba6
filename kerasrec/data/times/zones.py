"""Knows the clock: time zones by their names, local times as UTC seconds, the latest moment."""

import difflib
import time
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

import numpy as np

DAY = 86_400
#: how far ahead of the clock an event may lie, seconds: the clocks of two machines differ a little
MAX_AHEAD = DAY
_EPOCH = datetime(1970, 1, 1)


class LocalTimes(NamedTuple):
    """Holds the UTC seconds of local times, and which of them a change of the clock made doubtful.

    `seconds` is int64 `(n,)`. `twice` is bool `(n,)`: the clock was set back and showed this time
    twice; `never`: the clock was set forward and never showed it.
    """

    seconds: np.ndarray
    twice: np.ndarray
    never: np.ndarray


def read_zone(name: str | tzinfo | None) -> tzinfo:
    """Finds a time zone by its name, such as `Asia/Shanghai` or `+08:00`; None is UTC.

    Raises:
        ValueError: no such zone.

    >>> read_zone("Asia/Shanghai"), read_zone(None)
    (zoneinfo.ZoneInfo(key='Asia/Shanghai'), datetime.timezone.utc)
    """
    if name is None or isinstance(name, tzinfo):
        return name or UTC
    if isinstance(name, str):
        text = name.strip()
        if text.upper() in ("UTC", "Z", "GMT"):
            return UTC
        offset = _offset(text)
        if offset is not None:
            return offset
        try:
            return zoneinfo.ZoneInfo(text)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass
    known = sorted(zoneinfo.available_timezones())
    close = difflib.get_close_matches(str(name), known, n=1)
    close = ["Asia/Shanghai"] if "beijing" in str(name).lower() else close
    hint = f"Did you mean {close[0]!r}?" if close else "Others are such as Europe/Berlin or +08:00."
    if not known:
        hint = "This machine knows no zones by name: pip install tzdata, or give +08:00."
    raise ValueError(
        f"timezone: expected the name of a time zone such as Asia/Shanghai. Received: {name!r}. "
        f"{hint}"
    )


def _offset(text):
    """The zone of `+08:00`, `-0330` or `UTC+8`; None for another text."""
    digits = text.upper().removeprefix("UTC").removeprefix("GMT")
    sign, digits = digits[:1], digits[1:].replace(":", "")
    if sign not in ("+", "-") or not digits.isdecimal() or len(digits) not in (1, 2, 4):
        return None
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 14 or minutes > 59:
        return None
    return timezone((1 if sign == "+" else -1) * timedelta(hours=hours, minutes=minutes))


def zone_name(zone: tzinfo) -> str:
    """Writes the name of a zone, as `read_zone` reads it.

    >>> zone_name(read_zone("Asia/Shanghai")), zone_name(read_zone("+8"))
    ('Asia/Shanghai', 'UTC+08:00')
    """
    return str(getattr(zone, "key", None) or zone)


def to_utc(local: np.ndarray, zone: tzinfo) -> LocalTimes:
    """Turns what a clock in a zone showed into UTC seconds.

    When the clock is set back, it shows the times of an hour twice: the first of the two moments is
    taken. When it is set forward, an hour is never shown: such a time is read as if the clock had
    not been set yet, so 02:30 is the moment that the clock showed as 03:30. (Python says `fold=0`.)

    Args:
        local: int64 `(n,)`, seconds from 1970-01-01 00:00 by the local clock.
        zone: as `read_zone` gives it.

    >>> local = np.array([np.datetime64("2024-03-01T08:00", "s").astype(int)])
    >>> to_utc(local, read_zone("Asia/Shanghai")).seconds.astype("M8[s]")[0]
    np.datetime64('2024-03-01T00:00:00')
    """
    local = np.asarray(local, np.int64)
    no = np.zeros(local.shape, bool)
    if zone is UTC or not local.size:
        return LocalTimes(local, no, no)
    # The clock is set on few days: only the times of these days are looked up one by one.
    days, day_of = np.unique(local // DAY, return_inverse=True)
    begins, ends = _offsets(days * DAY, zone), _offsets((days + 1) * DAY, zone)
    is_set = (begins[:, 0] != begins[:, 1]) | (begins[:, 0] != ends[:, 0])
    first, second = begins[day_of, 0], begins[day_of, 0]
    doubtful = np.flatnonzero(is_set[day_of])
    if doubtful.size:
        moments, moment_of = np.unique(local[doubtful], return_inverse=True)
        both = _offsets(moments, zone)[moment_of]
        first[doubtful], second = both[:, 0], second.copy()
        second[doubtful] = both[:, 1]
    return LocalTimes(local - first, first > second, first < second)


def _offsets(local, zone):
    """int64 `(n, 2)`: seconds east of UTC by the first and by the second showing of each time."""
    found = np.zeros((len(local), 2), np.int64)
    for row, seconds in enumerate(local.tolist()):
        shown = _EPOCH + timedelta(seconds=seconds)
        for fold in (0, 1):
            offset = shown.replace(tzinfo=zone, fold=fold).utcoffset()
            found[row, fold] = int(offset.total_seconds()) if offset else 0
    return found


def show_time(seconds: int, zone: tzinfo = UTC) -> str:
    """Writes UTC seconds as a clock in a zone shows them; `read_zone` gives the zone.

    >>> show_time(1393632000), show_time(1393632000, read_zone("Asia/Shanghai"))
    ('2014-03-01 00:00:00', '2014-03-01 08:00:00')
    """
    return datetime.fromtimestamp(int(seconds), zone).strftime("%Y-%m-%d %H:%M:%S")


def iso_time(seconds: float, zone: tzinfo = UTC) -> str:
    """Writes UTC seconds as ISO time by a clock in a zone; with its offset, but for UTC.

    >>> iso_time(1394842423), iso_time(1394842423, read_zone("Asia/Shanghai"))
    ('2014-03-15T00:13:43', '2014-03-15T08:13:43+08:00')
    """
    found = datetime.fromtimestamp(int(seconds), zone)
    return (found.replace(tzinfo=None) if zone is UTC else found).isoformat()


def latest_moment(max_ahead: float | None = MAX_AHEAD, *, now: float | None = None) -> float:
    """Gives the last UTC second that an event may have: the clock and `max_ahead` seconds.

    Later events come from a wrong clock; one of them would make all others look long ago. None as
    `max_ahead` takes every time.

    >>> latest_moment(60, now=1393632000), latest_moment(None)
    (1393632060, inf)
    """
    if max_ahead is None:
        return float("inf")
    is_number = isinstance(max_ahead, int | float | np.number) and not isinstance(max_ahead, bool)
    if not is_number or not max_ahead >= 0:
        raise ValueError(
            "max_ahead: expected seconds from 0, or None to take every time. Received: "
            f"{max_ahead!r}. A day is 86400."
        )
    return (time.time() if now is None else now) + max_ahead
