"""Chooses how much each part of a fused score counts, on validation.

`choose_fusion` does it by held-out events of the users, `choose_live` by events as a server meets
them, one after the other. No TensorFlow here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion import recency
from kerasrec.fusion.candidates import blocks, collect, of_rows, sample, side_by_side
from kerasrec.fusion.following import Stream
from kerasrec.fusion.fusion import FOLLOWING, POPULAR, Fusion, fit_again, fit_tables, mixture_of
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.weights import (
    FitData,
    best_mixture,
    best_way,
    features_of,
    first_columns,
    fit_logit,
    fit_weights,
    ndcg_of_hits,
    top_hits,
)

#: 0 looks at the newest event alone
DECAYS = (0.0, 0.3, 0.5, 0.7, 0.85)
#: cut of the NDCG that a choice looks at; what `train` reports is named by it
_CUT = 10
#: epsilon is this divided by the number of items
SMOOTHING = 0.01
_FEW_MOMENTS = 20
_PRIOR_CELLS = 2**19  # moments times items that the prior alone is fitted to
#: parts of the events of `choose_live`; each has a table "ease" of its own, which is dear and
#: changes slowly. What follows what is known up to each event
LIVE_BLOCKS = 6
_TABLE_BLOCKS = 4  # the same for the choice of the kinds of tables
#: users of a kind at least, to weigh what is popular with them
_FEWEST_OF_A_KIND = 200
#: how the weights are fitted there, of `FITS`: on the day to come their mean is better than either,
#: and than the one that was better until then
LIVE_FITS = ("ndcg", "ndcg near the mixture")


class Lifted(NamedTuple):
    """Holds how good lists are, by how much the score of new items is lifted.

    ndcg: `(num_lifts, num_users)`.  cold: `(num_lifts, number of users who took something new)`,
    share of it that is listed.  listed: `(num_lifts,)`, share of the places that new items have.
    """

    ndcg: np.ndarray
    cold: np.ndarray
    listed: np.ndarray


def choose_fusion(
    ranker: Any,
    validation: Any,
    tables: Mapping[str, Sequence[NeighbourTable]],
    moments: recency.Moments,
) -> tuple[Fusion, dict[str, float]]:
    """Chooses decays, mixture and weights on validation.

    The decays are those with which a table ranks best on its own. The mixture starts where it makes
    the targets most likely (expectation maximisation) and moves weight between its parts while NDCG
    grows. The weights of all parts are fitted over each user's candidates, the best items of every
    part, in the three ways of `weights.FITS`; the way that ranks held-back users best is then
    fitted to all of them. Where all users are asked at one moment they share what is recent, so
    held-back users prove little, and items are held back instead.

    Args:
        ranker: `Ranker` of the trained model.
        validation: `Validation`.
        tables: name -> list of `NeighbourTable`, from `fit_tables`.
        moments: `recency.Moments` of the training events.

    Returns:
        `(Fusion, dict)`: the dict holds NDCG@10 and recall@10 of the fusion and NDCG@10 of the
        model alone, of at most `MAX_USERS` users. Where the fusion is no better, the model is
        alone.
    """
    validation = sample(validation)
    asked, waited = _asked_at(validation, moments)
    popular_weights = _fit_popular(moments, asked, waited, validation)
    best = {name: _best_table(candidates, validation) for name, candidates in tables.items()}
    prior = moments.prior(popular_weights)
    data = collect(ranker, validation, best, moments, (asked, waited), prior)
    mixture = best_mixture(data, _CUT)
    features, alone = features_of(data, mixture, _epsilon(moments)), _alone(data)
    hold_back = "users" if _many_moments(moments) else "items"
    fit = best_way(features, data, alone, _CUT, hold_back=hold_back)
    weights = fit_weights(features, data, alone, _CUT, ways=(fit,))[fit]
    return _weighted(data, fit, (mixture, weights, popular_weights), best, moments)


def quality_by_lift(
    ranker: Any,
    validation: Any,
    fusion: Fusion,
    moments: recency.Moments,
    lifts: Sequence[float] = (0.0,),
) -> Lifted:
    """Measures a fusion on validation as it is, and with more or less weight on what is new.

    Args:
        ranker: `Ranker` of the model, which may have learned more since the weights were chosen.
        validation: `Validation`; beyond `MAX_USERS` users a sample, the same each time.
        fusion: `Fusion`, with the tables that are to be used.
        moments: `recency.Moments` at which the lists are asked for.
        lifts: numbers that are added to the score of an item without an event.
    """
    validation = sample(validation)
    when = _asked_at(validation, moments)
    prior = moments.prior(fusion.recency.popular_weights)
    data = collect(ranker, validation, fusion.tables, moments, when, prior)
    names = ["model", *fusion.tables]
    features = features_of(data, fusion.mixture_rows([*names, POPULAR]), fusion.epsilon)
    scores = np.tensordot(_weights_of(fusion, names), features, 1)
    is_cold = moments.first[validation.target_items] > when[0][validation.target_rows]
    num_cold = np.bincount(validation.target_rows[is_cold], minlength=len(scores))
    cold, found = data._replace(hits=data.hits & data.is_new), []
    for lift in lifts:
        lifted = scores + np.float32(lift) * data.is_new
        hits, cold_hits = (top_hits(lifted, part, _CUT) for part in (data, cold))
        listed = top_hits(lifted, data._replace(hits=data.is_new & data.real), _CUT)
        recall = cold_hits.sum(axis=1)[num_cold > 0] / num_cold[num_cold > 0]
        found.append((ndcg_of_hits(hits, data.num_targets), recall, listed.mean()))
    return Lifted(*map(np.array, zip(*found, strict=True)))


def quality_of_tables(tables: Mapping[str, NeighbourTable], validation: Any) -> dict[str, float]:
    """Measures each table alone by NDCG@10: name -> mean over at most `MAX_USERS` users."""
    validation = sample(validation)
    count = validation.histories.num_users
    return {
        name: float(_quality([table], validation, (table.decay,))[0] / count)
        for name, table in tables.items()
    }


def choose_live(
    ranker: Any,
    histories: Histories,
    validation: Any,
    times: np.ndarray,
    tables: Mapping[str, NeighbourTable],
    chosen: Mapping[str, int] | None,
    text_vectors: np.ndarray | None = None,
    *,
    before: tuple[Fusion, int] | None = None,
    num_items: int | None = None,
) -> tuple[Fusion, dict[str, float]] | None:
    """Chooses the weights for lists that are made at the moment of each event.

    Every event is predicted from what its user did before it, from what followed what until then
    and from recency at its moment: as by a server that learns all day. Validation by each user's
    last event knows tables that hold what came later, and trusts them too much where items are new
    every day.

    The best weights of one day are not the best of the next. So weights of an earlier choice are
    kept in a mean, in which each choice counts as much as the events behind it.

    Args:
        ranker: `Ranker` of a model that has not learned from these events.
        histories: `Histories` of all events until the last of them.
        validation: `Validation` with one row and one target for each event, in order of time.
        times: of the events, UTC seconds, `(n,)`.
        tables: name -> `NeighbourTable` of the parent; their kinds and decays stay.
        chosen: as for `fit_again`.
        text_vectors: as for `fit_tables`.
        before: `(Fusion, number of events)` of an earlier choice, or None.
        num_items: size of the catalogue; None = read from the tables, of which there must be one.

    Returns:
        As `choose_fusion`, and `events`: how many events the weights rest on. Its moments are those
        of `histories`; its tables "ease" and "text" are those of the last part, the others as
        given. None where the catalogue is too large for more than one moment, or nobody has a
        history.
    """
    num_items = num_items or len(next(iter(tables.values())).neighbours) - 1
    moments = recency.fit_moments(histories, num_items, asked_from=int(times[0]))
    if len(moments.starts) < 2:
        return None
    # the last moment holds the newest events themselves
    asked = np.minimum(moments.of(times), len(moments.starts) - 2)
    newest = recency.newest_times(validation.histories)
    # a user without a past comes, too
    waited = np.where(newest > 0, times - newest, recency.RETURNS[-1])
    popular_weights = _fit_popular(moments, asked, waited, validation)
    prior = moments.prior(popular_weights)
    stream = Stream(histories, int(times[0]), num_items, chosen)
    following = [name for name in FOLLOWING if name in tables]
    rows = np.flatnonzero(validation.histories.lengths > 0)  # the prior alone answers the others
    collected: list[FitData] = []
    for number, part in enumerate(np.array_split(rows, LIVE_BLOCKS)):
        if not len(part):
            continue
        names = [name for name in tables if name not in following]
        names = [name for name in names if number == 0 or name != "text"]
        known = histories.where(histories.timestamps < times[part[0]])
        tables = fit_again(tables, chosen, known, num_items, text_vectors, parts=names)
        when = asked[part], waited[part], times[part]
        block = of_rows(validation, part)
        collected.append(collect(ranker, block, tables, moments, when, prior, stream))
    if not collected:
        return None
    data = side_by_side(collected)
    mixture = best_mixture(data, _CUT)
    features, alone = features_of(data, mixture, _epsilon(moments)), _alone(data)
    fitted = fit_weights(features, data, alone, _CUT, ways=LIVE_FITS)
    found, count = (mixture, np.mean(list(fitted.values()), axis=0), popular_weights), len(times)
    if before is not None:
        found, count = _mean(found, count, *before, ["model", *tables])
    fusion, quality = _weighted(data, "live", found, tables, moments)
    return fusion, {**quality, "events": count}


def choose_tables(
    histories: Histories,
    validation: Any,
    times: np.ndarray,
    num_items: int,
    text_vectors: np.ndarray | None = None,
    **parts: Any,
) -> tuple[dict[str, NeighbourTable], dict[str, int]]:
    """Chooses damping and decay of each table by how it ranks events as they come.

    Args:
        histories, validation, times: as for `choose_live`.
        num_items, text_vectors, parts: as for `fit_tables`.

    Returns:
        `(tables, chosen)`: name -> the best table, fitted on the events before the first of
        `times`, and name -> its place among the candidates, as `fit_again` takes it.
    """
    until = histories.timestamps
    first = fit_tables(histories.where(until < times[0]), num_items, text_vectors, **parts)
    quality = {name: 0.0 for name in first}
    for part in np.array_split(np.arange(len(times)), _TABLE_BLOCKS):
        part = part[validation.histories.lengths[part] > 0]
        if not len(part):
            continue
        block = validation._replace(
            histories=validation.histories.select(part),
            target_rows=np.arange(len(part)),
            target_items=validation.target_items[part],
        )
        # of the others only the decay is chosen, for which old ones serve as well
        known = histories.where(until < times[part[0]])
        grown = fit_tables(known, num_items, parts=tuple(n for n in FOLLOWING if n in first))
        for name, candidates in {**first, **grown}.items():
            quality[name] += _quality(candidates, block)
    chosen, tables = {}, {}
    for name, found in quality.items():
        chosen[name], decay = divmod(int(np.argmax(found)), len(DECAYS))
        tables[name] = first[name][chosen[name]]._replace(decay=DECAYS[decay])
    return tables, chosen


def _asked_at(validation, moments):
    """The moment and the wait of each list: at the end, or at the newest event without waiting."""
    newest = recency.newest_times(validation.histories)
    waited = np.where(newest > 0, moments.end.time - newest, 0) * moments.only_end
    return moments.of(newest), waited


def _weights_of(fusion, names):
    """The weights of a `Fusion` in the order of `weights.features_of`."""
    pairs = np.array([fusion.weights.get(name, (0.0, 0.0)) for name in [*names, "mixture"]])
    return np.array([*pairs.T.ravel(), *fusion.recency.weights, fusion.scorer_weight])


def _mean(found, count, fusion, count_before, names):
    """`found` and what a `Fusion` has of it, in the mean by numbers of events, and their sum."""
    weights = _weights_of(fusion, names)
    mixture = fusion.mixture_rows([*names, POPULAR])
    popular = fusion.recency.popular_weights
    if np.shape(popular) != np.shape(found[2]):  # the older version weighs it in another way
        popular = found[2]
    known = mixture, weights, popular
    if not mixture.any() or len(weights) != len(found[1]):
        return found, count  # a version without tables, or that counts what is recent otherwise
    total = count_before + count
    share = count_before / total
    mean = tuple(share * old + (1 - share) * new for old, new in zip(known, found, strict=True))
    return mean, total


def _epsilon(moments):
    return SMOOTHING / (moments.features.shape[2] - 1)


def _alone(data):
    """Weights of the mixture alone."""
    parts = len(data.shares)  # the mixture has the place of what is popular among the features
    return np.eye(2 * parts + len(data.prior) + 1)[parts - 1]


def _weighted(data, fit, found, tables, moments):
    """`(Fusion, dict)` of a mixture, weights and popular weights, see `choose_fusion`."""
    names = ["model", *tables]
    mixture, weights, popular_weights = found
    epsilon = _epsilon(moments)
    fused = np.tensordot(weights, features_of(data, mixture, epsilon), 1)
    alone = ndcg_of_hits(top_hits(data.shares[0], data, _CUT), data.num_targets).mean()
    hits = top_hits(fused, data, _CUT)
    best = ndcg_of_hits(hits, data.num_targets).mean()
    if alone >= best:
        hits, best, fit = top_hits(data.shares[0], data, _CUT), alone, "none"
        weights = np.eye(len(weights))[0]
    parts = [*names, "mixture"]
    of_parts, of_prior, (of_scorer,) = np.split(weights, [2 * len(parts), len(weights) - 1])
    pairs = zip(*of_parts.reshape(2, -1).tolist(), strict=True)
    used = {name: pair for name, pair in zip(parts, pairs, strict=True) if any(pair)}
    is_fused = list(used) != ["model"]
    fusion = Fusion(
        tables=tables if is_fused else {},
        weights=used,
        mixture=mixture_of([*names, POPULAR], mixture) if is_fused else {},
        scorer_weight=float(of_scorer),
        fit=fit,
        epsilon=epsilon,
        starts=moments.starts,
        first=moments.first,
        prior=moments.prior(of_prior),
        popular_at=recency.log_shares(moments.prior(popular_weights)) if is_fused else None,
        popular=moments.prior(popular_weights)[-1, -1],
        recency=recency.Recency(moments.end, of_prior, popular_weights),
    )
    recall = (hits.sum(axis=1) / np.maximum(data.num_targets, 1)).mean()
    quality = {"valid_ndcg": best, "valid_recall": recall, "valid_ndcg_of_the_model_alone": alone}
    return fusion, {f"{name}@{_CUT}": float(value) for name, value in quality.items()}


def _fit_popular(moments, asked, waited, validation):
    """Weights of what is popular with each kind of users, `(recency.KINDS, num_features)`.

    A kind of few users has those of all; where all users are of one kind, there is one row.
    """
    everybody = _fit_prior(moments, asked, validation)
    kinds = recency.kind_of_wait(waited)
    if (kinds == kinds[:1]).all():
        return everybody[None]
    weights = np.tile(everybody, (recency.KINDS, 1))
    for kind in range(recency.KINDS):
        rows = np.flatnonzero(kinds == kind)
        if _FEWEST_OF_A_KIND <= len(rows) < len(kinds):
            part = of_rows(validation, rows)
            if kind < recency.KINDS - 1:
                part = part._replace(newcomers=None)  # they come
            weights[kind] = _fit_prior(moments, asked[rows], part)
    return weights


def _fit_prior(moments, asked, validation):
    """Weights of the recency features alone, `(num_features,)`: a logit over the whole catalogue.

    Users with a past choose among what they have not seen; at each moment an item stands for the
    share of the users to whom it is open. No weight but that of new items is below 0: more events,
    more popular, also on little data.
    """
    num_moments, num_features, width = moments.features.shape
    wanted = np.zeros((num_moments, width), np.float32)
    _add_targets(wanted, asked, validation.target_rows, validation.target_items)
    users = np.bincount(asked, minlength=num_moments)
    if (new := validation.newcomers) is not None:  # who are asked now
        now = np.full(new.num_users, num_moments - 1)
        _add_targets(wanted, now, np.repeat(np.arange(new.num_users), new.lengths), new.items)
        users[-1] += new.num_users
    used = np.flatnonzero(wanted.any(axis=1))
    if len(used) * width > _PRIOR_CELLS:  # few weights: a part of the moments says as much
        used = used[np.linspace(0, len(used) - 1, max(_PRIOR_CELLS // width, 1)).astype(int)]
    features = np.moveaxis(moments.features[used], 1, 0)[:, :, 1:]
    bounds: list[tuple] = [(0, None)] * num_features
    bounds[moments.num_plain - 1] = (None, None)  # whether it is new
    seen = _seen(asked, validation.histories, num_moments, width)[used][:, 1:]
    return fit_logit(features, wanted[used][:, 1:], 1 - seen / users[used, None], bounds)


def _seen(moment, histories, num_moments, width):
    """How many of the users at each moment have seen each item, `(num_moments, width)`."""
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    row, item = np.divmod(np.unique(row * width + histories.items), width)
    count = np.bincount(moment[row] * width + item, minlength=num_moments * width)
    return count.reshape(num_moments, width)


def _add_targets(wanted, moment, rows, items):
    """Count the targets of each moment; every user counts alike."""
    share = 1 / np.bincount(rows, minlength=len(moment))[rows]
    np.add.at(wanted, (moment[rows], items), share)


def _many_moments(moments):
    """Whether validation saw recency at more than a few moments, or there are no times at all."""
    return not moments.end.time or len(moments.starts) >= _FEW_MOMENTS


def _best_table(candidates, validation):
    """The candidate, with the decay, that ranks validation best on its own."""
    place, decay = divmod(int(_quality(candidates, validation).argmax()), len(DECAYS))
    return candidates[place]._replace(decay=DECAYS[decay])


def _quality(candidates, validation, decays=DECAYS):
    """Sum of NDCG of each candidate with each of the decays, candidates first."""
    tables = [table._replace(decay=decay) for table in candidates for decay in decays]
    quality = np.zeros(len(tables))
    for histories, seen, (row, item) in blocks(validation, len(tables[0].neighbours)):
        wanted = np.zeros((histories.num_users, len(tables[0].neighbours)), bool)
        wanted[row, item] = True
        for number, table in enumerate(tables):
            scores = table.scores(histories)
            scores[seen] = 0
            order = first_columns(scores, _CUT)
            listed = np.take_along_axis(scores, order, axis=1) > 0
            hits = np.take_along_axis(wanted, order, axis=1) & listed
            quality[number] += ndcg_of_hits(hits, wanted.sum(axis=1)).sum()
    return quality
