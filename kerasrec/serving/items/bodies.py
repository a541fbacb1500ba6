"""Reads and checks what comes in as newer values of items."""

import json
from collections.abc import Sequence
from typing import Any

from kerasrec.features.conditions import shown
from kerasrec.feedback.intake import is_id
from kerasrec.feedback.itemvalues import TAKEN_BACK
from kerasrec.serving.admission import Refusal
from kerasrec.serving.items.live import VersionItems


def key_of(value: Any) -> str:
    """Gives a text that is the same for the same value."""
    return "" if value is TAKEN_BACK else json.dumps(value)


def check_value(versions: Sequence[VersionItems], name: str, value: Any) -> None:
    """Raises unless one of the versions has such a column, and takes such a value."""
    refusals = []
    for version in versions:
        try:
            version.check(name, value)
            return
        except ValueError as error:
            refusals.append(str(error).replace("where: ", "items: ", 1))
    if refusals:
        raise Refusal("INVALID_ARGUMENT", f"{refusals[0]} Nothing was stored.")


def read_values(body: bytes, item_id: str | None = None) -> dict[str, Any]:
    """Reads the values of one item: a JSON object of columns.

    Beside `item_id`, the one of the address, the object may name the same id, and no other.

    >>> read_values(b'{"stock": 0, "price": null}')
    {'stock': 0, 'price': None}
    """
    found = read_json(body)
    if isinstance(found, dict) and item_id is not None and "item_id" in found:
        named = found.pop("item_id")
        if isinstance(named, bool) or not isinstance(named, str | int) or str(named) != item_id:
            raise wrong(f"the item_id of the address, {shown(item_id)}, or none", named)
    if not isinstance(found, dict) or not found:
        message = 'expected columns and values such as {"stock": 0}. Nothing was stored.'
        raise Refusal("INVALID_ARGUMENT", message)
    for name, value in found.items():
        is_list = isinstance(value, list) and all(isinstance(one, str | int) for one in value)
        if not (is_list or isinstance(value, str | int | float | None)):
            raise wrong(f"a text, number, true, false, null or list as {name[:40]}", value)
    return found


def read_items(body: bytes) -> dict[str, dict[str, Any]]:
    """Reads the values of many items: a list of objects with `item_id`, or `{"items": [...]}`.

    >>> read_items(b'[{"item_id": "a", "stock": 0}, {"item_id": 7, "stock": 3}]')
    {'a': {'stock': 0}, '7': {'stock': 3}}
    """
    found = read_json(body)
    if isinstance(found, dict) and set(found) == {"items"}:
        found = found["items"]
    if not isinstance(found, list):
        message = 'expected a list such as [{"item_id": "i1", "stock": 0}]. Nothing was stored.'
        raise Refusal("INVALID_ARGUMENT", message)
    changes: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(found, 1):
        item = row.pop("item_id", None) if isinstance(row, dict) else None
        item = str(item) if isinstance(item, int) and not isinstance(item, bool) else item
        if not isinstance(item, str) or not is_id(item):
            raise wrong(f"an item_id in item {number}", item)
        changes.setdefault(item, {}).update(read_values(json.dumps(row).encode()))
    return changes


def read_json(body: bytes) -> Any:
    """Reads JSON; raises `Refusal` where it is none."""
    try:
        return json.loads(body)
    except RecursionError:
        raise Refusal("INVALID_ARGUMENT", "too many lists inside each other") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise Refusal("INVALID_ARGUMENT", f"JSON Parse error: {error}") from None


def wrong(expected: str, received: Any) -> Refusal:
    """Makes the refusal of a value."""
    message = f"items: expected {expected}. Received: {shown(received)}. Nothing was stored."
    return Refusal("INVALID_ARGUMENT", message)
