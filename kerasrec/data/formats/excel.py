"""Reads sheets of Excel and of LibreOffice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerasrec.data.formats.columntable import ColumnBuilder, ColumnTable
from kerasrec.data.formats.csvtable import check_repeated, given_names
from kerasrec.data.formats.packed import one_line


def open_sheet(
    path: str | Path, sheet: str = "", names: Sequence[str] | None = None
) -> ColumnTable:
    """Reads one sheet whole; its first line that is not blank is the header.

    Args:
        path: of an xlsx, xlsm, xlsb, xls or ods file.
        sheet: its name; `""` = the first one that is not blank.
        names: of the columns, where the first line is data; None = it is the header.

    Raises:
        ImportError: python-calamine is missing.
        ValueError: no such file of Excel, a protected one, no such sheet, only blank ones.
    """
    try:
        import python_calamine as calamine
    except ImportError as missing:
        raise ImportError(
            f"{path}: Excel files need python-calamine, which is missing. "
            "Run: pip install 'kerasrec[excel]', or save the sheet as csv."
        ) from missing
    try:
        with open(path, "rb") as file:
            book = calamine.CalamineWorkbook.from_filelike(file)
            sheets = list(book.sheet_names)
            if sheet and sheet not in sheets:
                raise ValueError(
                    f"{path}: expected a sheet '{sheet}'. Received: {', '.join(sheets)}. "
                    "Name one of them behind the # of the path."
                )
            found, rows = "", []
            for found in [sheet] if sheet else sheets:
                rows = _filled(book.get_sheet_by_name(found).to_python(skip_empty_area=False))
                if rows:
                    break
    except (calamine.CalamineError, OSError) as error:
        raise ValueError(
            f"{path}: expected a file of Excel without a password. Received: one that cannot be "
            f"read ({one_line(error)}). Save it anew, or as csv."
        ) from error
    if not rows:
        raise ValueError(
            f"{path}: expected a sheet with a header line. Received: blank cells only. "
            "Write the file again."
        )
    notes = []
    if len(sheets) > 1 and not sheet:
        notes.append((f"sheet {found} of {len(sheets)}; others by {Path(path).name}#NAME", 1))
    if names is None:
        header = [_name(cell, column) for column, cell in enumerate(rows.pop(0))]
    else:
        header = given_names(str(path), names, rows[0])
    check_repeated(str(path), header, header)
    builder = ColumnBuilder(header)
    for row in rows:
        builder.add({name: _value(cell) for name, cell in zip(header, row, strict=True)})
    return ColumnTable(str(path), builder.columns(), builder.num_rows, notes=notes)


def _filled(rows):
    """Rows and columns that are not blank."""
    rows = [row for row in rows if any(cell != "" for cell in row)]
    width = max((len(row) for row in rows), default=0)
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    used = [column for column in range(width) if any(row[column] != "" for row in rows)]
    return [[row[column] for column in used] for row in rows]


def _name(cell: Any, column: int) -> str:
    return str(_value(cell)).strip() if cell != "" else f"Unnamed: {column}"


def _value(cell: Any) -> Any:
    """Excel holds whole numbers as floats; a blank cell is a missing value."""
    if cell == "" and isinstance(cell, str):
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    return cell
