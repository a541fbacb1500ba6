"""`fit_generator`: semantic ids and a decoder that plans what a user will want next, in order.

The plan is made by `beamsearch`; what is listed and how likely it is depends on the decoder and on
what the recommender itself expects, weighed on validation.
"""

import json
import logging
from typing import Any, NamedTuple

import numpy as np

from kerasrec import sequences
from kerasrec.backend import tf
from kerasrec.beamsearch import BeamSearch
from kerasrec.codedecoder import build_decoder
from kerasrec.codetrie import make_trie
from kerasrec.semanticids import SemanticIds, fit_semantic_ids
from kerasrec.trainer import Trainer
from kerasrec.validation import Validation

log = logging.getLogger(__name__)
#: users whose next item is searched for after each epoch, at most
VALIDATED = 2000
#: beams of that search
BEAMS = 16
#: numbers held at once for the items that may be listed
_CELLS = 2**23


class Generator(NamedTuple):
    """Semantic ids and what is trained on them.

    ids: `SemanticIds` of the catalogue.
    decoder: `CodeDecoder`.
    trust: exponent of the decoder, see `BeamSearch`.
    prior: exponent of the recommender's share of each item in the weights of the items.
    """

    ids: SemanticIds
    decoder: Any
    trust: float = 1.0
    prior: float = 0.0

    def tokens(self):
        """Tokens of the items as the decoder reads them, int32 `(num_items + 1, num_levels)`."""
        codes = self.ids.codes
        return np.concatenate([np.zeros_like(codes[:1]), codes + self.decoder.items.offsets])

    def description(self):
        """What a manifest says of it."""
        return {
            "trust": self.trust,
            "prior": self.prior,
            "usage": self.ids.usage(),
            "most_alike": int(self.ids.codes[:, -1].max()) + 1,
            "options": self.decoder.config,
        }

    def save(self, path):
        """Write it to a file, weights included; no pickle."""
        arrays = {f"ids_{name}": value for name, value in self.ids._asdict().items()}
        # not the tables of codes and vectors: the catalogue may have grown
        weights = self.decoder.training.trainable_weights
        arrays.update({f"w{place:04d}": value.numpy() for place, value in enumerate(weights)})
        facts = {"trust": self.trust, "prior": self.prior, "options": self.decoder.config}
        np.savez(path, facts=np.array(json.dumps(facts)), **arrays)

    @classmethod
    def load(cls, path, *, ids=None):
        """Read what `save` wrote; with `ids`, those of a catalogue that has grown since.

        The item vectors that the decoder reads are left zero: a served version has its own.
        """
        with np.load(path) as saved:
            arrays = {name: saved[name] for name in saved.files}
        facts = json.loads(str(arrays["facts"]))
        ids = _ids_in(arrays) if ids is None else ids
        options = {key: value for key, value in facts["options"].items() if key not in _GIVEN}
        nothing = np.zeros((len(ids.codes), facts["options"]["dim"]), np.float32)
        decoder = build_decoder(ids.codes, ids.sizes, nothing, **options)
        weights = [arrays[name] for name in sorted(arrays) if name.startswith("w")]
        for variable, value in zip(decoder.training.trainable_weights, weights, strict=True):
            variable.assign(value)
        return cls(ids, decoder, facts["trust"], facts["prior"])


#: of a decoder's options, those that come from the semantic ids and the item vectors
_GIVEN = ("num_items", "max_length", "sizes", "dim")


def read_ids(path):
    """The `SemanticIds` of a file that `Generator.save` wrote."""
    with np.load(path) as saved:
        return _ids_in({name: saved[name] for name in saved.files if name.startswith("ids_")})


def _ids_in(arrays):
    ids = SemanticIds(**{name: arrays[f"ids_{name}"] for name in SemanticIds._fields})
    return ids._replace(room=int(ids.room))


def fit_generator(
    item_vectors,
    text_vectors,
    histories,
    validation,
    *,
    known=None,
    levels=3,
    max_items=25,
    units=128,
    num_blocks=2,
    heads=4,
    dropout=0.2,
    batch_size=32,
    learning_rate=1.5e-3,
    epochs=25,
    patience=4,
    seed=0,
    run_folder=None,
    progress=True,
):
    """Fit semantic ids to a trained catalogue and train a decoder on them.

    Args:
        item_vectors: float32 `(num_items, item_dim)` of the trained model.
        text_vectors: float32 `(num_items, text_dim)`, whitened, or None.
        histories: `Histories` of the training events.
        validation: `Validation`, to stop by (on `VALIDATED` of its users); None = the last weights.
        known, levels: for `fit_semantic_ids`.
        max_items: newest items of a history and those of the plan together, at most.
        units, num_blocks, heads, dropout: of the decoder.
        batch_size: small, since what a decoder learns in an epoch depends on the number of steps.
        learning_rate, epochs, patience, seed, run_folder, progress: for `Trainer`.

    Returns:
        `Generator`, which lists by the decoder alone, and the DataFrame of its epochs.

    Raises:
        CollapsedCodes: the items are too alike to be told apart by codes.
    """
    options = dict(known=known, levels=levels, seed=seed)
    ids = fit_semantic_ids(item_vectors, text_vectors, **options)
    for row in ids.usage():
        log.info("semantic ids, %s", ", ".join(f"{key} {value}" for key, value in row.items()))
    trie = make_trie(ids.codes)

    def build():
        return build_decoder(
            ids.codes,
            ids.sizes,
            item_vectors,
            max_items=max_items,
            units=units,
            num_blocks=num_blocks,
            heads=heads,
            dropout=dropout,
            centers=[*ids.centers, None],
        )

    options = dict(batch_size=batch_size, learning_rate=learning_rate, epochs=epochs)
    options |= dict(patience=patience, seed=seed, run_folder=run_folder, progress=progress)
    ranker = None

    def ranker_of(decoder):
        nonlocal ranker
        ranker = ranker or PlanRanker(decoder, trie)
        return ranker

    fitted = Trainer(build, ranker=ranker_of, **options)
    history = fitted.fit(histories, validation and some_of(validation, VALIDATED))
    return Generator(ids, fitted.model), history


def text_columns(config, dim):
    """Which columns of item vectors are text parts: bool `(dim,)`.

    Args:
        config: of the `Model`; an average of several has a text part per member.
        dim: of its item vectors.

    >>> text_columns({"text_units": 2}, 3).tolist()
    [True, True, False]
    """
    members = config.get("members", 1)
    return np.arange(dim) % (dim // members) < config["text_units"]


def some_of(validation, count, *, seed=0):
    """A `Validation` of at most so many of its users, drawn."""
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


class PlanRanker:
    """Ranks by plans of the decoder alone, with the weights it has now.

    Args:
        decoder: `CodeDecoder`.
        trie: `CodeTrie`.
    """

    def __init__(self, decoder, trie):
        items = decoder.items
        self.search = BeamSearch(decoder, trie, items.table.numpy(), vectors_of=items.vectors_of)
        self._plans = tf.function(self.search.search, reduce_retracing=True)

    def top(self, histories, k=10):
        """Best `k` next items of each history, as `Ranker.top`."""
        index, _ = self.plans(histories, 1, beams=max(k, BEAMS))
        return index[:, :k, 0]

    def plans(self, histories, num_items, *, beams=BEAMS, weights=None):
        """Plans of unseen items: index int32 and log p, `(num_users, beams, num_items)`.

        Args:
            histories: `Histories`.
            weights: float `(num_users, num_items of the catalogue + 1)`; None = equal ones.
        """
        shape = (histories.num_users, beams, num_items)
        index, logs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        by_length = np.argsort(histories.lengths, kind="stable")
        width = len(self.search.tokens.numpy())
        at_once = max(min(256, _CELLS // width), 1)
        for start in range(0, len(by_length), at_once):
            rows = by_length[start : start + at_once]
            part = histories.select(rows)
            given = np.ones((len(rows), width)) if weights is None else weights[rows]
            given = np.array(given, np.float64)
            given[np.repeat(np.arange(len(rows)), part.lengths), part.items] = 0
            inputs = sequences.model_inputs(part, self.search.max_items)
            found = self._plans(
                tf.constant(inputs["history"]),
                tf.constant(given),
                tf.constant(num_items),
                tf.constant(beams),
            )
            index[rows], logs[rows] = (values.numpy() for values in found)
        return index, logs
