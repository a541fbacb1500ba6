"""Keeps values of items that change by the minute, such as stock and prices, in a store.

They lie above the catalogue of every version and touch none. What is newest of an item and a column
counts, until it is taken back.
"""

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kerasrec.feedback.database import ITEMS, Database, sa
from kerasrec.feedback.intake import MAX_LENGTH, is_id

#: stands for a value that is taken back: that of the catalogue counts again
TAKEN_BACK = object()
_AT_ONCE = 10_000
_LONGEST = 4000  # characters of a value


class ItemChange(NamedTuple):
    """Holds one value of one item.

    `seq` grows with every change in the store. `value` is a text, number, boolean, list or None (no
    value); `TAKEN_BACK` where the catalogue counts again.
    """

    seq: int
    item_id: str
    column: str
    value: Any


class ItemValues:
    """The values of items in an open store.

    Args:
        database: `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_there = False  # whether the table is known to be

    def put(self, changes: Mapping[str, Mapping[str, Any]]) -> int:
        """Stores values, all or none; returns the seq of the last one, 0 without any.

        Raises:
            ValueError: an id or a value that a store cannot hold.
        """
        now = int(time.time())
        rows = [
            {"item_id": item, "name": name, "value": _value(item, name, value), "timestamp": now}
            for item, values in changes.items()
            for name, value in values.items()
        ]
        if not rows:
            return 0
        keys = [{"one": row["item_id"], "other": row["name"]} for row in rows]
        old = sa.delete(ITEMS).where(
            ITEMS.c.item_id == sa.bindparam("one"), ITEMS.c.name == sa.bindparam("other")
        )
        with self._database.writing() as connection:
            if not self._is_there:
                ITEMS.create(connection, checkfirst=True)
            for start in range(0, len(rows), _AT_ONCE):
                # a new row, not the old one changed: its seq is how others hear of it
                connection.execute(old, keys[start : start + _AT_ONCE])
                connection.execute(sa.insert(ITEMS), rows[start : start + _AT_ONCE])
            last = connection.execute(sa.select(sa.func.max(ITEMS.c.seq))).scalar_one()
        self._is_there = True
        return int(last)

    def after(self, seq: int = 0) -> list[ItemChange]:
        """Reads the values with a greater seq, in its order."""
        with self._database.reading() as connection:
            if not self._is_there:
                self._is_there = sa.inspect(connection).has_table(ITEMS.name)
            if not self._is_there:
                return []
            columns = (ITEMS.c.seq, ITEMS.c.item_id, ITEMS.c.name, ITEMS.c.value)
            found = sa.select(*columns).where(ITEMS.c.seq > seq).order_by(ITEMS.c.seq)
            rows = connection.execute(found).all()
        return [
            ItemChange(number, item, name, TAKEN_BACK if text is None else json.loads(text))
            for number, item, name, text in rows
        ]


def _value(item, name, value):
    """The text of a value, None where it is taken back."""
    is_back = value is TAKEN_BACK
    text = written("items", item, name, None if is_back else value)
    return None if is_back else text


def written(what: str, ident: str, name: str, value: Any) -> str:
    """Writes a value as the text that a store keeps.

    Args:
        what: "items" or "users".
        ident: id of an item or of a user.
        name: of the column.
        value: text, number, boolean, list or None.

    Raises:
        ValueError: an id, a name or a value that a store cannot hold.
    """
    key = f"{what[:-1]}_id"
    for role, text in ((key, ident), ("the name of a column", name)):
        if not isinstance(text, str) or not is_id(text):
            raise ValueError(
                f"{what}: expected a text of at most {MAX_LENGTH} characters as {role}. Received: "
                f"{str(text)[:40]!r}. Nothing was stored."
            )
    if name == key:
        raise ValueError(
            f"{what}: expected a column other than {key}, which says what {what[:-1]} it is. "
            f"Received: {key} of {ident[:40]}. Leave it out. Nothing was stored."
        )
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError):
        text = ""
    if not text or len(text) > _LONGEST or "\\u0000" in text:
        raise ValueError(
            f"{what}: expected a text, a number, true, false, null or a list as {name[:40]} of "
            f"{ident[:40]}, of at most {_LONGEST} characters. Received: another value. Nothing was "
            "stored."
        )
    return text
