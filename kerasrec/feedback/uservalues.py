"""Keeps what is known of users, such as age and city, in a store: the table of users.

A user is one row with all that is known: a list is asked for one user. A value that is taken back
is gone, and so is the row of a user who is forgotten.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kerasrec.feedback.database import USERS, Database, sa
from kerasrec.feedback.itemvalues import written

_AT_ONCE = 5000  # users of one query


class UserValues:
    """What is known of the users in an open store.

    Args:
        database: `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_there = False  # whether the table is known to be

    def put(self, changes: Mapping[str, Mapping[str, Any]]) -> int:
        """Stores values, all or none; None takes one back. Returns how many were given.

        Raises:
            ValueError: an id or a value that a store cannot hold.
        """
        now, given = int(time.time()), dict(changes)
        for user, values in given.items():
            for name, value in values.items():
                written("users", user, name, value)
        if not given:
            return 0
        with self._database.writing() as connection:
            if not self._is_there:
                USERS.create(connection, checkfirst=True)
            for some in _parts(given):
                mine = USERS.c.user_id.in_(some)
                old = {user: json.loads(text) for user, text in connection.execute(_read(mine))}
                rows = []
                for user in some:
                    whole = {**old.get(user, {}), **given[user]}
                    known = {name: value for name, value in whole.items() if value is not None}
                    if known:
                        text = json.dumps(known, ensure_ascii=False)
                        rows.append({"user_id": user, "known": text, "timestamp": now})
                connection.execute(sa.delete(USERS).where(mine))
                if rows:
                    connection.execute(sa.insert(USERS), rows)
        self._is_there = True
        return sum(map(len, given.values()))

    def of(self, user_id: str) -> dict[str, Any]:
        """Column -> value, of what is known of a user."""
        with self._database.reading() as connection:
            if not self._has_table(connection):
                return {}
            text = connection.execute(_read(USERS.c.user_id == user_id)).first()
        return {} if text is None else json.loads(text[1])

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields users and what is known of them, in the order of their ids."""
        last = ""
        query = _read(USERS.c.user_id > sa.bindparam("last")).order_by(USERS.c.user_id)
        while True:
            with self._database.reading() as connection:
                if not self._has_table(connection):
                    return
                rows = connection.execute(query.limit(_AT_ONCE), {"last": last}).all()
            yield from ((user, json.loads(text)) for user, text in rows)
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1][0]

    def forget(self, user_id: str, connection: sa.Connection) -> None:
        """Deletes what is known of a user, within a transaction of the caller."""
        if self._has_table(connection):
            connection.execute(sa.delete(USERS).where(USERS.c.user_id == user_id))

    def _has_table(self, connection):
        if not self._is_there:
            self._is_there = sa.inspect(connection).has_table(USERS.name)
        return self._is_there


def _read(condition):
    return sa.select(USERS.c.user_id, USERS.c.known).where(condition)


def _parts(users: Iterable[str]) -> Iterator[list[str]]:
    users = list(users)
    for start in range(0, len(users), _AT_ONCE):
        yield users[start : start + _AT_ONCE]
