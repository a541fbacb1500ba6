import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import histories_of

from kerasrec.fusion.following import Following, Stream, add_new
from kerasrec.fusion.fusion import FOLLOWING, fit_tables
from kerasrec.fusion.neighbours import NeighbourTable

NUM_ITEMS = 6


def dense(neighbours, weights, rows=None):
    """A table as a matrix, `(num_items + 1, num_items + 1)`."""
    found = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    rows = range(NUM_ITEMS + 1) if rows is None else rows
    for row, columns, values in zip(rows, neighbours, weights, strict=True):
        found[row, columns] += values
    found[:, 0] = 0
    return found


histories = st.lists(
    st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=14), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(histories, st.integers(0, 10))
def test_growing_event_by_event_equals_a_fit_of_the_whole(rows, kept):
    """The first events of each user are fitted, the others added: all rows are the same."""
    whole = histories_of(rows)
    some = histories_of([row[:kept] for row in rows])
    following = Following(some, NUM_ITEMS, {"transitions": 1})
    ages = np.concatenate([np.arange(len(row)) for row in rows])
    assert add_new(following, whole, ages >= kept) == (ages >= kept).sum()
    expected = fit_tables(whole, NUM_ITEMS)
    for name in FOLLOWING:
        table = expected[name][1 if name == "transitions" else 0]
        rows_of = [following.row(name, item) for item in range(NUM_ITEMS + 1)]
        np.testing.assert_allclose(dense(*zip(*rows_of, strict=True)), dense(*table[:2]), rtol=1e-5)
        # and what it scores is what the table scores
        history = whole.select([0])
        scores = following.scores(name, history.items, 0.5)
        np.testing.assert_allclose(
            scores, table._replace(decay=0.5).scores(history)[0], rtol=1e-3, atol=1e-4
        )


def test_rows_that_change_by_hand():
    """One user took 1, 2; then 3. The rows of 1, 2 and 3 change, not that of 4."""
    following = Following(histories_of([[1, 2], [4, 1]]), NUM_ITEMS, None)
    table = following.table("follows", 0.3)
    assert table.decay == 0.3
    np.testing.assert_allclose(dense(*table[:2])[[1, 4]], [[0, 0, 1, 0, 0, 0, 0], [0, 1] + [0] * 5])
    following.add(3, [1, 2])
    rows = following.changed("follows", 2)
    assert rows.items.tolist() == [1, 2, 3]
    found = dense(rows.neighbours, rows.weights, rows.items)
    np.testing.assert_allclose(found[2], [0, 0, 0, 1, 0, 0, 0])  # 3 came directly after 2
    np.testing.assert_allclose(found[1], [0, 0, 1, 0, 0, 0, 0])
    assert not found[3].any()
    # pairs at distance 2 count, forward and, by half, backward; damped by (0.5, 0.25)
    found = dense(*following.changed("transitions", 4)[1:], rows.items)
    np.testing.assert_allclose(found[1, 3], 2**-0.9 / 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(found[3, 1], 0.5 * 2**-0.9 / 2**0.25, rtol=1e-5)
    # the largest alone where a row has no more room
    assert following.changed("transitions", 1).neighbours.shape == (3, 1)
    following.forget_changes()
    assert not len(following.changed("follows", 2).items)


def test_a_stream_scores_by_what_came_before():
    """Two users walk 1 -> 2; a third is asked about at 1 before, between and after them."""
    log = histories_of([[1, 2], [1, 3], [1]], [[10, 20], [30, 40], [5]])
    stream = Stream(log, 15, NUM_ITEMS, None)
    none = np.zeros((NUM_ITEMS + 1, 0))
    tables = {"follows": NeighbourTable(none.astype(np.int32), none.astype(np.float32), 0.0)}
    asked = log.select([2, 2, 2])
    scores = stream.scores(tables, asked, [20, 21, 50])["follows"]
    np.testing.assert_allclose(scores[:, 2:4], [[0, 0], [1, 0], [0.5, 0.5]])
    assert stream.until(1000) == 0
