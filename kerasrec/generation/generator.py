"""Keeps semantic ids and the decoder that is trained on them, reads them, ranks by them.

The plan itself is made by `beamsearch`; what is listed and how likely it is depends on the decoder
and on what the recommender itself expects.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from kerasrec.backend import tf
from kerasrec.data.histories import Histories, model_inputs
from kerasrec.generation.beamsearch import BeamSearch
from kerasrec.generation.decoder import CodeDecoder, build_decoder
from kerasrec.models.codes import CodeTrie, SemanticIds

#: beams of a search of `PlanRanker`, at least
BEAMS = 16
#: numbers held at once for the items that may be listed
_CELLS = 2**23


class Generator(NamedTuple):
    """Holds semantic ids and the decoder that is trained on them.

    ids: `SemanticIds` of the catalogue.
    decoder: `CodeDecoder`.
    trust: exponent of the decoder, see `BeamSearch`.
    prior: exponent of the recommender's share of each item in the weights of the items.
    """

    ids: SemanticIds
    decoder: Any
    trust: float = 1.0
    prior: float = 0.0

    def tokens(self) -> np.ndarray:
        """Gives the tokens of items that the decoder reads, int32 `(num_items + 1, num_levels)`."""
        codes = self.ids.codes
        return np.concatenate([np.zeros_like(codes[:1]), codes + self.decoder.items.offsets])

    def description(self) -> dict[str, Any]:
        """Gives the facts for a manifest."""
        return {
            "trust": self.trust,
            "prior": self.prior,
            "usage": self.ids.usage(),
            "most_alike": int(self.ids.codes[:, -1].max()) + 1,
            "options": self.decoder.config,
        }

    def save(self, path: str | Path) -> None:
        """Writes it to a file, weights included; no pickle."""
        arrays = {f"ids_{name}": value for name, value in self.ids._asdict().items()}
        # not the tables of codes and vectors: the catalogue may have grown
        weights = self.decoder.training.trainable_weights
        arrays.update({f"w{place:04d}": value.numpy() for place, value in enumerate(weights)})
        facts = {"trust": self.trust, "prior": self.prior, "options": self.decoder.config}
        np.savez(path, facts=np.array(json.dumps(facts)), **arrays)

    @classmethod
    def load(cls, path: str | Path, *, ids: SemanticIds | None = None) -> Self:
        """Reads what `save` wrote; `ids` takes the place of its own where the catalogue has grown.

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


def read_ids(path: str | Path) -> SemanticIds:
    """Reads the `SemanticIds` of a file that `Generator.save` wrote."""
    with np.load(path) as saved:
        return _ids_in({name: saved[name] for name in saved.files if name.startswith("ids_")})


def _ids_in(arrays):
    ids = SemanticIds(**{name: arrays[f"ids_{name}"] for name in SemanticIds._fields})
    return ids._replace(room=int(ids.room))


class PlanRanker:
    """Ranks by plans of the decoder alone, with the weights it has now.

    Args:
        decoder: `CodeDecoder`.
        trie: `CodeTrie`.
    """

    def __init__(self, decoder: CodeDecoder, trie: CodeTrie) -> None:
        items = decoder.items
        self.search = BeamSearch(decoder, trie, items.table.numpy(), vectors_of=items.vectors_of)
        self._plans = tf.function(self.search.search, reduce_retracing=True, autograph=False)

    def top(self, histories: Histories, k: int = 10) -> np.ndarray:
        """Finds the best `k` next items of each history, as `Ranker.top` does."""
        index, _ = self.plans(histories, 1, beams=max(k, BEAMS))
        return index[:, :k, 0]

    def plans(
        self,
        histories: Histories,
        num_items: int,
        *,
        beams: int = BEAMS,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Searches plans of unseen items: index int32 and log p, `(num_users, beams, num_items)`.

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
            inputs = model_inputs(part, self.search.max_items)
            found = self._plans(
                tf.constant(inputs["history"]),
                tf.constant(given),
                tf.constant(num_items),
                tf.constant(beams),
            )
            index[rows], logs[rows] = (values.numpy() for values in found)
        return index, logs
