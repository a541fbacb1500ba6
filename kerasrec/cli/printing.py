"""What the terminal shows: text that it cannot fail on, and that cannot command it."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


#: what moves the cursor, sets the title, turns the direction of writing, or is half a character
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: object, *, one_line: bool = False) -> str:
    r"""A text in which control characters are written out: a title cannot command the terminal.

    Args:
        text: anything that is shown.
        one_line: True writes out line breaks and tabs as well.

    >>> visible("\x1b]0;mine\x07 title")
    '\\x1b]0;mine\\x07 title'
    """
    shown = _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], str(text))
    return shown.replace("\n", "\\n").replace("\t", "\\t") if one_line else shown


def say(
    *texts: object,
    sep: str = " ",
    end: str = "\n",
    file: TextIO | None = None,
    flush: bool = False,
) -> None:
    """Prints as `print` does; every word on the terminal comes from here or from a table."""
    print(visible(sep.join(map(str, texts))), end=end, file=file, flush=flush)


class VisibleFormatter(logging.Formatter):
    """Formats the lines of the log for the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, its control characters written out."""
        return visible(super().format(record))


@contextlib.contextmanager
def any_encoding() -> Iterator[None]:
    """Meanwhile what the encoding of the terminal lacks is written out, such as \\u4e2d."""
    streams = [one for one in (sys.stdout, sys.stderr) if hasattr(one, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with contextlib.suppress(ValueError, OSError):  # closed, or nobody reads on
                stream.reconfigure(errors=errors)


def make_console() -> "Console":
    """Makes a rich console as wide as the terminal, or 140 columns where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def print_rows(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table without lines; long cells are folded."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(visible(column, one_line=True), overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(value, one_line=True)) for value in row))
    make_console().print(table)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(path of keys, value)` of a nested dict.

    >>> list(flat({"a": {"b": 1}, "c": {}}))
    [('a.b', 1), ('c', {})]
    """
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def say_chosen(table: "pd.DataFrame", k: int) -> None:
    """Says how many items meet a condition, and where that makes lists shorter."""
    number = table.attrs.get("chosen")
    if number is not None:
        short = f": fewer than --k {k}, so all lists are shorter" if number < k else ""
        say(f"{number:,} items meet the condition{short}")
