"""One Predict request, without a protocol around it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from kerasrec.serving import predictor as predictcalls
from kerasrec.serving.admission import Limits, Refusal
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.serving.predictor import Predictor, Target, check_outputs
from kerasrec.versions.folders import read_catalogue


@pytest.fixture(scope="module")
def predictor(served_folder):
    model = ModelVersions(served_folder, policy="all")
    model.refresh()
    return Predictor({"toy": model}, Limits(workers=1))


def ask(predictor, target=None, *, tensors=None, seconds=5, outputs=()):
    tensors = {"history": tf.constant([["a"], ["b"]])} if tensors is None else tensors
    with predictor.counted("test") as call:
        deadline = time.perf_counter() + seconds
        with predictor.resolved(Target(**{"model": "toy", **(target or {})}), call) as resolved:
            check_outputs(resolved.signature, outputs)
            answer = predictor.run(resolved, tensors, deadline)
        return call, (resolved.version, resolved.signature, answer)


def test_answer_and_what_is_noted(predictor):
    call, (version, signature, outputs) = ask(predictor, {"version": 2}, outputs=["scores"])
    assert (version.number, signature.name) == (2, "serving_default")
    assert sorted(outputs) == ["item_ids", "scores"]
    assert outputs["scores"].shape == (2, 5)
    noted = (call.model, call.version, call.signature, call.rows, call.code)
    assert noted == ("toy", 2, "serving_default", 2, "OK") and 0 < call.seconds < 5


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"model": "nope"}, "NOT_FOUND"),
        ({"version": 9}, "NOT_FOUND"),
        ({"label": "blue"}, "INVALID_ARGUMENT"),
        ({"signature": "zz"}, "FAILED_PRECONDITION"),
    ],
)
def test_unknown_names(predictor, target, code):
    with pytest.raises(Refusal) as refused:
        ask(predictor, target)
    assert refused.value.code == code


@pytest.mark.parametrize("outputs", [["zz"], ["scores", "scores"]])
def test_wrong_outputs(predictor, outputs):
    with pytest.raises(Refusal, match="output tensor alias"):
        ask(predictor, outputs=outputs)


def test_deadline_before_its_turn(predictor):
    with predictor._slots:
        with pytest.raises(Refusal) as refused:
            ask(predictor, seconds=0.05)
    assert refused.value.code == "DEADLINE_EXCEEDED"
    assert ask(predictor)


def test_an_error_of_tensorflow_is_the_callers(predictor):
    tensors = {"history": tf.constant([["a"], ["b"]]), "candidates": tf.constant([["a"]])}
    with pytest.raises(Refusal) as refused:
        ask(predictor, {"signature": "score"}, tensors=tensors)
    assert refused.value.code == "INVALID_ARGUMENT" and "\n" not in str(refused.value)


def test_a_defect_becomes_internal_and_a_line_in_the_log(predictor, caplog):
    with pytest.raises(Refusal, match="its log says why") as refused:
        with predictor.counted("test") as call:
            raise ZeroDivisionError("by zero")
    assert refused.value.code == call.code == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text


def test_a_request_that_nobody_waits_for_is_counted(predictor):
    with pytest.raises(KeyboardInterrupt):
        with predictor.counted("test") as call:
            raise KeyboardInterrupt
    assert call.code == "CANCELLED"


def test_requests_are_logged_where_wanted(predictor, caplog):
    with caplog.at_level("DEBUG", "kerasrec.serving.predictor"):
        ask(predictor)
    assert [(r.code, r.rows, r.signature) for r in caplog.records] == [("OK", 2, "serving_default")]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, r"0!=1. Sent extra: {}. Missing but required: {history}"),
        ({"histry": (7, (1, 1))}, r"Sent extra: {histry}. Missing but required: {history}"),
        ({"history": (1, (1, 1))}, "history must be string. Received: float32"),
        ({"history": (999, (1, 1))}, "Received: type 999"),
        ({"history": (7, (1,))}, r"must have the shape \[\?,\?\]"),
    ],
)
def test_inputs_are_looked_at(predictor, tensors, words):
    signature = predictor.models["toy"]._loaded[1].signature()
    with pytest.raises(Refusal, match=words):
        predictor.check_inputs(signature, tensors)
    predictor.check_inputs(signature, {"history": (7, (3, 0))})


def test_inputs_of_unequal_rows_are_refused(predictor):
    signature = predictor.models["toy"]._loaded[1].signature("score")
    tensors = {name: (dtype, (3, 2)) for name, (dtype, _) in signature.inputs.items()}
    predictor.check_inputs(signature, tensors)
    tensors["candidates"] = (tensors["candidates"][0], (1, 2))
    with pytest.raises(Refusal, match="all inputs need the same number of rows"):
        predictor.check_inputs(signature, tensors)


@pytest.mark.parametrize(("budget", "sizes"), [(2000, [2, 2, 1]), (500, [1] * 10)])
def test_many_candidates_are_computed_in_parts(predictor, monkeypatch, budget, sizes):
    """As the rows; a row with more of them than are computed at once by columns too."""
    version, calls = predictor.models["toy"]._loaded[1], []
    signature = version.signatures["score"]
    ids = list(read_catalogue(version.path)["item_id"])
    rows = {
        "history": tf.constant([[ids[0]], [""], [ids[5]], [ids[6]], ["?"]]),
        "candidates": tf.constant([[*ids[n : n + 8], "", "?"] for n in range(5)]),
    }
    whole = ask(predictor, {"version": 1, "signature": "score"}, tensors=rows)[1][2]["scores"]
    for name, value in (("CANDIDATE", 100), ("SCORES_AT_ONCE", budget)):
        monkeypatch.setattr(predictcalls, name, value)
    monkeypatch.setattr(version, "num_items", 0)
    function = signature._function
    monkeypatch.setattr(
        signature, "_function", lambda **given: calls.append(given) or function(**given)
    )
    parts = ask(predictor, {"version": 1, "signature": "score"}, tensors=rows)[1][2]["scores"]
    shapes = [tuple(given["candidates"].shape) for given in calls]
    assert [shape[0] for shape in shapes] == sizes
    assert max(width for _, width in shapes) * 100 <= budget
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_many_rows_are_computed_in_parts(predictor, monkeypatch):
    rows = [["", "a"], ["b", "c"], ["", ""], ["a", "?"], ["c", "b"]]
    whole = ask(predictor, tensors={"history": tf.constant(rows)})[1][2]
    version, calls = predictor.models["toy"]._loaded[1], []
    monkeypatch.setattr(predictcalls, "SCORES_AT_ONCE", 2 * version.num_items)
    signature = version.signatures["serving_default"]
    function = signature._function
    monkeypatch.setattr(
        signature, "_function", lambda **given: calls.append(given) or function(**given)
    )
    parts = ask(predictor, {"version": 1}, tensors={"history": tf.constant(rows)})[1][2]
    assert [len(given["history"]) for given in calls] == [2, 2, 1]
    np.testing.assert_array_equal(parts["item_ids"], whole["item_ids"])
    np.testing.assert_allclose(parts["scores"], whole["scores"], rtol=1e-5)


@pytest.fixture
def reader(text_version):
    """A `Predictor` of a version that reads texts."""
    model = ModelVersions(text_version)
    model.refresh()
    return Predictor({model.name: model}, Limits(workers=2))


def test_many_texts_are_computed_in_parts(reader, monkeypatch):
    texts = tf.constant([f"课程 {number}" for number in range(7)])
    asked = {"model": "texts", "signature": "encode_items"}
    whole = ask(reader, asked, tensors={"texts": texts})[1][2]["vectors"]
    monkeypatch.setattr(predictcalls, "TEXTS_AT_ONCE", 3)
    signature, calls = reader.models["texts"]._loaded[1].signatures["encode_items"], []
    function = signature._function
    monkeypatch.setattr(
        signature, "_function", lambda texts: calls.append(len(texts)) or function(texts=texts)
    )
    parts = ask(reader, asked, tensors={"texts": texts})[1][2]["vectors"]
    assert calls == [3, 3, 1]
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    # the deadline is heeded between two parts
    monkeypatch.setattr(
        signature, "_function", lambda texts: time.sleep(0.3) or function(texts=texts)
    )
    with pytest.raises(Refusal, match="deadline"):
        ask(reader, asked, tensors={"texts": texts}, seconds=0.2)


def test_texts_leave_a_worker_to_others(reader, monkeypatch):
    """Both workers were taken by texts: nobody else was answered before they were done."""
    signature = reader.models["texts"]._loaded[1].signatures["encode_items"]
    function, over = signature._function, threading.Event()
    monkeypatch.setattr(
        signature, "_function", lambda texts: over.wait(60) and function(texts=texts)
    )
    asked = {"model": "texts", "signature": "encode_items"}
    with ThreadPoolExecutor(2) as pool:
        given = {"texts": tf.constant(["课程"])}
        slow = [pool.submit(ask, reader, asked, tensors=given) for _ in range(2)]
        try:
            time.sleep(0.2)
            history = {"history": tf.constant([["a"]])}
            answer = ask(reader, {"model": "texts"}, tensors=history, seconds=20)[1][2]
            assert not any(future.done() for future in slow)
            assert answer["item_ids"].shape[0] == 1
        finally:
            over.set()
        assert [future.result()[1][2]["vectors"].shape[0] for future in slow] == [1, 1]
