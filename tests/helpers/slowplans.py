"""Plans the slow way: the whole line through Keras for every code, and plain loops over items.

Written from what the documents say a plan is, for comparison with `kerasrec.generation.beamsearch`.
"""

import functools

import numpy as np

from kerasrec.backend import keras, tf
from kerasrec.generation.beamsearch import BeamSearch
from kerasrec.generation.decoder import build_decoder
from kerasrec.models.codes import make_trie

SIZES = (3, 4, 5)
DIM = 6


def random_codes(rng, num_items, sizes=SIZES):
    """int32 `(num_items, levels)`, no row twice."""
    places = rng.choice(int(np.prod(sizes)), num_items, replace=False)
    return np.stack(np.unravel_index(places, sizes), axis=1).astype(np.int32)


def tiny_decoder(num_items=9, *, seed=0, scale=0.3, **options):
    """`(decoder, codes, vectors)`; its weights are random and large enough to count."""
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, num_items)
    vectors = rng.normal(size=(num_items, DIM)).astype(np.float32)
    keras.utils.set_random_seed(seed)
    options = dict(max_items=6, units=16, num_blocks=2, heads=2) | options
    decoder = build_decoder(codes, SIZES, vectors, **options)
    for weight in decoder.training.trainable_weights:
        weight.assign(weight + rng.normal(scale=scale, size=weight.shape))
    return decoder, codes, vectors


def search_of(decoder, codes, **options):
    """`(BeamSearch, its search as a traced function of numpy arrays)`."""
    items = decoder.items
    search = BeamSearch(
        decoder, make_trie(codes), items.table.numpy(), vectors_of=items.vectors_of, **options
    )
    traced = tf.function(lambda *given: search.search(*given))
    kinds = (tf.float32, tf.float32, tf.int32)
    rows = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.float64)
    scalar, each = tf.TensorSpec((), tf.int32), [tf.TensorSpec((None,), kind) for kind in kinds]

    @functools.cache  # traced once, for any shapes
    def of_draws(*draws):
        return traced.get_concrete_function(*rows, scalar, scalar, *draws)

    def run(history, weights, num_items, beams, draws=None):
        given = [tf.constant(np.asarray(history, np.int32)), tf.constant(weights, tf.float64)]
        given += [tf.constant(num_items), tf.constant(beams)]
        if draws is None:
            return [part.numpy() for part in of_draws()(*given)]
        draws = tuple(tf.constant(part, kind) for part, kind in zip(draws, kinds, strict=True))
        return [part.numpy() for part in of_draws(tuple(each))(*given, draws)]

    return search, run


def padded(rows, width=None):
    """Lists of item indices as a left-padded array."""
    width = max([width or 0, *map(len, rows)])
    return np.array([[0] * (width - len(row)) + list(row) for row in rows], np.int32)


class SlowPlans:
    """What is likely, by the definition.

    Args:
        decoder: `CodeDecoder`; of it the Keras transformer, embeddings and biases are used.
        codes, vectors: of the items, row r is item index r + 1.
    """

    def __init__(self, decoder, codes, vectors, *, trust=1.0, max_items=6):
        model, self.codes, self.vectors = decoder.transformer, codes, vectors
        self.trust, self.max_items = trust, max_items
        self.model = tf.function(lambda *line: model(line, training=False), reduce_retracing=True)
        self.table = model.get_layer("Embedding-Token").embeddings.numpy()
        self.bias = decoder.heads.bias.numpy()
        self.start = np.concatenate([[0], np.cumsum(SIZES)])

    def line(self, items, more=()):
        """Tokens `(length,)` and vectors `(length, DIM)` of items, and codes of one more item."""
        tokens, given = [1], [np.zeros(DIM)]
        for item in items:
            for level, code in enumerate(self.codes[item - 1]):
                tokens.append(2 + self.start[level] + code)
                given.append(np.zeros(DIM))
            given[-1] = self.vectors[item - 1]  # read with the last code
        for level, code in enumerate(more):
            tokens.append(2 + self.start[level] + code)
            given.append(np.zeros(DIM))
        return np.array(tokens, np.int32), np.array(given, np.float32)

    def states(self, items, more=()):
        """States of the Keras model at every place of a line, `(length, units)`."""
        tokens, given = self.line(items, more)
        return self.model(tf.constant(tokens[None]), tf.constant(given[None])).numpy()[0]

    def decoder_logs(self, state, level):
        """log p of each code of a level by the decoder alone."""
        first, last = self.start[level], self.start[level + 1]
        logits = self.table[2 + first : 2 + last] @ state + self.bias[first:last]
        return logits - np.log(np.exp(logits).sum())

    def next_codes(self, history, plan, more, weights):
        """Code -> log p after some codes, among those that lead to something that is left."""
        level = len(more)
        mass = {}
        for item, code in enumerate(self.codes, start=1):
            if tuple(code[:level]) == tuple(more) and weights[item] > 0 and item not in plan:
                mass[int(code[level])] = mass.get(int(code[level]), 0) + weights[item]
        state = self.states([*history, *plan], more)[-1]
        by_decoder = self.decoder_logs(state.astype(np.float64), level)
        score = {code: self.trust * by_decoder[code] + np.log(m) for code, m in mass.items()}
        total = np.log(sum(np.exp(value) for value in score.values())) if score else 0
        return {code: value - total for code, value in score.items()}

    def kept(self, history, num_items):
        """The newest items of a history that fit into a line with a plan."""
        return list(history)[max(len(history) - (self.max_items - num_items), 0) :]

    def next_items(self, history, plan, weights, temperature=1.0):
        """Item index -> log p of being the next of a plan, for all that are left."""
        found = {(): 0.0}
        for _ in range(len(SIZES)):
            longer = {}
            for more, log_p in found.items():
                after = self.next_codes(history, plan, more, weights)
                heated = {code: value / temperature for code, value in after.items()}
                total = np.log(sum(np.exp(value) for value in heated.values()))
                for code, value in heated.items():
                    longer[(*more, code)] = log_p + value - total
            found = longer
        index = {tuple(code): item for item, code in enumerate(self.codes.tolist(), start=1)}
        return {index[more]: log_p for more, log_p in found.items()}

    def plans(self, history, num_items, weights):
        """All plans, the likeliest first: list of `(items, log p of each)`."""
        kept = self.kept(history, num_items)
        found = [((), ())]
        for _ in range(num_items):
            found = [
                ((*plan, item), (*logs, log_p))
                for plan, logs in found
                for item, log_p in self.next_items(kept, plan, weights).items()
            ]
        return sorted(found, key=lambda pair: -sum(pair[1]))
