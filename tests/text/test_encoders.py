import json

import numpy as np
import pytest
from numpybert import (
    hidden_states,
    make_config,
    make_weights,
    vocabulary,
    wordpiece_ids,
    write_tf_folder,
)

from kerasrec.data.datasets import load_mooccube
from kerasrec.text import encoders as encoder_module
from kerasrec.text.encoders import build_encoder, load_text_encoder
from kerasrec.text.vectors import VectorCache

ITEMS = load_mooccube()[1]
TITLES = ITEMS.texts()[:90]
VOCAB = vocabulary(TITLES)
CONFIG = make_config("bert", len(VOCAB))
WEIGHTS = make_weights("bert", CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tf_folder(
        tmp_path_factory.mktemp("x") / "tiny-bert", "bert", CONFIG, WEIGHTS, VOCAB
    )


@pytest.fixture
def encoder(folder):
    return build_encoder(folder, max_tokens=32)


CHINESE = ["机器学习基础", "古代汉语", "大学物理", ""]


#: each way of pooling alone is in test_pooling
@pytest.mark.parametrize(
    "pooling",
    [
        "max",
        "mean_l2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mean", "cls", "cls_l2")),
    ],
)
def test_encode_equals_numpy(tmp_path, pooling):
    vocab = vocabulary(CHINESE)
    config = make_config("bert", len(vocab))
    weights = make_weights("bert", config)
    folder = write_tf_folder(tmp_path / "c", "bert", config, weights, vocab)
    encoder = build_encoder(folder, pooling=pooling, max_tokens=16)
    vectors = encoder.encode(CHINESE, cache=None, progress=False)
    assert vectors.dtype == np.float32
    for text, vector in zip(CHINESE, vectors, strict=True):
        hidden = hidden_states("bert", config, weights, wordpiece_ids(vocab, text))
        mode = pooling.removesuffix("_l2")
        expected = {"mean": hidden.mean(axis=0), "cls": hidden[0], "max": hidden.max(axis=0)}[mode]
        if pooling.endswith("_l2"):
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_encode_keeps_order_and_repeats(encoder):
    texts = [TITLES[5], TITLES[0], TITLES[5], "", TITLES[7]]
    vectors = encoder.encode(texts, batch_size=2, cache=None, progress=False)
    for text, vector in zip(texts, vectors, strict=True):
        alone = encoder.encode([text], cache=None, progress=False)[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    assert encoder.encode([], cache=None, progress=False).shape == (0, 16)


def test_encode_equals_the_model(encoder):
    vectors = encoder.encode(TITLES, cache=None, progress=False)
    direct = encoder.model(list(encoder.tokenizer.encode_batch(TITLES)), training=False).numpy()
    np.testing.assert_allclose(vectors, direct, atol=1e-5)


def test_one_trace_for_all_lengths(encoder):
    for length in range(1, 30):
        encoder.encode(["学" * length] * length, cache=None, progress=False)
    assert encoder._compiled[1].experimental_get_tracing_count() == 1


def test_encode_refuses_other_types(encoder):
    with pytest.raises(TypeError, match="Received: one str. Put it into a list"):
        encoder.encode("机器学习")
    with pytest.raises(TypeError, match="Received: nan at position 1"):
        encoder.encode(["a", float("nan")])


# --- Cache ---


@pytest.fixture
def tokenized(encoder, monkeypatch):
    """The texts that were really encoded, in a list that fills up."""
    texts = []
    token_ids = encoder.tokenizer.token_ids
    monkeypatch.setattr(
        encoder.tokenizer, "token_ids", lambda t: (texts.append(t), token_ids(t))[1]
    )
    return texts


def test_only_new_texts_are_encoded(encoder, tokenized, tmp_path):
    first = encoder.encode(TITLES[:50], cache=tmp_path, progress=False)
    assert set(tokenized) == set(TITLES[:50])
    tokenized.clear()
    again = encoder.encode(TITLES[:50], cache=tmp_path, progress=False)
    assert tokenized == []
    np.testing.assert_array_equal(first, again)
    more = encoder.encode(TITLES[40:60] + ["新课程"], cache=tmp_path, progress=False)
    assert set(tokenized) == set(TITLES[50:60]) - set(TITLES[:50]) | {"新课程"}
    np.testing.assert_array_equal(more[:10], first[40:])


def test_cache_belongs_to_one_encoder(folder, tmp_path):
    vectors = {}
    for options in ({}, {"pooling": "cls"}, {"prefix": "古"}, {"max_tokens": 5}, {}):
        encoder = build_encoder(folder, **{"max_tokens": 32} | options)
        vectors[str(options)] = encoder.encode(TITLES[:5], cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 4  # the last found the folder of the first
    rows = list(vectors.values())
    assert all(np.abs(rows[0] - other).max() > 1e-3 for other in rows[1:])


def test_trained_weights_never_meet_old_vectors(encoder, tmp_path):
    before = encoder.encode(TITLES[:5], cache=tmp_path, progress=False)
    fingerprint = encoder.fingerprint
    weight = encoder.model.get_layer("Transformer-1-FeedForward-Norm").weights[0]
    weight.assign_add(np.ones(weight.shape))
    assert encoder.fingerprint != fingerprint
    after = encoder.encode(TITLES[:5], cache=tmp_path, progress=False)
    np.testing.assert_allclose(after, before + 1, atol=1e-4)


def test_interrupted_run_continues(encoder, tokenized, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "CHUNK", 8)
    forward = encoder._forward()
    calls = []

    def breaking(token_ids, segment_ids):
        calls.append(len(token_ids))
        if len(calls) > 5:
            raise KeyboardInterrupt
        return forward(token_ids, segment_ids)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "_forward", lambda: breaking)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(TITLES, batch_size=4, cache=tmp_path, progress=False)
    tokenized.clear()
    vectors = encoder.encode(TITLES, cache=tmp_path, progress=False)
    assert len(set(TITLES)) - len(tokenized) == 16  # two whole chunks were kept
    np.testing.assert_allclose(
        vectors, encoder.encode(TITLES, cache=None, progress=False), atol=1e-5
    )


def test_damaged_cache_is_encoded_again(encoder, tmp_path, caplog):
    before = encoder.encode(TITLES, cache=tmp_path, progress=False)
    (shard,) = tmp_path.glob("*/*.shard")
    shard.write_bytes(shard.read_bytes()[:1000])
    after = encoder.encode(TITLES, cache=tmp_path, progress=False)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert "is damaged" in caplog.text


def test_default_cache_folder(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASREC_CACHE", str(tmp_path / "own"))
    encoder.encode(TITLES[:3], progress=False)
    (path,) = (tmp_path / "own" / "vectors").iterdir()
    assert path.name == f"tiny-bert-{encoder.fingerprint[:32]}"
    monkeypatch.delenv("KERASREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    encoder.encode(TITLES[:3], progress=False)
    assert (tmp_path / "xdg" / "kerasrec" / "vectors" / path.name).is_dir()
    keys = encoder_module.text_keys(TITLES[:3])
    assert VectorCache(path, 16).get(keys)[1].all()


# --- build_encoder, files ---


def test_encode_items(encoder, tmp_path):
    some = load_mooccube()[1]
    vectors = encoder.encode_items(some, cache=tmp_path, progress=False)
    assert vectors.shape == (len(some), 16)
    other = encoder.encode_items(some, "{category} {title}", cache=tmp_path, progress=False)
    assert np.abs(vectors - other).max() > 1e-3


def test_description_and_fingerprint(encoder, folder):
    description = encoder.description
    json.dumps(description)
    assert description["name"] == "tiny-bert" and description["architecture"] == "bert"
    assert description["fingerprint"] == build_encoder(folder, max_tokens=32).fingerprint
    assert len(description["fingerprint"]) == 64
    config = make_config("bert", len(VOCAB), layer_norm_eps=1e-5)
    other = write_tf_folder(folder.parent / "eps" / "tiny-bert", "bert", config, WEIGHTS, VOCAB)
    assert build_encoder(other, max_tokens=32).fingerprint != description["fingerprint"]


def test_fingerprint_knows_the_heads(encoder, folder):
    """The weights have the same shapes with 2 heads and with 4, the vectors are others."""
    config = CONFIG | {"num_attention_heads": 2 * CONFIG["num_attention_heads"]}
    other = write_tf_folder(folder.parent / "heads" / "tiny-bert", "bert", config, WEIGHTS, VOCAB)
    more_heads = build_encoder(other, max_tokens=32)
    options = dict(cache=None, progress=False)
    difference = more_heads.encode(TITLES[:5], **options) - encoder.encode(TITLES[:5], **options)
    assert np.abs(difference).max() > 1e-4
    assert more_heads.fingerprint != encoder.fingerprint


def test_save_and_load_bert(encoder, tmp_path):
    encoder.save(tmp_path / "e")
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "encoder.json",
        "kerasrec_tokenizer.json",
        "vocab.txt",
    }
    loaded = load_text_encoder(tmp_path / "e")
    assert loaded.model is None
    assert loaded.description == encoder.description
    assert loaded.tokenizer.token_ids(TITLES[0]) == encoder.tokenizer.token_ids(TITLES[0])
    with pytest.raises(ValueError, match="loaded without weights: they live in the exported model"):
        loaded.encode(TITLES)


def test_tfidf_and_vectors_through_the_same_door(tmp_path):
    tfidf = build_encoder("tfidf").fit(ITEMS.texts())
    vectors = tfidf.encode_items(ITEMS)
    assert vectors.shape == (len(ITEMS), tfidf.dim)
    tfidf.save(tmp_path / "t")
    again = load_text_encoder(tmp_path / "t").encode_items(ITEMS)
    np.testing.assert_allclose(again, vectors, atol=1e-6)

    np.savez(tmp_path / "v.npz", ids=ITEMS.ids.astype(str), vectors=vectors)
    ready = build_encoder(f"vectors:{tmp_path / 'v.npz'}")
    np.testing.assert_array_equal(ready.encode_items(ITEMS, "{title}", cache=True), vectors)
    ready.save(tmp_path / "r")
    loaded = load_text_encoder(tmp_path / "r")
    assert (loaded.kind, loaded.name) == ("vectors", "vectors:v.npz")


def test_build_encoder_errors(folder, tmp_path):
    for name, message in (
        ("e5-smal", "neither a folder nor a known name.*Did you mean 'e5-small'"),
        ("tf-idf", "Did you mean 'tfidf'"),
        ("/no/such/bert", "Known names: e5-small, tfidf, vectors:FILE"),
        (folder / "vocab.txt", "is a file, not a folder"),
        ("vectors:/no/file.npy", "No file of vectors"),
        (tmp_path, "holds no config"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            build_encoder(name)
    for name, options, message in (
        ("tfidf", {"pooling": "mean"}, "tfidf has no pooling. Received: pooling='mean'"),
        ("vectors:x.npy", {"prefix": "x"}, "vectors has no prefix"),
        ("e5-small", {"model": "albert"}, "e5-small is a bert model"),
        (folder, {"pooling": "sum"}, "pooling must be one of mean"),
        (folder, {"model": "gpt2"}, "model must be one of bert"),
        (folder, {"max_tokens": 41}, "max_tokens must be at most 40, the positions of tiny-bert"),
        (folder, {"max_tokens": 2}, "max_tokens must be at least 3"),
        (folder, {"model": "albert", "max_tokens": 32}, "lacks the variable bert/encoder/transf"),
    ):
        with pytest.raises(ValueError, match=message):
            build_encoder(name, **options)
    with pytest.raises(FileNotFoundError, match="Expected a folder written by encoder.save"):
        load_text_encoder(tmp_path)
