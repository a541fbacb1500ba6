"""Numbers outside their type, over real sockets: a 400 that names the field, never a 500."""

import json
import string

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasrec.feedback.intake import FIELDS
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server

T = 1_700_000_000
#: JSON as it is sent; Python's own writer makes some of it only
ODD = ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1" + "0" * 400, "9" * 5000, "1e-999"]
ODD += [
    "true",
    "null",
    "[]",
    "{}",
    "[[1]]",
    "-1",
    "0",
    "1.5",
    "1e30",
    '"1e999"',
    '"x"',
    '"\\ud800"',
]
ODD += [str(number) for number in (2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64)]
ODD += ['"\\u0000"', f'"{"9" * 30}"', f'"{"x" * 5000}"']
#: as text in an address
WORDS = [*(text.strip('"') for text in ODD), "", " ", "１", "%00", "0x10", "1_0", "+1", "-0", "1 "]


@pytest.fixture(scope="module")
def client(served_folder, tmp_path_factory):
    """A server with a store and two versions."""
    feedback = FeedbackOptions(tmp_path_factory.mktemp("odd") / "feedback.db", observe=0)
    options = ServerOptions(feedback=feedback, policy="all")
    with running_server(served_folder, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client


def body_of(**fields):
    """An object of JSON, its values given as JSON."""
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in fields.items()) + "}"


def checked(answer, names):
    """The status: 200, or a short refusal that names one of the fields."""
    assert answer.status_code in (200, 400), (answer.status_code, answer.text[:300])
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert len(error) < 500
        assert error.startswith("JSON Parse error") or any(name in error for name in names), error
    return answer.status_code


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_an_event(client, field):
    fine = {"user_id": '"u"', "item_id": '"i"', "timestamp": str(T)}
    for text in ODD:
        status = checked(
            client.post("/v1/feedback", content=body_of(**fine | {field: text})), [field]
        )
        if text in ("1e999", "-1e999", "NaN", "Infinity", "true", "[]", "{}") or len(text) > 400:
            assert status == 400, text
    assert client.get("/v1/feedback/stats").status_code == 200


@pytest.mark.parametrize("name", ["user", "k", "model", "version", "label", "log"])
def test_every_parameter_of_a_list(client, name):
    for text in WORDS:
        answer = client.get("/v1/recommend", params={"user": "u", "k": "3", name: text})
        if answer.status_code != 404:  # no such model, version or label
            checked(answer, [f"{name}=", name])
        assert "error" in answer.json() or len(answer.json()["items"]) <= 50


def test_every_input_of_every_signature(client):
    metadata = client.get("/v1/models/toy/versions/1/metadata").json()["metadata"]
    signatures = metadata["signature_def"]["signature_def"]
    assert {"recommend", "serving_default"} <= set(signatures)
    for signature, about in signatures.items():
        inputs = about["inputs"]
        fine = {name: fine_value(about) for name, about in inputs.items()}
        for name in inputs:
            for text in ODD:
                value = fine[name].replace('"a"', text).replace("1700000000", text)
                value = value.replace("false", text).replace("0.5", text)
                given = body_of(**fine | {name: value})
                body = body_of(signature_name=json.dumps(signature), inputs=given)
                answer = client.post("/v1/models/toy:predict", content=body)
                checked(answer, [name, "JSON Value"])
                assert "NaN" not in answer.text or text == "NaN", (signature, name, text)


def fine_value(about):
    """JSON of two rows of an input, as its metadata say."""
    kind = about["dtype"]
    cell = {"DT_STRING": '"a"', "DT_BOOL": "false", "DT_FLOAT": "0.5"}.get(kind, "1700000000")
    for _ in about["tensor_shape"]["dim"][1:]:
        cell = f"[{cell}]"
    return f"[{cell}, {cell}]" if about["tensor_shape"]["dim"] else cell


@pytest.mark.parametrize("version", ["0", "9" * 18, "9" * 19, "9" * 500, "-1", "1e3", "１"])
def test_versions_in_a_path(client, version):
    for path in (
        f"/v1/models/toy/versions/{version}",
        f"/v1/models/toy/versions/{version}:predict",
    ):
        send = client.post if path.endswith("predict") else client.get
        assert send(path).status_code in (400, 404)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_event_is_stored_or_refused(client, data):
    """Whatever JSON holds in whatever fields: 200 or 400, and all of a batch or none."""
    words = st.text(string.printable + "甲\0\ud800", max_size=8)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | words,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
        max_leaves=4,
    )
    events = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
    sent = data.draw(st.lists(events, min_size=1, max_size=3))
    whole = {"user_id": "u", "item_id": "i", "timestamp": T}
    before = client.get("/v1/feedback/stats").json()["events"]
    body = json.dumps([{**whole, **event} for event in sent])
    answer = client.post("/v1/feedback", content=body)
    checked(answer, FIELDS)
    after = client.get("/v1/feedback/stats").json()["events"]
    added = answer.json()["stored"] if answer.status_code == 200 else 0
    assert after - before == added
