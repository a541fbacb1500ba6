"""`BeamSearch` against the whole line through Keras, all plans one by one, and bert4keras."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowplans import DIM, SIZES, SlowPlans, padded, random_codes, search_of, tiny_decoder

from kerasrec.backend import import_bert4keras, tf
from kerasrec.generation.beamsearch import _Left
from kerasrec.models.codes import make_trie

HISTORIES = [[], [4], [7, 2, 2], [9, 1, 3, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]]


@pytest.fixture(scope="module")
def small():
    """A decoder over 9 items: `(decoder, codes, vectors)`."""
    return tiny_decoder()


@pytest.fixture(scope="module")
def searched(small):
    return search_of(small[0], small[1])


@pytest.fixture(scope="module")
def slow(small):
    return SlowPlans(*small)


def weights_of(rows, num_items=9, *, seed=None):
    """Weights of what is not in a history: 1, or drawn."""
    rng = np.random.default_rng(seed)
    size = (len(rows), num_items + 1)
    weights = np.ones(size) if seed is None else np.exp(rng.normal(size=size))
    weights[:, 0] = 0
    for row, items in zip(weights, rows, strict=True):
        row[list(items)] = 0
    return weights


# --- (a) one token after the other ---


def test_steps_equal_the_keras_model_on_the_whole_line(searched, slow):
    search, _ = searched
    histories, room, beams = HISTORIES[:4], 2, 3
    last, caches, count = search._prefix(tf.constant(padded(histories)), room)
    for row, items in enumerate(histories):
        assert count[row] == 1 + len(SIZES) * len(items)
        np.testing.assert_allclose(last[row], slow.states(items)[-1], atol=1e-4)
    # three beams with plans of their own behind every history
    plans = np.array([[[5, 6], [6, 5], [8, 1]]] * len(histories))
    size = search.units // search.heads
    own = [(tf.zeros([len(histories), beams, 0, search.heads, size]),) * 2 for _ in caches]
    step = 0
    for number in range(room):
        for level in range(len(SIZES)):
            item = tf.constant(plans[:, :, number], tf.int32)
            tokens = tf.gather(search.tokens, item)[..., level]
            vectors = search.vectors_of(item) if level + 1 == len(SIZES) else None
            states, own = search._step(tokens, count + step, caches, count, own, vectors)
            step += 1
            for row, items in enumerate(histories):
                for beam in range(beams):
                    line = slow.states([*items, *plans[row, beam]])
                    there = len(SIZES) * len(items) + step
                    np.testing.assert_allclose(states[row, beam], line[there], atol=1e-4)


def test_only_the_newest_items_that_leave_room_are_read(searched):
    search, _ = searched
    long = tf.constant(padded([HISTORIES[4]]))
    for room, kept in ((1, 5), (4, 2), (6, 0)):
        newest = padded([HISTORIES[4][10 - kept :]])
        found, expected = search._prefix(long, room), search._prefix(tf.constant(newest), 0)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
        assert found[2] == expected[2] == 1 + len(SIZES) * kept


# --- (b) every plan, one by one ---


@pytest.mark.parametrize("seed", [None, 1])
def test_one_item_is_found_with_its_probability(searched, slow, seed):
    weights = weights_of(HISTORIES, seed=seed)
    index, logs = searched[1](padded(HISTORIES), weights, 1, 9)
    for row, history in enumerate(HISTORIES):
        expected = slow.plans(history, 1, weights[row]) if weights[row].any() else []
        count = len(expected)
        assert index[row, :count, 0].tolist() == [plan[0] for plan, _ in expected]
        np.testing.assert_allclose(logs[row, :count, 0], [p[0] for _, p in expected], atol=1e-4)
        assert not index[row, count:].any() and (logs[row, count:] == -np.inf).all()


def test_pairs_are_found_with_their_probabilities(searched, slow):
    histories = [[], [7, 2], [3, 1, 4, 5, 2]]
    weights = weights_of(histories, seed=2)
    index, logs = searched[1](padded(histories), weights, 2, 80)
    for row, history in enumerate(histories):
        expected = slow.plans(history, 2, weights[row])
        count = len(expected)  # 9 * 8 of the first
        assert index[row, :count].tolist() == [list(plan) for plan, _ in expected]
        np.testing.assert_allclose(logs[row, :count], [p for _, p in expected], atol=1e-4)
        assert not index[row, count:].any()


def test_half_trust_in_the_decoder(small, searched, slow):
    half, (search, run) = SlowPlans(*small, trust=0.5), searched
    weights = weights_of([[3]], seed=4)
    try:
        search.trust.assign(search_of(*small[:2], trust=0.5)[0].trust)
        index, logs = run([[3]], weights, 2, 80)
    finally:
        search.trust.assign(1.0)
    expected = half.plans([3], 2, weights[0])
    assert index[0, : len(expected)].tolist() == [list(plan) for plan, _ in expected]
    np.testing.assert_allclose(logs[0, : len(expected)], [p for _, p in expected], atol=1e-4)
    expected = slow.plans([3], 2, weights[0])
    assert run([[3]], weights, 2, 80)[0][0, : len(expected)].tolist() == [
        list(plan) for plan, _ in expected
    ]


# --- (c) bert4keras ---


def by_bert4keras(slow, history, num_items, weights, beams):
    """The plan that `AutoRegressiveDecoder` finds over the same Keras model."""
    snippets = import_bert4keras().snippets
    by_codes = {tuple(code): item for item, code in enumerate(slow.codes.tolist(), start=1)}
    levels, kept = len(SIZES), slow.kept(history, num_items)

    class Planner(snippets.AutoRegressiveDecoder):
        @snippets.AutoRegressiveDecoder.wraps(default_rtype="probas")
        def predict(self, inputs, output_ids, states):
            probas = np.zeros((len(output_ids), 2 + sum(SIZES)))
            for row, tokens in zip(probas, output_ids.tolist(), strict=True):
                codes = [token - 2 - slow.start[n % levels] for n, token in enumerate(tokens)]
                whole = len(codes) // levels
                plan = [
                    by_codes.get(tuple(codes[n * levels : (n + 1) * levels])) for n in range(whole)
                ]
                more = codes[whole * levels :]
                try:
                    after = slow.next_codes(kept, plan, more, weights)
                except (TypeError, IndexError, KeyError):  # a line of probability 0
                    after = {}
                for code, log_p in after.items():
                    row[2 + slow.start[len(more)] + code] = np.exp(log_p)
            return probas

    planner = Planner(start_id=None, end_id=-1, maxlen=levels * num_items)
    tokens = planner.beam_search([np.zeros(1)], topk=beams).tolist()
    codes = np.reshape(tokens, (num_items, levels)) - 2 - slow.start[:-1]
    return [by_codes[tuple(code)] for code in codes.tolist()]


@pytest.mark.parametrize("history", [[], [6, 2, 8]])
def test_the_best_plan_is_that_of_bert4keras(searched, slow, history):
    weights = weights_of([history], seed=5)
    index, _ = searched[1](padded([history]), weights, 3, 14)
    # it takes no more beams than there are tokens
    assert index[0, 0].tolist() == by_bert4keras(slow, history, 3, weights[0], 14)


@pytest.mark.parametrize(
    "beams", [2, *(pytest.param(beams, marks=pytest.mark.slow) for beams in (1, 4))]
)
def test_with_few_beams_plans_are_no_less_likely_than_those_of_bert4keras(searched, slow, beams):
    """It looks ahead: beams live on by the best item below a code, not by all of them."""
    found = []
    for seed, history in enumerate([[], [6, 2, 8], [1], [9, 9, 4], []]):
        weights = weights_of([history], seed=seed)
        index, logs = searched[1](padded([history]), weights, 3, beams)
        of_plan = {tuple(plan): sum(p) for plan, p in slow.plans(history, 3, weights[0])}
        own, best = tuple(index[0, 0].tolist()), max(of_plan.values())
        theirs = tuple(by_bert4keras(slow, history, 3, weights[0], beams))
        assert logs[0, 0].sum() == pytest.approx(of_plan[own], abs=1e-4)
        found.append([of_plan[own] - best, of_plan[theirs] - best])
    own, theirs = np.mean(found, axis=0)
    assert theirs < own <= 0 if beams == 1 else theirs <= own <= 0


def test_the_best_item_below_a_code_decides_not_their_sum(searched):
    """With a single beam and no trust in the decoder the heaviest items come, in order."""
    search, run = searched
    search.trust.assign(0.0)
    try:
        for seed in range(20):
            weights = weights_of([[]], seed=seed)
            index, _ = run(padded([[]]), weights, 2, 1)
            assert index[0, 0].tolist() == np.argsort(-weights[0])[:2].tolist()
    finally:
        search.trust.assign(1.0)


# --- (d) whatever is asked ---


@pytest.fixture(scope="module")
def any_catalogue(searched_large):
    """Function of a seed that gives the search other items: their number, or None for the last."""
    search, _, vectors = searched_large

    def change(seed):
        rng = np.random.default_rng(seed)
        num_items = int(rng.integers(5, 61))
        codes = random_codes(rng, num_items)
        offsets = 2 + np.concatenate([[0], np.cumsum(SIZES)[:-1]])
        tokens = np.concatenate([np.zeros((1, 3)), codes + offsets])
        search.tokens.assign(tokens.astype(np.int32))
        for name, values in make_trie(codes)._asdict().items():
            getattr(search, f"trie_{name}").assign(values)
        vectors.assign(np.concatenate([np.zeros((1, DIM)), rng.normal(size=(num_items, DIM))]))
        return num_items

    return change


@pytest.fixture(scope="module")
def searched_large():
    decoder, codes, _ = tiny_decoder(60, seed=3, num_blocks=1, max_items=8)
    vectors = tf.Variable(np.zeros((61, DIM), np.float32), shape=(None, DIM))
    search, run = search_of(decoder, codes)
    search.vectors_of = lambda index: tf.gather(vectors, index)
    return search, run, vectors


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    num_items=st.integers(1, 4),
    beams=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    extreme=st.sampled_from([0.0, 3.0, 200.0]),
    heat=st.sampled_from([None, 0.0, 1e-3, 1.0, 50.0]),
    top_p=st.sampled_from([0.0, 0.5, 1.0]),
    trust=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_plans_are_valid_whatever_is_asked(
    searched_large, any_catalogue, seed, num_items, beams, share, extreme, heat, top_p, trust
):
    search, run, _ = searched_large
    catalogue, rng = any_catalogue(seed), np.random.default_rng(seed)
    search.trust.assign(trust)
    histories = [rng.integers(1, catalogue + 1, rng.integers(0, 12)).tolist() for _ in range(4)]
    weights = np.exp(extreme * rng.uniform(-1, 1, (4, catalogue + 1)))
    weights *= rng.random(weights.shape) < share
    weights[:, 0] = 0
    for row, items in zip(weights, histories, strict=True):
        row[items] = 0
    draws = None
    if heat is not None:
        draws = (
            rng.permutation([heat, heat, 0.0, heat]),
            np.full(4, top_p),
            rng.integers(99, size=4),
        )
    index, logs = run(padded(histories), weights, num_items, beams, draws)
    assert index.shape == logs.shape == (4, beams, num_items)
    assert not np.isnan(logs).any() and (logs <= 1e-5).all()
    np.testing.assert_array_equal(index == 0, logs == -np.inf)
    for row in range(4):
        allowed = set(np.flatnonzero(weights[row]).tolist())
        plans = [[item for item in plan if item] for plan in index[row].tolist()]
        for plan, places in zip(plans, index[row].tolist(), strict=True):
            assert places == plan + [0] * (num_items - len(plan))  # nothing after nothing
            assert set(plan) <= allowed and not set(plan) & set(histories[row])
            assert len(set(plan)) == len(plan)
            assert len(plan) in (0, min(num_items, len(allowed)))
        assert bool(plans[0]) == bool(allowed)
        if draws is not None and draws[0][row] > 0:
            assert all(bool(plan) == bool(allowed) for plan in plans)
        else:  # a search finds no plan twice, and the likeliest first
            there = [tuple(plan) for plan in plans if plan]
            assert len(set(there)) == len(there)
            with np.errstate(invalid="ignore"):
                totals = logs[row, : len(there), : len(plans[0])].sum(axis=1)
            assert (np.diff(totals) <= 1e-4).all()


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=st.integers(0, 10**6), extreme=st.sampled_from([0.0, 3.0, 30.0]))
def test_probabilities_of_all_items_have_the_sum_1(searched_large, any_catalogue, seed, extreme):
    search, run, _ = searched_large
    catalogue, rng = any_catalogue(seed), np.random.default_rng(seed)
    search.trust.assign(1.0)
    weights = np.exp(extreme * rng.uniform(-1, 1, (3, catalogue + 1)))
    weights[:, 0] = 0
    weights[1] *= rng.random(catalogue + 1) < 0.3
    index, logs = run(padded([[1], [], [2, 5, 3]]), weights, 1, 60)
    np.testing.assert_allclose(np.exp(logs[[0, 2], :, 0].astype(float)).sum(axis=1), 1, atol=1e-4)
    for row in range(3):
        assert set(index[row, :, 0]) - {0} == set(np.flatnonzero(weights[row]))


# --- (e) weights alone ---


@pytest.mark.slow
def test_without_trust_in_the_decoder_items_are_listed_by_their_weights(searched_large):
    decoder, codes, _ = tiny_decoder(40, seed=5)
    _, run = search_of(decoder, codes, trust=0.0)
    weights = np.zeros((2, 41))
    for row, rng in zip(weights, (np.random.default_rng(0), np.random.default_rng(1)), strict=True):
        row[1:] = np.exp(rng.permutation(40) / 2)  # apart by a factor of e ** 20
    index, logs = run(padded([[], [3, 1]]), weights, 1, 40)
    np.testing.assert_array_equal(index[:, :, 0], np.argsort(-weights, axis=1)[:, :40])
    share = -np.sort(-weights, axis=1)[:, :40] / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logs[:, :, 0], np.log(share), atol=1e-4)
    # and one after the other, by the weights of what is left
    index, logs = run(padded([[], [3, 1]]), weights, 3, 40)
    np.testing.assert_array_equal(index[:, 0], np.argsort(-weights, axis=1)[:, :3])
    best = -np.sort(-weights, axis=1)[:, :3]
    left = weights.sum(axis=1, keepdims=True) - np.cumsum(best, axis=1) + best
    np.testing.assert_allclose(logs[:, 0], np.log(best / left), atol=1e-4)


def test_only_shares_of_the_weights_count(searched):
    weights = weights_of([[2], []], seed=7)
    expected = searched[1](padded([[2], []]), weights, 2, 5)
    for factor in (1e-200, 1e200):
        found = searched[1](padded([[2], []]), weights * factor, 2, 5)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


# --- (f) drawn plans ---


def draw(searched, rows, weights, seeds, *, temperature=1.0, top_p=1.0, num_items=3, beams=2):
    count = len(rows)
    draws = (np.full(count, temperature), np.full(count, top_p), seeds)
    return searched[1](padded(rows, 5), weights, num_items, beams, draws)


def test_the_same_seed_draws_the_same_whoever_else_is_asked_for(searched):
    rows = [[4], [], [1, 2, 3], [4]]
    weights = weights_of(rows)
    index, logs = draw(searched, rows, weights, [7, 7, 8, 9])
    again = draw(searched, rows, weights, [7, 7, 8, 9])
    np.testing.assert_array_equal(again[0], index)
    for row, seed in enumerate([7, 7, 8, 9]):
        alone = draw(searched, [rows[row]], weights[[row]], [seed])
        np.testing.assert_array_equal(alone[0][0], index[row])
        np.testing.assert_allclose(alone[1][0], logs[row], atol=1e-5)
    assert (index[0] != index[3]).any()  # another seed
    assert (index[0, 0] != index[0, 1]).any()  # every beam has a draw of its own


def test_more_beams_are_more_draws(searched):
    """The first plan of a row is a draw, not the likeliest of several."""
    weights = weights_of([[4]])
    for seed in range(8):
        one = draw(searched, [[4]], weights, [seed], beams=1)
        many = draw(searched, [[4]], weights, [seed], beams=8)
        np.testing.assert_array_equal(many[0][:, 0], one[0][:, 0])


@pytest.mark.parametrize("given", [{"temperature": 1e-5}, {"top_p": 1e-6}, {"top_p": 0.0}])
def test_hardly_anything_drawn_is_greedy(searched, slow, given):
    """One likeliest code after the other, as bert4keras' search with a single beam has them."""
    rows = [[4], [], [1, 2, 3]]
    weights = weights_of(rows, seed=3)
    index, logs = draw(searched, rows, weights, [0, 1, 2], **given)
    for row, history in enumerate(rows):
        expected = by_bert4keras(slow, history, 3, weights[row], 1)
        of_plan = dict((tuple(plan), p) for plan, p in slow.plans(history, 3, weights[row]))
        for beam in range(2):
            assert index[row, beam].tolist() == expected
            np.testing.assert_allclose(logs[row, beam], of_plan[tuple(expected)], atol=1e-4)


def test_rows_without_a_temperature_are_searched(searched):
    rows = [[4], [], [1, 2, 3]]
    weights = weights_of(rows, seed=3)
    expected = searched[1](padded(rows, 5), weights, 2, 4)
    draws = (np.array([0.0, 1.0, 0.0]), np.full(3, 0.1), np.arange(3))
    found = searched[1](padded(rows, 5), weights, 2, 4, draws)
    for row in (0, 2):
        np.testing.assert_array_equal(found[0][row], expected[0][row])
        np.testing.assert_allclose(found[1][row], expected[1][row], atol=1e-5)


@pytest.fixture(scope="module")
def six_items():
    decoder, codes, vectors = tiny_decoder(6, seed=2, num_blocks=1)
    return SlowPlans(decoder, codes, vectors), search_of(decoder, codes)[1]


@pytest.mark.parametrize(("temperature", "beams"), [(1.0, 1), (1.0, 4), (2.0, 1)])
def test_draws_are_as_frequent_as_they_are_likely(six_items, temperature, beams):
    slow, run = six_items
    weights = weights_of([[]], 6, seed=8)
    logs = slow.next_items([2, 5], [], weights[0], temperature)
    count = 4000
    rows = np.tile([[2, 5]], (count, 1))
    draws = (np.full(count, temperature), np.ones(count), np.arange(count))
    index, _ = run(rows, np.tile(weights, (count, 1)), 1, beams, draws)
    for beam in range(min(beams, 2)):
        found = np.bincount(index[:, beam, 0], minlength=7)[1:]
        p = np.exp([logs[item] for item in range(1, 7)])
        assert p.min() > 0.002  # all may well be drawn
        assert (np.abs(found - count * p) < 4 * np.sqrt(count * p * (1 - p))).all(), (found, p)


def test_top_p_leaves_the_likeliest_codes(searched, slow):
    weights = weights_of([[4]])
    after = slow.next_codes([4], [], [], weights[0])
    order = sorted(after, key=after.get, reverse=True)
    p = np.exp(after[order[0]])
    rows, seeds = [[4]] * 200, np.arange(200)
    for top_p, kept in ((p - 0.01, 1), (p + 0.01, 2), (1.0, len(order))):
        index, logs = draw(
            searched, rows, np.tile(weights, (200, 1)), seeds, top_p=top_p, num_items=1, beams=1
        )
        assert set(slow.codes[index[:, 0, 0] - 1, 0]) == set(order[:kept])
        expected = slow.next_items([4], [], weights[0])  # what is said of an item stays the same
        np.testing.assert_allclose(
            logs[:, 0, 0], [expected[item] for item in index[:, 0, 0]], atol=1e-4
        )


# --- (g) what must come before ---

ORDER = np.array([[5, 2, 0], [1, 5, 3], [8, 8, 0]], np.int32)  # item, what it needs; 8 never comes


def in_order(slow, history, num_items, weights):
    """As `SlowPlans.plans`, each step among the items whose needs are there."""
    kept, found = slow.kept(history, num_items), [((), ())]
    for _ in range(num_items):
        longer = []
        for plan, logs in found:
            there, open_ = {0, *history, *plan}, np.array(weights)
            for item, *needed in ORDER.tolist():
                if not set(needed) <= there:
                    open_[item] = 0
            for item, log_p in slow.next_items(kept, plan, open_).items():
                longer.append(((*plan, item), (*logs, log_p)))
        found = longer
    return sorted(found, key=lambda pair: -sum(pair[1]))


def test_plans_in_an_order_are_those_of_plain_loops(searched, slow):
    search, histories = searched[0], [[], [2], [5, 7], [2, 3, 9]]
    weights = weights_of(histories, seed=3)
    traced = tf.function(search.search)
    given = [tf.constant(padded(histories)), tf.constant(weights), tf.constant(2)]
    index, logs = traced(*given, tf.constant(80), None, tf.constant(ORDER))
    index, logs = index.numpy(), logs.numpy()
    for row, history in enumerate(histories):
        expected = in_order(slow, history, 2, weights[row])
        count = len(expected)
        assert index[row, :count].tolist() == [list(plan) for plan, _ in expected]
        np.testing.assert_allclose(logs[row, :count], [p for _, p in expected], atol=1e-4)
        assert not index[row, count:].any()
    assert not (index == 8).any()
    firsts = {int(one) for one in index[0, :, 0]} - {0}
    assert firsts == {2, 3, 4, 6, 7, 9}  # 5 needs 2, 1 needs 5 and 3
    assert [2, 5] in index[0].tolist() and [5, 2] not in index[0].tolist()


def test_an_empty_order_changes_nothing(searched):
    search, weights = searched[0], weights_of([[3]], seed=4)
    given = [tf.constant(padded([[3]])), tf.constant(weights), tf.constant(2), tf.constant(9)]
    plain = search.search(*given)
    ordered = search.search(*given, None, tf.zeros([0, 1], tf.int32))
    np.testing.assert_array_equal(plain[0], ordered[0])
    np.testing.assert_allclose(plain[1], ordered[1], atol=1e-5)


def test_one_item_that_needs_many_others_costs_no_room_at_the_rest(searched):
    """Graph of an order of 4,000 items, one of which needs 1,000: no table of 4,000 x 1,000."""
    rows, most = 4000, 1000
    order = np.zeros((rows, 1 + most), np.int32)
    order[:, 0] = np.arange(rows) % 9 + 1
    order[:, 1] = (np.arange(rows) + 1) % 9 + 1
    order[0, 1:] = np.arange(most) % 9 + 1
    left = _Left(searched[0], tf.constant(weights_of([[]])))
    left.wait_for(tf.constant(order), tf.zeros([1, 1], tf.int32))
    kept = [value for value in vars(left).values() if tf.is_tensor(value)]
    assert max(int(tf.size(value)) for value in kept) < 10 * rows
