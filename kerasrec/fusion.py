"""One fused score: the model's softmax, the neighbour tables and the MLP scorer, weighted.

    p(i) = (1 - sum of w_t) * softmax(retrieval)(i) + sum over tables t of w_t * s_t(i) / sum(s_t)
    score(i) = log p(i) + v * MLP(U, e_i)

The weights w, v and the decays of the tables are chosen on validation; a weight may be 0.
"""

import itertools
from typing import NamedTuple

import numpy as np

from kerasrec import transitions
from kerasrec.backend import tf

#: the neighbour tables that can be fused with the model
TABLES = ("transitions", "ease", "text")
#: powers of the event counts that transitions are divided by, see `normalise_counts`
DAMPING = ((0.7, 0.4), (0.5, 0.25), (0.3, 0.1))
DECAYS = (0.3, 0.5, 0.7, 0.85)
#: weight moved between two parts at a time
STEPS = (0.2, 0.1, 0.05)
SCORER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: validation users that the choice looks at; beyond them a sample
MAX_USERS = 4000
_CANDIDATES = 40  # of every component
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


def fit_tables(histories, num_items, text_vectors=None, *, tables=TABLES):
    """The neighbour tables that the data allows, for validation to choose from.

    Args:
        histories: `Histories` of the training events; only those that users chose are learned from.
        num_items: size of the catalogue.
        text_vectors: float32 `(num_items, text_dim)`, whitened, or None: no table "text".
        tables: names of `TABLES` that may be used. "ease" is for catalogues up to
            `transitions.MAX_EASE_ITEMS`; beyond it there is none.

    Returns:
        dict name -> list of `NeighbourTable`, of which the best is taken.
    """
    histories = histories.where(histories.chosen)
    found = {}
    if "transitions" in tables:
        found["transitions"] = _transition_tables(histories, num_items)
    if "ease" in tables and num_items <= transitions.MAX_EASE_ITEMS:
        ease = transitions.fit_ease(histories, num_items)
        found["ease"] = [transitions.to_table(ease, width=_WIDTH, decay=0.7)]
    if "text" in tables and text_vectors is not None:
        near = transitions.text_neighbours(text_vectors, width=_WIDTH)
        found["text"] = [transitions.to_table(near, width=_WIDTH, decay=0.7)]
    return found


def _transition_tables(histories, num_items):
    events = np.bincount(histories.items, minlength=num_items + 1)
    counts = transitions.sequential_counts(histories, num_items)
    tables = []
    for source_power, target_power in DAMPING:
        powers = dict(source_power=source_power, target_power=target_power)
        normal = transitions.normalise_counts(counts, events, **powers)
        tables.append(transitions.to_table(normal, width=_WIDTH, decay=0.5))
    return tables


class _Candidates(NamedTuple):
    """What the choice of weights needs of every validation user; the model is part 0.

    parts: float32 `(num_parts, num_users, n)`, probabilities of the user's candidates.
    scorer: float32 `(num_users, n)`, the MLP.  hits: bool, True where the candidate is a target.
    num_targets: `(num_users,)`.  target_parts: float32 `(num_targets, num_parts)`.
    """

    parts: np.ndarray
    scorer: np.ndarray
    hits: np.ndarray
    num_targets: np.ndarray
    target_parts: np.ndarray


def choose_fusion(ranker, validation, tables, *, k=10):
    """Choose decays and weights by NDCG@k on validation.

    The search starts where the mixture makes the targets most likely (expectation maximisation,
    smooth and without a step size) and from there moves weight between pairs of parts while NDCG
    grows.

    Args:
        ranker: `Ranker` of the trained model.
        validation: `Validation`.
        tables: name -> list of `NeighbourTable`, from `fit_tables`.
        k: cut of the NDCG.

    Returns:
        `(Fusion, dict)`: the dict holds NDCG@k and recall@k of the fusion and NDCG@k of the model
        alone, of at most `MAX_USERS` users.
    """
    validation = _sample(validation)
    tables = {name: _best_table(candidates, validation, k) for name, candidates in tables.items()}
    data = _collect(ranker, validation, tables)
    alone = _ndcg(data, np.eye(len(tables) + 1)[0], 0.0, k)
    weights, scorer, best = _search(data, _most_likely(data.target_parts), k)
    if alone >= best:
        weights, scorer, best = np.eye(len(tables) + 1)[0], 0.0, alone
    chosen = {name: float(w) for name, w in zip(tables, weights[1:], strict=True) if w > 0}
    fusion = Fusion({name: tables[name] for name in chosen}, chosen, scorer)
    hits = _top_hits(data, weights, scorer, k)
    recall = float((hits.sum(axis=1) / np.maximum(data.num_targets, 1)).mean())
    quality = {"valid_ndcg": best, "valid_recall": recall, "valid_ndcg_of_the_model_alone": alone}
    return fusion, {f"{name}@{k}": value for name, value in quality.items()}


def _most_likely(target_parts, steps=100):
    """Mixture weights, `(num_parts,)`, by expectation maximisation.

    Args:
        target_parts: probability of every target under every part, `(num_targets, num_parts)`.
    """
    weights = np.full(target_parts.shape[1], 1 / target_parts.shape[1])
    # a target that no part can name (the history holds it already) says nothing of the weights
    target_parts = target_parts[target_parts.sum(axis=1) > 0]
    if not len(target_parts):
        return weights
    for _ in range(steps):
        joint = target_parts * weights + TINY
        weights = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
    return weights


def _search(data, weights, k):
    """Greedy ascent from `weights`: `(weights, scorer_weight, NDCG)`."""
    scorer, best = 0.0, _ndcg(data, weights, 0.0, k)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for source, target in itertools.permutations(range(len(weights)), 2):
                tried = weights.copy()
                moved = min(step, tried[source])
                tried[source] -= moved
                tried[target] += moved
                found = _ndcg(data, tried, scorer, k) if moved else 0.0
                if found > best + 1e-6:
                    best, weights, improved = found, tried, True
        for value in SCORER_WEIGHTS:
            found = _ndcg(data, weights, value, k)
            if found > best + 1e-6:
                best, scorer = found, value
    return np.where(weights < 0.01, 0, weights), scorer, best


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
    """Rows of scores without padding and the seen items, summing to 1 (or all 0)."""
    scores[:, 0] = 0
    scores[seen] = 0
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), TINY)


def _best_table(candidates, validation, k):
    """The candidate, with the decay, that ranks validation best on its own."""
    tables = [table._replace(decay=decay) for table in candidates for decay in DECAYS]
    quality = np.zeros(len(tables))
    for histories, seen, (row, item) in _blocks(validation):
        wanted = np.zeros((histories.num_users, len(tables[0].neighbours)), bool)
        wanted[row, item] = True
        for number, table in enumerate(tables):
            scores = table.scores(histories)
            scores[seen] = 0
            order = _first(scores, k)
            listed = np.take_along_axis(scores, order, axis=1) > 0
            hits = np.take_along_axis(wanted, order, axis=1) & listed
            quality[number] += _ndcg_of_hits(hits, wanted.sum(axis=1)).sum()
    return tables[int(quality.argmax())]


def _first(scores, k):
    """Columns of the `k` largest scores of every row, largest first."""
    k = min(k, scores.shape[1])
    order = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    inner = np.argsort(-np.take_along_axis(scores, order, axis=1), axis=1, kind="stable")
    return np.take_along_axis(order, inner, axis=1)


def _collect(ranker, validation, tables):
    collected, probabilities_of = [], ranker.probabilities()
    for histories, seen, targets in _blocks(validation):
        model, mlp_of = probabilities_of(histories)
        scores = [model, *(table.scores(histories) for table in tables.values())]
        parts = [_normal(part, seen) for part in scores]  # each (b, num_items + 1)
        count = min(_CANDIDATES, model.shape[1] - 1)
        best = [np.argpartition(-part, count, axis=1)[:, :count] for part in parts]
        index = np.sort(np.concatenate(best, axis=1), axis=1)
        repeated = np.pad(index[:, 1:] == index[:, :-1], [(0, 0), (1, 0)]) | (index == 0)
        wanted = np.zeros(model.shape, bool)
        wanted[targets] = True
        values = [np.take_along_axis(part, index, axis=1) * ~repeated for part in parts]
        hits = np.take_along_axis(wanted, index, axis=1) & ~repeated
        of_targets = np.stack([part[targets] for part in parts], axis=1)
        collected.append((np.stack(values), mlp_of(index), hits, wanted.sum(axis=1), of_targets))
    columns = list(zip(*collected, strict=True))
    parts = np.concatenate(columns[0], axis=1)
    return _Candidates(parts, *(np.concatenate(column) for column in columns[1:]))


def _ndcg(data, weights, scorer_weight, k):
    return float(_ndcg_of_hits(_top_hits(data, weights, scorer_weight, k), data.num_targets).mean())


def _top_hits(data, weights, scorer_weight, k):
    """Which of the first k are targets, bool `(num_users, k)`."""
    mixed = np.tensordot(weights.astype(np.float32), data.parts, 1)  # (num_users, n)
    score = np.log(mixed + TINY) + scorer_weight * np.where(mixed > 0, data.scorer, 0)
    order = _first(score, k)
    listed = np.take_along_axis(mixed, order, axis=1) > 0  # an item seen before fills no place
    return np.take_along_axis(data.hits, order, axis=1) & listed


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
