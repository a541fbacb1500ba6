"""Requests that `kerasrec serve` and TF Serving answer alike.

To ask a real TF Serving the same, set KERASREC_TFSERVING=host:rest_port:grpc_port:model, where the
model is one that kerasrec exported. Without the variable that one case is skipped.
"""

import base64
import os
from typing import NamedTuple

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class Place(NamedTuple):
    rest: str
    predictions: object
    models: object
    model: str


@pytest.fixture(scope="module", params=["kerasrec", "tfserving"])
def place(request):
    if request.param == "kerasrec":
        server = request.getfixturevalue("server")
        rest, grpc_address, model = server.rest_address, server.grpc_address, "toy"
    else:
        told = os.environ.get("KERASREC_TFSERVING")
        if not told:
            pytest.skip("no TF Serving here: set KERASREC_TFSERVING=host:rest:grpc:model")
        host, rest_port, grpc_port, model = told.split(":")
        rest, grpc_address = f"http://{host}:{rest_port}", f"{host}:{grpc_port}"
    with grpc.insecure_channel(grpc_address) as channel:
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        yield Place(rest, predictions, models, model)


@pytest.fixture
def post(place):
    def ask(body, where="", model=None):
        url = f"{place.rest}/v1/models/{model or place.model}{where}:predict"
        how = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(url, timeout=30, **how)

    return ask


def predict_request(place, history=(("a", "b"),), name="history", dtype=tf.string):
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = place.model
    asked.inputs[name].CopyFrom(tf.make_tensor_proto(history, dtype))
    return asked


def code_of(call, *arguments):
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments, timeout=30)
    return refused.value.code().name


# --- REST ---


def test_row_and_column_form_agree(post):
    rows = post({"instances": [{"history": ["a", "b"]}, {"history": ["", "c"]}]})
    plain = post({"instances": [["a", "b"], ["", "c"]]})
    whole = post({"inputs": {"history": [["a", "b"], ["", "c"]]}})
    direct = post({"inputs": [["a", "b"], ["", "c"]]})
    for answer in (rows, plain, whole, direct):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
    predictions, outputs = rows.json()["predictions"], whole.json()["outputs"]
    assert [sorted(row) for row in predictions] == [["item_ids", "scores"]] * 2
    assert [row["item_ids"] for row in predictions] == outputs["item_ids"]
    assert [row["scores"] for row in predictions] == outputs["scores"]
    assert plain.json() == rows.json() and direct.json() == whole.json()


def test_one_output_has_no_name(post):
    body = {"signature_name": "interest", "instances": [["a"], ["b"]]}
    rows = post(body).json()["predictions"]
    assert len(rows) == 2 and all(isinstance(value, float) for value in rows[0])
    body = {"signature_name": "interest", "inputs": [["a"], ["b"]]}
    assert post(body).json() == {"outputs": rows}


def test_base64_strings(post):
    encoded = {"b64": base64.b64encode("题".encode()).decode()}
    given = post({"instances": [{"history": [encoded]}]})
    assert given.status_code == 200
    assert given.json() == post({"instances": [{"history": ["题"]}]}).json()


def test_all_inputs_of_recommend(post):
    row = {"history": ["a"], "timestamps": [0], "allow": [""], "deny": [""], "keep_seen": True}
    answer = post({"signature_name": "recommend", "instances": [row]})
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"{}",
        {"instances": []},
        {"instances": {}},
        {"instances": [["a"]], "inputs": [["a"]]},
        {"instances": [["a"], ["b", "c"]]},
        {"instances": [[1]]},
        {"instances": [["a"]], "signature_name": 3},
        {"instances": [["a"]], "signature_name": "zz"},
        {"instances": [{"histry": ["a"]}]},
        {"inputs": {"histry": [["a"]]}},
        {"instances": [{"history": [{"b64": "?"}]}]},
        {"signature_name": "recommend", "instances": [["a"]]},
        {"signature_name": "recommend", "instances": [{"history": ["a"]}]},
    ],
)
def test_bad_requests_are_400_with_an_error(post, body):
    answer = post(body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"] and answer.json()["error"]


def test_names_that_are_unknown(place, post):
    body = {"instances": [["a"]]}
    assert post(body, model="no-such-model").status_code == 404
    assert post(body, where="/versions/987654321").status_code == 404
    assert post(body, where="/labels/no-such-label").status_code == 400
    for path in ("no-such-model", f"{place.model}/versions/987654321"):
        answer = httpx.get(f"{place.rest}/v1/models/{path}", timeout=30)
        assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert httpx.get(f"{place.rest}/v1/nonsense", timeout=30).status_code == 400
    assert httpx.get(f"{place.rest}/v1/models/{place.model}:predict").status_code == 400


def test_status_and_metadata(place):
    status = httpx.get(f"{place.rest}/v1/models/{place.model}", timeout=30).json()
    known = [entry for entry in status["model_version_status"] if entry["state"] == "AVAILABLE"]
    assert known and known[0]["status"] == {"error_code": "OK", "error_message": ""}
    version = known[0]["version"]
    url = f"{place.rest}/v1/models/{place.model}/versions/{version}"
    assert httpx.get(url, timeout=30).json() == {"model_version_status": [known[0]]}
    metadata = httpx.get(f"{url}/metadata", timeout=30).json()
    spec = {"name": place.model, "signature_name": "", "version": version}
    assert metadata["model_spec"] == spec
    definition = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["history"]["dtype"] == "DT_STRING"
    assert [d["size"] for d in definition["inputs"]["history"]["tensor_shape"]["dim"]] == [
        "-1",
        "-1",
    ]
    assert sorted(definition["outputs"]) == ["item_ids", "scores"]


# --- gRPC ---


def test_predict_equals_rest(place, post):
    answer = place.predictions.Predict(predict_request(place), timeout=30)
    spec = answer.model_spec
    assert (spec.name, spec.signature_name) == (place.model, "serving_default")
    assert sorted(answer.outputs) == ["item_ids", "scores"]
    version = f"/versions/{spec.version.value}"
    rest = post({"inputs": [["a", "b"]]}, where=version).json()["outputs"]
    ids = tf.make_ndarray(answer.outputs["item_ids"])
    assert [[i.decode() for i in row] for row in ids] == rest["item_ids"]
    scores = answer.outputs["scores"]
    assert list(scores.float_val) == pytest.approx(rest["scores"][0], abs=1e-5)


def test_output_filter_and_signature(place):
    asked = predict_request(place)
    asked.output_filter.append("scores")
    assert list(place.predictions.Predict(asked, timeout=30).outputs) == ["scores"]
    asked.output_filter.append("scores")
    assert code_of(place.predictions.Predict, asked) == "INVALID_ARGUMENT"
    asked.output_filter[:] = ["zz"]
    assert code_of(place.predictions.Predict, asked) == "INVALID_ARGUMENT"
    asked = predict_request(place, [["a"], ["b"]])
    asked.model_spec.signature_name = "interest"
    answer = place.predictions.Predict(asked, timeout=30)
    assert answer.model_spec.signature_name == "interest"
    assert tf.make_ndarray(answer.outputs["interest"]).shape[0] == 2


def test_codes_of_wrong_requests(place):
    predict = place.predictions.Predict
    asked = predict_request(place)
    asked.model_spec.name = "no-such-model"
    assert code_of(predict, asked) == "NOT_FOUND"
    asked = predict_request(place)
    asked.model_spec.version.value = 987654321
    assert code_of(predict, asked) == "NOT_FOUND"
    asked = predict_request(place)
    asked.model_spec.version_label = "no-such-label"
    assert code_of(predict, asked) == "INVALID_ARGUMENT"
    asked = predict_request(place)
    asked.model_spec.signature_name = "zz"
    assert code_of(predict, asked) == "FAILED_PRECONDITION"
    assert code_of(predict, predict_request(place, name="histry")) == "INVALID_ARGUMENT"
    wrong_type = predict_request(place, [[1]], dtype=tf.int64)
    assert code_of(predict, wrong_type) == "INVALID_ARGUMENT"
    asked = predict_request(place)
    asked.inputs["more"].CopyFrom(asked.inputs["history"])
    assert code_of(predict, asked) == "INVALID_ARGUMENT"


def test_classify_is_refused(place):
    asked = classification_pb2.ClassificationRequest()
    asked.model_spec.name = place.model
    asked.input.example_list.examples.add()
    code = code_of(place.predictions.Classify, asked)
    assert code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")


def test_status_over_grpc(place):
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = place.model
    entries = place.models.GetModelStatus(asked, timeout=30).model_version_status
    available = [e.version for e in entries if e.state == e.AVAILABLE and not e.status.error_code]
    assert available
    asked.model_spec.version.value = available[0]
    (entry,) = place.models.GetModelStatus(asked, timeout=30).model_version_status
    assert entry.version == available[0]
    asked.model_spec.version.value = 987654321
    assert code_of(place.models.GetModelStatus, asked) == "NOT_FOUND"
    asked.model_spec.name = "no-such-model"
    assert code_of(place.models.GetModelStatus, asked) == "NOT_FOUND"


def test_metadata_over_grpc(place):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = place.model
    answer = place.predictions.GetModelMetadata(asked, timeout=30)
    assert answer.model_spec.name == place.model and answer.model_spec.version.value > 0
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    definition = signatures.signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    assert sorted(definition.outputs) == ["item_ids", "scores"]
    assert definition.inputs["history"].dtype == tf.string.as_datatype_enum
