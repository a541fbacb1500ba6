"""A large log as whole numbers; rows are left out by the rules of `clean`.

The table `coded` has `row`, `user_code`, `item_code`, `timestamp`, `nanos`, `event_code`, `value`,
`weight`. The tables `users` and `items` have `code` (the first row in which the id stands) and
`name`. The order of the events is that of (`timestamp`, `nanos`, `row`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kerasrec.data.cleaning import check_options, limit_of_counts, refuse_unknown
from kerasrec.data.interactions import Items
from kerasrec.data.large.database import put, run
from kerasrec.data.large.staging import LargeLog
from kerasrec.data.matching import Match, match_counts

#: what the order of events goes by
_NEWER = "timestamp, nanos, row"


class CodedLog:
    """A log whose table `events` has become `coded`; each step adds a line to `report`.

    Attributes:
        connection, columns, timezone, has_time: as of `LargeLog`.
        report: what was left out so far.
    """

    def __init__(self, log: LargeLog) -> None:
        self.connection, self.columns, self.report = log.connection, log.columns, log.report
        self.timezone, self.has_time = log.timezone, log.has_time
        for table, name in (("users", "user_id"), ("items", "item_id"), ("kinds", "event")):
            self._run(
                f"CREATE TABLE {table} AS SELECT min(row) AS code, {name} AS name FROM events "
                f"GROUP BY {name}"
            )
        self._run(
            "CREATE TABLE coded AS SELECT row, users.code AS user_code, items.code AS item_code, "
            "timestamp, nanos, kinds.code AS event_code, value, weight FROM events "
            "JOIN users ON users.name = user_id JOIN items ON items.name = item_id "
            "JOIN kinds ON kinds.name = event"
        )
        self._run("DROP TABLE events")

    def _run(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        return run(self.connection, query, values)

    @property
    def num_rows(self) -> int:
        """Events that are left."""
        return int(self._run("SELECT count(*) FROM coded")[0][0])

    def counts(self, of: str) -> np.ndarray:
        """Events of each of the `"users"` or `"items"` that has some, int64, in no order."""
        code = _CODES[of]
        found = self.connection.sql(f"SELECT count(*) AS n FROM coded GROUP BY {code}")
        return np.asarray(found.fetchnumpy()["n"], np.int64)

    def match(self, items: Items) -> Match:
        """Compares the item ids with those of a catalogue, as `match_ids` does."""
        found = self.connection.sql(
            "SELECT name, n FROM items JOIN (SELECT item_code, count(*) AS n FROM coded "
            "GROUP BY item_code) ON item_code = code ORDER BY code"
        ).fetchnumpy()
        names = np.asarray(found["name"], object)
        return match_counts(
            names, found["n"], items, self.columns, lambda: self._known_users(items)
        )

    def _known_users(self, items):
        self._put_catalogue(items)
        known = self._run(
            "SELECT count(*) FROM coded SEMI JOIN (SELECT code FROM users SEMI JOIN catalogue "
            "USING (name)) AS known ON user_code = known.code"
        )[0][0]
        return known / max(self.num_rows, 1)

    def _put_catalogue(self, items):
        self._run("CREATE OR REPLACE TABLE catalogue (name VARCHAR)")
        put(self.connection, "catalogue", pa.table({"name": pa.array(items.ids, pa.string())}))

    # --- the steps of `clean` ---

    def clean(
        self,
        items: Items | None = None,
        *,
        repeats: str = "keep",
        min_user_events: int = 0,
        min_item_events: int = 0,
        max_user_events: int | str | None = None,
        unknown_items: str | Callable[[Match], str] = "error",
    ) -> None:
        """Leaves out events by the rules and in the order of `clean`, whose options these are.

        `unknown_items` may also say so of a `Match`.

        Raises:
            ValueError: as `clean`.
        """
        if not isinstance(unknown_items, str):
            unknown_items = "error" if items is None else unknown_items(self.match(items))
        check_options(repeats, unknown_items, max_user_events)
        before, begin = self.num_rows, len(self.report.steps)
        if items is not None:
            self._skip_unknown_items(items, unknown_items)
        if max_user_events is not None:
            self._skip_crawlers(max_user_events)
        if repeats == "exact":
            self._skip_exact_repeats()
        elif repeats != "keep":
            self._skip_repeats(repeats)
        if max(min_user_events, min_item_events) > 1:
            self._skip_rare(min_user_events, min_item_events)
        if not self.num_rows:
            steps = "; ".join(f"{one.removed} x {one.what}" for one in self.report.steps[begin:])
            raise ValueError(
                f"expected at least one event after cleaning. Received: none of {before} "
                f"({steps}). Ask for less."
            )

    def keep(
        self, rows: str, what: str, *, count: int | None = None, example: Callable[[], str] = str
    ) -> None:
        """Keeps the rows of a condition or join on `coded`; adds a line, also if none went.

        `example` is asked while the table `coded` still has all rows and `kept` those that stay.
        """
        before = self.num_rows
        self._run(f"CREATE TABLE kept AS SELECT coded.* FROM coded {rows}")
        removed = before - int(self._run("SELECT count(*) FROM kept")[0][0])
        self.report = self.report.add(
            "clean",
            what,
            removed if count is None else count,
            removed=removed,
            example=example() if removed else "",
        )
        self._run("DROP TABLE coded")
        self._run("ALTER TABLE kept RENAME TO coded")

    def _skip_unknown_items(self, items, unknown_items):
        self._put_catalogue(items)
        unknown = self._run(
            "SELECT name FROM items ANTI JOIN catalogue USING (name) ORDER BY code LIMIT 1"
        )
        if not unknown:
            return
        if unknown_items == "error":
            raise ValueError(refuse_unknown(self.match(items)))
        known = "SELECT code FROM items SEMI JOIN catalogue USING (name)"
        self.keep(
            f"SEMI JOIN ({known}) AS known ON item_code = known.code",
            "events of items that the catalogue lacks",
            example=lambda: unknown[0][0],
        )

    def _skip_crawlers(self, limit):
        counts = self.counts("users")
        rule = "" if limit != "auto" else " (auto: 10 x the 99 % quantile, at least 100)"
        limit = limit_of_counts(counts) if limit == "auto" else limit
        crawlers = f"SELECT user_code FROM coded GROUP BY user_code HAVING count(*) > {int(limit)}"
        self.keep(
            f"ANTI JOIN ({crawlers}) AS crawlers USING (user_code)",
            f"users with more than {limit} events{rule}",
            count=int((counts > limit).sum()),
            example=lambda: "{}: {} events".format(
                *self._run(
                    "SELECT name, count(*) AS n FROM coded JOIN users ON code = user_code "
                    "GROUP BY name, code ORDER BY n DESC, code LIMIT 1"
                )[0]
            ),
        )

    def _skip_repeats(self, which):
        way = "DESC" if which == "last" else ""
        order = ", ".join(f"{name} {way}" for name in _NEWER.split(", "))
        self.keep(
            f"QUALIFY row_number() OVER (PARTITION BY user_code, item_code ORDER BY {order}) = 1",
            f"repeated pairs of user and item, all but the {which}",
            example=lambda: "{}, {}".format(
                *self._run(
                    "SELECT users.name, items.name FROM (SELECT * FROM coded ANTI JOIN kept "
                    "USING (row) ORDER BY row LIMIT 1) JOIN users ON users.code = user_code "
                    "JOIN items ON items.code = item_code"
                )[0]
            ),
        )

    def _skip_exact_repeats(self):
        self.keep(
            "QUALIFY row_number() OVER "
            f"(PARTITION BY user_code, item_code, timestamp ORDER BY {_NEWER}) = 1",
            "events logged twice (same user, item and time)",
        )

    def _skip_rare(self, min_user_events, min_item_events):
        rounds = self.find_core(min_user_events, min_item_events)
        users, items = (
            self._run(f"SELECT count(DISTINCT {code}) FROM coded")[0][0] for code in _CODES.values()
        )
        left = [self._run(f"SELECT count(*) FROM core_{of} WHERE n > 0")[0][0] for of in _CODES]
        gone = users - left[0], items - left[1]
        self.keep(
            "SEMI JOIN core_users USING (user_code) SEMI JOIN core_items USING (item_code)",
            f"events outside the core (users >= {min_user_events}, items >= {min_item_events} "
            f"events, {rounds} rounds)",
            example=lambda: f"{gone[0]} users, {gone[1]} items gone" if any(gone) else "",
        )

    def find_core(self, min_user_events: int, min_item_events: int) -> int:
        """Makes the tables `core_users` and `core_items`, as `k_core` does it.

        Each has a code and `n`, the events of it within the core.

        Returns:
            Rounds until nothing changed.
        """
        least = {"users": min_user_events, "items": min_item_events}
        inside, rounds = "", 0
        while True:
            is_stable = True
            for of, code in _CODES.items():
                self._run(
                    f"CREATE OR REPLACE TABLE next_{of} AS SELECT {code}, count(*) AS n "
                    f"FROM coded {inside} GROUP BY {code}"
                )
                few = f"SELECT count(*) FROM next_{of} WHERE n < {int(least[of])}"
                is_stable &= not self._run(few)[0][0]
            for of in _CODES:
                self._run(
                    f"CREATE OR REPLACE TABLE core_{of} AS SELECT * FROM next_{of} "
                    f"WHERE n >= {int(least[of])}"
                )
            if is_stable:
                return rounds
            rounds += 1
            inside = "SEMI JOIN core_users USING (user_code) SEMI JOIN core_items USING (item_code)"

    # --- what makes a log small ---

    def draw_users(self, most: int) -> None:
        """Keeps at most so many users, drawn by their ids: the same ones whenever it is done."""
        drawn = (
            "SELECT code FROM users SEMI JOIN coded ON user_code = code "
            f"ORDER BY md5(name) LIMIT {int(most)}"
        )
        self.keep(
            f"SEMI JOIN ({drawn}) AS drawn ON user_code = drawn.code",
            f"events of users beyond {most} that were drawn by their ids",
        )

    def newest(self, last: int) -> None:
        """Keeps the newest events of each user, at most `last`."""
        self._run(
            "CREATE OR REPLACE TABLE many AS SELECT user_code FROM coded GROUP BY user_code "
            f"HAVING count(*) > {int(last)}"
        )
        users = int(self._run("SELECT count(*) FROM many")[0][0])
        order = ", ".join(f"{name} DESC" for name in _NEWER.split(", "))
        # only users with more are put in order; of each the oldest event that stays says enough
        ranked = f"row_number() OVER (PARTITION BY user_code ORDER BY {order})"
        self._run(
            "CREATE OR REPLACE TABLE oldest AS SELECT user_code, timestamp AS t, nanos AS n, "
            "row AS r FROM (SELECT user_code, timestamp, nanos, row FROM coded SEMI JOIN many "
            f"USING (user_code)) QUALIFY {ranked} = {int(last)}"
        )
        self.keep(
            f"LEFT JOIN oldest USING (user_code) WHERE r IS NULL OR ({_NEWER}) >= (t, n, r)",
            f"events before the newest {last} of a user",
            example=lambda: f"{users} users have more",
        )


_CODES = {"users": "user_code", "items": "item_code"}
