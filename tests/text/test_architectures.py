import numpy as np
import pytest
from numpybert import (
    MODELS,
    TITLES,
    hidden_states,
    make_config,
    make_weights,
    to_hugging_face,
    vocabulary,
    wordpiece_ids,
    write_hf_folder,
    write_tf_folder,
)

from kerasrec.text.architectures import (
    build_checkpoint_transformer,
    detect_model,
    from_hugging_face,
)
from kerasrec.text.checkpointfolder import read_folder

VOCAB = vocabulary()
TOLERANCE = 1e-5  # the brief asks for 1e-4


def largest_difference(checkpoint, model, config, weights, epsilon):
    """Hidden states of padded batches against numpy, one text at a time."""
    transformer = build_checkpoint_transformer(
        checkpoint.config, checkpoint.tensors, checkpoint.model
    )
    token_ids, segment_ids = checkpoint.tokenizer.encode_batch(TITLES)
    hidden = transformer([token_ids, segment_ids], training=False).numpy()
    worst = 0.0
    for text, row in zip(TITLES, hidden, strict=True):
        ids = wordpiece_ids(VOCAB, text)
        expected = hidden_states(model, config, weights, ids, epsilon)
        worst = max(worst, np.abs(row[: len(ids)] - expected).max())
    return worst


@pytest.mark.parametrize("model", MODELS)
def test_tf_checkpoint_equals_numpy(tmp_path, model):
    config = make_config(model, len(VOCAB))
    weights = make_weights(model, config)
    folder = write_tf_folder(tmp_path / "checkpoint", model, config, weights, VOCAB)
    given = {"roberta": "roberta", "albert_unshared": "albert_unshared", "roformer": "roformer"}
    checkpoint = read_folder(folder, max_tokens=32, model=given.get(model))
    assert checkpoint.model == model  # found where not given
    epsilon = 1e-7 if model in ("nezha", "roformer", "roformer_v2") else 1e-12
    assert largest_difference(checkpoint, model, config, weights, epsilon) < TOLERANCE


@pytest.mark.parametrize("model", ["bert", "albert", "electra", "nezha", "roformer"])
def test_hugging_face_equals_numpy(tmp_path, model):
    config = make_config(model, len(VOCAB))
    if model == "roformer":
        config["embedding_size"] = 12
    weights = make_weights(model, config)
    prefix = f"{model}." if model in ("bert", "electra") else ""  # as saved with a head or not
    folder = write_hf_folder(tmp_path / "hf", model, config, weights, VOCAB, prefix=prefix)
    checkpoint = read_folder(folder, max_tokens=32)
    assert checkpoint.model == model
    assert largest_difference(checkpoint, model, config, weights, 1e-12) < TOLERANCE


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_layer_norm_eps_of_config_is_honoured(tmp_path, epsilon):
    config = make_config("bert", len(VOCAB), layer_norm_eps=epsilon)
    weights = make_weights("bert", config)
    checkpoint = read_folder(
        write_hf_folder(tmp_path / "hf", "bert", config, weights, VOCAB), max_tokens=32
    )
    assert largest_difference(checkpoint, "bert", config, weights, epsilon) < TOLERANCE


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_hidden_act_of_config_is_honoured(tmp_path, activation):
    config = make_config("bert", len(VOCAB), hidden_act=activation)
    weights = make_weights("bert", config)
    for name in weights:
        weights[name] = weights[name] * 1.5  # makes erf and tanh differ
    checkpoint = read_folder(
        write_hf_folder(tmp_path / "hf", "bert", config, weights, VOCAB), max_tokens=32
    )
    assert largest_difference(checkpoint, "bert", config, weights, 1e-12) < TOLERANCE


def test_gelu_forms_differ_more_than_the_tolerance():
    config = make_config("bert", len(VOCAB))
    weights = {name: w * 1.5 for name, w in make_weights("bert", config).items()}
    ids = wordpiece_ids(VOCAB, TITLES[1])
    tanh = hidden_states("bert", config | {"hidden_act": "gelu_new"}, weights, ids)
    assert np.abs(tanh - hidden_states("bert", config, weights, ids)).max() > 10 * TOLERANCE


def test_from_hugging_face_takes_old_gamma_and_beta():
    config = make_config("bert", len(VOCAB))
    weights = make_weights("bert", config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): w
        for name, w in to_hugging_face("bert", weights, "bert.").items()
    }
    renamed = from_hugging_face(old, "bert")
    assert set(renamed) == set(weights)
    assert all(np.array_equal(renamed[name], weights[name]) for name in weights)


def test_build_transformer_names_what_is_missing():
    config = make_config("bert", len(VOCAB))
    weights = make_weights("bert", config)
    name = "bert/encoder/layer_1/output/dense/kernel"
    with pytest.raises(ValueError, match=f"lacks the variable {name}"):
        build_checkpoint_transformer(
            config, {k: v for k, v in weights.items() if k != name}, "bert"
        )
    with pytest.raises(ValueError, match=r"has the shape \(5, 5\); the config asks for \(32, 16\)"):
        build_checkpoint_transformer(config, weights | {name: np.zeros((5, 5))}, "bert")
    with pytest.raises(ValueError, match="Missing: hidden_size"):
        build_checkpoint_transformer(
            {k: v for k, v in config.items() if k != "hidden_size"}, weights, "bert"
        )
    with pytest.raises(ValueError, match="hidden_act must be one of .*'mish'"):
        build_checkpoint_transformer(config | {"hidden_act": "mish"}, weights, "bert")
    with pytest.raises(ValueError, match="model must be one of bert, roberta"):
        build_checkpoint_transformer(config, weights, "t5")


def test_detect_model():
    nezha = make_weights("nezha", make_config("nezha", 9))
    assert detect_model(nezha, {}, "nezha-cn-base") == "nezha"
    assert detect_model(nezha, {}, "chinese_roformer_L-12") == "roformer"
    with pytest.raises(ValueError, match="nezha or roformer.*--set encoder.model=nezha"):
        detect_model(nezha, {}, "download")
    with pytest.raises(ValueError, match="holds no variables of a known model"):
        detect_model(["model/wte"], {}, "gpt")


@pytest.mark.parametrize("name", ["Bert", "Electra", "Albert", "RoFormer"])
def test_equals_transformers_where_it_is_installed(tmp_path, name):
    """tests/files holds what it computed once; this runs it again on larger random models."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = make_config(name.lower(), len(VOCAB), initializer_range=0.2)
    config |= {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = getattr(transformers, name + "Model")(getattr(transformers, name + "Config")(**config))
    model.eval().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("".join(t + "\n" for t in VOCAB).encode())
    checkpoint = read_folder(tmp_path, max_tokens=32)
    token_ids, segment_ids = checkpoint.tokenizer.encode_batch(TITLES)
    ours = build_checkpoint_transformer(checkpoint.config, checkpoint.tensors, checkpoint.model)
    ours = ours([token_ids, segment_ids], training=False).numpy()
    with torch.no_grad():
        valid_mask = torch.tensor(token_ids != 0)
        theirs = model(input_ids=torch.tensor(token_ids).long(), attention_mask=valid_mask.long())
    theirs = theirs.last_hidden_state.numpy()
    np.testing.assert_allclose(ours[token_ids != 0], theirs[token_ids != 0], atol=2e-5)
