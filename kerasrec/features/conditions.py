"""Reads conditions on items, `where`, in their several forms; knows nothing of a catalogue.

A condition is a mapping, `{"category": ["图书", "音像"], "price": {"lt": 50}}`: all its entries
hold. `itemcolumns` says which items meet it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from kerasrec.checks import did_you_mean

#: what the operators of a column mean
OPERATORS = {
    "eq": "equals",
    "ne": "is another value",
    "lt": "below",
    "le": "at most",
    "gt": "above",
    "ge": "at least",
    "in": "is one of a list",
    "between": "from the first to the second of two, both included",
    "contains": "a list has all of these; a text has this part",
    "exists": "true: there is a value; false: there is none",
}
#: that compare by size
ORDERED = ("lt", "le", "gt", "ge", "between")
_JOINS = ("and", "or", "not")
#: longest first: `<=` is no `<` of `=5`
_MARKS = {"<=": "le", ">=": "ge", "!=": "ne", "≤": "le", "≥": "ge", "≠": "ne", "<": "lt",
          ">": "gt", "=": "eq"}  # fmt: skip
_SHORT = re.compile(r"\s*([^<>=!≤≥≠]+?)\s*(<=|>=|!=|≤|≥|≠|<|>|=)\s*(.*?)\s*", re.S)
#: bounds of what a server computes for a stranger
_DEEPEST, _MOST_NODES, _MOST_VALUES, _LONGEST = 16, 256, 10_000, 1000
#: what `read_where` takes
Condition: TypeAlias = "Mapping[str, Any] | str | Sequence[str] | Where | None"


class Leaf(NamedTuple):
    """One comparison: a column, one of `OPERATORS`, and a value or a list of values."""

    column: str
    operator: str
    value: Any


class Branch(NamedTuple):
    """Comparisons that are joined by `and` or `or`, or the one that is turned round by `not`."""

    join: str
    parts: "tuple[Branch | Leaf, ...]"


class Where(NamedTuple):
    """A condition that was read.

    `tree` is its parts; `columns` the columns that it names, each once; `key` JSON of the same
    condition, which `read_where` reads.
    """

    tree: Branch | Leaf
    columns: tuple[str, ...]
    key: str


def read_where(where: Condition) -> Where | None:
    """Reads a condition.

    Args:
        where: a mapping of columns to what they must be: a value (equal), a list of values (one of
            them), None (no value), or a mapping of `OPERATORS`, all of which hold. The keys `and`
            and `or` take lists of conditions, `not` one condition. Or JSON of such a mapping; or a
            short form such as `"price<50"`, or a list of these, which all hold, while several `=`
            of one column mean one of the values. None and an empty one stand for all items.

    Returns:
        `Where`; None for all items.

    Raises:
        ValueError, TypeError: something else; an unknown operator, with the nearest one.

    >>> read_where({"price": {"lt": 50}, "category": ["图书"]}).tree.parts[0]
    Leaf(column='price', operator='lt', value=50)
    >>> read_where("price<50") == read_where('{"price": {"lt": "50"}}'), read_where({})
    (True, None)
    """
    if where is None or isinstance(where, Where):
        return where
    if isinstance(where, str):
        where = _from_text(where)
    elif not isinstance(where, Mapping):
        where = _from_words(where)
    tree = _conditions(where, [0], 0)
    if tree is None:
        return None
    columns = tuple(dict.fromkeys(_columns(tree)))
    return Where(tree, columns, json.dumps(_plain(tree), ensure_ascii=False))


def shown(value: Any, most: int = 60) -> str:
    """Writes a value for a message: on one line, its start alone where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _from_text(text):
    text = text.strip()
    if not text:
        return {}
    if text[0] != "{":
        return _from_words([text])
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"where: expected JSON such as {_EXAMPLE}. Received: {shown(text)} "
            f"({_one_line(error)}). Correct it."
        ) from None
    return found


_EXAMPLE = '{"category": "book", "price": {"lt": 50}}'


def _no_number(word):
    raise ValueError(f"{word} is no number")


def _one_line(error):
    return " ".join(str(error).split())[:80] or type(error).__name__


def _from_words(words):
    """A mapping of short forms `price<50`; several `=` of a column are one of its values."""
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise TypeError(
            f"where: expected a mapping such as {_EXAMPLE}, or texts such as 'price<50'. Received: "
            f"{shown(words)}."
        )
    equal: dict[str, list[str]] = {}
    parts: list[Any] = []
    for word in words:
        if word.lstrip()[:1] == "{":
            parts.append(_from_text(word))
            continue
        match = _SHORT.fullmatch(word)
        if not match:
            raise ValueError(
                f"where: expected COLUMN=VALUE, COLUMN<VALUE or JSON such as {_EXAMPLE}. Received: "
                f"{shown(word)}. Correct it."
            )
        column, mark, value = match.groups()
        if _MARKS[mark] == "eq":
            equal.setdefault(column, []).append(value)
        else:
            parts.append({column: {_MARKS[mark]: value}})
    parts += [{name: values[0] if len(values) == 1 else values} for name, values in equal.items()]
    return parts[0] if len(parts) == 1 else {"and": parts}


def _conditions(where, count, depth):
    """The tree of a mapping, all whose entries hold; None where it has none."""
    if not isinstance(where, Mapping):
        raise TypeError(f"where: expected a mapping such as {_EXAMPLE}. Received: {shown(where)}.")
    if depth > _DEEPEST:
        raise ValueError(f"where: expected at most {_DEEPEST} conditions inside each other.")
    parts = []
    for name, value in where.items():
        count[0] += 1
        if count[0] > _MOST_NODES:
            raise ValueError(f"where: expected at most {_MOST_NODES} conditions together.")
        if name in ("and", "or"):
            parts.append(_joined(name, value, count, depth))
        elif name == "not":
            inside = _conditions(value, count, depth + 1)
            parts.append(Branch("not", (inside if inside is not None else Branch("and", ()),)))
        else:
            parts += _of_column(_name(name), value)
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else Branch("and", tuple(parts))


def _joined(join, value, count, depth):
    if isinstance(value, Mapping) or not isinstance(value, list | tuple):
        raise TypeError(
            f"where: expected a list of conditions behind {join}, such as "
            f'{{"{join}": [{{"price": {{"lt": 50}}}}, ...]}}. Received: {shown(value)}.'
        )
    inside = [_conditions(one, count, depth + 1) for one in value]
    if join == "or" and (not inside or any(one is None for one in inside)):
        # one that says nothing is met by all; of none, none is met
        return Branch("or", ()) if not inside else None
    parts = tuple(one for one in inside if one is not None)
    return Branch(join, parts) if parts else None


def _name(name):
    if not isinstance(name, str) or not name or len(name) > _LONGEST:
        raise ValueError(f"where: expected the name of a column. Received: {shown(name)}.")
    return name


def _of_column(column, value):
    if isinstance(value, Mapping):
        if not value:
            raise ValueError(
                f"where: expected an operator of the column {shown(column)}, such as "
                f'{{"lt": 50}}. Received: an empty mapping.'
            )
        return [_compared(column, name, given) for name, given in value.items()]
    if value is None:
        return [Leaf(column, "exists", False)]
    if _is_list(value):
        return [Leaf(column, "in", _values(column, value))]
    return [Leaf(column, "eq", _value(column, value))]


def _compared(column, operator, value):
    if operator not in OPERATORS:
        raise ValueError(
            f"where: unknown operator {shown(operator)} of the column {shown(column)}. "
            f"{did_you_mean(str(operator)[:60], list(OPERATORS))}"
        )
    if operator == "exists":
        if not isinstance(value, bool):
            raise ValueError(
                f"where: expected true or false as exists of the column {shown(column)}. Received: "
                f"{shown(value)}."
            )
        return Leaf(column, "exists", value)
    if operator in ("in", "between") or (operator == "contains" and _is_list(value)):
        if not _is_list(value):
            raise ValueError(
                f"where: expected a list as {operator} of the column {shown(column)}. Received: "
                f"{shown(value)}."
            )
        values = _values(column, value)
        if operator == "between" and len(values) != 2:
            raise ValueError(
                f"where: expected two values as between of the column {shown(column)}, the least "
                f"and the largest. Received: {len(values)}."
            )
        return Leaf(column, operator, values)
    if value is None and operator in ("eq", "ne"):
        return Leaf(column, "exists", operator == "ne")
    if operator == "ne" and _is_list(value):
        return Branch("and", tuple(Leaf(column, "ne", one) for one in _values(column, value)))
    return Leaf(column, operator, _value(column, value))


def _is_list(value):
    return not isinstance(value, str | bytes | Mapping) and hasattr(value, "__iter__")


def _values(column, values):
    values = list(values)
    if len(values) > _MOST_VALUES:
        raise ValueError(
            f"where: expected at most {_MOST_VALUES} values of the column {shown(column)}. "
            f"Received: {len(values)}."
        )
    return tuple(_value(column, value) for value in values)


def _value(column, value):
    value = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    if not isinstance(value, str | bool | int | float) or value != value:
        raise ValueError(
            f"where: expected a text or a number for the column {shown(column)}. Received: "
            f"{shown(value)}."
        )
    if isinstance(value, str) and len(value) > _LONGEST:
        raise ValueError(
            f"where: expected at most {_LONGEST} characters for the column {shown(column)}. "
            f"Received: {len(value)}."
        )
    return value


def _columns(node):
    if isinstance(node, Leaf):
        return [node.column]
    return [name for part in node.parts for name in _columns(part)]


def _plain(node):
    """The mapping of a tree."""
    if isinstance(node, Leaf):
        return {node.column: {node.operator: node.value}}
    parts = [_plain(part) for part in node.parts]
    return {"not": parts[0]} if node.join == "not" else {node.join: parts}
