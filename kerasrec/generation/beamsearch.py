"""`BeamSearch`: generates plans of items from a decoder, in core TensorFlow operations.

Every code is chosen among those that lead to an item that may still be listed, so whatever comes
out is an item of the catalogue, allowed, and not in the plan yet. The state of a beam is a node of
the trie of codes. What a transformer has computed for the history is kept and shared by all beams;
what it has computed for the plan is kept per beam.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.generation.decoder import CodeDecoder, align_left, line_of_tokens, spread
from kerasrec.models.codes import CodeTrie

_TINY = 1e-30
_NONE = -1e9  # a logarithm of 0 that can be subtracted from itself


class BeamSearch(tf.Module):
    """Generates plans: lists of items in order.

    The probability of a code among those that lead to something that is left is

        p(code) ~ p_decoder(code | history, plan so far) ** trust * weight of the items below it

    so with trust 0 items are listed by their weights, and with equal weights by the decoder. Which
    beams live on is decided by what the best item below each code could still have, not by what
    all items there have together: many middling ones would else push out one that is better.

    Attributes:
        trust: variable, see above.
        longest: variable, items of a plan at most.
        tokens: variable, int32 `(num_items + 1, num_levels)`, of each item; grows with new items.
        trie_*: variables, the arrays of the `CodeTrie`; they grow too.

    Args:
        decoder: `CodeDecoder`.
        trie: `CodeTrie` of the semantic ids.
        tokens: see above.
        vectors_of: function of item indices that gives the vectors which the decoder reads.
    """

    def __init__(
        self,
        decoder: CodeDecoder,
        trie: CodeTrie,
        tokens: np.ndarray,
        *,
        vectors_of: Callable[[Any], Any],
        trust: float = 1.0,
    ) -> None:
        super().__init__()
        config = decoder.config
        self.sizes, self.max_items = tuple(config["sizes"]), config["max_items"]
        self.heads, self.units = config["heads"], config["units"]
        self._offsets = [int(offset) for offset in decoder.items.offsets]
        self.vectors_of = vectors_of
        layers, heads = _layers(decoder.transformer, config["num_blocks"]), decoder.heads
        # functions, so that saving leaves out Keras' own traces of each layer
        self._layer = lambda name: layers[name]
        self._logits = lambda states, level: heads.logits(states, level)
        self.layer_variables = [*decoder.transformer.variables, *decoder.heads.variables]
        self.trust = tf.Variable(float(trust), trainable=False, name="trust")
        # half of a line is left to the history
        self.longest = tf.Variable(max(self.max_items // 2, 1), trainable=False, name="longest")
        self.tokens = _growing(tokens, "tokens")
        for name, values in trie._asdict().items():
            setattr(self, f"trie_{name}", _growing(values, f"trie_{name}"))

    # --- the transformer, step by step ---

    def _prefix(self, history, room):
        """What the newest items of histories leave behind.

        Args:
            history: int32 `(batch, time)`, left-padded.
            room: items that will be generated.

        Returns:
            The last state `(batch, units)`, keys and values `(batch, length, heads, size)` of each
            block, and the tokens of each row `(batch,)`.
        """
        levels = len(self.sizes)
        kept = tf.maximum(self.max_items - room, 0)
        history = history[:, tf.maximum(tf.shape(history)[1] - kept, 0) :]
        line = align_left(history)
        tokens = line_of_tokens(tf.gather(self.tokens, line))
        count = 1 + levels * tf.reduce_sum(tf.cast(line > 0, tf.int32), axis=1)
        vectors = spread(self.vectors_of(line), levels)
        x = self._embed(tokens, tf.range(tf.shape(tokens)[1]), vectors)
        place = tf.range(tf.shape(tokens)[1])
        # padding is behind: what comes before never sees it
        hidden = tf.where(place[None, :] <= place[:, None], 0.0, _NONE)
        cache = []
        for block in self._layer("blocks"):
            query, key, value = self._project(block, x)
            cache.append((key, value))
            scores = tf.einsum("bqhd,bkhd->bhqk", query, key) + hidden
            attended = tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores), value)
            x = self._finish(block, x, attended)
        return tf.gather(x, count - 1, batch_dims=1), cache, count

    def _step(self, tokens, place, caches, count, own, vectors=None):
        """States of one more token per beam.

        Args:
            tokens: int32 `(batch, beams)`.
            place: in its line, int32 `(batch,)`.
            caches, count: of `_prefix`.
            own: keys and values of the plan so far per block, `(batch, beams, steps, heads, size)`.

        Returns:
            States `(batch, beams, units)` and `own` with this token.
        """
        x = self._embed(tokens, place[:, None], vectors)
        length = tf.shape(caches[0][0])[1]
        behind = tf.range(length)[None, :] >= count[:, None]  # (batch, length)
        hidden = tf.where(behind, _NONE, 0.0)[:, None, None, :]
        grown = []
        for block, (key, value), (own_key, own_value) in zip(
            self._layer("blocks"), caches, own, strict=True
        ):
            query, new_key, new_value = self._project(block, x)
            own_key = tf.concat([own_key, new_key[:, :, None]], axis=2)
            own_value = tf.concat([own_value, new_value[:, :, None]], axis=2)
            grown.append((own_key, own_value))
            shared = tf.einsum("bqhd,bkhd->bhqk", query, key) + hidden
            alone = tf.einsum("bqhd,bqshd->bhqs", query, own_key)
            weights = tf.nn.softmax(tf.concat([shared, alone], axis=3))
            shared, alone = weights[..., :length], weights[..., length:]
            attended = tf.einsum("bhqk,bkhd->bqhd", shared, value)
            attended += tf.einsum("bhqs,bqshd->bqhd", alone, own_value)
            x = self._finish(block, x, attended)
        return x, grown

    def _embed(self, tokens, place, vectors=None):
        x = tf.gather(self._layer("token"), tokens) + tf.gather(self._layer("position"), place)
        if vectors is not None:
            x += self._layer("vectors")(vectors)
        return self._layer("norm")(x)

    def _project(self, block, x):
        """Query (scaled), key and value `(batch, n, heads, size)`."""
        size = self.units // self.heads
        shape = tf.concat([tf.shape(x)[:2], [self.heads, size]], axis=0)
        query, key, value = (
            tf.reshape(dense(x), shape)
            for dense in (
                block["attention"].q_dense,
                block["attention"].k_dense,
                block["attention"].v_dense,
            )
        )
        return query * size**-0.5, key, value

    def _finish(self, block, x, attended):
        shape = tf.concat([tf.shape(x)[:2], [self.units]], axis=0)
        attended = block["attention"].o_dense(tf.reshape(attended, shape))
        x = block["attention_norm"](x + attended)
        return block["norm"](x + block["feed_forward"](x))

    # --- search ---

    def search(
        self,
        history: Any,
        weights: Any,
        num_items: Any,
        beams: Any,
        draws: tuple[Any, Any, Any] | None = None,
        order: Any = None,
    ) -> tuple[Any, Any]:
        """Searches plans of items, the likeliest first.

        Args:
            history: int32 `(batch, time)`, left-padded item indices; 0 = none.
            weights: float64 `(batch, num_items + 1)`, what each item weighs, 0 = it may not be
                listed; column 0 is padding.
            num_items, beams: int32 scalars, items of a plan and beams.
            draws: None for beam search, or `(temperature, top_p, seed)`, each `(batch,)`, the first
                two float32 and the last int32. A row with a temperature above 0 has in every beam a
                plan drawn at that temperature, of each code among the likeliest ones that have the
                share `top_p` together; the same seed draws the same. Its plans are in the order
                in which they were drawn. Other rows are searched.
            order: None, or int32 `(n, 1 + most)`: item indices, of each row the first may be listed
                when all others of it (0 = none) are in the history or in the plan so far.

        Returns:
            Item index int32 `(batch, beams, num_items)`, 0 where nothing was left to list, and
            their log-probabilities, float32. A beam for which there was no plan of its own has
            items 0 and -inf.
        """
        batch, levels = tf.shape(history)[0], len(self.sizes)
        left = _Left(self, weights)
        if order is not None:
            left.wait_for(order, history)
        # the history is read once; every beam starts from its last state
        last, caches, count = self._prefix(history, num_items)
        states = tf.tile(last[:, None], [1, beams, 1])
        # equal beams would all find the same: only the first one lives, unless each draws its own
        total = tf.where(tf.range(beams) > 0, -float("inf"), 0.0)
        total = tf.tile(total[None], [batch, 1])
        if draws is not None:
            total = tf.where(draws[0][:, None] > 0, 0.0, total)
        # what is remembered of the plan so far: nothing yet
        size = self.units // self.heads
        none = tf.zeros([batch, beams, 0, self.heads, size])
        own = [(none, none) for _ in caches]
        taken = tf.zeros([batch, beams, 0], tf.int32)  # places of leaves, -1 = none
        logs = tf.zeros([batch, beams, 0])

        def next_item(number, states, total, taken, logs, own):
            node = tf.zeros([batch, beams], tf.int32)
            alive, gained = tf.ones_like(node, tf.bool), tf.zeros_like(total)
            # one code after the other, down the trie from its root to a leaf
            for level in range(levels):
                children, log_p, ahead, any_left = left.children(node, states, taken, level)
                # the new beams, and all that belongs to the beams they come from
                place = number * levels + level
                parent, chosen = self._choose(total, log_p, ahead, draws, place)
                taken, logs, gained, alive, total, node, gain, *own = (
                    tf.gather(part, parent, batch_dims=1)
                    for part in (
                        taken,
                        logs,
                        gained,
                        alive & any_left,
                        total,
                        children,
                        log_p,
                        *tf.nest.flatten(own),
                    )
                )
                own = list(zip(own[::2], own[1::2], strict=True))
                # each steps to the chosen child; the transformer reads its code
                node, gain = (tf.gather(part, chosen, batch_dims=2) for part in (node, gain))
                total, gained = total + gain, gained + gain
                tokens = tf.gather(self.trie_code, node) + self._offsets[level]
                if level + 1 < levels:
                    states, own = self._step(tokens, count + place, caches, count, own)
            # a leaf is an item: its last code goes in with its vector
            leaf = tf.gather(self.trie_start, node)
            vectors = self.vectors_of(tf.gather(self.trie_leaves, leaf))
            # nobody reads what the last item of a plan would leave behind
            states, own = tf.cond(
                number + 1 < num_items,
                lambda: self._step(tokens, count + place, caches, count, own, vectors),
                lambda: (states, own),
            )
            # a beam that found nothing left lists no item
            leaf = tf.where(alive, leaf, -1)
            taken = tf.concat([taken, leaf[:, :, None]], axis=2)
            gained = tf.where(alive, gained, -float("inf"))
            logs = tf.concat([logs, gained[:, :, None]], axis=2)
            return number + 1, states, total, taken, logs, own

        any_number = tf.TensorShape([None, None, None])
        cache = tf.TensorShape([None, None, None, self.heads, size])
        _, _, total, taken, logs, _ = tf.while_loop(
            lambda number, *_: number < num_items,
            next_item,
            (tf.constant(0), states, total, taken, logs, own),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([None, None, self.units]),
                tf.TensorShape([None, None]),
                any_number,
                any_number,
                [(cache, cache) for _ in own],
            ),
        )
        # the likeliest plan first; places of leaves become item indices
        _, order = tf.math.top_k(total, beams)
        if draws is not None:  # the likeliest of several draws is no draw
            order = tf.where(draws[0][:, None] > 0, tf.range(beams)[None], order)
        total, taken, logs = (tf.gather(part, order, batch_dims=1) for part in (total, taken, logs))
        exists = (total[:, :, None] > -float("inf")) & (taken >= 0)
        index = tf.gather(self.trie_leaves, tf.maximum(taken, 0))
        return tf.where(exists, index, 0), tf.where(exists, logs, -float("inf"))

    def _choose(self, total, log_p, ahead, draws, place):
        """Parent and child of every new beam, each int32 `(batch, beams)`."""
        beams, width = tf.shape(log_p)[1], tf.shape(log_p)[2]
        scores = tf.reshape(total[:, :, None] + log_p + ahead, [-1, beams * width])
        _, best = tf.math.top_k(scores, beams)
        parent, chosen = best // width, best % width
        if draws is None:
            return parent, chosen
        is_drawn = draws[0][:, None] > 0

        def drawn():
            return tf.where(is_drawn, _draw(log_p, *draws, place), chosen)

        itself = tf.range(beams)[None]
        return tf.where(is_drawn, itself, parent), tf.cond(
            tf.reduce_any(is_drawn), drawn, lambda: chosen
        )


class _Left:
    """What may still be listed: masses of nodes, and how likely their children are."""

    _waits = False

    def __init__(self, search, weights):
        self.search = search
        by_place = tf.gather(weights, search.trie_leaves, axis=1)
        # only shares count; float64, so that a difference of sums still tells small ones apart
        self.weights = by_place / tf.maximum(tf.reduce_max(by_place, axis=1, keepdims=True), 1e-300)
        self.mass = tf.pad(tf.cumsum(self.weights, axis=1), [[0, 0], [1, 0]])
        is_left = tf.cast(by_place > 0, tf.int32)
        self.count = tf.pad(tf.cumsum(is_left, axis=1), [[0, 0], [1, 0]])
        self.best = self._best_below()

    def wait_for(self, order, history):
        """Keeps the items of an order back until what they need is there; see `search`."""
        self._waits = True
        leaves = self.search.trie_leaves
        size, count = tf.shape(self.weights)[1], tf.reduce_max(leaves) + 1
        # items come by number, what is searched by the place of a leaf
        place = tf.scatter_nd(leaves[:, None], tf.range(size), [count])
        order = tf.gather(order, tf.argsort(tf.gather(place, order[:, 0])))
        own, needed = tf.gather(place, order[:, 0]), order[:, 1:]
        row = tf.repeat(tf.range(tf.shape(history)[0]), tf.shape(history)[1])
        cells = tf.stack([row, tf.reshape(history, [-1])], axis=1)
        held = tf.scatter_nd(cells, tf.ones_like(row), [tf.shape(history)[0], count]) > 0
        # one after the other what is needed, without the zeros: few items need many others
        needs = tf.boolean_mask(needed, needed > 0)
        self.is_met = tf.gather(held, needs, axis=1)  # (batch, needs)
        self.needs = tf.gather(place, needs)
        numbers = tf.math.count_nonzero(needed, axis=1, dtype=tf.int32)
        self.needs_before = tf.pad(tf.cumsum(numbers), [[1, 0]])
        # of each place, how many of the items that wait are before it
        opens = tf.scatter_nd(own[:, None], tf.ones_like(own), [size])
        self.waiting_before = tf.pad(tf.cumsum(opens), [[1, 0]])
        self.waiting_weights = tf.gather(self.weights, own, axis=1)

    def _kept_back(self, start, end, taken):
        """Weight and number of the items from `start` to before `end` that have to wait."""
        is_there = tf.reduce_any(taken[:, :, None] == self.needs[:, None], axis=3)
        lacks = tf.cast(~(is_there | self.is_met[:, None]), tf.int32)  # (batch, beams, needs)
        lacking = tf.pad(tf.cumsum(lacks, axis=2), [[0, 0], [0, 0], [1, 0]])
        lacking = tf.gather(lacking, self.needs_before, axis=2)
        waits = lacking[:, :, 1:] > lacking[:, :, :-1]  # (batch, beams, n)
        weights = tf.where(waits, self.waiting_weights[:, None], 0.0)
        found = []
        for part in (weights, tf.cast(weights > 0, tf.int32)):
            total = tf.pad(tf.cumsum(part, axis=2), [[0, 0], [0, 0], [1, 0]])
            last, first = (
                tf.gather(total, tf.gather(self.waiting_before, edge), batch_dims=2)
                for edge in (end, start)
            )
            found.append(last - first)
        return found

    def _best_below(self):
        """What is best below each node, each `(batch, num_nodes)`.

        Returns:
            The largest weight, float32, the place of its leaf, and the second largest.
        """
        search, (first, size), levels = self.search, (0, 1), []
        for _ in search.sizes:  # the nodes of a level are neighbours
            levels.append((first, size))
            size = tf.reduce_sum(search.trie_num_children[first : first + size])
            first = search.trie_first_child[first]
        best = tf.cast(tf.transpose(self.weights), tf.float32)  # of the leaves
        place = tf.range(size)[:, None] + tf.zeros_like(best, tf.int32)
        second = tf.zeros_like(best)
        found = [(best, place, second)]
        for first, size in reversed(levels):
            child = search.trie_first_child[first : first + size]
            opens = tf.scatter_nd(
                (child - child[0])[:, None], tf.ones_like(child), [tf.shape(best)[0]]
            )
            parent = tf.cumsum(opens) - 1
            most = tf.math.segment_max(best, parent)
            none = tf.shape(self.weights)[1]
            is_most = best == tf.gather(most, parent)
            where = tf.math.segment_min(tf.where(is_most, place, none), parent)
            others = tf.where(place == tf.gather(where, parent), second, best)
            best, place, second = most, where, tf.math.segment_max(others, parent)
            found.append((best, place, second))
        return [tf.transpose(tf.concat(parts[::-1], axis=0)) for parts in zip(*found, strict=True)]

    def children(self, node, states, taken, level):
        """What may come below `node (batch, beams)`, each `(batch, beams, width)` but the last.

        Returns:
            The nodes, their log p, and `ahead`, the log share of the best item among those left
            below a node, by weight (too high where the plan holds the two best). Last, whether
            anything is left, `(batch, beams)`: where nothing is, the first child costs nothing, so
            that the beam lives on; what it then lists is no item.
        """
        search = self.search
        number = tf.range(search.trie_widest[level])
        first = tf.gather(search.trie_first_child, node)[:, :, None]
        exists = number < tf.gather(search.trie_num_children, node)[:, :, None]
        child = tf.where(exists, first + number, first)
        mass, count = self._below(child, taken)
        is_left = exists & (count > 0)
        decoder = tf.nn.log_softmax(search._logits(states, level))
        decoder = tf.gather(decoder, tf.gather(search.trie_code, child), batch_dims=2)
        best, place, second = (tf.gather(part, child, batch_dims=1) for part in self.best)
        is_taken = tf.reduce_any(taken[:, :, None] == place[..., None], axis=3)
        best = tf.cast(tf.where(is_taken, second, best), mass.dtype)
        mass, best = (
            tf.cast(tf.math.log(tf.maximum(part, _TINY)), tf.float32)
            for part in (mass, tf.minimum(best, mass))
        )
        log_p = tf.nn.log_softmax(tf.where(is_left, search.trust * decoder + mass, _NONE))
        log_p = tf.where(is_left, log_p, -float("inf"))
        any_left = tf.reduce_any(is_left, axis=2)
        free = tf.where(number == 0, 0.0, -float("inf"))
        return child, tf.where(any_left[:, :, None], log_p, free), best - mass, any_left

    def _below(self, child, taken):
        """Weight and number of the items below `child` that are left."""
        start, end = (
            tf.gather(part, child) for part in (self.search.trie_start, self.search.trie_end)
        )
        mass, count = (
            tf.gather(part, end, batch_dims=1) - tf.gather(part, start, batch_dims=1)
            for part in (self.mass, self.count)
        )
        gone = taken[:, :, None]
        inside = (gone >= start[..., None]) & (gone < end[..., None])  # (.., width, taken)
        weights = tf.gather(self.weights, tf.maximum(taken, 0), batch_dims=1)[:, :, None]
        mass -= tf.reduce_sum(tf.where(inside, weights, 0.0), axis=3)
        count -= tf.reduce_sum(tf.cast(inside, tf.int32), axis=3)
        if self._waits:
            waiting, number = self._kept_back(start, end, taken)
            mass, count = mass - waiting, count - number
        return mass, count


def _draw(log_p, temperature, top_p, seed, place):
    """A child of every beam, drawn: int32 `(batch, beams)`; see `BeamSearch.search`."""
    heat = tf.maximum(temperature, 1e-6)[:, None, None]
    scores = tf.nn.log_softmax(tf.maximum(log_p, _NONE) / heat)
    ordered = tf.sort(scores, axis=-1, direction="DESCENDING")
    before = tf.cumsum(tf.exp(ordered), axis=-1, exclusive=True)
    # the likeliest stays, whatever top_p
    kept = tf.reduce_sum(tf.cast(before < top_p[:, None, None], tf.int32), axis=-1, keepdims=True)
    least = tf.gather(ordered, tf.maximum(kept - 1, 0), batch_dims=2)
    # a seed of each row's own: a row draws the same whatever it is asked together with
    noise = tf.map_fn(
        lambda own: tf.random.stateless_uniform(
            tf.shape(scores)[1:], tf.stack([own, place]), minval=1e-20, maxval=1.0
        ),
        seed,
        fn_output_signature=tf.float32,
    )
    noisy = scores - tf.math.log(-tf.math.log(noise))
    may = (scores >= least) & (log_p > -float("inf"))
    return tf.argmax(tf.where(may, noisy, -float("inf")), axis=-1, output_type=tf.int32)


def _growing(values, name):
    """A variable of what grows with the catalogue."""
    values = np.asarray(values)
    shape = (None, *values.shape[1:])
    return tf.Variable(values, shape=shape, trainable=False, name=name)


def _layers(transformer, num_blocks):
    """bert4keras' layers by what they do."""
    layer = transformer.get_layer
    blocks = []
    for number in range(num_blocks):
        attention, feed_forward = (
            f"Transformer-{number}-{part}" for part in ("MultiHeadSelfAttention", "FeedForward")
        )
        blocks.append(
            {
                "attention": layer(attention),
                "attention_norm": layer(f"{attention}-Norm"),
                "feed_forward": layer(feed_forward),
                "norm": layer(f"{feed_forward}-Norm"),
            }
        )
    return {
        "token": layer("Embedding-Token").embeddings,
        "position": layer("Embedding-Position").embeddings,
        "vectors": layer("Embedding-Vectors"),
        "norm": layer("Embedding-Norm"),
        "blocks": blocks,
    }
