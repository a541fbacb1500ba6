"""A day and a clock in two columns, as shops and tills export them, are one time."""

import datetime

import pandas as pd
import pytest

from kerasrec.data.sources import read_interactions

NOON = 1709294400  # 2024-03-01T12:00:00 UTC
ROWS = [("u", "a", "2024-03-01", "12:00:05"), ("u", "b", "2024-03-01", "09:30:00")]


def table(rows=ROWS, names=("日期", "时间")):
    return pd.DataFrame(rows, columns=["user_id", "item_id", *names])


def times(source, **options):
    return sorted(read_interactions(source, **options).frame["timestamp"])


@pytest.mark.parametrize(
    "names",
    [("日期", "时间"), ("date", "time"), ("order_date", "order_time"), ("日期", "clk")],
)
def test_usual_names_are_joined(names):
    """The order within a day is that of the clock, not of the file."""
    found = read_interactions(table(names=names))
    assert found.frame["timestamp"].tolist() == [NOON + 5, NOON - 9000]
    assert found.columns["timestamp"] == "+".join(names)
    assert "a date and a clock are read together" in str(found.report)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".xlsx"])
def test_from_files(tmp_path, suffix):
    path = tmp_path / f"log{suffix}"
    frame = table()
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:  # as databases and spreadsheets keep them: a day, and a time of a day
        frame["日期"] = pd.to_datetime(frame["日期"]).dt.date
        frame["时间"] = [datetime.time.fromisoformat(one) for one in frame["时间"]]
        if suffix == ".xlsx":
            pytest.importorskip("openpyxl")
            frame.to_excel(path, index=False)
        else:
            frame.to_parquet(path)
    assert times(path) == [NOON - 9000, NOON + 5]


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ("2024/3/1", "12:00", NOON),
        ("20240301", "12:00:00", NOON),
        ("2024年3月1日", "下午 3:05", NOON + 3 * 3600 + 300),
        ("2024-03-01", "", NOON - 43200),  # a day without a clock begins at midnight
    ],
)
def test_forms(day, clock, expected):
    rows = [("u", "a", day, clock)] + [("u", "b", "2024-03-02", "10:00:00")] * 20
    assert times(table(rows))[0] == expected


def test_clocks_alone_are_no_times():
    frame = pd.DataFrame({"user_id": ["u"], "item_id": ["a"], "time": [datetime.time(14, 6, 47)]})
    with pytest.raises(ValueError, match="clocks without a day, such as 14:06:47.*DATE\\+CLOCK"):
        read_interactions(frame)


def test_a_zone_counts():
    assert times(table(), timezone="Asia/Shanghai")[1] == NOON + 5 - 8 * 3600


def test_named_by_the_user():
    other = table(names=("d", "c"))
    assert times(other, columns={"timestamp": "d+c"}) == [NOON - 9000, NOON + 5]
    with pytest.raises(ValueError, match="no 'x' among user_id, item_id, d, c"):
        read_interactions(other, columns={"timestamp": "d+x"})


def test_a_wrong_clock_is_a_bad_row():
    rows = [*ROWS * 20, ("u", "c", "2024-03-01", "25:61")]
    with pytest.raises(ValueError, match="unparsable time, 日期\\+时间='2024-03-01 25:61'"):
        read_interactions(table(rows))


@pytest.mark.parametrize(
    "frame",
    [
        table([("u", "a", "2024-03-01", "开始 12:00")], ("时间", "clock")),  # no clocks alone
        table([("u", "a", "2024-03-01", "2024-03-02")], ("下单日期", "创建时间")),  # two days
    ],
)
def test_others_stay_as_they_are(frame):
    try:
        assert "+" not in read_interactions(frame).columns["timestamp"]
    except ValueError as error:
        assert "expected one column for timestamp" in str(error)


@pytest.mark.parametrize("names", [("dt", "hour"), ("日期", "小时"), ("ds", "hh")])
@pytest.mark.parametrize("day", ["20240301", "2024-03-01"])
def test_a_day_and_an_hour_of_hive(names, day):
    rows = [("u", "a", day, "12"), ("u", "b", day, "9"), ("u", "c", day, "09")]
    nine = NOON - 3 * 3600
    assert times(table(rows, names)) == [nine, nine, NOON]
    numbers = table(rows, names).astype({names[1]: int})
    assert times(numbers) == [nine, nine, NOON]
    # hours that were named, also under another name
    named = table(rows, ("when", "part"))
    assert times(named, columns={"timestamp": "when+part"}) == [nine, nine, NOON]


def test_folders_of_a_day_and_an_hour(tmp_path):
    for hour in (9, 12):
        folder = tmp_path / "dt=20240301" / f"hour={hour:02}"
        folder.mkdir(parents=True)
        (folder / "000000_0").write_text(f"u\x01a{hour}\x01view\n")
    found = read_interactions(tmp_path, columns=["user", "item", "event"])
    assert found.frame["item_id"].tolist() == ["a9", "a12"]
    assert found.frame["timestamp"].tolist() == [NOON - 3 * 3600, NOON]


def test_a_time_beside_a_day_and_an_hour_is_the_time():
    rows = [("u", "a", "20240301", "12", "2024-03-01 12:30:05")]
    for name in ("event_time", "occurred"):
        frame = pd.DataFrame(rows, columns=["user", "item", "dt", "hour", name])
        if name == "event_time":
            assert times(frame) == [NOON + 30 * 60 + 5]
        else:  # of an unknown name, beside dt: which of them is not guessed
            with pytest.raises(ValueError, match="reads as times in dt, occurred"):
                read_interactions(frame)
    # an hour that is none, such as a count
    counted = table([("u", "a", "20240301", "30"), ("u", "b", "20240302", "2")], ("dt", "hour"))
    assert times(counted)[0] == NOON - 12 * 3600


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(
        ValueError, match=r"timestamp=日期\+时候. Received: no '时候' among user_id"
    ):
        read_interactions(table(), columns={"timestamp": "日期+时候"})
