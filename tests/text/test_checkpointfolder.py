import json
import shutil

import numpy as np
import pytest
from numpybert import (
    TITLES,
    make_config,
    make_weights,
    vocabulary,
    wordpiece_ids,
    write_hf_folder,
    write_tf_folder,
)
from places import FILES
from safetensors.numpy import save_file

from kerasrec.text.architectures import build_checkpoint_transformer
from kerasrec.text.checkpointfolder import read_folder
from kerasrec.text.tensorfiles import read_safetensors

DATA = FILES
VOCAB = vocabulary()
CONFIG = make_config("bert", len(VOCAB))
WEIGHTS = make_weights("bert", CONFIG)


@pytest.fixture
def google(tmp_path):
    return write_tf_folder(tmp_path / "google", "bert", CONFIG, WEIGHTS, VOCAB)


@pytest.fixture
def hugging(tmp_path):
    return write_hf_folder(tmp_path / "hugging", "bert", CONFIG, WEIGHTS, VOCAB)


@pytest.mark.parametrize("name", ["bert", "electra", "albert", "roformer"])
def test_folder_of_transformers_gives_what_transformers_computed(name):
    """bert, roformer: torch's zip; electra: its older format; albert: safetensors."""
    checkpoint = read_folder(DATA / name, max_tokens=40)
    assert checkpoint.model == name
    transformer = build_checkpoint_transformer(
        checkpoint.config, checkpoint.tensors, checkpoint.model
    )
    token_ids, segment_ids = checkpoint.tokenizer.encode_batch(TITLES)
    hidden = transformer([token_ids, segment_ids], training=False).numpy()
    means = [row[ids != 0].mean(axis=0) for row, ids in zip(hidden, token_ids, strict=True)]
    np.testing.assert_allclose(means, np.loadtxt(DATA / name / "mean_vectors.txt"), atol=5e-6)


def test_tokenizer_is_the_one_of_the_folder(google):
    tokenizer = read_folder(google, max_tokens=8, prefix="古").tokenizer
    assert (tokenizer.max_tokens, tokenizer.prefix) == (8, "古")
    assert tokenizer.token_ids("汉语") == wordpiece_ids(VOCAB, "古汉语")


@pytest.mark.parametrize(
    "names", [("albert_config.json", "albert_model.ckpt"), ("config.json", "x.ckpt")]
)
def test_google_folder_under_other_names(tmp_path, names):
    folder = write_tf_folder(tmp_path / "c", "bert", CONFIG, WEIGHTS, VOCAB, names)
    assert read_folder(folder, max_tokens=8).model == "bert"


def test_discriminator_config_wins_over_generator(google):
    (google / "base_generator_config.json").write_text("{}")
    (google / "bert_config.json").rename(google / "base_discriminator_config.json")
    assert read_folder(google, max_tokens=8).config["hidden_size"] == 16


def test_sharded_safetensors(hugging):
    tensors = read_safetensors(hugging / "model.safetensors")
    whole = read_folder(hugging, max_tokens=8).tensors
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, mine in parts.items():
        save_file({name: np.ascontiguousarray(tensors[name]) for name in mine}, hugging / file)
    index = {"weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (hugging / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = read_folder(hugging, max_tokens=8).tensors
    assert set(sharded) == set(whole)
    assert all(np.array_equal(sharded[name], whole[name]) for name in whole)
    (hugging / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="two.safetensors, which is missing"):
        read_folder(hugging, max_tokens=8)


# --- Tokenizer settings ---


def tokenizer_json(lowercase):
    return {
        "normalizer": {"type": "BertNormalizer", "lowercase": lowercase},
        "model": {"type": "WordPiece", "vocab": {token: i for i, token in enumerate(VOCAB)}},
    }


def test_lower_case_by_default_and_as_the_folder_says(hugging):
    assert read_folder(hugging, max_tokens=8).tokenizer.do_lower_case
    (hugging / "tokenizer.json").write_text(json.dumps(tokenizer_json(lowercase=False)))
    assert not read_folder(hugging, max_tokens=8).tokenizer.do_lower_case
    (hugging / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert read_folder(hugging, max_tokens=8).tokenizer.do_lower_case
    (hugging / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not read_folder(hugging, max_tokens=8).tokenizer.do_lower_case


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocabulary_from_tokenizer_json(hugging, lowercase):
    (hugging / "vocab.txt").unlink()
    (hugging / "tokenizer.json").write_text(json.dumps(tokenizer_json(lowercase)))
    tokenizer = read_folder(hugging, max_tokens=8).tokenizer
    assert tokenizer.vocab == VOCAB
    assert tokenizer.do_lower_case is lowercase


def test_sentence_transformers_pooling(hugging):
    assert read_folder(hugging, max_tokens=8).pooling == "mean"
    (hugging / "1_Pooling").mkdir()
    path = hugging / "1_Pooling" / "config.json"
    path.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert read_folder(hugging, max_tokens=8).pooling == "cls"
    (hugging / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    assert read_folder(hugging, max_tokens=8).pooling == "cls_l2"
    path.write_text('{"pooling_mode_mean_sqrt_len_tokens": true}')
    with pytest.raises(ValueError, match="asks for a pooling other than"):
        read_folder(hugging, max_tokens=8)


def test_licence_from_the_model_card(hugging):
    assert read_folder(hugging, max_tokens=8).licence == "unknown"
    (hugging / "README.md").write_text("---\nlanguage: zh\nlicense: apache-2.0\n---\n# x\n")
    assert read_folder(hugging, max_tokens=8).licence == "apache-2.0"


# --- Wrong and incomplete folders ---


def edit(folder, **changes):
    path = next(p for p in folder.glob("*config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unlink(name):
    return lambda folder: (folder / name).unlink()


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def copy(source, target):
    return lambda folder: shutil.copy(folder / source, folder / target)


def change(**changes):
    return lambda folder: edit(folder, **changes)


def use_bpe(folder):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')


def use_foreign_tensors(folder):
    save_file({"wte.weight": np.ones(3)}, folder / "model.safetensors")


TOO_LONG = f"vocabulary has {len(VOCAB)} tokens, the config 9"
WRONG = {
    "no config": ("google", unlink("bert_config.json"), "holds no config"),
    "no vocab": ("google", unlink("vocab.txt"), "holds no vocabulary"),
    "no weights": ("hugging", unlink("model.safetensors"), "holds no weights.*It holds: config"),
    "config no json": ("google", write("bert_config.json", b"{,"), "is not JSON"),
    "config list": ("google", write("bert_config.json", b"[]"), "must hold a JSON object"),
    "two configs": ("google", copy("bert_config.json", "albert_config.json"), None),
    "three configs": ("google", copy("bert_config.json", "config.json"), "several configs"),
    "two checkpoints": ("google", copy("bert_model.ckpt.index", "x.index"), "several TensorFlow"),
    "saved model": ("google", write("saved_model.pb", b""), "is a TensorFlow SavedModel"),
    "gpt2": ("hugging", change(model_type="gpt2"), "gpt2 model, which is not supported.*bert, rob"),
    "t5": ("hugging", change(model_type="t5"), "Supported: bert"),
    "roberta": ("hugging", change(model_type="roberta"), "byte-level BPE"),
    "relative": ("hugging", change(position_embedding_type="relative_key"), "only 'absolute'"),
    "albert groups": ("google", change(num_hidden_groups=2), "num_hidden_groups=2; only 1"),
    "vocab too long": ("google", change(vocab_size=9), TOO_LONG),
    "vocab not utf-8": ("google", write("vocab.txt", "[PAD]\n机器\n".encode("gbk")), "not UTF-8"),
    "vocab of another kind": ("google", write("vocab.txt", b"a\nb\n"), r"must hold \[PAD\]"),
    "foreign tensors": ("hugging", use_foreign_tensors, "no tensors of a known model .*wte.weight"),
    "bpe": ("hugging", use_bpe, "is a BPE tokenizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_folder_is_one_clear_error(case, request):
    fixture, damage, message = WRONG[case]
    folder = request.getfixturevalue(fixture)
    read_folder(folder, max_tokens=8)  # sound before
    damage(folder)
    if message is None:
        read_folder(folder, max_tokens=8)
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_folder(folder, max_tokens=8)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_model(google):
    with pytest.raises(ValueError, match="model must be one of bert.*'gpt2'"):
        read_folder(google, max_tokens=8, model="gpt2")


def test_unused_rows_are_a_warning_only(google, caplog):
    edit(google, vocab_size=len(VOCAB) + 3)
    read_folder(google, max_tokens=8)
    assert f"{len(VOCAB)} tokens, the config {len(VOCAB) + 3} rows" in caplog.text
