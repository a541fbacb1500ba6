"""Validates by full ranking: holds events out, ranks all items, measures how good the lists are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kerasrec.backend import check_process, tf, traced
from kerasrec.data.histories import Histories, model_inputs, pad_left
from kerasrec.fusion.gains import first_gains, ideal_gains
from kerasrec.models.scoring import exclude, graph_top_k


class Validation(NamedTuple):
    """Holds the held-out targets: for each row of `histories`, the items that came next.

    target_rows: int64 row of `histories`, sorted.  target_items: int32 item index.  newcomers:
    `Histories` of what held-out users without a past chose, or None: the answer to users without a
    history is fitted to them too.
    """

    histories: Histories
    target_rows: np.ndarray
    target_items: np.ndarray
    newcomers: Histories | None = None


def make_validation(histories: Histories, held_out: Histories) -> Validation:
    """Joins held-out histories to what their users did before.

    Users without a past are newcomers. Events that a user did not choose (`Histories.chosen`) are
    left out: they are nothing to predict.

    Args:
        histories: `Histories` of the training events.
        held_out: `Histories` of the validation events.
    """
    held_out = held_out.where(held_out.chosen)
    known = np.isin(held_out.user_ids, histories.user_ids)
    targets = held_out.select(np.flatnonzero(known & (held_out.lengths > 0)))
    rows = np.repeat(np.arange(targets.num_users), targets.lengths)
    newcomers = held_out.select(np.flatnonzero(~known))
    return Validation(histories.of_users(targets.user_ids), rows, targets.items, newcomers)


def hold_out_last(histories: Histories) -> tuple[Histories, Validation]:
    """Splits off each user's last chosen event: `(training histories, Validation)`.

    What came after it (shown, disliked) goes too, so that nothing later than the target is known.
    Users without a past before that event only train.
    """
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    place = np.arange(len(row))
    last = np.full(histories.num_users, -1)
    last[row[histories.chosen]] = place[histories.chosen]  # of several values the last one stays
    has_past = last > histories.offsets[:-1]
    last = np.where(has_past, last, len(row))
    train = histories.where(place < last[row])
    validated = np.flatnonzero(has_past)
    targets = histories.items[last[validated]]
    return train, Validation(train.select(validated), np.arange(len(validated)), targets)


def ranking_quality(lists: np.ndarray, validation: Validation, k: int = 10) -> dict[str, float]:
    """Measures NDCG@k and recall@k of top lists: the means of `quality_per_user`."""
    return {
        f"{name}@{k}": float(values.mean()) if len(values) else 0.0
        for name, values in quality_per_user(lists, validation, k).items()
    }


def quality_per_user(lists: np.ndarray, validation: Validation, k: int) -> dict[str, np.ndarray]:
    """Measures NDCG and recall of the first k places of top lists.

    Args:
        lists: int32 `(num_users, >= k)`, best first, one row per history of `validation`; 0 = none.
        validation: `Validation`.

    Returns:
        dict `ndcg`, `recall` of float arrays, one value per user with targets.
    """
    width = int(max(lists.max(initial=0), validation.target_items.max(initial=0))) + 1
    wanted = np.unique(validation.target_rows * width + validation.target_items)
    rows = np.arange(len(lists))[:, None]
    hits = np.isin(rows * width + lists[:, :k], wanted) & (lists[:, :k] > 0)
    num_targets = np.bincount(wanted // width, minlength=len(lists))
    has = num_targets > 0
    gain = (hits * first_gains(hits.shape[1])).sum(1)
    ndcg = gain[has] / ideal_gains(num_targets[has], k)
    return {"ndcg": ndcg, "recall": hits.sum(1)[has] / num_targets[has]}


def rows_at_once(num_items: int) -> int:
    """Chooses how many histories are ranked together: 512, fewer where scores would pass 256 MB.

    >>> rows_at_once(12_101), rows_at_once(1_000_000)
    (512, 67)
    """
    return max(min(512, 2**26 // num_items), 1)


class Ranker:
    """Ranks the whole catalogue with the current weights of a `Model`."""

    def __init__(self, model: Any) -> None:
        check_process()
        self.model = model
        self._rank, self._retrieve = traced(self._rank_batch), traced(self._retrieve_batch)
        self._vectors_of = traced(model.item_vectors)

    def item_vectors(self) -> Any:
        """Computes all item vectors, float32 `(num_items + 1, dim)`; row 0 is padding."""
        index = np.arange(self.model.config["num_items"] + 1, dtype=np.int32)
        codes = len(self.model.config.get("code_sizes", [0]))  # a vector each
        rows = 64 if self.model.encoder is not None else 65536 // codes
        parts = np.split(index, range(rows, len(index), rows))
        vectors = tf.concat([self._vectors_of(tf.constant(part)) for part in parts], axis=0)
        return tf.cast(vectors, tf.float32)  # mixed precision computes them in 16 bits

    def top(
        self, histories: Histories, k: int = 10, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Finds the best `k` unseen items of each history: int32 `(num_users, k)`, 0 = none."""
        batch_size = batch_size or rows_at_once(self.model.config["num_items"])
        vectors = self.item_vectors()
        unit = tf.math.l2_normalize(vectors, axis=-1)
        lists = np.zeros((histories.num_users, k), np.int32)
        # short histories together: a batch is as wide as its longest
        by_length = np.argsort(histories.lengths, kind="stable")
        for start in range(0, histories.num_users, batch_size):
            rows = by_length[start : start + batch_size]
            part = histories.select(rows)
            longest = int(part.lengths.max(initial=1))
            seen = pad_left(part.items, part.offsets[:-1], part.lengths, longest)
            inputs = model_inputs(part, self.model.config["max_length"])
            found = self._rank(vectors, unit, inputs, seen, k).numpy()
            lists[rows, : found.shape[1]] = found
        return lists

    def probabilities(
        self,
    ) -> Callable[[Histories], tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
        """Gives the functions by which the model alone ranks, with the weights it has now.

        Returns:
            A function of `Histories` that gives the softmax of retrieval over the catalogue,
            float32 `(num_users, num_items + 1)`, and a function of item indices
            `(num_users, n)` -> MLP scores `(num_users, n)`.
        """
        vectors = self.item_vectors()
        unit = tf.math.l2_normalize(vectors, axis=-1)

        def probabilities_of(histories):
            inputs = model_inputs(histories, self.model.config["max_length"])
            interest, scores = self._retrieve(vectors, unit, inputs)

            def scorer_of(index):
                chosen = tf.gather(unit, tf.constant(index, tf.int32))
                return self.model.scorer([interest, chosen], training=False).numpy()

            return tf.nn.softmax(scores).numpy(), scorer_of

        return probabilities_of

    def _retrieve_batch(self, vectors, unit, inputs):
        given = [inputs[name] for name in ("history", "time_gap", "event")]
        interest = self.model.interest([tf.gather(vectors, given[0]), *given])
        return interest, tf.matmul(interest, unit, transpose_b=True) / self.model.loss.temperature()

    def _rank_batch(self, vectors, unit, inputs, seen, k):
        _, scores = self._retrieve_batch(vectors, unit, inputs)
        return graph_top_k(exclude(scores, tf.pad(seen, [[0, 0], [1, 0]])), k)[0]


def some_of(validation: Validation, count: int, *, seed: int = 0) -> Validation:
    """Draws a `Validation` of at most `count` users."""
    num_users = validation.histories.num_users
    if num_users <= count:
        return validation
    rows = np.sort(np.random.default_rng(seed).choice(num_users, count, replace=False))
    place = np.full(num_users, -1)
    place[rows] = np.arange(count)
    target_rows = place[validation.target_rows]
    kept = target_rows >= 0
    return Validation(
        validation.histories.select(rows), target_rows[kept], validation.target_items[kept]
    )
