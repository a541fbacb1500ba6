"""Whether a version has gone stale: the warnings of `drift`, each with its numbers and a remedy."""

from kerasrec.loop.driftmetrics import (
    FEWEST,
    STRETCHES,
    distance_from,
    interval,
    mean_and_error_of_users,
    moment_of,
)

K = 10
#: share of events on items that the version never learned from, above which it is stale
COLD = 0.3
#: users whose events are judged, at least, beside `FEWEST` events
FEWEST_USERS = 20


def verdict(seen, judged, *, seed=0):
    """Why a version has gone stale, and what cannot be told.

    Args:
        seen: the log in periods, `drifting.PeriodLog`.
        judged: DataFrame, one row per predicted event: `period`, `user`, and NDCG of the version
            (`ndcg`) and of recent popularity (`popularity`).
        seed: of the draws.

    Returns:
        `(warnings, notes)`, lists of sentences.
    """
    periods = range(1, len(seen.begins))
    newest, first = _enough(judged, periods[::-1]), _enough(judged, periods)
    if newest is None:
        return [], [
            f"Too few events to tell whether it has gone stale: {len(judged):,} first choices of "
            f"{judged['user'].nunique():,} users after {moment_of(seen.end)}; {FEWEST} of "
            f"{FEWEST_USERS} users are needed."
        ]
    warnings, notes = [], []
    part = judged[judged["period"].isin(newest)]
    when = f"{len(part):,} events since {moment_of(seen.begins[min(newest)])}"
    if set(newest) & set(first):
        notes.append("Too few events to tell whether it predicts worse than at first.")
    else:
        warnings += _worse_than_at_first(judged, part, first, when)
    warnings += _worse_than_popularity(part, when)
    warnings += _cold(seen, newest)
    moved, told = _moved(seen, newest, seed)
    return warnings + moved, notes + told


def _enough(judged, numbers):
    """The first of these periods that together have enough to judge on; None = all have not."""
    taken = []
    for number in numbers:
        taken.append(number)
        part = judged[judged["period"].isin(taken)]
        if len(part) >= FEWEST and part["user"].nunique() >= FEWEST_USERS:
            return taken
    return None


def _worse_than_at_first(judged, part, first, when):
    then = judged[judged["period"].isin(first)]
    (now, error), (was, error_then) = (
        mean_and_error_of_users(rows["ndcg"], rows["user"]) for rows in (part, then)
    )
    low, high = interval(now - was, (error**2 + error_then**2) ** 0.5)
    if not high < 0:
        return []
    return [
        f"It predicts worse than at first: NDCG@{K} {now:.4f} on {when}, {was:.4f} on the first "
        f"{len(then):,} (difference {now - was:+.4f}, 95 % {low:+.4f} to {high:+.4f}). Learn what "
        "is new: kerasrec update."
    ]


def _worse_than_popularity(part, when):
    behind, error = mean_and_error_of_users(part["ndcg"] - part["popularity"], part["user"])
    low, high = interval(behind, error)
    if not high < 0:
        return []
    return [
        f"Recent popularity is better: NDCG@{K} {part['popularity'].mean():.4f}, the model's "
        f"{part['ndcg'].mean():.4f} on {when} (difference {behind:+.4f}, 95 % {low:+.4f} to "
        f"{high:+.4f}). Learn what is new: kerasrec update."
    ]


def _cold(seen, newest):
    places = seen.of(newest)
    cold, error = mean_and_error_of_users(seen.is_cold[places], seen.user[places])
    if not interval(cold, error)[0] > COLD:
        return []
    outside = (seen.histories.items[places] > seen.num_known).mean()
    return [
        f"{cold:.0%} of {len(places):,} events since {moment_of(seen.begins[min(newest)])} are on "
        f"items that it never learned from ({COLD:.0%} is the limit), {outside:.0%} on items that "
        "it cannot list. Learn them: kerasrec update with the items of today."
    ]


def _moved(seen, newest, seed):
    """`(warnings, notes)`."""
    items, places = seen.histories.items, seen.of(newest)
    distance, neighbours = distance_from(items[seen.learned], items[places], seed=seed)
    if not len(neighbours):
        needed = FEWEST * (STRETCHES + 1)
        return [], [
            "Too few events to tell whether what is chosen has moved: distances need "
            f"{needed:,} events until {moment_of(seen.end)} and {FEWEST} after it."
        ]
    if not distance > neighbours.max():
        return [], []
    return [
        f"What is chosen has moved: distance of items {distance:.3f} since "
        f"{moment_of(seen.begins[min(newest)])}; neighbouring stretches of as many events in its "
        f"own log had {neighbours.mean():.3f} on average, {neighbours.max():.3f} at most. Learn "
        "what is new: kerasrec update."
    ], []
