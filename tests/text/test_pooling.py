import numpy as np
import pytest

from kerasrec.backend import keras, tf
from kerasrec.text.textmodel import POOLINGS, UnitLength, build_text_model

HIDDEN = np.array(
    [[[1.0, -4.0], [3.0, 2.0], [50.0, 50.0]], [[0.0, 0.0], [9.0, 9.0], [9.0, 9.0]]], np.float32
)
MASK = np.array([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mean", [[2.0, -1.0], [0.0, 0.0]]),
        ("cls", [[1.0, -4.0], [0.0, 0.0]]),
        ("max", [[3.0, 2.0], [0.0, 0.0]]),
    ],
)
def test_pooling_by_hand(mode, expected):
    layer = POOLINGS[mode]()
    assert layer(HIDDEN, mask=tf.constant(MASK)).numpy().tolist() == expected
    assert layer.compute_mask(HIDDEN, MASK) is None
    rebuilt = type(layer).from_config(layer.get_config())
    assert rebuilt(HIDDEN, mask=tf.constant(MASK)).numpy().tolist() == expected


def test_pooling_without_mask():
    assert POOLINGS["mean"]()(HIDDEN)[1].numpy().tolist() == [6.0, 6.0]
    assert POOLINGS["max"]()(HIDDEN)[0].numpy().tolist() == [50.0, 50.0]


def test_unit_length():
    rows = UnitLength()(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).numpy()
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], atol=1e-7)


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_build_text_model_ignores_padding(mode):
    tokens = keras.Input((None,), name="Input-Token")
    segments = keras.Input((None,), name="Input-Segment")
    hidden = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    transformer = keras.Model([tokens, segments], hidden)
    model = build_text_model(transformer, mode + "_l2")
    short = np.array([[5, 7]])
    padded = np.array([[5, 7, 0, 0, 0]])
    vectors = [model([ids, np.zeros_like(ids)]).numpy() for ids in (short, padded)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    assert model.output_shape == (None, 4) and model.name == "encoder"
    with pytest.raises(ValueError, match="pooling must be one of mean, mean_l2, cls.*'sum'"):
        build_text_model(transformer, "sum")
