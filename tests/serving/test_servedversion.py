"""One loaded version: its signatures, warm-up requests, and what its folder looks like."""

import logging
import os

import numpy as np
import pytest
import tensorflow as tf

from kerasrec.serving.admission import Refusal
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.serving.servedversion import ServedVersion, look_of
from kerasrec.versions import folders
from kerasrec.versions.warmup import WARMUP


def test_signatures_are_those_of_the_version(served_folder):
    version = ServedVersion("toy", 2, served_folder / "2")
    loaded = tf.saved_model.load(str(served_folder / "2")).signatures
    assert set(version.signatures) == set(loaded) <= set(version.definitions)
    default, recommend = version.signature(), version.signature("recommend")
    assert default.name == "serving_default" and default.outputs == ["item_ids", "scores"]
    kinds = {name: (tf.as_dtype(kind), shape) for name, (kind, shape) in recommend.inputs.items()}
    assert kinds["timestamps"] == (tf.int64, (-1, -1)) and kinds["keep_seen"] == (tf.bool, (-1,))
    history = tf.constant([["a", "b"]])
    ours, theirs = default({"history": history}), loaded["serving_default"](history=history)
    np.testing.assert_array_equal(ours["item_ids"], theirs["item_ids"])
    with pytest.raises(Refusal, match='"zz" not found. Known: interest') as refused:
        version.signature("zz")
    assert refused.value.code == "FAILED_PRECONDITION"


def test_what_follows_what_can_be_exchanged(served_folder, toy_histories):
    version = ServedVersion("toy", 1, served_folder / "1")
    assert version.has_following
    first = folders.read_catalogue(version.path)["item_id"].iloc[0]
    history = tf.constant([["no such item"], [first]])
    _, found = version.following(toy_histories)
    table, matrix = found["transitions"]
    assert matrix is None  # no index
    before = version.signature()({"history": history})
    weights = np.zeros_like(table.weights)
    neighbours = np.zeros_like(table.neighbours)
    neighbours[1, 0], weights[1, 0] = 30, 100
    changed = table._replace(neighbours=neighbours, weights=weights)
    version.set_following({"transitions": (changed, None)})
    after = version.signature()({"history": history})
    assert not np.array_equal(before["scores"][1], after["scores"][1])
    np.testing.assert_array_equal(before["scores"][0], after["scores"][0])


def test_a_step_of_warming_up_may_be_given_up(served_folder):
    version, steps = ServedVersion("toy", 2, served_folder / "2"), []

    def check():
        steps.append(None)
        if len(steps) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        version.warm_up(check)
    assert len(steps) == 3


def test_look_of_sees_every_change(base):
    folder = base / "1"
    before = look_of(folder)
    assert before == look_of(folder) and len(before) > 8
    file = folder / "saved_model.pb"
    os.utime(file, ns=(1, 1))
    touched = look_of(folder)
    assert touched != before
    (folder / "more").write_text("")
    assert look_of(folder) not in (before, touched)
    assert look_of(base / "9") == []


def test_warm_up_requests_are_replayed(served_folder, base, caplog):
    caplog.set_level(logging.INFO, "kerasrec")
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "interest"
    request.inputs["history"].CopyFrom(tf.make_tensor_proto([["a", "b"]]))
    log = prediction_log_pb2.PredictLog(request=request)
    record = prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString()
    with tf.io.TFRecordWriter(str(base / "1" / WARMUP)) as writer:
        writer.write(record)
    ModelVersions(base).refresh()
    assert [r.warm_up_requests for r in caplog.records if r.message == "version loaded"] == [1]
