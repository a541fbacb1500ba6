"""Warm-up requests: the official stubs write the same bytes, and a version answers them."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.versions.folders import read_catalogue
from kerasrec.versions.warmup import (
    WARMUP,
    _prediction_log,
    example_inputs,
    read_signatures,
    read_warmup,
    replay_warmup,
    write_warmup,
)


@pytest.fixture(scope="module")
def version(exported_version):
    return exported_version / "1"


def official(signature, inputs):
    """The record that tensorflow-serving-api makes of a request."""
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "toy"
    request.model_spec.signature_name = signature
    for name, (value, dtype) in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtype=dtype))
    return log


def test_signatures_are_those_of_the_loaded_version(version):
    loaded = tf.saved_model.load(str(version)).signatures
    found = read_signatures(version)
    assert next(iter(found)) == "serving_default" and set(found) == set(loaded)
    for name, (inputs, outputs) in found.items():
        given = loaded[name].structured_input_signature[1]
        assert {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in given.items()} == {
            key: (dtype, shape) for key, (dtype, shape) in inputs.items()
        }
        assert set(outputs) == set(loaded[name].structured_outputs)


def test_one_request_per_signature_with_real_ids(version):
    requests = dict(read_warmup(version))
    assert set(requests) == set(read_signatures(version))
    catalogue = read_catalogue(version)
    ids = catalogue["item_id"].tolist()
    assert requests["serving_default"]["history"].tolist() == [["", *ids[:3]]]
    assert requests["similar"]["item_ids"].tolist() == ids[:1]
    every = requests["recommend"]
    assert {key: value.shape for key, value in every.items()} == {
        "history": (1, 4),
        "timestamps": (1, 4),
        "allow": (1, 1),
        "deny": (1, 1),
        "keep_seen": (1,),
    }
    assert every["timestamps"].dtype == np.int64 and every["keep_seen"].dtype == bool


def test_the_file_is_what_the_official_stubs_write(version):
    """Byte for byte, but for the order of a map, which protobuf leaves open."""
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(version / WARMUP)).as_numpy_iterator())
    catalogue, signatures = read_catalogue(version), read_signatures(version)
    assert len(records) == len(signatures)
    for record, (signature, (inputs, _)) in zip(records, signatures.items(), strict=True):
        values = example_inputs(inputs, catalogue)
        expected = official(signature, {k: (values[k], inputs[k][0]) for k in inputs})
        assert prediction_log_pb2.PredictionLog.FromString(record) == expected
        assert record == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_384, 3_000_000])
def test_messages_of_all_sizes(length):
    """Lengths take one byte, two, three, four."""
    text = "课" * length
    tensor = tf.make_tensor_proto([text]).SerializeToString()
    record = _prediction_log("toy", "encode_items", {"texts": tensor})
    expected = official("encode_items", {"texts": ([text], "string")})
    assert record == expected.SerializeToString(deterministic=True)


def test_written_and_read_back(version, tmp_path):
    shutil.copytree(version, tmp_path / "1")
    frame = pd.DataFrame({"item_id": ["课\n程", "a'b\"c"], "title": ["课程　🎓", ""]})
    write_warmup(tmp_path / "1", "toy", frame)
    found = dict(read_warmup(tmp_path / "1"))
    assert found["score"]["candidates"].tolist() == [["课\n程", "a'b\"c"]]


def test_a_version_answers_its_requests(version, tmp_path):
    loaded = tf.saved_model.load(str(version))
    replay_warmup(version, loaded)
    shutil.copytree(version, tmp_path / "1")
    with tf.io.TFRecordWriter(str(tmp_path / "1" / WARMUP)) as writer:
        writer.write(_prediction_log("toy", "serving_default", {}))
    with pytest.raises(ArtifactError, match=r"asks \['serving_default'\], the version answers"):
        replay_warmup(tmp_path / "1", loaded)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, "not a record".encode() * 9])
def test_a_file_that_is_none_is_one_sentence(version, tmp_path, content):
    shutil.copytree(version, tmp_path / "1")
    (tmp_path / "1" / WARMUP).write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read|the version answers"):
        replay_warmup(tmp_path / "1", tf.saved_model.load(str(version)))
    (tmp_path / "1" / WARMUP).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_warmup(tmp_path / "1")


@pytest.mark.parametrize("record", [b"\x32", b"\x32\x7f\x0a", b"\x08\x01", b"\x12\x00"])
def test_a_record_that_is_none_is_one_sentence(version, tmp_path, record):
    (tmp_path / "1" / "assets.extra").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(tmp_path / "1" / WARMUP)) as writer:
        writer.write(record)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_warmup(tmp_path / "1")


def test_an_input_without_an_example_is_a_defect():
    with pytest.raises(ArtifactError, match="No warm-up request for the input 'mood'"):
        example_inputs(["mood"], pd.DataFrame({"item_id": ["a"], "title": ["甲"]}))
