"""What every encoder keeps to: the contract of `vectors.Encoder`."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.interactions import Items
from kerasrec.text.encoders import build_encoder, load_text_encoder
from kerasrec.text.vectors import Encoder, fit_whitening

TITLES = ["机器学习基础", "古代汉语", "Java 程序设计", "", " \u3000", "机器学习进阶"]
KINDS = ("bert", "tfidf", "vectors", pytest.param("e5-small", marks=pytest.mark.slow))

#: loads saved encoders in a process of its own; a model's weights come from where they came from
FRESH = """
import json, sys
import numpy as np
from kerasrec.text.encoders import build_encoder, load_text_encoder
for folder, source, texts in json.loads(sys.argv[1]):
    encoder = load_text_encoder(folder)
    fingerprint = encoder.fingerprint
    if encoder.kind == "bert":
        tokens = encoder.tokenizer.encode_batch(texts)[0]
        encoder = build_encoder(source, max_tokens=encoder.max_tokens)
        assert (encoder.tokenizer.encode_batch(texts)[0] == tokens).all()
    vectors = encoder.encode(texts, cache=None, progress=False)
    fingerprints = np.array([fingerprint, encoder.fingerprint])
    np.savez(f"{folder}.npz", vectors=vectors, fingerprints=fingerprints)
"""


@pytest.fixture(scope="module")
def items():
    ids = [f"i{number}" for number in range(len(TITLES))]
    return Items(pd.DataFrame({"item_id": ids, "title": TITLES}))


@pytest.fixture(scope="module")
def sources(tiny_bert_folder, tmp_path_factory, items):
    """Kind -> the name that `build_encoder` takes."""
    path = tmp_path_factory.mktemp("ready") / "ready.npz"
    vectors = np.random.default_rng(0).normal(size=(len(items), 5)).astype(np.float32)
    np.savez(path, ids=np.array(items.ids, str), vectors=vectors)
    return {
        "bert": str(tiny_bert_folder),
        "tfidf": "tfidf",
        "vectors": f"vectors:{path}",
        "e5-small": "e5-small",
    }


def built(source, items):
    encoder = build_encoder(source, max_tokens=24)
    assert encoder.fit(items.texts()) is encoder
    return encoder


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, sources, items):
    return built(sources[request.param], items)


def vectors_of(encoder, items):
    return encoder.encode_items(items, cache=None, progress=False)


def test_it_has_all_members(encoder, items):
    assert Encoder in type(encoder).__mro__
    assert encoder.kind in ("bert", "tfidf", "vectors")
    vectors = vectors_of(encoder, items)
    assert vectors.dtype == np.float32 and vectors.shape == (len(items), encoder.dim)
    assert np.isfinite(vectors).all()
    assert (encoder.tokenizer is None) == (encoder.model is None)


def test_the_description_names_it(encoder):
    found = encoder.description
    keys = ("name", "kind", "dim", "licence", "fingerprint")
    assert {key: found[key] for key in keys} == {key: getattr(encoder, key) for key in keys}
    assert all(isinstance(value, str | int) for value in found.values())


def test_the_fingerprint_is_stable(encoder, items):
    before = encoder.fingerprint
    vectors_of(encoder, items)
    assert encoder.fingerprint == before and len(before) == 64


def test_a_blank_text_is_zero_behind_the_whitening(encoder, items):
    vectors = vectors_of(encoder, items)
    whitened = encoder.whitened(vectors, fit_whitening(vectors, 3), items)
    is_blank = np.array([not title.strip() for title in TITLES])
    assert whitened[~is_blank].any(axis=1).all()
    # ready vectors are known by id: an item without a title has one
    assert whitened[is_blank].any() == (encoder.kind == "vectors")


@pytest.mark.parametrize(
    "kinds", [("bert", "tfidf", "vectors"), pytest.param(("e5-small",), marks=pytest.mark.slow)]
)
def test_saved_and_loaded_in_a_fresh_process(kinds, sources, items, tmp_path):
    encoders, asked = {}, []
    for kind in kinds:
        folder, encoder = str(tmp_path / kind), built(sources[kind], items)
        encoder.save(folder)
        assert load_text_encoder(folder).description == encoder.description
        texts = list(items.ids) if kind == "vectors" else items.texts()
        asked.append((folder, sources[kind], texts))
        encoders[folder] = encoder
    subprocess.run([sys.executable, "-c", FRESH, json.dumps(asked)], check=True)
    for folder, encoder in encoders.items():
        with np.load(f"{folder}.npz") as found:
            np.testing.assert_allclose(found["vectors"], vectors_of(encoder, items), atol=1e-6)
            assert set(found["fingerprints"]) == {encoder.fingerprint}
