"""What a served version knows of users: the columns of its groups, and values of them.

Values come with a request (`user_age=31`) and from the table of users in the feedback store; those
of the request count where both name a column.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.checks import did_you_mean
from kerasrec.features.columntypes import is_missing, read_column
from kerasrec.features.conditions import shown
from kerasrec.features.usergroups import USER_INPUT, UserGroups
from kerasrec.feedback.intake import is_id
from kerasrec.serving.admission import Refusal
from kerasrec.serving.items.bodies import read_json
from kerasrec.versions.usergraph import input_names

_KEPT = 4096  # values whose groups are remembered
_NUMBERS = {"number": "a number", "time": "a time, such as 1990-05-20 or UTC seconds"}


class UserColumns:
    """The columns of users that a version knows.

    Attributes:
        columns: name -> `FeatureColumn`.
        inputs: how a request names them: `user_age` -> "age".

    Args:
        groups: `UserGroups` of the version.
    """

    def __init__(self, groups: UserGroups) -> None:
        self._groups, self.columns = groups, groups.columns
        self.inputs = dict(zip(input_names(groups.columns), groups.columns, strict=True))
        # a value costs half a millisecond to read, and most users have one of a few
        self._rows_of = functools.lru_cache(_KEPT, typed=True)(self._read)
        self._checked = functools.lru_cache(_KEPT, typed=True)(self._check)

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError where there is no such column, or where it cannot hold the value."""
        self._check(name, value) if isinstance(value, list) else self._checked(name, value)

    def _check(self, name: str, value: Any) -> None:
        if name not in self.columns:
            raise ValueError(
                f"users: unknown column {shown(name)}. {did_you_mean(name, list(self.columns))}"
            )
        column = self.columns[name].column
        is_list = isinstance(value, list)
        if is_missing(value) or (is_list and column.type == "categories"):
            return
        expected = _NUMBERS.get(column.type)
        is_read = expected is None or not (is_list or np.isnan(read_column([value], column)[0]))
        if is_list or not is_read:
            raise ValueError(
                f"users: expected {expected or 'a text or a number'} for the column {shown(name)}. "
                f"Received: {shown(value)}."
            )

    def asked(self, known: Mapping[str, str]) -> dict[str, str]:
        """Reads what a request says of a user: `{"user_age": "31"}` is `{"age": "31"}`.

        A column may be named as in its table too: `user_城市`.

        Raises:
            Refusal: INVALID_ARGUMENT: a column that there is not, or twice, or another value.
        """
        found: dict[str, str] = {}
        for name, text in known.items():
            bare = name.removeprefix(USER_INPUT)
            named = (self.inputs.get(name), bare, name, self.inputs.get(bare))
            column = next((one for one in named if one in self.columns), None)
            if column is None:
                expected = f"one of {', '.join(self.inputs)}, what this version knows of users"
                raise _wrong(expected, name)
            if column in found:
                raise _wrong(f"the column {column[:40]} once", name)
            try:
                self.check(column, text)
            except ValueError:
                kind = _NUMBERS[self.columns[column].column.type]
                raise _wrong(f"{kind} as {name}", text) from None
            found[column] = text
        return found

    def members(self, values: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
        """Says how far a user belongs to each group, float32 `(1, num_groups)`.

        Args:
            values: column -> value; others are unknown.

        Returns:
            That, and the columns whose value no group has: an unknown city says nothing.
        """
        parts, strange = [np.zeros((1, 0), np.float32)], []
        for name in self.columns:
            value = values.get(name)
            part = (
                self._read(name, value) if isinstance(value, list) else self._rows_of(name, value)
            )
            if name in values and not is_missing(values[name]) and not part.any():
                strange.append(name)
            parts.append(part)
        return np.concatenate(parts, axis=1), strange

    def _read(self, name: str, value: Any) -> np.ndarray:
        """How far a value belongs to the groups of its column, float32 `(1, width)`."""
        return self.columns[name].rows(pd.Series([value], dtype=object))


def check_users(
    versions: Sequence[UserColumns], changes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Checks values of users; gives the columns that no version uses, where none has groups.

    Raises:
        Refusal: INVALID_ARGUMENT: one of the versions must have such a column and take the value.
    """
    names = {name for values in changes.values() for name in values}
    if not versions:
        return sorted(names)
    wanted = {
        (name, json.dumps(value)): value
        for values in changes.values()
        for name, value in values.items()
    }
    for (name, _), value in wanted.items():
        refusals = []
        for version in versions:
            try:
                version.check(name, value)
                break
            except ValueError as error:
                refusals.append(str(error))
        else:
            raise Refusal("INVALID_ARGUMENT", f"{refusals[0]} Nothing was stored.")
    return []


def read_users(body: bytes) -> dict[str, dict[str, Any]]:
    """Reads what is known of many users: a list of objects with `user_id`, or `{"users": [...]}`.

    >>> read_users(b'[{"user_id": "u", "age": 30}, {"user_id": 7, "city": null}]')
    {'u': {'age': 30}, '7': {'city': None}}
    """
    found = read_json(body)
    if isinstance(found, dict) and set(found) == {"users"}:
        found = found["users"]
    if not isinstance(found, list):
        raise _unread('a list such as [{"user_id": "u1", "age": 30}]', found)
    changes: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(found, 1):
        user = row.pop("user_id", None) if isinstance(row, dict) else None
        user = str(user) if isinstance(user, int) and not isinstance(user, bool) else user
        if not isinstance(user, str) or not is_id(user):
            raise _unread(f"a user_id in user {number}", user)
        changes.setdefault(user, {}).update(_values_of(row))
    return changes


def read_user(body: bytes, user_id: str) -> dict[str, Any]:
    """Reads what is known of one user: a JSON object of columns, which may name the same id.

    >>> read_user(b'{"age": 30, "city": null}', "u1")
    {'age': 30, 'city': None}
    """
    found = read_json(body)
    if isinstance(found, dict) and "user_id" in found:
        named = found.pop("user_id")
        if isinstance(named, bool) or not isinstance(named, str | int) or str(named) != user_id:
            raise _unread(f"the user_id of the address, {shown(user_id)}, or none", named)
    return _values_of(found)


def _values_of(found):
    if not isinstance(found, dict) or not found:
        raise _unread('columns and values such as {"age": 30}', found)
    for name, value in found.items():
        is_list = isinstance(value, list) and all(isinstance(one, str | int) for one in value)
        if not (is_list or isinstance(value, str | int | float | None)):
            raise _unread(f"a text, number, true, false, null or list as {name[:40]}", value)
    return found


def _unread(expected, received):
    message = f"users: expected {expected}. Received: {shown(received)}. Nothing was stored."
    return Refusal("INVALID_ARGUMENT", message)


def _wrong(expected, received):
    message = f"expected {expected}. Received: {received[:80]!r}. Correct the address."
    return Refusal("INVALID_ARGUMENT", message)
