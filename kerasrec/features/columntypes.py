"""Says how a column of a table is read, and reads it: categories, lists, numbers, times, vectors.

Everything here is a pure function of values. A column of texts, as `data.Items` has them, and a
column of numbers, booleans, dates or lists, as a frame of Python or Arrow has them, read alike.
"""

import ast
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.checks import did_you_mean
from kerasrec.data.columns import choose_time, normalise
from kerasrec.data.formats.vectorfiles import PACKED, unpack_vector
from kerasrec.data.rows import MISSING_IDS
from kerasrec.data.times.forms import parse_times

#: types that hold something for a model or a condition; a vector is for a model alone
FEATURE_TYPES = ("category", "categories", "number", "time", "vector")
#: all types; the last three are no features
TYPES = (*FEATURE_TYPES, "text", "id", "constant")
#: what stands between the values of a list, the most telling first; of one kind only the strongest
#: splits: commas within a `|` list belong to the names. `\x1f` is how `read_items` joins lists.
SEPARATORS = ("\x1f", "|", ";；", "、", ",，")
_MISSING = {text.lower() for text in MISSING_IDS} | {"nat"}
_LONGEST_MISSING = max(map(len, _MISSING))
_YES_NO = set("true false yes no 是 否 t f y n 有 无".split())
_CURRENCY = re.compile(
    r"^(?:RMB|CNY|USD|EUR|HK\$|US\$|人民币|[¥$€£₩])\s*|\s*(?:元|块|RMB|CNY|USD|EUR|€)$", re.I
)
_SCALES = {"千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8, "万亿": 1e12, "k": 1e3, "w": 1e4}
_NUMBER = re.compile(
    r"([+-]?)\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(e[+-]?\d{1,3})?\s*"
    r"(万亿|[千万萬亿億kw%])?\+?",
    re.I,
)
#: ends of names of columns whose numbers are names, not amounts
_CODES = tuple("id ids code no sku isbn ean asin 编号 编码 号码 代码".split())
_DATE = re.compile(
    r"^\d{3,4}[-/.年]\d{1,2}([-/.月]|$)|^\d{8}(\d{6})?$|^\d{10}(\d{3}|\d{6}|\d{9})?(\.\d+)?$"
)
#: longest value, in characters, that is still a name of something and not a text
_NAME_LENGTH, _TAG_LENGTH = 40, 20
#: rows from which on it is told that a column says nothing
_FEW_ROWS = 10
_LOOKED_AT = 5000  # values of a column that are tried as dates, numbers and lists


class Column(NamedTuple):
    """How one column is read, and what was seen in it.

    `type` is one of `TYPES`. `missing` is the share of rows without a value that can be read so,
    `distinct` how many different values there are (of lists: different entries), `example` the most
    frequent value as it stands in the table, `why` one clause that says why this type.
    `separators` are the characters that split a list, "" where the values are no texts of lists.
    """

    type: str
    missing: float
    distinct: int
    example: str
    why: str
    separators: str = ""

    @property
    def is_feature(self) -> bool:
        """Whether the column holds something for a model or a condition."""
        return self.type in FEATURE_TYPES


# --- one value ---


def is_missing(value: Any) -> bool:
    """Says whether a value stands for none: None, NaN, "" and the words that the readers know.

    >>> [is_missing(value) for value in (None, float("nan"), " ", "NULL", "\\\\N", "0", 0, [])]
    [True, True, True, True, True, False, False, True]
    """
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return not len(value)
    return value is None or value is pd.NA or value is pd.NaT or value != value


def parse_category(value: Any) -> str:
    """Reads one category: a text without spaces around it, "" where there is none.

    >>> parse_category("  科幻  小说 "), parse_category(12.0), parse_category(True)
    ('科幻 小说', '12', 'true')
    """
    if isinstance(value, str):
        text = " ".join(value.split())
        return "" if len(text) <= _LONGEST_MISSING and text.lower() in _MISSING else text
    if is_missing(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return " ".join(str(value).split())


def parse_categories(value: Any, separators: str | None = None) -> tuple[str, ...]:
    """Reads a list of categories, each once, in the order in which they stand.

    Args:
        value: a text such as `"小说|经济"`, a JSON list, a list as Python writes it, or a list,
            tuple or array of values.
        separators: the characters that split a text; None = the strongest of `|`, `;` and `；`,
            `、`, `,` and `，` that the text has.

    >>> parse_categories("小说|经济, 管理| 小说"), parse_categories("a，b,c")
    (('小说', '经济, 管理'), ('a', 'b', 'c'))
    >>> parse_categories('["a", "b|c"]'), parse_categories("['a']"), parse_categories(["x", None])
    (('a', 'b|c'), ('a',), ('x',))
    """
    if is_missing(value):
        return ()
    if isinstance(value, str):
        listed = _written_list(value)
        if listed is None:
            marks = separators_of([value]) if separators is None else separators
            listed = re.split(f"[{re.escape(marks)}]", value) if marks else [value]
        value = listed
    elif not isinstance(value, list | tuple | set | frozenset | np.ndarray):
        value = [value]
    found = (parse_category(one) for one in value)
    return tuple(dict.fromkeys(one for one in found if one))


def _written_list(text):
    """The values of a text that is a list of JSON or of Python, else None."""
    text = text.strip()
    if not (text[:1] in "[({" and text[-1:] in "])}" and len(text) > 1):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple | set):
            simple = all(one is None or isinstance(one, str | int | float) for one in found)
            return list(found) if simple else None
    return None


def separators_of(values: Iterable[Any]) -> str:
    """Finds the characters that split the lists of a column: the strongest kind that it has.

    >>> separators_of(["a|b, c", "d, e"]), separators_of(["甲、乙"]), separators_of(["甲"])
    ('|', '、', '')
    """
    seen = set().union(*(set(value) for value in values if isinstance(value, str)))
    return next((marks for marks in SEPARATORS if seen & set(marks)), "")


def parse_number(value: Any) -> float:
    """Reads one number, NaN where there is none; booleans are categories, not numbers.

    Full-width digits, thousands (`1,299.00`), marks of money (`￥`, `元`), percent (`12%` is 0.12)
    and 千, 万, 亿, k, w behind a number are understood.

    >>> [parse_number(text) for text in ("￥1,299.00", "1.2万", "１２", "12.5%", "-3", "100+")]
    [1299.0, 12000.0, 12.0, 0.125, -3.0, 100.0]
    >>> [parse_number(value) for value in ("约百", "1,2", True, None, "inf", "500g")]
    [nan, nan, nan, nan, nan, nan]
    """
    if isinstance(value, bool | np.bool_) or is_missing(value):
        return np.nan
    if not isinstance(value, str):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return np.nan
        return number if np.isfinite(number) else np.nan
    text = unicodedata.normalize("NFKC", value).strip().replace("\u2212", "-")
    text = _CURRENCY.sub("", text)
    match = _NUMBER.fullmatch(text)
    if not match:
        return np.nan
    sign, digits, exponent, scale = match.groups()
    number = float(f"{sign}{digits.replace(',', '')}{exponent or ''}")
    if scale == "%":
        number /= 100
    elif scale:
        number *= _SCALES[scale.lower()]
    return number if np.isfinite(number) else np.nan


def parse_vector(value: Any, name: str) -> np.ndarray | None:
    """Reads one vector of numbers, float32 `(width,)`; None where there is none.

    Raises:
        ValueError: the value is something else, or holds NaN or infinity; names the column.

    >>> parse_vector("0.5, 2", "image").tolist(), parse_vector("", "image")
    ([0.5, 2.0], None)
    """
    if is_missing(value):
        return None
    if isinstance(value, list | tuple | np.ndarray):
        value = " ".join(map(str, value))
    try:
        return unpack_vector(str(value).replace("\x1f", " "))
    except (ValueError, TypeError):
        shown = str(value)[:40]
        raise ValueError(
            f"{name}: expected a vector of finite numbers in each cell. Received: {shown!r}. "
            "Make it again, or leave the cell empty."
        ) from None


# --- one column ---


def read_column(
    values: pd.Series | Sequence[Any], column: Column, *, zone: tzinfo = UTC
) -> np.ndarray:
    """Reads the values of a column by its type.

    Args:
        values: of any kind, `(num_rows,)`.
        column: as `propose` or `choose_columns` gives it, perhaps from other rows of this column.
        zone: of dates that name none, as `data.times.zones.read_zone` gives it.

    Returns:
        `(num_rows,)`: of a `category` an object array of str, "" where there is none; of
        `categories` an object array of tuples of str; of a `number` float64, NaN where there is
        none; of a `time` float64 UTC seconds, NaN where there is none; of a `vector` an object
        array of float32 `(width,)`, None where there is none. Of other types as `category`.

    >>> read_column(["a|b", "b"], Column("categories", 0.0, 2, "", "", "|")).tolist()
    [('a', 'b'), ('b',)]
    """
    series = _series(values)
    if column.type == "time":
        return _read_times(series, zone)
    if column.type == "number":
        return np.asarray(_each(series, parse_number), np.float64)
    if column.type == "categories":
        return _objects(_each(series, lambda value: parse_categories(value, column.separators)))
    if column.type == "vector":
        return _objects([parse_vector(value, str(series.name)) for value in series.tolist()])
    return _objects(_each(series, parse_category))


def unreadable(values: pd.Series, column: Column) -> str:
    """Says how many values of a column are there but do not read as its type, and the first ones.

    Returns:
        A sentence, "" where there are none.

    >>> unreadable(pd.Series(["60岁", "31", ""], name="age"), Column("number", 0.0, 2, "", ""))
    "age: 1 of 2 values is no number and counts as missing: '60岁'"
    """
    if column.type not in ("number", "time"):
        return ""
    series = _series(values)
    is_there = ~np.array(_each(series, is_missing), bool)
    bad = is_there & np.isnan(read_column(series, column))
    if not bad.any():
        return ""
    number, first = int(bad.sum()), dict.fromkeys(map(_shown, series[bad].tolist()))
    shown = ", ".join(f"'{text}'" for text in [*first][:3])
    verb = "is" if number == 1 else "are"
    return (
        f"{values.name}: {number:,} of {int(is_there.sum()):,} values {verb} no {column.type} and "
        f"{'counts' if number == 1 else 'count'} as missing: {shown}"
        f"{', ...' if len(first) > 3 else ''}"
    )


def _series(values):
    """A Series with rows from 0; of texts alone one of pandas' texts, which are read fastest."""
    series = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)
    series = series.reset_index(drop=True)
    if series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "string":
        return series.astype("str")
    return series


def _objects(values):
    """An object array also of tuples, which numpy would make a table of."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _each(series, parse):
    """`parse` of every value, as a list; values that occur often are read once."""
    if isinstance(series.dtype, pd.StringDtype):
        codes, values = pd.factorize(series)
        found = [*map(parse, values.tolist()), parse(None)]  # code -1 = missing
        return [found[code] for code in codes.tolist()]
    known: dict[Any, Any] = {}
    found = []
    for value in series.tolist():
        try:
            key = (type(value), value)
            if key not in known:
                known[key] = parse(value)
        except TypeError:  # a list, which cannot be a key
            found.append(parse(value))
        else:
            found.append(known[key])
    return found


def _read_times(series, zone):
    try:
        times = parse_times(series, str(series.name), zone=zone)
    except (ValueError, TypeError, OverflowError):
        return np.full(len(series), np.nan)
    bad = np.logical_or.reduce(list(times.problems.values()))
    seconds = np.where(bad, np.nan, times.seconds)
    if times.form == "positions" or times.form.startswith("unix"):
        return seconds if times.form != "positions" else np.full(len(series), np.nan)
    # a log has no event before 1973, but a film or a book may be older
    old = np.zeros(len(series), bool)
    for reason in ("negative time", "time before 1973", "time after 2099"):
        old |= times.problems.get(reason, False)
    if old.any():
        text = series[old].astype("str").str.strip()
        text = text.str.replace(r"[/.年月]", "-", regex=True).str.replace("日", "")
        text = text.str.replace(r"-(\d)(?!\d)", r"-0\1", regex=True)
        dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        found = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        seconds[old] = found.to_numpy(np.float64)
    return seconds


def propose(frame: pd.DataFrame) -> dict[str, Column]:
    """Proposes how each column of a table is read, from its values and its name.

    Args:
        frame: such as `Items.frame`, or a frame of numbers, dates and lists.

    Returns:
        {name: `Column`}, in the order of the frame. `item_id`, `user_id` and `title` are never
        features.

    >>> frame = pd.DataFrame({"item_id": ["a", "b"], "tag": ["甲|乙", "乙"], "价": ["￥5", "7元"]})
    >>> {name: column.type for name, column in propose(frame).items()}
    {'item_id': 'id', 'tag': 'categories', '价': 'number'}
    """
    return {str(name): _propose(str(name), frame[name]) for name in frame.columns}


def _propose(name, series):
    series = _series(series)
    seen = _look(name, series)
    if not seen.counts:
        return Column("constant", 1.0, 0, "", "has no value")
    kind, why, *separators = _judged(seen)
    example = seen.counts.most_common(1)[0][0]
    if kind == "vector":
        example = f"{len(unpack_vector(seen.present.iloc[0]))} numbers"
    column = Column(kind, round(seen.missing, 4), len(seen.counts), example, why, *separators)
    return _measured(series, column)


def kind_of(name: str, values: pd.Series | Sequence[Any]) -> Column:
    """Proposes how a column is read, as `propose`, but does not count what there is of it."""
    seen = _look(name, _series(values))
    if not seen.counts:
        return Column("constant", 1.0, 0, "", "has no value")
    kind, why, *separators = _judged(seen)
    return Column(kind, seen.missing, len(seen.counts), "", why, *separators)


def _look(name, series):
    is_there = ~np.array(_each(series, is_missing), bool)
    present = series[is_there].reset_index(drop=True)
    missing = 1 - len(present) / max(len(series), 1)
    counts = Counter(_each(present, _shown))
    rows = np.unique(np.linspace(0, len(present) - 1, min(len(present), _LOOKED_AT)).astype(int))
    return _Seen(name, present.iloc[rows].reset_index(drop=True), rows, counts, missing)


def _judged(seen):
    """Type, why, and of a list of texts what separates its values."""
    for judge in (_by_name, _as_vector, _as_constant, _as_list, _as_time, _as_number):
        if found := judge(seen):
            return found
    return _as_text(seen)


class _Seen(NamedTuple):
    """A column for its judges: its name, some of its values and their rows among those that are
    there, how often each of all values comes, the missing share.
    """

    name: str
    present: pd.Series
    rows: np.ndarray
    counts: Counter
    missing: float


def _shown(value):
    return " ".join(str(value).split())[:60]


def _measured(series, column):
    """The column with the missing share and the different values as its type reads them."""
    if not column.is_feature:
        return column
    values = read_column(series, column)
    if column.type == "categories":
        distinct = len({one for entry in values.tolist() for one in entry})
        missing = np.array([not entry for entry in values])
    elif column.type == "vector":
        distinct, missing = column.distinct, np.array([vector is None for vector in values])
    elif column.type == "category":
        distinct, missing = len(set(values.tolist()) - {""}), values == ""
    else:
        missing = np.isnan(values)
        distinct = len(np.unique(values[~missing]))
    return column._replace(missing=round(float(missing.mean()), 4), distinct=distinct)


def _by_name(seen):
    if seen.name in ("item_id", "user_id"):
        return "id", "names the rows"
    return ("text", "is the title") if seen.name == "title" else None


def _as_vector(seen):
    if all(isinstance(value, str) and value.startswith(PACKED) for value in seen.present.tolist()):
        return "vector", "vectors of another model"
    return None


def _as_constant(seen):
    if len(seen.counts) > 1:
        return None
    if seen.missing:
        return "category", "one value, in some of the rows"
    return "constant", "the same value in all rows"


def _as_list(seen):
    values = seen.present.tolist()
    if not isinstance(values[0], str):
        is_list = isinstance(values[0], list | tuple | set | frozenset | np.ndarray)
        return ("categories", "holds lists") if is_list else None
    if sum(_written_list(value) is not None for value in values if isinstance(value, str)) >= (
        0.9 * len(values)
    ):
        return "categories", "texts of lists"
    marks = separators_of(values)
    if not marks or _share(values, parse_number) >= 0.9:
        return None
    lists = [parse_categories(value, marks) for value in values]
    counts = Counter(one for entry in lists for one in entry)
    lengths = np.repeat([len(one) for one in counts], list(counts.values()))
    is_split = sum(len(entry) > 1 for entry in lists)
    shared = sum(count for count in counts.values() if count > 1) / max(sum(counts.values()), 1)
    # sentences have commas too: their parts are long and do not come again
    enough = 0.2 if marks in ("\x1f", "|") else 0.5
    if is_split >= 0.05 * len(values) and np.median(lengths) <= _TAG_LENGTH and shared >= enough:
        shown = "spaces of lists" if marks == "\x1f" else " ".join(marks)
        return "categories", f"short values between {shown}", marks
    return None


def _as_time(seen):
    if seen.present.dtype.kind == "M" or isinstance(seen.present.dtype, pd.DatetimeTZDtype):
        return "time", "dates"
    texts = [_shown(value) for value in seen.present.tolist()]
    if sum(bool(_DATE.match(text)) for text in texts) < 0.9 * len(texts):
        return None
    is_count = all(re.fullmatch(r"\d{8,}(\.\d+)?", text) for text in texts)
    if is_count and not choose_time({seen.name: False})[1]:
        return None
    times = read_column(seen.present, Column("time", 0.0, 0, "", ""))
    if np.isfinite(times).mean() < 0.9:
        return None
    if is_count and np.nanmin(times) < 0:
        return None
    return "time", "reads as unix times" if is_count and len(texts[0]) > 8 else "reads as dates"


def _as_number(seen):
    values = seen.present.tolist()
    if _share(values, lambda value: 1.0 if _is_flag(value) else np.nan) == 1:
        return "category", "yes and no"
    if _share(values, parse_number) < 0.8:  # some may say "free" or "on request"
        return None
    texts = list(seen.counts)
    word = normalise(seen.name)
    is_code = word.endswith(_CODES) and not word.endswith(("price", "video"))
    is_padded = any(re.match(r"0\d", text) for text in texts)
    if is_code or is_padded:
        why = "its name says a code" if is_code else "zeros before its numbers"
        repeats = len(seen.counts) <= 0.5 * sum(seen.counts.values())
        return ("category", why) if repeats else ("id", why)
    if set(texts) <= {"0", "1", "0.0", "1.0"}:
        return "category", "0 and 1"
    numbers = np.array([parse_number(value) for value in values])
    if len(values) > 20 and np.array_equal(np.diff(numbers), np.diff(seen.rows)):
        return "id", "counts the rows"
    return "number", "reads as numbers"


def _is_flag(value):
    if isinstance(value, bool | np.bool_):
        return True
    return isinstance(value, str) and value.strip().lower() in _YES_NO


def _share(values, parse):
    """The share of values that `parse` reads as a number."""
    return float(np.mean(np.isfinite(_each(pd.Series(values, dtype=object), parse))))


def _as_text(seen):
    total = sum(seen.counts.values())
    length = np.median(np.repeat([len(text) for text in seen.counts], list(seen.counts.values())))
    repeated = sum(count for count in seen.counts.values() if count > 1) / total
    if length <= _NAME_LENGTH and repeated >= 0.5:
        return "category", "values that come again"
    if length > _NAME_LENGTH:
        return "text", "long values"
    if len(seen.counts) == total and all(" " not in text for text in seen.counts):
        ascii_only = all(text.isascii() for text in seen.counts)
        return ("id", "another value in every row") if ascii_only else ("text", "no value repeats")
    return "text", "few values that come again"


# --- a declaration ---


def parse_declaration(
    declaration: str | Sequence[str] | Mapping[str, str], columns: Sequence[str]
) -> dict[str, str]:
    """Reads a declaration such as `"brand:category tags:categories price:number"`.

    Args:
        declaration: words `COLUMN:TYPE` in one text, or as a list, or a mapping, where a name may
            have spaces. The word `auto`
            stands for what `propose` finds in the other columns; a type that is no feature, such as
            `brand:text`, leaves a column out.
        columns: the names that the table has.

    Returns:
        {column: type}; with `auto` also `{"auto": "auto"}`.

    Raises:
        ValueError: an unknown column or type, or a word without a type.

    >>> parse_declaration("brand:category price:number", ["brand", "price"])
    {'brand': 'category', 'price': 'number'}
    """
    if isinstance(declaration, Mapping):
        pairs = [(str(name), str(kind)) for name, kind in declaration.items()]
    else:
        words: Sequence[str] = declaration
        if isinstance(declaration, str):
            words = re.split(r"[\s,，]+", declaration.strip())
        pairs = []
        for word in words:
            name, colon, kind = word.rpartition(":")
            if word == "auto":
                pairs.append(("auto", "auto"))
            elif colon and name:
                pairs.append((name, kind))
            elif word:
                raise ValueError(
                    "features: expected words such as price:number, or auto. Received: "
                    f"'{word[:60]}'. Put one of the types {', '.join(FEATURE_TYPES)} behind it."
                )
    found: dict[str, str] = {}
    for name, kind in pairs:
        if (name, kind) == ("auto", "auto"):
            found["auto"] = "auto"
            continue
        if name not in columns:
            raise ValueError(
                f"features: expected the name of a column. Received: '{name[:60]}'. "
                f"{did_you_mean(name, [str(one) for one in columns][:30])}"
            )
        if kind not in TYPES:
            raise ValueError(
                f"features: expected a type of the column {name}. Received: '{kind[:60]}'. "
                f"{did_you_mean(kind, TYPES)}"
            )
        if found.get(name, kind) != kind:
            raise ValueError(
                f"features: expected one type of the column {name}. Received: {found[name]} and "
                f"{kind}. Leave one of them out."
            )
        found[name] = kind
    return found


def choose_columns(
    frame: pd.DataFrame, declaration: str | Sequence[str] | Mapping[str, str] = "auto"
) -> dict[str, Column]:
    """Chooses the columns of a table that are features, and how they are read.

    Args:
        frame: as for `propose`.
        declaration: as for `parse_declaration`.

    Returns:
        {name: `Column`} in the order of the frame, features only.

    Raises:
        ValueError: as `parse_declaration`; a declared column of which no value reads so, or that
            says nothing of one row by another: empty, the same everywhere, no value of names twice.

    >>> frame = pd.DataFrame({"item_id": ["a", "b"], "price": ["5", "7"]})
    >>> {name: column.type for name, column in choose_columns(frame, "price:category").items()}
    {'price': 'category'}
    """
    declared = parse_declaration(declaration, [str(name) for name in frame.columns])
    found = {}
    for name in map(str, frame.columns):
        if name in declared:
            column = _declared(name, frame[name], declared[name])
        elif "auto" in declared:
            column = _propose(name, frame[name])
        else:
            continue
        if column.is_feature:
            found[name] = column
    return found


def _declared(name, series, kind):
    proposed = _propose(name, series)
    if proposed.type == kind:
        column = proposed._replace(why="declared")
        if column.is_feature:
            _check_telling(name, series, column)
        return column
    marks = separators_of(series.tolist()) if kind == "categories" else ""
    column = _measured(series, proposed._replace(type=kind, why="declared", separators=marks))
    if not column.is_feature:
        return column
    if not proposed.distinct:
        raise _says_nothing(name, kind, "no value in any row")
    if column.missing == 1:
        instead = f"Declare it as {proposed.type}" if proposed.is_feature else "Leave it out"
        raise ValueError(
            f"features: expected values of the type {kind} in the column {name}. Received: values "
            f"such as '{proposed.example}', none of which reads so. {instead}."
        )
    _check_telling(name, series, column)
    return column


def _check_telling(name, series, column):
    """Raise where no two rows have a value in common, or all of them have the same one."""
    if column.type == "vector" or len(series) < _FEW_ROWS:  # too few to say so
        return
    values = read_column(series, column)
    if column.type in ("number", "time"):
        if not column.missing and column.distinct == 1:
            raise _says_nothing(name, column.type, f"'{column.example}' in all rows")
        return
    lists = (
        values if column.type == "categories" else [(value,) if value else () for value in values]
    )
    counts = Counter(one for entry in lists for one in entry)
    if max(counts.values(), default=0) < 2:
        what = f"{len(counts):,} values, each in one row alone, such as '{column.example}'"
        raise _says_nothing(name, column.type, what)
    if len(counts) == 1 and not column.missing:
        raise _says_nothing(name, column.type, f"'{column.example}' in all rows")


def _says_nothing(name, kind, received):
    return ValueError(
        f"features: expected values in the column {name} that say something of a row by others. "
        f"Received: {received}. Leave {name}:{kind} out."
    )
