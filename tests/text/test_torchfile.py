import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from places import FILES

from kerasrec.text.tensorfiles import read_torch

DATA = FILES  # written by torch itself: make_torch_files.py


@pytest.mark.parametrize("name", ["tensors.zip.bin", "tensors.legacy.bin"])
def test_read_torch_gives_every_tensor(name):
    tensors = read_torch(DATA / name)
    base = np.arange(24, dtype=np.float32)
    expected = {
        "float": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).T,
        "slice": base[5:11:2],
        "half": (base / 8).astype(np.float16),
        "bfloat": base / 8,
        "double": base.astype(np.float64) / 3,
        "long": np.arange(3),
        "flag": np.array([True, False]),
        "scalar": np.float32(7.5),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": base[:2],
    }
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        assert tensors[key].shape == np.shape(value)
        np.testing.assert_array_equal(tensors[key], value)
    assert tensors["bfloat"].dtype == np.float32


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/kerasrec_was_here",)


def torch_zip(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
    return path


def test_read_torch_refuses_foreign_classes(tmp_path):
    path = torch_zip(tmp_path / "evil.bin", pickle.dumps({"weight": Evil()}))
    with pytest.raises(ValueError, match="holds posix.system, which is neither a tensor nor"):
        read_torch(path)
    path = tmp_path / "evil_legacy.bin"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="posix.system"):
        read_torch(path)
    path = torch_zip(tmp_path / "path.bin", pickle.dumps({"weight": Path("x")}))
    with pytest.raises(ValueError, match="pathlib"):
        read_torch(path)
    assert not Path("/tmp/kerasrec_was_here").exists()


def tensor_pickle(offset, shape, strides):
    """The opcodes of {"w": one tensor over archive/data/0} in protocol 2, by hand."""

    def integer(value):
        return b"J" + int(value).to_bytes(4, "little", signed=True)

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def tuple_of(*parts):
        return b"(" + b"".join(parts) + b"t"

    storage = tuple_of(
        text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), integer(4)
    )
    arguments = tuple_of(
        storage + b"Q",
        integer(offset),
        tuple_of(*map(integer, shape)),
        tuple_of(*map(integer, strides)),
        b"\x89",
        b"N",
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02}" + text("w") + tensor + b"s."


def test_read_torch_checks_views(tmp_path):
    good = read_torch(torch_zip(tmp_path / "a.bin", tensor_pickle(1, (3,), (1,))))
    assert good["w"].tolist() == [1.0, 2.0, 3.0]
    for offset, shape, strides in (
        (2, (3,), (1,)),
        (-1, (3,), (1,)),
        (0, (2, 2), (3, 1)),
        (3, (3,), (-1,)),
        (0, (2, 2), (1,)),
    ):
        path = torch_zip(tmp_path / "b.bin", tensor_pickle(offset, shape, strides))
        with pytest.raises(ValueError, match="passes the end of its storage|impossible shape"):
            read_torch(path)


@pytest.mark.parametrize("name", ["tensors.zip.bin", "tensors.legacy.bin"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.9, 0.99])
def test_read_torch_truncated_is_one_clear_error(tmp_path, name, share):
    whole = (DATA / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=str(path)):
        read_torch(path)


def test_read_torch_other_files(tmp_path):
    path = tmp_path / "x.bin"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 95843657\n")
    with pytest.raises(ValueError, match="torch file"):
        read_torch(path)
    torch_zip(path, pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="must hold a dict of tensors. Received: list"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "x")
    with pytest.raises(ValueError, match="not of torch"):
        read_torch(path)


def test_read_torch_damaged_bytes_give_tensors_or_a_clear_error(tmp_path):
    rng = np.random.default_rng(0)
    whole = (DATA / "tensors.legacy.bin").read_bytes()
    path = tmp_path / "x.bin"
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_torch(path), dict)
        except ValueError as error:
            assert str(path) in str(error)
