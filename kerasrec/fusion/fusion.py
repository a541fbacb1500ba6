"""Defines the fused score: a weighted sum of model, neighbour tables, mixture, recency and MLP.

    score(u, i) = sum over parts p of (a_p + b_p * new_i) * log(share_p(u, i) + epsilon)
                  + prior(t, i) + v * MLP(U, e_i)

`share_p` is the score of part p for an unseen item, divided by the sum over all unseen items. The
parts are the softmax of the model's retrieval, the votes of each neighbour table, and a mixture of
these and of what is popular at the moment. How much each counts in the mixture depends on the time
since the user's newest event (`weights.WAITS`): within a visit one thing follows another, after
days what is popular now counts, and then with those who come (`recency.kind_of_wait`). `new_i` is 1
while item i has no event, and `prior(t, i)` is the sum of its recency features at the moment t
(`recency`). The weights are chosen on validation (`choice`). A user without a history is answered
by a prior of its own, fitted without the other parts. No TensorFlow here; `versions.graph` has the
graph.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion import neighbours
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import Counts, Moments, Recency, log_shares
from kerasrec.fusion.weights import NUM_WAITS, TINY

#: the neighbour tables that can be fused with the model
TABLES = ("transitions", "follows", "ease", "text", "relations")
#: all that can be fused with it
Part = Literal["transitions", "follows", "ease", "text", "recency", "relations"]
#: what is fused unless somebody asks: "relations" found fewer new items of mooccube-courses
PARTS: tuple[Part, ...] = get_args(Part)[:-1]
#: the tables that say what follows what: quick to fit anew while a version answers
FOLLOWING: tuple[Part, ...] = ("transitions", "follows")
#: the part of the mixture that is the same for all users at a moment
POPULAR = "popular"
#: powers of the event counts that transitions are divided by, see `normalise_counts`
DAMPING = ((0.7, 0.4), (0.5, 0.25), (0.3, 0.1))
_WIDTH = 200  # neighbours per item


class Fusion(NamedTuple):
    """Holds what is fused with the model's own retrieval, and how much each part counts.

    tables: name -> `NeighbourTable`.  weights: name of the part ("model", a table, "mixture") ->
    `(weight, added weight for new items)`.  mixture: name of the part, "popular" too -> its share
    of the mixture in each bucket of the wait, `(NUM_WAITS,)`, or one number for all of them.
    scorer_weight: weight of the MLP.  fit: how the weights were fitted, a name of
    `weights.FITS`, "live" (`choice.choose_live`) or "none".  epsilon: see the module.
    starts: int64 `(num_moments,)`.  first: int32 `(num_items + 1,)`, as in `recency.Moments`.
    prior: float32 `(num_moments, num_items + 1)`.  popular_at: float32 `(recency.KINDS,
    num_moments, num_items + 1)`, logarithm of the share of each item in what is popular with each
    kind of users; None where the mixture has no such part.  popular: float32
    `(num_items + 1,)`, the scores for users without a history at the last moment.  recency:
    `recency.Recency`, to bring the last moment up to date.
    """

    tables: dict
    weights: dict
    mixture: dict
    scorer_weight: float
    fit: str
    epsilon: float
    starts: np.ndarray
    first: np.ndarray
    prior: np.ndarray
    popular: np.ndarray
    recency: Recency
    popular_at: np.ndarray | None = None

    @classmethod
    def alone(cls, num_items: int, popular: np.ndarray | None = None) -> "Fusion":
        """Makes a fusion of the model alone; `popular` scores items for users without a history."""
        counts = Counts.none(num_items, 0)
        no_weights = np.zeros(len(counts.features()))
        nothing = np.zeros(num_items + 1, np.float32)
        return cls(
            tables={},
            weights={"model": (1.0, 0.0)},
            mixture={},
            scorer_weight=0.0,
            fit="none",
            epsilon=TINY,
            starts=np.zeros(1, np.int64),
            first=np.zeros(num_items + 1, np.int32),
            prior=nothing[None],
            popular=nothing if popular is None else popular,
            recency=Recency(counts, no_weights, no_weights[None]),
        )

    def chosen(self, fitted: Mapping[str, Sequence[NeighbourTable]]) -> dict[str, int]:
        """Finds which of the tables of `fit_tables` was chosen: name -> place in its list."""
        return {
            name: next(i for i, t in enumerate(fitted[name]) if t.weights is table.weights)
            for name, table in self.tables.items()
        }

    def arranged_as(self, other: "Fusion") -> "Fusion":
        """Brings the parts into the order of another fusion, where that one has them all.

        A part that only the other has gets weight 0. Otherwise nothing changes.
        """
        if set(self.weights) - set(other.weights) or set(self.mixture) - set(other.mixture):
            return self
        return self._replace(
            weights={name: self.weights.get(name, (0.0, 0.0)) for name in other.weights},
            mixture={name: self.mixture.get(name, 0.0) for name in other.mixture},
        )

    def mixture_rows(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Gives the mixture by bucket of the wait, float64 `(NUM_WAITS, number of names)`.

        Args:
            names: parts, in this order; one that is not mixed has 0. None = those of `mixture`.
        """
        names = list(self.mixture) if names is None else names
        rows = [np.broadcast_to(self.mixture.get(name, 0.0), NUM_WAITS) for name in names]
        return np.stack(rows, axis=1) if rows else np.zeros((NUM_WAITS, 0))

    def lifted(self, lift: float) -> "Fusion":
        """Adds a number to the score of items without an event, for users with a history.

        It holds for the end of a log, so from `at_end` on; new is the last feature of recency.
        """
        weights = np.array(self.recency.weights, float)
        weights[-1] += lift
        return self._replace(recency=self.recency._replace(weights=weights))

    def at_moments(self, moments: Moments) -> "Fusion":
        """Takes other `recency.Moments`, such as those of a longer log, with the same weights."""
        popular = moments.prior(self.recency.popular_weights)
        return self._replace(
            starts=moments.starts,
            first=moments.first,
            prior=moments.prior(self.recency.weights),
            popular_at=None if self.popular_at is None else log_shares(popular),
            recency=self.recency._replace(counts=moments.end),
        )

    def at_end(self, counts: Counts) -> "Fusion":
        """Brings the fusion to the end of a longer log, by its `Counts`; see `Recency.at_end`."""
        known = self.recency._replace(counts=counts)
        ended = known.at_end(self.starts, self.first, self.prior, self.popular_at)
        return self._replace(**ended._asdict(), recency=known)

    def description(self) -> dict[str, Any]:
        """Describes the weight of each part, as plain data for the manifest."""
        return {
            "fit": self.fit,
            "weights": {name: [_short(w) for w in pair] for name, pair in self.weights.items()},
            "mixture": {name: _short_all(share) for name, share in self.mixture.items()},
            "decays": {name: table.decay for name, table in self.tables.items()},
            "epsilon": _short(self.epsilon),
            **self.recency.description(),
        }


def mixture_of(names: Sequence[str], rows: np.ndarray) -> dict[str, tuple[float, ...] | float]:
    """Gives the `Fusion.mixture` of shares `(NUM_WAITS, number of names)`; the inverse of
    `Fusion.mixture_rows`.
    """
    return {n: _one_or_all(column.tolist()) for n, column in zip(names, rows.T, strict=True)}


def _one_or_all(shares):
    """A number where all shares are equal, else the tuple of them."""
    return shares[0] if len(set(shares)) == 1 else tuple(shares)


def _short_all(shares):
    return _short(shares) if np.ndim(shares) == 0 else [_short(share) for share in shares]


def _short(number):
    """Seven digits: what float32 tells apart, as `Recommender.fusion` reads it again."""
    return float(f"{number:.7g}")


def fit_tables(
    histories: Histories,
    num_items: int,
    text_vectors: np.ndarray | None = None,
    *,
    parts: Annotated[tuple[Part, ...], "option"] = PARTS,
    sharing: NeighbourTable | None = None,
) -> dict[str, list[NeighbourTable]]:
    """Fits the neighbour tables that the data allows; validation chooses among them.

    Args:
        histories: `Histories` of the training events; only events that users chose count.
        num_items: size of the catalogue.
        text_vectors: float32 `(num_items, text_dim)`, whitened, or None: no table "text".
        parts: what may be fused with the model, names of `Part`; the `TABLES` among them are made
            here. "ease" is for catalogues up to `neighbours.MAX_EASE_ITEMS` items.
        sharing: the table "relations", of `sharing.sharing_table`; None = there is none.

    Returns:
        dict name -> list of `NeighbourTable`, of which the best is taken.
    """
    found = _fit_tables(histories, num_items, text_vectors, parts, DAMPING)
    if sharing is not None and "relations" in parts:
        found["relations"] = [sharing]
    return found


def _fit_tables(histories, num_items, text_vectors, parts, damping):
    histories = histories.where(histories.chosen)
    found = {}
    if "transitions" in parts:
        events = np.bincount(histories.items, minlength=num_items + 1)
        counts = neighbours.sequential_counts(histories, num_items)
        found["transitions"] = [transitions_table(counts, events, powers) for powers in damping]
    if "follows" in parts:
        found["follows"] = [follows_table(direct_counts(histories, num_items))]
    if "ease" in parts and num_items <= neighbours.MAX_EASE_ITEMS:
        ease = neighbours.fit_ease(histories, num_items)
        found["ease"] = [neighbours.to_table(ease, width=_WIDTH, decay=0.7)]
    if "text" in parts and text_vectors is not None:
        near = neighbours.text_neighbours(text_vectors, width=_WIDTH)
        found["text"] = [neighbours.to_table(near, width=_WIDTH, decay=0.7)]
    return found


def fit_again(
    tables: Mapping[str, NeighbourTable],
    chosen: Mapping[str, int] | None,
    histories: Histories,
    num_items: int,
    text_vectors: np.ndarray | None = None,
    *,
    parts: Sequence[str] = TABLES,
) -> dict[str, NeighbourTable]:
    """Fits the tables of a version anew: the same kinds, decays and damping on a longer log.

    Args:
        tables: name -> `NeighbourTable`.
        chosen: name -> which of the candidates of `fit_tables` it was, see `Fusion.chosen`; None =
            unknown, as for a version that `export` alone wrote: the damping in the middle.
        histories, num_items, text_vectors: as for `fit_tables`.
        parts: names of tables to fit; the others stay, and so do "relations", which no log changes,
            and "ease" beyond its limit.

    Returns:
        name -> `NeighbourTable`.
    """
    names = [name for name in tables if name in parts]
    damping = (damping_of(chosen),)  # of the other tables there is one kind
    found = _fit_tables(histories, num_items, text_vectors, names, damping)
    again = {name: table._replace(decay=tables[name].decay) for name, (table,) in found.items()}
    return {**tables, **again}


def damping_of(chosen: Mapping[str, int] | None) -> tuple[float, float]:
    """Powers of the transitions of a version, of `DAMPING`; `chosen` as for `fit_again`."""
    chosen = {"transitions": len(DAMPING) // 2} if chosen is None else chosen
    return DAMPING[chosen.get("transitions", 0)]


def transitions_table(
    counts: Any, events: np.ndarray, powers: tuple[float, float]
) -> NeighbourTable:
    """Makes the table "transitions".

    Args:
        counts: sparse, of `neighbours.sequential_counts`.
        events: of each item, `(num_items + 1,)`.
        powers: of the damping, see `DAMPING`.
    """
    source_power, target_power = powers
    normal = neighbours.normalise_counts(
        counts, events, source_power=source_power, target_power=target_power
    )
    return neighbours.to_table(normal, width=_WIDTH, decay=0.5)


def follows_table(counts: Any) -> NeighbourTable:
    """Makes the table "follows": of all that comes directly after an item, the share of each."""
    all_after = np.asarray(counts.sum(axis=1)).ravel()
    shares = neighbours.normalise_counts(counts, all_after, source_power=1, target_power=0)
    return neighbours.to_table(shares, width=_WIDTH, decay=0.0)


def direct_counts(histories: Histories, num_items: int) -> Any:
    """Counts how often an item came directly after another one, sparse."""
    return neighbours.sequential_counts(histories, num_items, backward=0, max_distance=1)
