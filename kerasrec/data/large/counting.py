"""Counts a large log: the same `Figures` as of a log in memory."""

import numpy as np

from kerasrec.data.cleaning import limit_of_counts
from kerasrec.data.large.coded import CodedLog
from kerasrec.data.large.database import kth_values, run
from kerasrec.data.statistics import CORE, NOBODY, TOP_CRAWLERS, Figures

#: events that are put into groups of few at once
_AT_ONCE = 8_000_000


def count_coded(coded: CodedLog, *, share: float = 0.1) -> Figures:
    """Counts what `describe` and `find_problems` speak of; does what `count_figures` does."""
    user_counts, item_counts = coded.counts("users"), coded.counts("items")
    mean, num_values = _one(coded, "SELECT avg(value), count(*) FROM coded WHERE NOT isnan(value)")
    limit = limit_of_counts(user_counts)
    return Figures(
        columns=coded.columns,
        report=coded.report,
        timezone=coded.timezone,
        user_counts=user_counts,
        item_counts=item_counts,
        pairs=_in_groups(coded, "user_code, item_code", "count(*)"),
        core=_core(coded),
        event_types=_rows(
            coded,
            "SELECT name, count(*) AS n FROM coded JOIN kinds ON code = event_code "
            "GROUP BY name, code ORDER BY n DESC, code",
        ),
        values=(mean or 0.0, num_values),
        same_second=_in_groups(coded, "user_code, timestamp", "sum(n) FILTER (n > 1)"),
        twice=coded.num_rows - _in_groups(coded, "user_code, timestamp, item_code", "count(*)"),
        times=_one(coded, "SELECT min(timestamp), max(timestamp) FROM coded")
        if coded.has_time
        else None,
        late=_late(coded, share) if coded.has_time else {},
        share=share,
        most_active=_rows(
            coded,
            "SELECT name, n FROM (SELECT user_code, count(*) AS n FROM coded GROUP BY user_code "
            f"HAVING n > {limit}) JOIN users ON code = user_code ORDER BY n DESC, code "
            f"LIMIT {TOP_CRAWLERS}",
        ),
        nobody=_rows(
            coded,
            "SELECT name, count(*) FROM coded JOIN users ON code = user_code "
            f"WHERE name IN ({', '.join('?' * len(NOBODY))}) GROUP BY name, code ORDER BY code",
            NOBODY,
        ),
        masked=_masked(coded),
        meet=lambda items: _meet(coded, items),
        match=coded.match,
    )


def _rows(coded, query, values=()):
    return run(coded.connection, query, values)


def _one(coded, query):
    return _rows(coded, query)[0]


def _in_groups(coded, columns, figure):
    """A figure of the rows that agree in some columns, of which there are `n` in each group.

    There may be nearly as many groups as events: some of the users are counted at a time.
    """
    times = 1 + coded.num_rows // _AT_ONCE
    query = (
        f"SELECT coalesce({figure}, 0) FROM (SELECT count(*) AS n FROM coded "
        f"WHERE user_code % {times} = {{}} GROUP BY {columns})"
    )
    return sum(int(_one(coded, query.format(number))[0]) for number in range(times))


def _core(coded):
    coded.find_core(CORE, CORE)
    events, users = _one(coded, "SELECT coalesce(sum(n), 0), count(*) FROM core_users")
    return int(events), users, _one(coded, "SELECT count(*) FROM core_items")[0]


def _late(coded, share):
    edge = kth_values(coded.connection, "coded", [int(coded.num_rows * (1 - share))])[0]
    late = _one(coded, f"SELECT count(*) FROM coded WHERE timestamp >= {edge}")[0]
    found = {}
    for of, code in (("items", "item_code"), ("users", "user_code")):
        cold, events = _one(
            coded,
            f"SELECT count(*), coalesce(sum(n), 0) FROM (SELECT min(timestamp) AS t, "
            f"count(*) AS n FROM coded GROUP BY {code}) WHERE t >= {edge}",
        )
        found[of] = cold, int(events) / late
    return found


def _masked(coded):
    rows = _rows(
        coded,
        "SELECT name, n FROM users JOIN (SELECT user_code, count(*) AS n FROM coded "
        "GROUP BY user_code) ON user_code = code WHERE contains(name, '**') ORDER BY code",
    )
    return (rows[0][0], sum(count for _, count in rows)) if rows else ("", 0)


def _meet(coded, items):
    names = coded.connection.sql(
        "SELECT name FROM items SEMI JOIN coded ON item_code = code"
    ).fetchnumpy()["name"]
    known = items.index_of(np.asarray(names, object)) > 0
    return len(names), int(known.sum())
