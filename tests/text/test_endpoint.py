"""Vectors of an endpoint over real sockets: batches, cache, retries, and no key anywhere."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from embeddings import embeddings_server, vector_of
from toys import newest_alone, planted_histories, tiny_options

from kerasrec.data.sources import read_interactions, read_items
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import build_encoder, load_text_encoder
from kerasrec.text.vectors import check_encoder_name
from kerasrec.training.pipeline import train

KEY = "sk-very-secret-0123456789"
TEXTS = ["红楼梦", "西游记", " ", "红楼梦", "水浒传", "机器学习"]
EXPECTED = np.array([vector_of(text) if text.strip() else np.zeros(12) for text in TEXTS])


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("KERASREC_ENDPOINT_KEY", raising=False)
    with embeddings_server() as stub:
        yield stub


def encoder_of(endpoint, **options):
    return build_encoder(f"endpoint:{endpoint.url}", **{"model": "m", **options})


def answer(rows, **more):
    data = [{"index": at, "embedding": row} for at, row in enumerate(rows)]
    return 200, {}, json.dumps({"data": data, **more})


def test_each_text_is_sent_once_in_batches(endpoint, tmp_path):
    encoder = encoder_of(endpoint, prefix="query: ")
    found = encoder.encode(TEXTS, batch_size=3, cache=tmp_path)
    prefixed = [vector_of(f"query: {text}") if text.strip() else np.zeros(12) for text in TEXTS]
    np.testing.assert_array_equal(found, prefixed)
    sent = [body["input"] for _, _, body in endpoint.came]
    assert sent == [["query: 红楼梦", "query: 西游记", "query: 水浒传"], ["query: 机器学习"]]
    path, headers, body = endpoint.came[0]
    assert path == "/v1/embeddings" and body["model"] == "m" and "authorization" not in headers
    again = encoder_of(endpoint, prefix="query: ")
    np.testing.assert_array_equal(again.encode(TEXTS, cache=tmp_path), found)
    assert len(endpoint.came) == 2 and again.dim == 12
    encoder_of(endpoint, prefix="query: ", model="other").encode(TEXTS[:1], cache=tmp_path)
    assert len(endpoint.came) == 3  # another model, other vectors
    assert encoder.encode([], cache=None).shape == (0, 12)


def test_what_was_answered_stays_when_it_fails_later(endpoint, tmp_path):
    endpoint.answers += [None, (401, {}, json.dumps({"error": {"message": "no more"}}))]
    with pytest.raises(
        PermissionError, match=r"no more.*check KERASREC_ENDPOINT_KEY.*\(2 of 4 texts"
    ):
        encoder_of(endpoint).encode(TEXTS, batch_size=2, cache=tmp_path)
    found = encoder_of(endpoint).encode(TEXTS, batch_size=2, cache=tmp_path)
    np.testing.assert_array_equal(found, EXPECTED)
    assert [body["input"] for _, _, body in endpoint.came[2:]] == [["水浒传", "机器学习"]]


def test_a_busy_endpoint_is_asked_again(endpoint):
    endpoint.answers += [(429, {"retry-after": "0"}, "slow down"), (503, {}, "")]
    found = encoder_of(endpoint).encode(TEXTS, cache=None)
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(endpoint.came) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answer([[1, 2]]), "for each of 4 texts in .*Received: 1 vectors"),
        (answer([[1, 2], [1], [1, 2], [1, 2]]), "rows of different lengths"),
        (answer([["a"], [1], [2], [3]]), "or no numbers"),
        (answer([[float("nan")]] * 4), "no finite numbers"),
        ((200, {}, "<html>"), "Received: no JSON"),
        ((200, {}, '{"data": [1, 2]}'), "JSON of another form"),
        ((200, {}, json.dumps({"data": [{"index": 0, "embedding": [1]}] * 4})), "wrong indices"),
    ],
)
def test_another_answer_is_one_sentence(endpoint, given, message):
    endpoint.answers.append(given)
    with pytest.raises(ValueError, match=message):
        encoder_of(endpoint).encode(TEXTS, cache=None)


def test_another_width_than_before(endpoint, tmp_path):
    encoder = encoder_of(endpoint)
    encoder.encode(TEXTS[:1], cache=tmp_path)
    endpoint.answers.append(answer([[1, 2]]))
    with pytest.raises(ValueError, match="expected vectors of 12 numbers, as before. Received: 2"):
        encoder_of(endpoint).encode(TEXTS[:2], cache=tmp_path)


def test_a_model_that_got_another_width_is_trained_on_once_its_cache_is_gone(endpoint, tmp_path):
    encoder_of(endpoint).encode(TEXTS[:1], cache=tmp_path)
    endpoint.answers.append(answer([[1, 2]]))
    with pytest.raises(ValueError, match="delete the folder of its old vectors: ") as caught:
        encoder_of(endpoint).encode(TEXTS[:2], cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in str(caught.value)
    shutil.rmtree(folder)
    endpoint.answers.append(answer([[1, 2], [3, 4]]))
    assert encoder_of(endpoint).encode(TEXTS[:2], cache=tmp_path).tolist() == [[1, 2], [3, 4]]


def test_an_empty_width_in_the_cache_is_written_anew(endpoint, tmp_path):
    encoder_of(endpoint).encode(TEXTS[:1], cache=tmp_path)
    (width,) = tmp_path.rglob("width.txt")
    width.write_text("", encoding="utf-8")  # as a process that was killed left it
    encoder_of(endpoint).encode(TEXTS[:1], cache=tmp_path)
    assert width.read_text(encoding="utf-8") == "12"


def test_no_server_there(endpoint, monkeypatch):
    monkeypatch.setattr("kerasrec.text.plainencoders._RETRIES", 1)
    encoder = build_encoder("endpoint:http://127.0.0.1:9/v1", model="m")
    with pytest.raises(
        ConnectionError, match="127.0.0.1:9/v1/embeddings said UNAVAILABLE.*refused"
    ):
        encoder.encode(["x"], cache=None)


def test_the_key_is_in_the_header_and_nowhere_else(endpoint, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KERASREC_ENDPOINT_KEY", KEY)
    encoder = encoder_of(endpoint)
    with caplog.at_level(logging.DEBUG):
        encoder.encode(TEXTS, cache=tmp_path / "cache")
        endpoint.answers.append((401, {}, json.dumps({"error": f"{KEY} is no key"})))
        with pytest.raises(PermissionError, match=r"\*\*\* is no key") as caught:
            encoder.encode(["neu"], cache=tmp_path / "cache")
    assert endpoint.came[0][1]["authorization"] == f"Bearer {KEY}"
    encoder.save(tmp_path / "saved")
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = f"{caught.value} {caplog.text} {encoder.description}"
    assert KEY not in said and KEY.encode() not in kept
    loaded = load_text_encoder(tmp_path / "saved")
    assert loaded.description == encoder.description and loaded.dim == 12


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:pass@localhost:1/v1", "without user, password and query"),
        ("http://localhost:1/v1?key=pass", "without user, password and query"),
        ("localhost:8000", "expected the address where OpenAI's protocol begins"),
        ("http://localhost:x/v1", "expected the address"),
    ],
)
def test_addresses_that_cannot_be(url, message):
    for refuse in (check_encoder_name, lambda name: build_encoder(name, model="m")):
        with pytest.raises(ValueError, match=message) as caught:
            refuse(f"endpoint:{url}")
        assert "pass" not in str(caught.value).replace("password", "")


def test_options_that_it_has_not(endpoint):
    with pytest.raises(ValueError, match="needs the name of a model.*encoder.model=NAME"):
        build_encoder(f"endpoint:{endpoint.url}")
    with pytest.raises(ValueError, match="has no pooling"):
        encoder_of(endpoint, pooling="cls")


def test_a_version_asks_the_endpoint_for_new_items(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERASREC_ENDPOINT_KEY", KEY)
    monkeypatch.setitem(SEQUENCE_MODELS, "newest_alone", newest_alone)
    histories = planted_histories()
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    log = pd.DataFrame({"user_id": row, "item_id": histories.items})
    log["timestamp"] = 1_700_000_000 + np.arange(len(log))
    items = pd.DataFrame({"item_id": range(1, 31), "title": [f"第 {n} 课" for n in range(30)]})
    options = tiny_options({"name": f"endpoint:{endpoint.url}", "model": "m"})
    options["model"]["sequence"] = "newest_alone"
    given = dict(name="e", out=tmp_path, options=options, progress=False, ask="newest")
    version = train(read_interactions(log), read_items(items), **given).version
    recommender = Recommender.load(version)
    facts = recommender.manifest["encoder"]
    assert (facts["kind"], facts["architecture"], facts["dim"]) == ("endpoint", "m", 12)
    assert recommender.manifest["encodes_texts"]
    before = len(endpoint.came)
    recommender.add_items(pd.DataFrame({"item_id": ["twin", "new"], "title": ["第 4 课", "围城"]}))
    assert [body["input"] for _, _, body in endpoint.came[before:]] == [["围城"]]
    twin, new, known = recommender.item_vectors(["twin", "new", "5"])
    np.testing.assert_allclose(twin[:4], known[:4], atol=1e-4)
    assert np.abs(new - twin).max() > 1e-3
    files = [path for path in version.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)
