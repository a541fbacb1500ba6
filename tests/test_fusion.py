import numpy as np
import pytest
from conftest import histories_of, planted_histories

from kerasrec import fusion
from kerasrec.backend import tf
from kerasrec.fusion import Memory, choose_fusion, fit_tables
from kerasrec.recency import fit_moments
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
