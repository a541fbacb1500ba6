"""Reports what was read, what was left out and why: a small table that travels with the data."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

SKIP_HINT = (
    "Correct the data, or pass on_bad='skip' (--on-bad skip) to leave such rows out and count them."
)


class Refusal(NamedTuple):
    """Holds why some rows were refused.

    source: name of the table.  expected, received: in words, for the first such row.  what: the
    kind, in short.  count: such rows.  example: the first of them, in short.  advice: what to do.
    """

    source: str
    expected: str
    received: str
    what: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    example: str
    advice: str = SKIP_HINT


class DirtyRows(ValueError):
    """Refuses a table with bad rows, and names all their kinds.

    Attributes:
        refusals: tuple of `Refusal`, one for each kind, in the order in which they were looked for.
        rest: what was read without these rows, `Interactions` or `Items`; None where none is left.
    """

    def __init__(self, refusals: Iterable[Refusal], rest: Any = None):
        self.refusals, self.rest = tuple(refusals), rest
        super().__init__(_refuse(self.refusals))


class ManyRefused(ValueError):
    """Refuses several files of one table at once.

    Attributes:
        sentences: tuple of str, one for each file that cannot be read, and one for all bad rows.
    """

    def __init__(self, sentences: Iterable[str]):
        self.sentences = tuple(sentences)
        super().__init__(" ".join(self.sentences))


def _refuse(refusals):
    """One sentence for the first kind, the others in short, and what to do with all of them."""
    first, *others = refusals
    text = f"{first.source}: expected {first.expected}. Received: {first.received}"
    if others:
        shown = (
            ("" if one.source == first.source else f"{one.source}: ")
            + f"{one.count} x {one.what} ({one.example})"
            for one in others
        )
        text += f". Besides: {'; '.join(shown)}"
    return f"{text}. {' '.join(dict.fromkeys(one.advice for one in refusals))}"


class CleaningStep(NamedTuple):
    """Holds one line of a report.

    `count` is how many things the line speaks of (rows, users, ids, ...), `removed` how many rows
    went because of it (0 for a remark), `example` one of them as it stood in the source.
    """

    step: str
    what: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    removed: int
    example: str


@dataclass(frozen=True)
class CleaningReport:
    """Lists the steps from the rows of the source to the rows that remain.

    >>> report = CleaningReport(5).add("read", "empty user_id", 2, removed=2, example="data row 3")
    >>> report.rows_after
    3
    >>> print(report)
    step   what           count  removed  example
    read   empty user_id      2        2  data row 3
    total  rows 5 -> 3                 2
    """

    rows_before: int = 0
    steps: tuple[CleaningStep, ...] = ()

    @property
    def rows_after(self) -> int:
        """Rows that are left after the last step."""
        return self.rows_before - sum(step.removed for step in self.steps)

    def add(
        self, step: str, what: str, count: int, *, removed: int = 0, example: object = ""
    ) -> "CleaningReport":
        """Gives a new report with one more line; this one does not change."""
        line = CleaningStep(step, what, int(count), int(removed), str(example))
        return CleaningReport(self.rows_before, (*self.steps, line))

    def __add__(self, later):
        """This report followed by a later one, which must start with the rows left here."""
        if later.rows_before != self.rows_after:
            raise ValueError(
                f"expected a report that starts with the {self.rows_after} rows left by this one. "
                f"Received: one that starts with {later.rows_before}. Join reports in their order."
            )
        return CleaningReport(self.rows_before, self.steps + later.steps)

    @classmethod
    def of_sources(cls, named_reports: Iterable[tuple[str, "CleaningReport"]]) -> "CleaningReport":
        """Joins the reports of several sources into one, from pairs `(name, report)`."""
        named_reports = list(named_reports)
        if len(named_reports) == 1:
            return named_reports[0][1]
        steps = tuple(
            step._replace(what=f"{name}: {step.what}")
            for name, report in named_reports
            for step in report.steps
        )
        return cls(sum(report.rows_before for _, report in named_reports), steps)

    def to_frame(self) -> pd.DataFrame:
        """Gives the lines as a DataFrame with the columns of `CleaningStep`."""
        return pd.DataFrame(self.steps, columns=list(CleaningStep._fields))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {
            "rows_before": self.rows_before,
            "rows_after": self.rows_after,
            "steps": [step._asdict() for step in self.steps],
        }

    def __str__(self):
        head = ("step", "what", "count", "removed", "example")
        body = [tuple(str(cell) for cell in step) for step in self.steps]
        removed = self.rows_before - self.rows_after
        total = ("total", f"rows {self.rows_before} -> {self.rows_after}", "", str(removed), "")
        rows = [head, *body, total]
        widths = [max(_width(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join(_format_row(row, widths) for row in rows)


#: begins of the notes of `data.formats` on how a table was read
_HOW = ("encoding: ", "files, joined ", "sheet ")


def column_lines(report: CleaningReport, name: str) -> list[str]:
    """Says which columns of a table were taken for what, which were not used, and how it was read.

    How it was read: an encoding that was found, many files and their order, a sheet of several.

    >>> column_lines(CleaningReport(1).add("columns", "columns: user_id = uid", 1), "x.csv")
    ['x.csv: columns: user_id = uid']
    """
    whats = [step.what for step in report.steps if step.step == "columns"]
    how = [step.what for step in report.steps if step.what.startswith(_HOW)]
    lines = [f"{name}: {what}" if what.startswith("columns") else what for what in whats]
    return [*lines, *(f"{name}: {what}" for what in how)]


def _format_row(row, widths):
    """One line; text to the left, the two numbers to the right."""
    cells = []
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - _width(cell))
        cells.append(space + cell if column in (2, 3) else cell + space)
    return "  ".join(cells).rstrip()


def _width(text):
    """Columns that a text takes in a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
