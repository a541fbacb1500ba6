import json
import struct

import numpy as np
import pytest
from numpybert import make_config, make_weights, vocabulary, write_tf_folder
from safetensors.numpy import save_file

from kerasrec.text.tensorfiles import from_bfloat16, read_safetensors, read_tf_checkpoint


def test_read_tf_checkpoint_gives_all_variables(tmp_path):
    config = make_config("bert", len(vocabulary()))
    weights = make_weights("bert", config) | {"bert/x/adam_m": np.ones(2, np.float32)}
    write_tf_folder(tmp_path, "bert", config, weights, vocabulary())
    tensors = read_tf_checkpoint(tmp_path / "bert_model.ckpt")
    del weights["bert/x/adam_m"]
    assert set(tensors) == set(weights) | {"cls/predictions/output_bias"}
    assert all(np.array_equal(tensors[name], weights[name]) for name in weights)


def test_read_tf_checkpoint_damaged(tmp_path):
    config = make_config("bert", len(vocabulary()))
    write_tf_folder(tmp_path, "bert", config, make_weights("bert", config), vocabulary())
    data = tmp_path / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="not a whole TensorFlow checkpoint"):
        read_tf_checkpoint(tmp_path / "bert_model.ckpt")
    data.unlink()
    with pytest.raises(ValueError, match="not a whole TensorFlow checkpoint"):
        read_tf_checkpoint(tmp_path / "bert_model.ckpt")
    data.write_bytes(whole)
    index = tmp_path / "bert_model.ckpt.index"
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole TensorFlow checkpoint"):
        read_tf_checkpoint(tmp_path / "bert_model.ckpt")


def test_read_safetensors_equals_the_library(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float16),
        "c": np.arange(6).reshape(2, 3),
        "d": np.array(3.5),
        "e": np.zeros((0, 4), np.float32),
        "f": np.array([True, False]),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = read_safetensors(tmp_path / "x.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def write_raw(path, entries, data):
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_read_safetensors_bfloat16(tmp_path):
    values = np.array([1.0, -0.5, 3.140625, 65536.0], np.float32)  # exact in bfloat16
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    entry = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
    write_raw(tmp_path / "x.safetensors", {"w": entry}, bits.tobytes())
    read = read_safetensors(tmp_path / "x.safetensors")["w"]
    assert read.dtype == np.float32
    assert read.tolist() == values.reshape(2, 2).tolist()
    assert from_bfloat16(bits).tolist() == values.tolist()


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_read_safetensors_truncated(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((3, 4), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_safetensors(path)


def test_read_safetensors_other_damage(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n")
    with pytest.raises(ValueError, match="Git LFS"):
        read_safetensors(path)
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}
    write_raw(path, {"w": entry}, b"\0" * 8)
    with pytest.raises(ValueError, match="shape of w does not fit"):
        read_safetensors(path)
    write_raw(path, {"w": entry | {"dtype": "F8_E4M3"}}, b"\0" * 8)
    with pytest.raises(ValueError, match="F8_E4M3, which is not supported"):
        read_safetensors(path)
    for bad in ([1], {"w": 3}, {"w": {"dtype": "F32"}}, {"w": entry | {"data_offsets": [-4, 8]}}):
        write_raw(path, bad, b"\0" * 8)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_safetensors(path)
