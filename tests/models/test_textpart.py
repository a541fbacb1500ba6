import numpy as np
import pytest
from numpybert import make_config, make_weights, vocabulary, write_tf_folder

from kerasrec.data.interactions import Items
from kerasrec.models.build import TextEncoder
from kerasrec.models.textpart import text_part


def test_none_knows_items_by_their_id_alone(toy_items):
    assert text_part(toy_items, name="none") == (None, None, None, None, 0)


def test_features_that_say_nothing_are_refused(toy_items):
    with pytest.raises(ValueError, match="82 values, each in one row alone"):
        text_part(toy_items, name="none", features="item_id:category")


def test_frozen_vectors_are_whitened_encoder_vectors(toy_items):
    part = text_part(toy_items, name="tfidf", whitening_dim=16, progress=False)
    raw = part.encoder.encode(toy_items.texts())
    np.testing.assert_allclose(
        part.text, (raw - part.whitening.mean) @ part.whitening.matrix, atol=1e-5
    )
    assert part.text.shape == (82, 16) and part.vectors is part.text


def test_template_decides_what_is_encoded(toy_items):
    title = text_part(toy_items, name="tfidf", progress=False)
    both = text_part(toy_items, name="tfidf", template="{title} {category}", progress=False)
    assert both.encoder.fingerprint != title.encoder.fingerprint


def test_whitening_is_no_wider_than_the_data_allows(toy_items, tiny_bert_folder):
    part = text_part(
        toy_items, name=tiny_bert_folder, whitening_dim=500, max_tokens=9, progress=False
    )
    assert part.text.shape == (82, 16)  # the width of tiny_bert


@pytest.mark.parametrize("kind", ["tfidf", "bert"])
def test_items_without_text_are_like_no_other(toy_items, tiny_bert_folder, kind):
    frame = toy_items.frame.copy()
    frame.loc[[3, 4], "title"] = ["", " "]
    name = "tfidf" if kind == "tfidf" else tiny_bert_folder
    part = text_part(Items(frame), name=name, max_tokens=12, cache=None, progress=False)
    assert np.flatnonzero(~part.vectors.any(axis=1)).tolist() == [3, 4]


def test_ready_vectors_need_no_text(toy_items, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(82, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", ids=toy_items.ids.astype(str), vectors=vectors)
    frame = toy_items.frame.copy()
    frame.loc[[3, 4], "title"] = ""
    part = text_part(Items(frame), name=f"vectors:{tmp_path / 'v.npz'}", progress=False)
    assert part.vectors.any(axis=1).all()


def test_model_says_what_a_folder_is(toy_items, tmp_path):
    vocab = vocabulary(toy_items.texts())
    config = make_config("nezha", len(vocab), use_relative_position=None)
    folder = tmp_path / "download"
    write_tf_folder(folder, "nezha", config, make_weights("nezha", config), vocab)
    options = dict(max_tokens=12, cache=None, progress=False)
    with pytest.raises(ValueError, match="nezha or roformer"):
        text_part(toy_items, name=folder, **options)
    part = text_part(toy_items, name=folder, model="nezha", **options)
    assert part.encoder.architecture == "nezha" and np.isfinite(part.vectors).all()
    with pytest.raises(ValueError, match="The encoder tfidf has no model"):
        text_part(toy_items, name="tfidf", model="nezha")


@pytest.mark.parametrize(("mode", "layers"), [("finetune", 1), ("lora", "all")])
def test_learning_modes_put_the_encoder_into_the_graph(toy_items, tiny_bert_folder, mode, layers):
    part = text_part(
        toy_items, name=tiny_bert_folder, mode=mode, layers=layers, max_tokens=12, progress=False
    )
    assert isinstance(part.text, TextEncoder) and part.text.model is part.encoder.model
    assert part.text.token_ids.shape == part.text.segment_ids.shape
    assert part.text.token_ids.shape[0] == 82 and part.text.token_ids.shape[1] <= 12
    names = [weight.name for weight in part.encoder.model.trainable_weights]
    assert names
    if mode == "lora":
        assert all("lora" in name for name in names)
    else:
        assert all("Transformer-1" in name for name in names)


def test_mistakes(toy_items):
    with pytest.raises(
        ValueError, match="mode must be one of frozen, finetune, lora. Received: 'thaw'"
    ):
        text_part(toy_items, mode="thaw")
    with pytest.raises(ValueError, match="needs a pretrained encoder; tfidf has no weights"):
        text_part(toy_items, name="tfidf", mode="lora")
    with pytest.raises(FileNotFoundError, match="Known names: e5-small"):
        text_part(toy_items, name="no/such/folder")
