import numpy as np
import pytest

from kerasrec.backend import keras, tf
from kerasrec.training.optimizers import LazyAdam

Adam = keras.optimizers.legacy.Adam


def rows(values, indices, num_rows=4):
    values = tf.constant(values, tf.float32)
    return tf.IndexedSlices(values, tf.constant(indices), tf.constant([num_rows, values.shape[1]]))


def stepped(optimizer, gradients, num_rows=4):
    """Values of a table of ones after a step per gradient."""
    table = tf.Variable(tf.ones((num_rows, 2)))
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, table)])
    return table.numpy()


def test_first_step_moves_used_rows_by_the_learning_rate():
    table = stepped(LazyAdam(0.1, dense_rows=0), [rows([[3.0, -2.0]], [2])])
    # the first step of Adam is the learning rate against the sign of the gradient
    np.testing.assert_allclose(table, [[1, 1], [1, 1], [0.9, 1.1], [1, 1]], atol=1e-6)


def test_two_steps_by_hand():
    table = stepped(LazyAdam(0.1, dense_rows=0), [rows([[1.0, 1.0]], [1]), rows([[2.0, 0.0]], [1])])
    mean, square = 0.9 * 0.1 + 0.1 * 2, 0.999 * 0.001 + 0.001 * 4
    second = 0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * mean / (np.sqrt(square) + 1e-7)
    assert table[1, 0] == pytest.approx(1 - 0.1 - second, abs=1e-6)


def test_unused_rows_stay_where_adam_moves_them_on():
    gradients = [rows([[1.0, 1.0]], [0]), rows([[1.0, 1.0]], [1])]
    lazy = stepped(LazyAdam(0.1, dense_rows=0), gradients)
    adam = stepped(Adam(0.1), gradients)
    np.testing.assert_allclose(lazy[0], 0.9, atol=1e-6)
    assert (adam[0] < 0.85).all()


@pytest.mark.parametrize("dense_rows", [0, 4])
def test_equals_adam_where_every_row_is_used(dense_rows):
    rng = np.random.default_rng(0)
    gradients = [rows(rng.normal(size=(4, 2)), [2, 0, 3, 1]) for _ in range(5)]
    lazy = stepped(LazyAdam(0.1, dense_rows=dense_rows), gradients)
    np.testing.assert_allclose(lazy, stepped(Adam(0.1), gradients), atol=1e-6)


def test_small_tables_are_updated_as_by_adam():
    rng = np.random.default_rng(1)
    gradients = [rows(rng.normal(size=(2, 2)), [2, 0]), rows(rng.normal(size=(2, 2)), [1, 1])]
    lazy = stepped(LazyAdam(0.1, dense_rows=4), gradients)
    np.testing.assert_allclose(lazy, stepped(Adam(0.1), gradients), atol=1e-6)


def test_repeated_rows_are_summed():
    twice = stepped(LazyAdam(0.1, dense_rows=0), [rows([[1.0, 0.5], [2.0, 0.5]], [1, 1])] * 2)
    summed = stepped(LazyAdam(0.1, dense_rows=0), [rows([[3.0, 1.0]], [1])] * 2)
    np.testing.assert_allclose(twice, summed, atol=1e-6)


def test_dense_gradients_are_adams():
    gradients = [
        tf.constant(np.random.default_rng(s).normal(size=(4, 2)), tf.float32) for s in (0, 1)
    ]
    lazy = stepped(LazyAdam(0.1, dense_rows=0), gradients)
    np.testing.assert_allclose(lazy, stepped(Adam(0.1), gradients), atol=1e-6)


def test_clipping_keeps_gradients_sparse():
    big = rows([[300.0, 400.0]], [1])
    optimizer = keras.optimizers.legacy.SGD(1.0, global_clipnorm=5.0)
    np.testing.assert_allclose(stepped(optimizer, [big])[1], [1 - 3, 1 - 4], atol=1e-5)
    seen = []

    class Watched(LazyAdam):
        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            seen.append(grad.numpy())
            return super()._resource_apply_sparse(grad, var, indices, apply_state)

    stepped(Watched(0.1, dense_rows=0, global_clipnorm=5.0), [big])
    np.testing.assert_allclose(seen[0], [[3.0, 4.0]], atol=1e-5)


def test_schedule_and_config_round_trip():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.1])
    optimizer = LazyAdam(schedule, dense_rows=0, global_clipnorm=7.0)
    again = LazyAdam.from_config(optimizer.get_config())
    assert (again.dense_rows, again.global_clipnorm) == (0, 7.0)
    table = stepped(again, [rows([[1.0, 1.0]], [0])] * 2)
    np.testing.assert_allclose(table[0], 1 - 0.5 - 0.1, atol=1e-5)


def test_checkpoint_holds_the_moments(tmp_path):
    gradients = [rows([[1.0, 2.0]], [0]), rows([[3.0, -1.0]], [0])]

    def made():
        table, optimizer = tf.Variable(tf.ones((4, 2))), LazyAdam(0.1, dense_rows=0)
        optimizer._create_all_weights([table])
        return table, optimizer, tf.train.Checkpoint(table=table, optimizer=optimizer)

    table, optimizer, checkpoint = made()
    optimizer.apply_gradients([(gradients[0], table)])
    path = checkpoint.write(str(tmp_path / "one"))
    optimizer.apply_gradients([(gradients[1], table)])
    again, optimizer, checkpoint = made()
    checkpoint.read(path).assert_existing_objects_matched()
    optimizer.apply_gradients([(gradients[1], again)])
    np.testing.assert_array_equal(again.numpy(), table.numpy())


def test_strategies_update_like_none():
    gradients = [rows([[1.0, 2.0]], [0]), rows([[3.0, -1.0]], [2])]
    alone = stepped(LazyAdam(0.1, dense_rows=0), gradients)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        table, optimizer = tf.Variable(tf.ones((4, 2))), LazyAdam(0.1, dense_rows=0)
    for gradient in gradients:
        strategy.run(lambda g=gradient: optimizer.apply_gradients([(g, table)]))
    np.testing.assert_allclose(table.numpy(), alone, atol=1e-6)


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="LazyAdam has no amsgrad"):
        LazyAdam(amsgrad=True)
