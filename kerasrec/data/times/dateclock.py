"""Reads a date and a clock, or an hour, that stand in two columns as one column of times."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.columns import INTERACTION_ALIASES, name_list, normalise
from kerasrec.data.formats.columntable import to_pandas
from kerasrec.data.tables import Table
from kerasrec.data.times.forms import holds_times

_DAY = r"\d{4}\s*[-/.年]?\s*\d{1,2}\s*[-/.月]?\s*\d{1,2}\s*日?"
_HALF = "(?:上午|下午|凌晨|早上|中午|晚上|[AaPp][Mm])?"
_CLOCK = rf"{_HALF}\s*\d{{1,2}}:\d{{2}}(?::\d{{2}}(?:\.\d+)?)?\s*{_HALF}"
#: values of a column that are looked at
_SAMPLE = 1000
_MOST = 0.9  # share of them that must be days, or clocks
_HOUR = r"(?:[01]?\d|2[0-4])\s*[时点]?"
#: columns of folders and tables of Hive: names of days, of hours
_DAY_NAMES = frozenset("dt ds pt day p_dt p_date p_day part_date stat_date".split())
_HOUR_NAMES = frozenset("hour hh hr h p_hour part_hour 小时 时".split())
_TIME_NAMES = frozenset(" ".join(INTERACTION_ALIASES["timestamp"]).split())


class DatedTable:
    """A table in which a column of dates and one of clocks are one, named `DATE+CLOCK`.

    Attributes:
        name, columns: as of the table; the two columns are gone, and the new one is there.
        joined: name of the new column.
        parts: names of the two.

    Args:
        table: `Table`.
        date, clock: names of its columns.
    """

    def __init__(self, table: Table, date: str, clock: str) -> None:
        self._table, self.parts = table, (date, clock)
        self.name, self.joined = table.name, f"{date}+{clock}"
        self.columns = [
            self.joined if name == date else name for name in table.columns if name != clock
        ]

    def place(self, row: int) -> str:
        """Says where a row lies, as the table does."""
        place = getattr(self._table, "place", None)
        return place(row) if place else f"data row {row + 1}"

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Reads columns as the table does; the new one as texts."""
        asked, others = self.joined in columns, [n for n in columns if n != self.joined]
        names = [*others, *(self.parts if asked else ())]
        as_text = [name for name in text if name != self.joined] + list(self.parts) * asked
        data, report = self._table.read(names, as_text, on_bad)
        if asked:
            date, clock = (_texts(data.pop(name)) for name in self.parts)
            date = date.str.replace(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", regex=True)
            clock = clock.str.replace(r"^(\d{1,2})\s*[时点]?$", r"\1:00", regex=True)
            # without a clock the day is what is known; without a day nothing is
            data[self.joined] = date.str.cat(clock.fillna(""), sep=" ").str.strip()
        return data, report


def with_clock(table: Table, mapping: Mapping[str, str | None] | None) -> Table:
    """Joins a date and a clock that together are the time of the events.

    Args:
        table: `Table` of interactions.
        mapping: as for `read_interactions`. Its time may be named `DATE+CLOCK`. Where it names
            none, columns are joined whose names are usual for times, when of these exactly one
            holds days alone and exactly one clocks alone. Where none of them holds clocks, the
            one other column that does is taken, or else one of hours (`dt` and `hour` of Hive).

    Returns:
        A `DatedTable`, or the table as it is.
    """
    given = (mapping or {}).get("timestamp")
    if given and given not in table.columns and "+" in given:
        date, clock = (part.strip() for part in given.split("+", 1))
        missing = [name for name in (date, clock) if name not in table.columns]
        if not missing:
            return DatedTable(table, date, clock)
        if len(missing) == 1:
            near = difflib.get_close_matches(missing[0], [str(n) for n in table.columns], 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{table.name}: expected two columns for timestamp={given}. Received: no "
                f"'{missing[0]}' among {name_list(table.columns)}.{hint} Correct the mapping."
            )
        return table
    used = set((mapping or {}).values())
    names = [n for n in table.columns if normalise(n) in _TIME_NAMES and n not in used]
    is_usual = bool(names)
    names = names or [n for n in table.columns if normalise(n) in _DAY_NAMES and n not in used]
    is_open = "timestamp" not in (mapping or {}) and len(set(names)) == len(names)
    others = [n for n in table.columns if n not in names and table.columns.count(n) == 1 and n]
    if not is_open or not names or len(table.columns) < 4:  # a user, an item and two columns
        return table
    days, clocks, _ = _days_and_clocks(table, names)
    if len(days) == 1 and not clocks:
        _, clocks, hours = _days_and_clocks(table, others)
        clocks = clocks or [n for n in hours if normalise(n) in _HOUR_NAMES]
        if clocks and not is_usual and _has_times(table, set(others) - set(clocks)):
            return table
    if len(days) == 1 and len(clocks) == 1:
        return DatedTable(table, days[0], clocks[0])
    return table


def _has_times(table, names):
    """Whether one of the columns holds times by itself, which are finer than a day and an hour."""
    data, _ = table.read(list(names), (), "skip")
    columns = (data[n] if isinstance(data[n], pd.Series) else to_pandas(data[n]) for n in names)
    return any(holds_times(column.dropna()[:_SAMPLE]) for column in columns)


def _days_and_clocks(table, names):
    """Names of the columns that hold days alone, of those of clocks, and of those of hours."""
    data, _ = table.read(names, names, "skip")
    samples = {name: _texts(data[name]).dropna()[:_SAMPLE] for name in names}
    return tuple(
        [n for n, values in samples.items() if values.str.fullmatch(form).mean() > _MOST]
        for form in (_DAY, _CLOCK, _HOUR)
    )


def _texts(column):
    """A column as a Series of texts, None where there is none; days without a clock."""
    series = (column if isinstance(column, pd.Series) else to_pandas(column)).reset_index(drop=True)
    empty = series.isna()
    if isinstance(series.dtype, pd.DatetimeTZDtype) or series.dtype.kind == "M":
        found = series.dt.strftime("%Y-%m-%d")
    else:
        midnight = r"[T ]00:00:00(?:\.0+)?$"  # a day, as spreadsheets and databases keep it
        found = series.astype("str").str.strip().str.replace(midnight, "", regex=True)
    return found.mask(empty | found.isin(["", "nan", "None", "<NA>"]), None)
