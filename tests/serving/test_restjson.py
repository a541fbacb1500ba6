"""TF Serving's JSON, both ways; expected values are written out by hand."""

import base64
import json

import numpy as np
import pytest

from kerasrec.serving.admission import Refusal
from kerasrec.serving.restjson import columns, read_request, shape_of, to_array, write_answer


def parsed(body, names=("history",), dtype="string"):
    _, form, value = read_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    given = columns(form, value, names)
    return {name: to_array(name, part, shape_of(part), dtype) for name, part in given.items()}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"history": ["a", "题"]}, {"history": ["", "b"]}]},
        {"instances": [["a", "题"], ["", "b"]]},
        {"inputs": {"history": [["a", "题"], ["", "b"]]}},
        {"inputs": [["a", "题"], ["", "b"]]},
        {"instances": [["a", {"b64": base64.b64encode("题".encode()).decode()}], ["", "b"]]},
    ],
)
def test_all_forms_of_one_input_mean_the_same(body):
    array = parsed(body)["history"]
    assert array.tolist() == [[b"a", "题".encode()], [b"", b"b"]]


def test_several_inputs_of_several_types():
    rows = [{"a": [1, -2], "b": True}, {"a": [3, 4], "b": False}]
    found = columns("instances", rows, ["a", "b"])
    assert to_array("a", found["a"], (2, 2), "int64").tolist() == [[1, -2], [3, 4]]
    assert to_array("b", found["b"], (2,), "bool").tolist() == [True, False]
    assert to_array("c", [1, 2.5], (2,), "float32").dtype == np.float32


def test_empty_rows():
    assert parsed({"instances": [{"history": []}, {"history": []}]})["history"].shape == (2, 0)
    assert parsed({"inputs": []})["history"].shape == (0,)


def test_bytes_need_not_be_text():
    array = parsed({"inputs": [[{"b64": "/w=="}]]})["history"]
    assert array.tolist() == [[b"\xff"]]


def test_signature_name():
    assert read_request(b'{"instances": [1]}')[0] == ""
    assert read_request(b'{"signature_name": "score", "inputs": 1}') == ("score", "inputs", 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The document is empty"),
        (b"  \n", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff\xfe{", "JSON Parse error"),
        (b"[" * 200_000, "too many lists"),
        (b'{"instances": ' + b"[" * 100_000, "JSON Parse error"),
        (b'{"instances": [[' + b"9" * 5000 + b"]]}", "JSON Parse error"),
        (b"[1]", r"JSON Value: \[1\] Is not object"),
        (b"null", "Is not object"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"inputs": 1, "instances": [1]}', "only one of"),
        (b'{"signature_name": 7, "inputs": 1}', "'signature_name' key must be a string value"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": {"history": ["a"]}}, "to be an list/array"),
        ({"instances": [["a"], {"history": ["a"]}]}, "all objects or none. Item 1"),
        ({"instances": [{"history": ["a"]}, {"x": ["a"]}]}, "element: 1 .* must be equal to"),
        ({"instances": [["a", "b"], ["c"]]}, "unexpected size: 1 at level: 1 expected size: 2"),
        ({"instances": [["a"], "b"]}, "incorrect level"),
        ({"instances": [["a", ["b"]]]}, r'\["b"\] Type: Array is not of expected type: string'),
        ({"instances": [[1]]}, "JSON Value: 1 Type: Number is not of expected type: string"),
        ({"instances": [[None]]}, "Type: Null"),
        ({"instances": [[{"b64": "?"}]]}, "Unable to base64 decode"),
        ({"instances": [[{"b64": "YQ==", "x": 1}]]}, "Type: Object"),
        (b'{"instances": [["\\ud800"]]}', "no valid Unicode"),
    ],
)
def test_mistakes_are_refused(body, words):
    with pytest.raises(Refusal, match=words) as refused:
        parsed(body)
    assert refused.value.http_status == 400
    assert len(str(refused.value)) < 400
    json.dumps({"error": str(refused.value)}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int64", 1.0), ("int64", True), ("int64", 1 << 63), ("int32", 1 << 31), ("int64", "1")]
    + [("bool", 1), ("float32", "1"), ("float32", False), ("float32", None)],
)
def test_values_of_another_type_are_refused(dtype, value):
    with pytest.raises(Refusal, match=f"is not of expected type: {dtype}"):
        to_array("x", [value], (1,), dtype)


def test_several_inputs_need_names():
    with pytest.raises(Refusal, match="several inputs"):
        columns("instances", [["a"]], ["a", "b"])
    with pytest.raises(Refusal, match="several inputs"):
        columns("inputs", [["a"]], ["a", "b"])


def test_answers_in_rows_and_columns():
    ids = np.array([["a".encode(), "题".encode()]], object)
    scores = np.array([[0.5, -np.inf]], np.float32)
    rows = json.loads(write_answer("instances", {"item_ids": ids, "scores": scores}))
    assert rows == {"predictions": [{"item_ids": ["a", "题"], "scores": [0.5, -np.inf]}]}
    whole = json.loads(write_answer("inputs", {"item_ids": ids, "scores": scores}))
    assert whole == {"outputs": {"item_ids": [["a", "题"]], "scores": [[0.5, -np.inf]]}}
    assert b"-Infinity" in write_answer("inputs", {"scores": scores})


def test_a_single_output_has_no_name():
    flags = np.array([True, False])
    assert json.loads(write_answer("instances", {"x": flags})) == {"predictions": [True, False]}
    assert json.loads(write_answer("inputs", {"x": flags})) == {"outputs": [True, False]}


def test_outputs_called_bytes_are_base64():
    answer = write_answer("inputs", {"raw_bytes": np.array([b"\xff"], object)})
    assert json.loads(answer) == {"outputs": [{"b64": "/w=="}]}


def test_rows_need_a_common_number():
    outputs = {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}
    with pytest.raises(Refusal, match="no common number of rows"):
        write_answer("instances", outputs)
    with pytest.raises(Refusal, match="no common number of rows"):
        write_answer("instances", {"a": np.float32(1)})
