import numpy as np
import pytest
from conftest import histories_of, planted_histories

from kerasrec import fusion
from kerasrec.backend import tf
from kerasrec.fusion import FITS, Fusion, Memory, choose_fusion, fit_tables
from kerasrec.recency import NEVER, Counts, fit_moments
from kerasrec.sequences import EVENT_CODES
from kerasrec.transitions import NeighbourTable
from kerasrec.validation import Validation, hold_out_last, ranking_quality


class FixedRanker:
    """A ranker with given probabilities for every history and a given MLP."""

    def __init__(self, probabilities, scorer=0.0):
        self.given, self.scorer = np.asarray(probabilities, np.float32), scorer

    def probabilities(self):
        def of(histories):
            rows = np.tile(self.given, (histories.num_users, 1))
            return rows, lambda index: np.full(index.shape, self.scorer, np.float32)

        return of


def test_memory_is_the_twin_of_the_table():
    rng = np.random.default_rng(0)
    neighbours = rng.integers(0, 9, (9, 3)).astype(np.int32)
    weights = (rng.normal(size=(9, 3)) * (neighbours > 0)).astype(np.float32)
    table = NeighbourTable(neighbours, weights, 0.7)
    rows = [[1, 2, 3], [8], [], [4, 4, 5, 1, 2]]
    history = np.zeros((4, 7), np.int32)
    for number, row in enumerate(rows):
        history[number, 7 - len(row) :] = row
    memory = Memory(table, "toy")
    np.testing.assert_allclose(
        memory.call(tf.constant(history)), table.scores(histories_of(rows)), atol=1e-6
    )
    # padding between events changes nothing, and an item beyond the table says nothing
    spread = np.array([[1, 0, 2, 0, 3, 0, 0]], np.int32)
    np.testing.assert_allclose(
        memory.call(tf.constant(spread)), table.scores(histories_of([[1, 2, 3]])), atol=1e-6
    )
    added = memory.call(tf.constant([[12]]))
    assert not added.numpy().any()


def test_choose_fusion_leans_on_the_part_that_knows():
    train, validation = hold_out_last(planted_histories())
    uniform = np.full(31, 1 / 30)
    chosen, quality = choose_fusion(
        FixedRanker(uniform), validation, fit_tables(train, 30), fit_moments(train, 30)
    )
    leading = max(chosen.weights, key=lambda name: chosen.weights[name][0])
    assert leading in ("transitions", "ease", "mixture")
    assert chosen.mixture["transitions"] + chosen.mixture["ease"] > 0.5
    assert quality["valid_ndcg@10"] > 0.9 > quality["valid_ndcg_of_the_model_alone@10"]


def test_choose_fusion_leaves_a_perfect_model_alone():
    rows = [[1, 2, 5], [3, 4, 5], [2, 1, 5]] * 5
    train, validation = hold_out_last(histories_of(rows))
    perfect = np.full(7, 1e-3)
    perfect[5] = 1
    chosen, quality = choose_fusion(
        FixedRanker(perfect), validation, fit_tables(train, 6), fit_moments(train, 6)
    )
    assert chosen.weights == {"model": (1.0, 0.0)} and not chosen.tables
    assert not chosen.prior.any()
    assert quality["valid_ndcg@10"] == pytest.approx(1)


def test_quality_of_the_model_alone_equals_ranking_quality():
    rng = np.random.default_rng(3)
    probabilities = rng.random(41)
    probabilities[0] = 0
    histories = histories_of([rng.permutation(40)[:5] + 1 for _ in range(30)])
    rows = np.repeat(np.arange(30), 2)
    targets = rng.integers(1, 41, 60).astype(np.int32)
    validation = Validation(histories, rows, targets)
    lists = []
    for user in range(30):
        scores = probabilities.copy()
        scores[histories.items[histories.offsets[user] : histories.offsets[user + 1]]] = -1
        lists.append(np.argsort(-scores[1:])[:10] + 1)
    expected = ranking_quality(np.array(lists, np.int32), validation)["ndcg@10"]
    _, quality = choose_fusion(
        FixedRanker(probabilities / probabilities.sum()),
        validation,
        {},
        fit_moments(histories, 40),
    )
    assert quality["valid_ndcg_of_the_model_alone@10"] == pytest.approx(expected, abs=1e-6)


def test_most_likely_finds_the_weights_a_mixture_was_drawn_from():
    rng = np.random.default_rng(0)
    first, second = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    drawn = rng.random(20000) < 0.3 * first[0] + 0.7 * second[0]
    outcome = np.where(drawn, 0, 1)
    weights = fusion._most_likely(np.stack([first[outcome], second[outcome]], axis=1), steps=500)
    assert weights[0] == pytest.approx(0.3, abs=0.03)


def test_targets_that_no_part_can_name_do_not_move_the_weights():
    parts = np.array([[0.5, 0.1], [0.4, 0.1]])
    known = np.vstack([parts, np.zeros((5, 2))])
    np.testing.assert_allclose(fusion._most_likely(known), fusion._most_likely(parts))
    assert fusion._most_likely(known)[0] > 0.99
    np.testing.assert_allclose(fusion._most_likely(np.zeros((3, 2))), [0.5, 0.5])


def test_items_seen_before_fill_no_place():
    train = histories_of([[1, 2, 3, 4, 5, 6, 7]] * 3)
    validation = Validation(train, np.arange(3), np.array([1, 2, 3], np.int32))  # seen already
    uniform = np.full(9, 1 / 8)
    _, quality = choose_fusion(FixedRanker(uniform), validation, {}, fit_moments(train, 8))
    assert quality["valid_ndcg@10"] == 0


def test_what_users_disliked_is_not_learned():
    click, dislike = EVENT_CODES["click"], EVENT_CODES["dislike"]
    histories = histories_of([[1, 2]] * 9, events=[[click, dislike]] * 9)
    for tables in fit_tables(histories, 3).values():
        assert not any(table.weights.any() for table in tables)


# --- the weights ---


def logit_data(num_users=3000, num_items=8, seed=0):
    """Users who choose by `exp(features . weights)`: features, candidates, the weights."""
    rng = np.random.default_rng(seed)
    weights = np.array([1.5, -0.7, 0.0, 0.4])
    features = rng.normal(size=(4, num_users, num_items)).astype(np.float32)
    noise = rng.gumbel(size=(num_users, num_items))
    chosen = (np.tensordot(weights, features, 1) + noise).argmax(axis=1)
    hits = np.zeros((num_users, num_items), bool)
    hits[np.arange(num_users), chosen] = True
    return features, candidates_of(hits), weights


def candidates_of(hits, real=None):
    nothing = np.zeros((1, *hits.shape), np.float32)
    return fusion._Candidates(
        shares=nothing,
        is_new=nothing[0],
        prior=nothing,
        scorer=nothing[0],
        real=np.ones_like(hits) if real is None else real,
        hits=hits,
        num_targets=hits.sum(axis=1),
        target_shares=np.ones((int(hits.sum()), 1)),
    )


def test_the_likelihood_finds_the_weights_that_choices_were_drawn_with():
    features, data, weights = logit_data()
    np.testing.assert_allclose(fusion._by_likelihood(features, data), weights, atol=0.12)


def test_the_likelihood_by_hand():
    # one feature, two items: 3 of 4 users take the one with the feature, so exp(w) = 3
    features = np.tile(np.array([[1.0, 0.0]], np.float32), (400, 1))[None]
    hits = np.zeros((400, 2), bool)
    hits[:300, 0] = hits[300:, 1] = True
    weight = fusion._fit(features, hits.astype(np.float32), np.ones_like(hits))
    assert weight[0] == pytest.approx(np.log(3), abs=0.02)  # the ridge takes a little


def test_the_weight_of_the_mlp_is_not_below_0():
    features, data, _ = logit_data()
    order = [0, 2, 3, 1]  # the feature that repels is last, where the MLP is
    for weights in fusion._fits(features[order], data, np.eye(4)[0], 3).values():
        assert weights[-1] >= 0


def test_climbing_makes_ndcg_no_worse_and_can_mend_a_bad_start():
    features, data, weights = logit_data()

    def ndcg(found):
        hits = fusion._top_hits(np.tensordot(found, features, 1), data, 3)
        return fusion._ndcg_of_hits(hits, data.num_targets).mean()

    start = np.array([0.2, 0.7, 0.5, 0.0])
    climbed = fusion._climb(start, features, data, 3, ridge=1e-4)
    assert ndcg(climbed) > ndcg(start) + 0.05
    assert ndcg(climbed) > ndcg(weights) - 0.01


def test_places_without_a_candidate_have_no_say():
    features, data, _ = logit_data(num_users=200)
    real = np.ones_like(data.hits)
    padded = np.pad(features, [(0, 0), (0, 0), (0, 3)], constant_values=50.0)
    hits, real = (np.pad(part, [(0, 0), (0, 3)]) for part in (data.hits, real))
    wide = candidates_of(hits, real)
    for name, weights in fusion._fits(features, data, np.eye(4)[0], 3).items():
        found = fusion._fits(padded, wide, np.eye(4)[0], 3)[name]
        np.testing.assert_allclose(found, weights, atol=2e-2)


def test_no_target_among_the_candidates_gives_no_weights():
    data = candidates_of(np.zeros((5, 3), bool))
    features = np.ones((2, 5, 3), np.float32)
    assert not fusion._by_likelihood(features, data).any()
    assert fusion._climb(np.ones(2), features, data, 3, ridge=1e-4).tolist() == [1, 1]


def test_the_best_fit_is_one_of_the_three():
    features, data, _ = logit_data(num_users=300)
    assert fusion._best_fit(features, data, np.eye(4)[0], 3) in FITS


def test_recency_wins_where_it_alone_knows():
    """Everybody takes the item of the hour; model and tables know nothing of time."""
    hour, rows, times = 3600, [], []
    for user in range(200):
        start = 1_400_000_000 + user * hour
        now = user // 10 + 1  # ten users in turn take the same item
        rows.append([25 + user % 5, now])
        times.append([start, start + 60])
    train, validation = hold_out_last(histories_of(rows, times))
    # the tables of a model that has not seen time: none
    uniform = np.full(31, 1 / 30)
    log = histories_of(rows, times)  # the item of the hour is there in others' events
    chosen, quality = choose_fusion(FixedRanker(uniform), validation, {}, fit_moments(log, 30))
    assert quality["valid_ndcg@10"] > 0.6 > quality["valid_ndcg_of_the_model_alone@10"]
    moment = np.searchsorted(chosen.starts, 1_400_000_000 + 195 * hour, side="right") - 1
    assert chosen.prior[moment, 1:25].argmax() + 1 == 20
    assert chosen.popular.argmax() == 20


def test_at_end_takes_the_counts_of_a_longer_log():
    log = histories_of([[1, 2], [2, 1]], [[1_400_000_000, 1_400_000_060], [1_400_000_001] * 2])
    alone = Fusion.alone(3)
    moments = fit_moments(log, 3)
    known = alone._replace(
        starts=moments.starts,
        first=moments.first,
        prior=np.zeros((len(moments.starts), 4), np.float32),
        recency=alone.recency._replace(
            counts=moments.end, weights=np.ones(8), popular_weights=np.arange(8.0)
        ),
    )
    later = histories_of([[3]], [[1_400_009_999]])
    brought = known.at_end(Counts.of(3, log, later))
    last = len(moments.starts) - 1
    assert known.first[3] == NEVER and brought.first[3] == last
    np.testing.assert_allclose(brought.prior[-1], Counts.of(3, log, later).features().sum(0))
    np.testing.assert_array_equal(brought.prior[:-1], known.prior[:-1])
    assert brought.popular.shape == (4,)


def test_with_tables_takes_the_same_candidates_of_another_fit():
    first, second = planted_histories(), planted_histories(seed=1)
    fitted, again = fit_tables(first, 30), fit_tables(second, 30)
    chosen = {
        "transitions": fitted["transitions"][2]._replace(decay=0.85),
        "ease": fitted["ease"][0],
    }
    moved = Fusion.alone(30)._replace(tables=chosen).with_tables(fitted, again)
    assert list(moved.tables) == ["transitions", "ease"]
    assert moved.tables["transitions"].decay == 0.85
    assert moved.tables["transitions"].weights is again["transitions"][2].weights
    assert moved.tables["ease"].weights is again["ease"][0].weights


def test_few_moments_are_fitted_by_likelihood():
    rows, times = [[1, 2], [2, 3]], [[1_400_000_000, 1_400_000_060]] * 2
    log = histories_of(rows, times)
    assert not fusion._many_moments(fit_moments(log, 30, only_end=True))
    assert fusion._many_moments(fit_moments(log.timeless(), 30))
