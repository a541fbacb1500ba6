"""One fused score: the model's softmax, the neighbour tables and the MLP scorer, weighted.

    p(i) = (1 - sum of w_t) * softmax(retrieval)(i) + sum over tables t of w_t * s_t(i) / sum(s_t)
    score(i) = log p(i) + v * MLP(U, e_i)

The weights w, v and the decays of the tables are chosen on validation; a weight may be 0.
"""

import logging
from typing import NamedTuple

import numpy as np

from kerasrec import transitions
from kerasrec.backend import tf

log = logging.getLogger(__name__)
DECAYS = (0.3, 0.5, 0.7, 0.85)
TABLE_WEIGHTS = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SCORER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: validation users that the choice looks at; beyond them a sample
MAX_USERS = 6000
_CANDIDATES = 50  # of every component
TINY = 1e-12
_WIDTH = 200  # neighbours per item


class Fusion(NamedTuple):
    """What is fused with the model's own retrieval, and how much each part counts.

    tables: name -> `NeighbourTable`.  weights: name -> weight of the table.
    scorer_weight: weight of the MLP.
    """

    tables: dict
    weights: dict
    scorer_weight: float

    @classmethod
    def none(cls):
        """The model alone."""
        return cls({}, {}, 0.0)

    def description(self):
        """Plain data for the manifest: name of the table -> its weight and decay."""
        return {
            name: {"weight": self.weights[name], "decay": table.decay}
            for name, table in self.tables.items()
        }


def fit_tables(histories, num_items, text_vectors=None):
    """The neighbour tables that the data allows, name -> table without a chosen decay.

    Args:
        histories: `Histories` of the training events.
        num_items: size of the catalogue.
        text_vectors: float32 `(num_items, text_dim)`, whitened, or None.
    """
    events = np.bincount(histories.items, minlength=num_items + 1)
    counts = transitions.sequential_counts(histories, num_items)
    normal = transitions.normalise_counts(counts, events, source_power=0.5, target_power=0.25)
    tables = {"transitions": transitions.to_table(normal, width=_WIDTH, decay=0.5)}
    if num_items <= transitions.MAX_EASE_ITEMS:
        ease = transitions.fit_ease(histories, num_items)
        tables["ease"] = transitions.to_table(ease, width=_WIDTH, decay=0.7)
    if text_vectors is not None:
        near = transitions.text_neighbours(text_vectors, width=_WIDTH)
        tables["text"] = transitions.to_table(near, width=_WIDTH, decay=0.7)
    return tables


class _Candidates(NamedTuple):
    """What the choice of weights needs of every validation user, `(num_users, n)` each.

    parts: name -> probability.  scorer: MLP.  hits: True where the candidate is a target.
    """

    parts: dict
    scorer: np.ndarray
    hits: np.ndarray
    num_targets: np.ndarray


def choose_fusion(ranker, validation, tables, *, k=10):
    """Choose decays and weights by NDCG@k on validation, by coordinate ascent.

    Args:
        ranker: `Ranker` of the trained model.
        validation: `Validation`.
        tables: name -> `NeighbourTable`, e.g. from `fit_tables`.
        k: cut of the NDCG.

    Returns:
        `(Fusion, dict)`: the dict holds NDCG@k of the model alone and of the fusion, of at most
        `MAX_USERS` users.
    """
    validation = _sample(validation)
    tables = {name: _with_best_decay(table, validation, k) for name, table in tables.items()}
    data = _collect(ranker, validation, tables)
    weights, scorer = dict.fromkeys(tables, 0.0), 0.0
    alone = best = _ndcg(data, weights, scorer, k)
    for _ in range(3):
        before = best
        for name in tables:
            for value in TABLE_WEIGHTS:
                tried = {**weights, name: value}
                if sum(tried.values()) < 1:
                    found = _ndcg(data, tried, scorer, k)
                    if found > best + 1e-6:
                        best, weights = found, tried
        for value in SCORER_WEIGHTS:
            found = _ndcg(data, weights, value, k)
            if found > best + 1e-6:
                best, scorer = found, value
        if best == before:
            break
    used = {name: table for name, table in tables.items() if weights[name]}
    fusion = Fusion(used, {name: weights[name] for name in used}, scorer)
    hits = _top_hits(data, weights, scorer, k)
    recall = float((hits.sum(axis=1) / np.maximum(data.num_targets, 1)).mean())
    quality = {"valid_ndcg": best, "valid_recall": recall, "valid_ndcg_of_the_model_alone": alone}
    return fusion, {f"{name}@{k}": value for name, value in quality.items()}


def _sample(validation):
    count = validation.histories.num_users
    if count <= MAX_USERS:
        return validation
    chosen = np.sort(np.random.default_rng(0).choice(count, MAX_USERS, replace=False))
    row = np.full(count, -1)
    row[chosen] = np.arange(MAX_USERS)
    keep = row[validation.target_rows] >= 0
    rows, items = row[validation.target_rows[keep]], validation.target_items[keep]
    return type(validation)(validation.histories.select(chosen), rows, items)


def _blocks(validation, size=512):
    """Blocks of users: histories, `(b, num_items + 1)`-indexable seen pairs, targets."""
    count = validation.histories.num_users
    starts = np.searchsorted(validation.target_rows, np.arange(0, count + size, size))
    for number, start in enumerate(range(0, count, size)):
        histories = validation.histories.select(np.arange(start, min(start + size, count)))
        seen = np.repeat(np.arange(histories.num_users), histories.lengths), histories.items
        part = slice(starts[number], starts[number + 1])
        targets = validation.target_rows[part] - start, validation.target_items[part]
        yield histories, seen, targets


def _normal(scores, seen):
    """Rows of table scores without the seen items, summing to 1 (or all 0)."""
    scores[seen] = 0
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), TINY)


def _with_best_decay(table, validation, k):
    quality = {}
    for decay in DECAYS:
        found, users = 0.0, 0
        for histories, seen, targets in _blocks(validation):
            scores = _normal(table._replace(decay=decay).scores(histories), seen)
            order = np.argpartition(-scores, k, axis=1)[:, :k]
            order = np.take_along_axis(
                order, np.argsort(-np.take_along_axis(scores, order, 1), axis=1), axis=1
            )
            wanted = np.zeros(scores.shape, bool)
            wanted[targets] = True
            positive = np.take_along_axis(scores, order, axis=1) > 0
            hits = np.take_along_axis(wanted, order, axis=1) & positive
            found += _ndcg_of_hits(hits, wanted.sum(axis=1)).sum()
            users += len(scores)
        quality[decay] = found / max(users, 1)
    return table._replace(decay=max(quality, key=quality.get))


def _collect(ranker, validation, tables):
    collected, probabilities_of = [], ranker.probabilities()
    for histories, seen, targets in _blocks(validation):
        model, mlp_of = probabilities_of(histories)
        parts = {"model": _normal(model, seen)}
        for name, table in tables.items():
            parts[name] = _normal(table.scores(histories), seen)
        count = min(_CANDIDATES, model.shape[1] - 1)
        index = np.concatenate(
            [np.argpartition(-part, count, axis=1)[:, :count] for part in parts.values()], axis=1
        )
        index.sort(axis=1)
        repeated = np.pad(index[:, 1:] == index[:, :-1], [(0, 0), (1, 0)]) | (index == 0)
        wanted = np.zeros(model.shape, bool)
        wanted[targets] = True
        values = {
            name: np.where(repeated, 0, np.take_along_axis(part, index, axis=1))
            for name, part in parts.items()
        }
        hits = np.take_along_axis(wanted, index, axis=1) & ~repeated
        collected.append((values, mlp_of(index), hits, wanted.sum(axis=1)))
    values = {
        name: np.concatenate([block[0][name] for block in collected]) for name in collected[0][0]
    }
    scorer, hits, num_targets = (np.concatenate(c) for c in list(zip(*collected, strict=True))[1:])
    return _Candidates(values, scorer, hits, num_targets)


def _ndcg(data, weights, scorer_weight, k):
    return float(_ndcg_of_hits(_top_hits(data, weights, scorer_weight, k), data.num_targets).mean())


def _top_hits(data, weights, scorer_weight, k):
    """Which of the first k are targets, bool `(num_users, k)`."""
    mixed = (1 - sum(weights.values())) * data.parts["model"]
    for name, weight in weights.items():
        if weight:
            mixed = mixed + weight * data.parts[name]
    score = np.log(mixed + TINY) + scorer_weight * np.where(mixed > 0, data.scorer, 0)
    k = min(k, score.shape[1])
    order = np.argpartition(-score, k - 1, axis=1)[:, :k]
    inner = np.argsort(-np.take_along_axis(score, order, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(order, inner, axis=1)
    return np.take_along_axis(data.hits, order, axis=1)


def _ndcg_of_hits(hits, num_targets):
    discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[0], np.cumsum(discount)])[np.minimum(num_targets, hits.shape[1])]
    return (hits * discount).sum(axis=1) / np.maximum(ideal, TINY)


class Memory(tf.Module):
    """A neighbour table in the graph: the twin of `NeighbourTable.scores`.

    Attributes:
        tables: the variables it holds.
    """

    def __init__(self, table, name):
        super().__init__(name)
        self.decay = float(table.decay)
        self.neighbours = tf.Variable(table.neighbours, trainable=False, name="neighbours")
        self.votes = tf.Variable(table.weights, trainable=False, name="votes")
        self.tables = [self.neighbours, self.votes]

    def call(self, history):
        """Item indices `(batch, time)`, oldest first, 0 = none -> `(batch, num_items + 1)`."""
        valid = tf.cast(history > 0, tf.float32)
        # age counts the real events behind an event, so padding anywhere changes nothing
        age = tf.cumsum(valid, axis=1, exclusive=True, reverse=True)
        weight = valid * tf.pow(self.decay, age)  # (batch, time)
        batch, num_rows = tf.shape(history)[0], tf.shape(self.neighbours)[0]
        known = tf.where(history < num_rows, history, 0)  # an added item has no row
        near = tf.gather(self.neighbours, known)  # (batch, time, width)
        votes = tf.gather(self.votes, known) * weight[:, :, None]
        place = near + tf.range(batch)[:, None, None] * num_rows
        flat = [tf.reshape(part, [-1]) for part in (votes, place)]
        total = tf.math.unsorted_segment_sum(*flat, batch * num_rows)
        total = tf.nn.relu(tf.reshape(total, (batch, num_rows)))
        return total * tf.cast(tf.range(num_rows) > 0, tf.float32)
