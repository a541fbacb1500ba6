import numpy as np
import pytest
from toys import histories_of

from kerasrec.fusion import neighbours
from kerasrec.fusion.neighbours import (
    EASE_PENALTY,
    TEXT_POWER,
    NeighbourTable,
    fit_ease,
    normalise_counts,
    sequential_counts,
    text_neighbours,
    to_table,
)


def test_sequential_counts_by_hand():
    counts = sequential_counts(
        histories_of([[1, 2, 3]]), 3, distance_decay=1.0, backward=0.5, max_distance=2
    ).toarray()
    expected = np.zeros((4, 4))
    expected[1, 2] = expected[2, 3] = 1.0  # distance 1
    expected[1, 3] = 0.5  # distance 2
    expected += 0.5 * expected.T
    np.testing.assert_allclose(counts, expected)


def test_sequential_counts_do_not_join_two_users():
    counts = sequential_counts(histories_of([[1], [2]]), 2)
    assert counts.nnz == 0


def test_normalise_counts_by_hand():
    counts = np.array([[0, 0, 0], [0, 0, 8.0], [0, 0, 0]])
    from scipy import sparse

    result = normalise_counts(
        sparse.csr_array(counts), np.array([0, 4, 16]), source_power=0.5, target_power=0.25
    )
    assert result.toarray()[1, 2] == pytest.approx(8 / (2 * 2))


def test_fit_ease_solves_its_own_least_squares():
    rng = np.random.default_rng(0)
    rows = [rng.permutation(6)[:3] + 1 for _ in range(40)]
    weights = fit_ease(histories_of(rows), 6)[1:, 1:].astype(float)
    users = np.zeros((40, 6))
    for user, row in enumerate(rows):
        users[user, row - 1] = 1
    # stationary point of |X - XB|^2 + EASE_PENALTY |B|^2 with zero diagonal: the gradient vanishes
    # off the diagonal
    gradient = users.T @ (users @ weights - users) + EASE_PENALTY * weights
    np.fill_diagonal(gradient, 0)
    assert np.abs(gradient).max() < 1e-3 < np.abs(weights).max()
    assert np.abs(np.diag(weights)).max() == 0


def test_fit_ease_counts_a_repeated_pair_once():
    once = fit_ease(histories_of([[1, 2], [2, 3]]), 3)
    twice = fit_ease(histories_of([[1, 2, 2, 1], [2, 3]]), 3)
    np.testing.assert_allclose(once, twice)


def test_text_neighbours_are_the_largest_cosines():
    vectors = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    near = text_neighbours(vectors, width=3).toarray()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    for item in range(20):
        expected = set(np.argsort(-cosine[item])[:3] + 1)
        assert set(np.flatnonzero(near[item + 1])) <= expected
        best = int(np.argmax(cosine[item]))
        assert near[item + 1, best + 1] == pytest.approx(cosine[item, best] ** TEXT_POWER, abs=1e-6)


def test_to_table_keeps_the_largest_sizes_and_never_padding():
    matrix = np.zeros((3, 3), np.float32)
    matrix[1] = [9.0, -3.0, 2.0]
    table = to_table(matrix, width=1, decay=0.5)
    assert table.neighbours[1].tolist() == [1]
    assert table.weights[1].tolist() == [-3.0]


def random_sparse(num_rows=40, density=0.3, seed=0):
    from scipy import sparse

    rng = np.random.default_rng(seed)
    matrix = sparse.random_array((num_rows, num_rows), density=density, rng=rng, dtype=np.float32)
    matrix.data = rng.integers(-3, 4, len(matrix.data)).astype(np.float32)  # ties and zeros
    return matrix.tocsr()


@pytest.mark.parametrize("block_entries", [1, 50, 10_000])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_to_table_of_a_sparse_matrix_equals_that_of_the_dense_one(
    monkeypatch, block_entries, width
):
    monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", block_entries)
    matrix = random_sparse()
    matrix = matrix + random_sparse(density=0.05, seed=1)
    found = to_table(matrix, width=width, decay=0.5)
    expected = to_table(matrix.toarray(), width=width, decay=0.5)
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)
    np.testing.assert_array_equal(found.weights, expected.weights)


def test_to_table_is_no_wider_than_its_longest_row_and_the_limit(monkeypatch):
    from scipy import sparse

    matrix = np.zeros((4, 4), np.float32)
    matrix[1, 1:3] = [1.0, 2.0]
    table = to_table(sparse.csr_array(matrix), width=3, decay=0.5)
    assert table.neighbours[1].tolist() == [2, 1]
    empty = to_table(sparse.csr_array((4, 4), dtype=np.float32), width=3, decay=0.5)
    assert empty.neighbours.shape == (4, 1) and not empty.weights.any()
    monkeypatch.setattr(neighbours, "MAX_TABLE_ENTRIES", 4)
    assert to_table(matrix, width=3, decay=0.5).neighbours.tolist() == [[0], [2], [0], [0]]


def test_to_table_sums_repeated_entries():
    from scipy import sparse

    repeated = sparse.coo_array(([1.0, 1.5, 2.0], ([1, 1, 1], [1, 2, 1])), shape=(3, 3))
    table = to_table(repeated.tocsr(), width=1, decay=0.5)
    assert (table.neighbours[1, 0], table.weights[1, 0]) == (1, 3.0)


def test_text_neighbours_are_left_to_small_catalogues(monkeypatch):
    vectors = np.eye(5, dtype=np.float32)
    monkeypatch.setattr(neighbours, "MAX_TEXT_ITEMS", 4)
    assert text_neighbours(vectors, width=2).shape == (6, 6)
    assert text_neighbours(vectors, width=2).nnz == 0


def test_scores_by_hand():
    table = NeighbourTable(
        np.array([[0], [2], [3], [1]], np.int32), np.array([[0], [1], [2], [-4]], np.float32), 0.5
    )
    scores = table.scores(histories_of([[1, 2], [], [3]]))
    # newest 2 -> item 3 with 2; before it 1 -> item 2 with 0.5 * 1; item 1 of user 2 is negative
    np.testing.assert_allclose(scores, [[0, 0, 0.5, 2.0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_ease_is_left_to_small_catalogues():
    from kerasrec.fusion.fusion import fit_tables

    histories = histories_of([[1, 2, 3]])
    assert "ease" in fit_tables(histories, 5)
    assert "ease" not in fit_tables(histories, neighbours.MAX_EASE_ITEMS + 1)


def test_tables_can_be_left_out():
    from kerasrec.fusion.fusion import fit_tables

    histories, vectors = histories_of([[1, 2, 3]]), np.eye(5, dtype=np.float32)
    assert list(fit_tables(histories, 5, vectors, parts=["text"])) == ["text"]
    assert fit_tables(histories, 5, vectors, parts=[]) == {}
