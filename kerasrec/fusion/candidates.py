"""Collects what the fit of weights needs of validation users: candidates, shares, targets.

Users are taken in blocks, so that the scores of all items are held for a few at a time. No
TensorFlow here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion import recency
from kerasrec.fusion.following import Stream
from kerasrec.fusion.fusion import FOLLOWING
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.weights import TINY, FitData, wait_buckets

#: validation users that the choice looks at; beyond them a sample
MAX_USERS = 4000
_CANDIDATES = 20  # of every part; twice as many gave the same weights in twice the time
_NEW_CANDIDATES = 8  # new items of every part
_OF_CANDIDATES = ("items", "shares", "is_new", "prior", "scorer", "real", "hits")
_BLOCK_CELLS = 2**25  # scores of a block of users at most


def collect(
    ranker: Any,
    validation: Any,
    tables: Mapping[str, NeighbourTable],
    moments: recency.Moments,
    when: tuple[np.ndarray, ...],
    prior: np.ndarray,
    stream: Stream | None = None,
) -> FitData:
    """Collects what the fit needs of some users: their candidates and the shares of each part.

    Args:
        ranker: `Ranker` of the model.
        validation: `Validation`.
        tables: name -> `NeighbourTable`.
        moments: `recency.Moments`.
        when: of each user the moment that is asked at, the seconds waited and, with `stream`, the
            time of the request, `(num_users,)` each.
        prior: scores of what is popular, `(kinds, num_moments, num_items + 1)`.
        stream: `Stream` of the log: what follows what is then known up to each request.
    """
    asked, waited, *times = when
    grown = {str(name): tables[name] for name in FOLLOWING if name in tables}
    popular_at = np.exp(recency.log_shares(prior))
    collected, probabilities_of, done = [], ranker.probabilities(), 0
    for histories, seen, targets in blocks(validation, moments.features.shape[2]):
        model, mlp_of = probabilities_of(histories)
        # every part as probabilities over the unseen items
        users = slice(done, done + histories.num_users)
        moment, wait = asked[users], waited[users]
        kind = np.minimum(recency.kind_of_wait(wait), len(prior) - 1)
        wait = wait_buckets(wait)
        done += histories.num_users
        live = {} if stream is None else stream.scores(grown, histories, times[0][users])
        scores = [model]
        for name, table in tables.items():
            scores.append(live[name] if name in live else table.scores(histories))
        scores.append(popular_at[kind, moment])
        parts = [_normal(part, seen) for part in scores]  # each (b, num_items + 1)
        # what is new at the moment of each user, and what may be listed
        is_new = moments.first[None] > moment[:, None]  # (b, num_items + 1)
        may_be_listed = np.ones(model.shape, bool)
        may_be_listed[:, 0] = may_be_listed[seen] = False
        asked_for = np.where(may_be_listed, prior[kind, moment], -np.inf)
        # the candidates: the best items of every part, of the prior, and the best new ones
        best = [_best(part, _CANDIDATES) for part in [*parts, asked_for]]
        best += [_best(part * is_new, _NEW_CANDIDATES) for part in parts]
        # each candidate once, empty places last
        items = np.sort(np.concatenate(best, axis=1), axis=1)
        real = np.diff(items, axis=1, prepend=0) > 0  # each item once; never the padding
        real &= np.take_along_axis(may_be_listed, items, axis=1)
        items = -np.sort(-np.where(real, items, 0), axis=1)  # empty places last
        real = items > 0
        # shares, features and targets of the candidates
        wanted = np.zeros(model.shape, bool)
        wanted[targets] = True
        shares = np.stack([np.take_along_axis(part, items, axis=1) for part in parts])
        features = moments.features[
            moment[:, None], : moments.num_plain, items
        ]  # (b, n, num_plain)
        collected.append(
            FitData(
                items=items,
                shares=shares,
                is_new=np.take_along_axis(is_new, items, axis=1),
                prior=np.moveaxis(features, 2, 0),
                scorer=mlp_of(items),
                real=real,
                hits=np.take_along_axis(wanted, items, axis=1) & real,
                num_targets=wanted.sum(axis=1),
                waited=wait,
                target_shares=np.stack([part[targets] for part in parts], axis=1),
                target_waited=wait[targets[0]],
            )
        )
    data = FitData(*(_join(column) for column in zip(*collected, strict=True)))
    filled = data.real.any(axis=0)
    return data._replace(**{name: getattr(data, name)[..., filled] for name in _OF_CANDIDATES})


def side_by_side(parts: Sequence[FitData]) -> FitData:
    """One `FitData` of several, filled up with empty places."""
    width = max(part.items.shape[1] for part in parts)

    def joined(name):
        columns = [getattr(part, name) for part in parts]
        if name in _OF_CANDIDATES:
            columns = [
                np.pad(c, [(0, 0)] * (c.ndim - 1) + [(0, width - c.shape[-1])]) for c in columns
            ]
        return _join(columns)

    return FitData(*map(joined, FitData._fields))


def sample(validation: Any) -> Any:
    """Draws at most `MAX_USERS` users of a `Validation`, the same each time."""
    count = validation.histories.num_users
    if count <= MAX_USERS:
        return validation
    chosen = np.random.default_rng(0).choice(count, MAX_USERS, replace=False)
    return of_rows(validation, np.sort(chosen))


def of_rows(validation: Any, rows: np.ndarray) -> Any:
    """`Validation` of some users alone, rows ascending."""
    place = np.full(validation.histories.num_users, -1)
    place[rows] = np.arange(len(rows))
    keep = place[validation.target_rows] >= 0
    return validation._replace(
        histories=validation.histories.select(rows),
        target_rows=place[validation.target_rows[keep]],
        target_items=validation.target_items[keep],
    )


def blocks(validation: Any, num_items: int) -> Iterator[tuple[Histories, tuple, tuple]]:
    """Blocks of users: histories, `(b, num_items + 1)`-indexable seen pairs, targets."""
    size = int(np.clip(_BLOCK_CELLS // num_items, 1, 512))
    count = validation.histories.num_users
    starts = np.searchsorted(validation.target_rows, np.arange(0, count + size, size))
    for number, start in enumerate(range(0, count, size)):
        histories = validation.histories.select(np.arange(start, min(start + size, count)))
        seen = np.repeat(np.arange(histories.num_users), histories.lengths), histories.items
        part = slice(starts[number], starts[number + 1])
        targets = validation.target_rows[part] - start, validation.target_items[part]
        yield histories, seen, targets


def _normal(scores, seen):
    """Rows of scores without padding and the seen items, summing to 1 (or all 0)."""
    scores[:, 0] = 0
    scores[seen] = 0
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), TINY)


def _best(part, count):
    """Columns of the `count` largest of every row, in any order."""
    count = min(count, part.shape[1])
    return np.argpartition(-part, count - 1, axis=1)[:, :count]


def _join(blocks):
    """Blocks of users, one after the other."""
    return np.concatenate(blocks, axis=1 if blocks[0].ndim == 3 else 0)
