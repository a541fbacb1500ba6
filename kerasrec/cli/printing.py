"""Tables on the terminal."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


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
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
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
