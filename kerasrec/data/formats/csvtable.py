"""Reads csv files by columns, packed or not, in any encoding; explains damage in one sentence."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.formats.encodings import decodes, find_encoding, is_chinese, show_encoding
from kerasrec.data.formats.packed import (
    DAMAGES,
    HEAD_BYTES,
    damaged,
    one_line,
    open_binary,
    peek,
)

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", "\x01": "\\001"}
_SHOWN_LINES = 5
_TOO_MANY = "most often a text that holds the separator, such as a comma, without double quotes"
_TOO_FEW = "most often a text with a line break, without double quotes"
BLOCK_BYTES = 4 << 20


class _Parsed(NamedTuple):
    """What the csv parser gave: good rows, rows with a wrong number of values, the last line."""

    table: pa.Table
    ragged: list
    last_line: str


class CsvTable:
    """Reads a csv file, packed or not, with a header line; that line shows the separator.

    Text that is no UTF-8 is read as what its bytes say, where they leave no doubt.

    Args:
        path, encoding: of the file.
        names: of the columns of a file whose first line is data; None = it is a header.
    """

    def __init__(
        self, path: str | Path, encoding: str = "utf-8", names: Sequence[str] | None = None
    ) -> None:
        self.name = str(path)
        self._path = path
        self._encoding, self._is_found = known_encoding(encoding), False
        head = self._read_head()
        lines = head.split("\n")
        filled = [number for number, line in enumerate(lines) if line.strip()]
        if not filled:
            raise ValueError(
                f"{path}: expected a table with a header line. Received: blank lines only. "
                "Write the file again."
            )
        # Excel is told the separator by a line above the header
        if len(filled) > 1 and re.fullmatch(r'"?sep=[,;|\t]"?\s*', lines[filled[0]]):
            del filled[0]
        header = lines[filled[0]].rstrip("\r")
        #: lines above the first row, and whether there is none
        self._skip = filled[0] + (names is None)
        self._is_header_only = names is None and len(filled) == 1
        counts = {separator: header.count(separator) for separator in SEPARATORS}
        self.separator = max(counts, key=lambda separator: counts[separator])
        self.columns = [
            name.strip() for name in next(csv.reader([header], delimiter=self.separator))
        ]
        if names is not None:
            self.columns = given_names(self.name, names, self.columns)

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Reads columns as Arrow arrays: `text` as dictionaries of strings, others inferred."""
        check_repeated(self.name, self.columns, columns)
        positions = {name: str(self.columns.index(name)) for name in columns}
        if self._is_header_only:
            return {name: pa.chunked_array([[]], pa.string()) for name in columns}, CleaningReport()
        include = list(positions.values())
        types = {positions[name]: pa.dictionary(pa.int32(), pa.string()) for name in text}
        broken = np.zeros(0, dtype=bool)
        try:
            try:
                parsed = self._parse(include, types)
            except UnicodeError as error:
                if self._encoding == "utf-8" and find_encoding(self._sample()):
                    self._take_encoding(find_encoding(self._sample()))
                    return self.read(columns, text, on_bad)
                parsed = self._parse(include, types, errors="replace")
                broken = _broken_rows(parsed.table)
                # Broken bytes in columns that nobody reads do not matter.
                if broken.any() and (on_bad != "skip" or "looks like" in self._explain(error)):
                    raise
        except (*DAMAGES, UnicodeError) as error:
            raise ValueError(self._explain(error)) from error
        self._check_quotes(*parsed)
        table, report = self._without_ragged(parsed, on_bad)
        if broken.any():
            count, example = int(broken.sum()), f"data row {int(np.argmax(broken)) + 1}"
            what = f"rows with bytes that are not {self._encoding}"
            report = report.add("skip", what, count, removed=count, example=example)
            table = table.filter(pa.array(~broken))
        report = self._noted(report)
        return {name: table.column(positions[name]) for name in columns}, report

    def _noted(self, report):
        """The report with lines on how the file was read."""
        if self.separator != ",":
            report = report.add("note", f"separator: {SEPARATORS[self.separator]}", 1)
        if self._is_found:
            what = f"encoding: {show_encoding(self._encoding)}, by its bytes"
            report = report.add("note", what, 1)
        return report

    def _parse(self, include, types, *, errors="strict"):
        """The rows with the right number of values, the others, and the last line of the file."""
        ragged = []

        def collect(row):
            ragged.append(row)
            return "skip"

        with Utf8Stream(self._path, self._encoding, errors) as stream:
            table = pa.csv.read_csv(
                stream,
                read_options=self._read_options(),
                parse_options=self._parse_options(collect),
                convert_options=pa.csv.ConvertOptions(
                    column_types=types, include_columns=include, strings_can_be_null=False
                ),
            )
            return _Parsed(table, ragged, stream.last_line())

    def _read_options(self):
        return pa.csv.ReadOptions(
            block_size=BLOCK_BYTES,
            skip_rows=self._skip,
            column_names=[str(position) for position in range(len(self.columns))],
        )

    def _parse_options(self, collect):
        return pa.csv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=collect
        )

    def _without_ragged(self, parsed, on_bad):
        """(table, report) of the rows with the right number of values; raises unless skipped."""
        lines = sum(map(num_lines, parsed.ragged))
        report = CleaningReport(parsed.table.num_rows + lines)
        if not parsed.ragged:
            return parsed.table, report
        refusal = self._refuse_ragged(parsed.ragged, len(parsed.ragged))
        if on_bad != "skip":
            raise DirtyRows([refusal])
        what, example = refusal.what, refusal.example
        return parsed.table, report.add("skip", what, lines, removed=lines, example=example)

    def _refuse_ragged(self, ragged, count):
        """The refusal of `count` rows of a wrong length, of which `ragged` are the first."""
        places = self._ragged_places(ragged)
        number, row = places[0]
        example = f"{row.actual_columns} in line {number}, '{one_line(row.text)[:60]}'"
        shown = ", ".join(str(number) for number, _ in places[1:_SHOWN_LINES])
        others = f"; also lines {shown}" if shown else ""
        others += ", ..." if len(places) > _SHOWN_LINES else ""
        usual = _TOO_MANY if row.actual_columns > len(self.columns) else _TOO_FEW
        return Refusal(
            self.name,
            f"{len(self.columns)} values in every row, as in the header",
            f"{example} ({count} such rows{others}), {usual}",
            f"rows without exactly {len(self.columns)} values",
            count,
            example,
        )

    def _ragged_places(self, ragged):
        """`(line of the file, row)` of the first rows of a wrong length, in their order."""
        rows = {row.text.split("\n", 1)[0].rstrip("\r"): row for row in ragged}
        places: list[tuple[int, Any]] = []
        is_open = False
        for number, line in enumerate(self._lines(), start=1):
            if not is_open and number > self._skip and line in rows:
                places.append((number, rows[line]))
                if len(places) > _SHOWN_LINES:
                    break
            is_open ^= line.count('"') % 2 == 1
        return places or [(0, ragged[0])]

    def _lines(self) -> Iterator[str]:
        """The lines of the file as text, without their ends."""
        with open_binary(self._path) as file:
            for line in io.TextIOWrapper(file, self._encoding, errors="replace"):
                yield line.rstrip("\n")

    def _sample(self):
        """Lines that are not of ASCII alone, some of them."""
        sample = b""
        with open_binary(self._path) as file:
            for line in file:
                if not line.isascii():
                    sample += line
                if len(sample) >= HEAD_BYTES:
                    break
        return sample

    def _take_encoding(self, found):
        self._encoding, self._is_found = found, True

    def _check_quotes(self, table, ragged, last_line):
        """Refuses a file with a quote that is never closed.

        The parser takes everything behind such a quote as one value, so its last row is not what
        the last line says.
        """
        # only a last line without quotes can be compared: its cells are then known for sure
        cells = last_line.split(self.separator)
        if '"' in last_line or len(cells) != len(self.columns):
            return
        # the open quote made a row of a wrong length, and this row holds the last line
        swallowed = ragged[-1].text if ragged else ""
        if '"' in swallowed and swallowed.rstrip("\r\n").endswith("\n" + last_line):
            raise ValueError(self._open_quote_message())
        # the open quote made a row of the right length: a value of it differs from the last line
        for position in table.column_names if table.num_rows else []:
            value = table.column(position)[-1].as_py()
            if isinstance(value, str) and value != cells[int(position)]:
                raise ValueError(self._open_quote_message())

    def _open_quote_message(self):
        """Where the last quote opens that is never closed."""
        is_open, place = False, ""
        for number, line in enumerate(self._lines(), start=1):
            if line.count('"') % 2:
                is_open = not is_open
                if is_open:
                    place = f" in line {number}, '{one_line(line)[:40]}'"
        return (
            f"{self.name}: expected a closing quote for every opening one. Received: one that is "
            f'never closed{place}. Double it ("") or take it out.'
        )

    def _read_head(self):
        """The first lines as text; explains gzip and encoding trouble at once."""
        raw = peek(self._path)
        if raw.startswith(b"PK\x03\x04") or raw.startswith(b"\xd0\xcf\x11\xe0"):
            raise ValueError(
                f"{self.name}: expected text with one row per line. Received: what looks like a "
                "zip or Excel file. Save it as csv, or give it the ending .xlsx."
            )
        if raw.startswith(b"PAR1"):
            raise ValueError(
                f"{self.name}: expected csv. Received: what looks like a parquet file. "
                "Give the file the ending .parquet."
            )
        if not raw:
            raise ValueError(
                f"{self.name}: expected a table with a header line. Received: an empty file. "
                "Write the file again."
            )
        if self._encoding == "utf-8" and find_encoding(raw):
            self._take_encoding(find_encoding(raw))
        if not self._is_found and self._encoding.startswith("gb") and _is_chinese_utf8(raw):
            raise ValueError(_encoding_message(self.name, self._encoding, "UTF-8", "utf-8"))
        try:
            text = codecs.getincrementaldecoder(self._encoding)().decode(raw)
        except UnicodeError as error:
            header = raw.split(b"\n", 1)[0]
            is_by_line = self._encoding in ("utf-8", "gb18030")
            if not is_by_line or not decodes(header, self._encoding):
                raise ValueError(self._explain(error)) from error
            text = raw.decode(self._encoding, errors="replace")
        return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")

    def _explain(self, error):
        """One sentence for a file that cannot be read: damaged, of another encoding, no csv."""
        number, first_bad, sample, num_bad, num_good = 0, 0, b"", 0, 0
        try:
            with open_binary(self._path) as file:
                for number, line in enumerate(file, start=1):
                    if line.isascii():
                        continue
                    if _is_whole(line, self._encoding):
                        num_good += 1
                        continue
                    num_bad += 1
                    first_bad = first_bad or number
                    if len(sample) < HEAD_BYTES:
                        sample += line
        except DAMAGES as damage:
            return damaged(self._path, damage, number)
        if "straddling object" in str(error):
            return self._open_quote_message()
        if not num_bad:
            return f"{self.name}: expected csv. Received: {one_line(error)}. Write the file again."
        # In a GBK file nearly every line with Chinese is bad UTF-8; in a UTF-8 file few are.
        if self._encoding == "utf-8" and num_bad > num_good and decodes(sample, "gb18030"):
            text = _encoding_message(self.name, "utf-8", "GBK/GB18030", "gb18030")
            # bytes of Big5, Japanese and Korean can nearly always be read so too
            others = " Where the texts look wrong then, it is big5, shift_jis, euc-kr or another."
            return text if is_chinese(sample) else text + others
        start = one_line(sample.split(b"\n", 1)[0].decode(self._encoding, errors="replace"))
        return (
            f"{self.name}: expected text in {self._encoding}. Received: bytes that are not in "
            f"line {first_bad}, '{start[:60]}' ({num_bad} such lines). Name the file's encoding "
            "with encoding=... (--encoding ...) or mend these lines."
        )


def num_lines(row: Any) -> int:
    """Lines that a row of a wrong length takes."""
    return row.text.count("\n") + 1


def _encoding_message(name, expected, looks, use):
    return (
        f"{name}: expected text in {expected}. Received: what looks like {looks}. "
        f"Pass encoding='{use}' (--encoding {use})."
    )


def known_encoding(encoding: str) -> str:
    """The canonical name of an encoding; ValueError for what is none."""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, TypeError):
        raise ValueError(
            "encoding: expected the name of a text encoding such as 'utf-8' or 'gb18030'. "
            f"Received: {encoding!r}. Correct it."
        ) from None
    # gb18030 is the superset of what files called gb2312 or gbk hold in practice
    return {"gb2312": "gb18030", "gbk": "gb18030", "utf-8-sig": "utf-8"}.get(name, name)


def _is_whole(raw, encoding):
    try:
        raw.decode(encoding)
    except UnicodeError:
        return False
    return True


def _is_chinese_utf8(raw):
    """True for well-formed UTF-8 with Chinese characters, which GBK text practically never is."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeError:
        return False
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def _broken_rows(table):
    """Bool mask of the rows whose texts hold the sign that stands for bytes of another encoding."""
    broken = np.zeros(table.num_rows, dtype=bool)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            for chunk, start in zip(column.chunks, _chunk_starts(column), strict=True):
                bad = pa.compute.match_substring(chunk.dictionary, "\ufffd").to_numpy(False)
                if bad.any():
                    broken[start : start + len(chunk)] |= bad[chunk.indices.to_numpy()]
    return broken


def _chunk_starts(column):
    return np.cumsum([0, *(len(chunk) for chunk in column.chunks)])[:-1]


def given_names(source: str, names: Sequence[str], found: Sequence[object]) -> list[str]:
    """The names that a user gives to the columns of a table without any; `_` is a name of none.

    Args:
        source: name of the table.
        names: one for each column.
        found: what stands in the first row.

    >>> given_names("log.csv", ["user", "_", "item"], ["u1", "x", "a"])
    ['user', 'Unnamed: 1', 'item']
    """
    if len(names) != len(found):
        first = ", ".join(map(str, found))
        raise ValueError(
            f"{source}: expected a name for each of its {len(found)} columns. Received: "
            f"{len(names)} names ({', '.join(names)}), and in the first line {one_line(first)[:80]}"
            ". Give one for each, with _ for a column that plays no role."
        )
    return [f"Unnamed: {n}" if name in ("", "_") else name for n, name in enumerate(names)]


def check_repeated(source: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError when one of the wanted column names occurs more than once among `names`."""
    for name in wanted:
        if names.count(name) > 1:
            raise ValueError(
                f"{source}: expected every column name once. Received: '{name}' "
                f"{names.count(name)} times. Rename one of them."
            )


class Utf8Stream(io.RawIOBase):
    """The text of a file as UTF-8 bytes without byte order mark; remembers its last line."""

    def __init__(self, path: str | Path, encoding: str, errors: str) -> None:
        super().__init__()
        self._file = open_binary(path)
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._is_same = encoding == "utf-8" and errors == "strict"
        self._at_start = True
        self._tail = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, in UTF-8."""
        block = b""
        while not block:
            raw = self._file.read(size)
            text = self._decoder.decode(raw, final=not raw)  # raises where it is strict
            block = raw if self._is_same else text.encode("utf-8")
            if self._at_start and block:
                self._at_start = False
                block = block.removeprefix(codecs.BOM_UTF8)
            if not raw:
                break
        self._tail = (self._tail[-HEAD_BYTES:] + block)[-HEAD_BYTES:]
        return block

    def last_line(self) -> str:
        """The last line that is not blank, as text."""
        lines = self._tail.decode("utf-8", errors="replace").replace("\r", "\n").strip("\n")
        return lines.rsplit("\n", 1)[-1]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
