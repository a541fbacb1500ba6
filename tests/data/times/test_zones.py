import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.data.times.forms import FIRST_SECOND
from kerasrec.data.times.zones import latest_moment, read_zone, show_time, to_utc

MIDNIGHT = 16130 * 86400  # 2014-03-01 00:00:00 UTC = 16130 days after 1970-01-01
OTHERS = "Others are such as Europe/Berlin or +08:00."


def seconds_of(text):
    return int(np.datetime64(text, "s").astype(int))


def local_times(*texts, zone):
    found = to_utc(np.array([seconds_of(text) for text in texts]), read_zone(zone))
    return found._replace(seconds=[str(one) for one in found.seconds.astype("M8[s]")])


def test_shanghai_is_eight_hours_before_utc():
    found = local_times("2024-03-01T08:00:00", "2024-07-01T00:00:00", zone="Asia/Shanghai")
    assert found.seconds == ["2024-03-01T00:00:00", "2024-06-30T16:00:00"]
    assert not found.twice.any() and not found.never.any()


def test_a_clock_that_is_set():
    # Berlin 2024: on March 31 at 02:00 it shows 03:00; on October 27 at 03:00 it shows 02:00
    found = local_times(
        "2024-03-31T01:59:59",  # +1
        "2024-03-31T02:30:00",  # never shown: as if still +1
        "2024-03-31T03:30:00",  # +2: the same moment
        "2024-10-27T01:59:59",  # +2
        "2024-10-27T02:30:00",  # shown twice: +2, the first
        "2024-10-27T03:00:00",  # +1
        zone="Europe/Berlin",
    )
    assert found.seconds == [
        "2024-03-31T00:59:59",
        "2024-03-31T01:30:00",
        "2024-03-31T01:30:00",
        "2024-10-26T23:59:59",
        "2024-10-27T00:30:00",
        "2024-10-27T02:00:00",
    ]
    assert found.never.tolist() == [False, True, False, False, False, False]
    assert found.twice.tolist() == [False, False, False, False, True, False]


def test_a_clock_that_is_set_at_midnight():
    # Sao Paulo: on 2018-02-18 at 00:00 (-2) it shows 23:00 of the day before (-3), and on
    # 2018-11-04 at 00:00 (-3) it shows 01:00 (-2)
    found = local_times(
        "2018-02-17T23:30:00",
        "2018-02-18T00:00:00",
        "2018-11-03T23:59:59",
        "2018-11-04T00:30:00",
        "2018-11-04T01:00:00",
        zone="America/Sao_Paulo",
    )
    assert found.seconds == [
        "2018-02-18T01:30:00",
        "2018-02-18T03:00:00",
        "2018-11-04T02:59:59",
        "2018-11-04T03:30:00",
        "2018-11-04T03:00:00",
    ]
    assert found.twice.tolist() == [True, False, False, False, False]
    assert found.never.tolist() == [False, False, False, True, False]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(FIRST_SECOND, 2_000_000_000), max_size=20),
    st.sampled_from(
        ["Asia/Shanghai", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "+05:30"]
    ),
)
def test_what_a_clock_showed_gives_its_moment(moments, name):
    """Either the moment itself or, where the clock showed it twice, the first such moment."""
    zone = read_zone(name)
    shown = [np.datetime64(show_time(one, zone).replace(" ", "T"), "s") for one in moments]
    found = to_utc(np.array(shown, "M8[s]").astype(np.int64), zone)
    exact = ~found.twice
    assert found.seconds[exact].tolist() == np.array(moments, np.int64)[exact].tolist()
    assert not found.never.any()
    assert [show_time(one, zone) for one in found.seconds] == [
        show_time(one, zone) for one in moments
    ]


@pytest.mark.parametrize("text", ["+08:00", "+0800", "+08", "UTC+8", "GMT+08:00", "Asia/Shanghai"])
def test_forms_of_a_zone(text):
    assert local_times("2024-03-01T08:00:00", zone=text).seconds == ["2024-03-01T00:00:00"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("asia/shanghai", "Did you mean 'Asia/Shanghai'?"),
        ("Asia/Beijing", "Did you mean 'Asia/Shanghai'?"),
        ("", OTHERS),
        ("../etc/passwd", OTHERS),
        ("+25:00", OTHERS),
        (8, OTHERS),
    ],
)
def test_an_unknown_zone_is_one_sentence(name, hint):
    with pytest.raises(ValueError) as error:
        read_zone(name)
    assert str(error.value) == (
        f"timezone: expected the name of a time zone such as Asia/Shanghai. Received: {name!r}. "
        f"{hint}"
    )


def test_the_latest_moment():
    assert latest_moment(now=MIDNIGHT) == MIDNIGHT + 86400
    assert latest_moment(3600, now=MIDNIGHT) == MIDNIGHT + 3600
    assert latest_moment(None) == np.inf
    for value in (-1, "1d", float("nan"), True):
        with pytest.raises(ValueError, match="max_ahead: expected seconds from 0"):
            latest_moment(value)
