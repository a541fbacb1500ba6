import numpy as np
import pandas as pd
import pytest

from kerasrec.text.plainencoders import StoredVectors

IDS = ["a", "课程", "003"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(folder, kind):
    if kind == "npy":
        np.save(folder / "v.npy", VECTORS)
        (folder / "v.npy.ids.txt").write_text("\n".join(IDS) + "\n", encoding="utf-8")
    elif kind == "npy2":
        np.save(folder / "v.npy", VECTORS.astype(np.float16))
        (folder / "v.ids.txt").write_bytes("\r\n".join(IDS).encode("utf-8-sig"))
    elif kind == "npz":
        np.savez(folder / "v.npz", ids=np.array(IDS), vectors=VECTORS.astype(np.float64))
    else:
        frame = pd.DataFrame({"item_id": IDS, "embedding": list(VECTORS), "model": "x"})
        frame.to_parquet(folder / "v.parquet")
    return folder / f"v.{kind.rstrip('2')}"


@pytest.mark.parametrize("kind", ["npy", "npy2", "npz", "parquet"])
def test_read(tmp_path, kind):
    encoder = StoredVectors.read(write(tmp_path, kind))
    assert (encoder.kind, encoder.dim, encoder.ids) == ("vectors", 4, IDS)
    assert encoder.encode(["003", "a", "a"]).tolist() == VECTORS[[2, 0, 0]].tolist()
    assert encoder.encode([]).shape == (0, 4)
    assert encoder.encode(IDS).dtype == np.float32
    assert encoder.tokenizer is None and encoder.model is None and encoder.fit(["x"]) is encoder


def test_item_ids_as_numbers(tmp_path):
    pd.DataFrame({"item_id": [7, 8], "v": [[1.0], [2.0]]}).to_parquet(tmp_path / "v.parquet")
    assert StoredVectors.read(tmp_path / "v.parquet").encode(["8", 7]).tolist() == [[2.0], [1.0]]


def test_missing_items_are_named():
    encoder = StoredVectors(IDS, VECTORS)
    wanted = ["a"] + [f"x{i}" for i in range(9)]
    with pytest.raises(ValueError, match="no vector for 9 of 10 items: x0, x1, x2, x3, x4, ..."):
        encoder.encode(wanted)


def test_encode_items_uses_the_ids():
    class Items:
        ids = np.array(["课程", "a"], object)

    assert StoredVectors(IDS, VECTORS).encode_items(Items()).tolist() == VECTORS[[1, 0]].tolist()


def test_save_and_load(tmp_path):
    encoder = StoredVectors(IDS, VECTORS, name="vectors:x.npy")
    encoder.save(tmp_path / "e")
    loaded = StoredVectors.load(tmp_path / "e")
    assert loaded.description == encoder.description
    assert loaded.encode(IDS).tolist() == VECTORS.tolist()
    assert StoredVectors(IDS, VECTORS + 1).fingerprint != encoder.fingerprint
    assert StoredVectors(IDS[::-1], VECTORS).fingerprint != encoder.fingerprint


def test_wrong_vectors():
    for ids, vectors, message in (
        (IDS[:2], VECTORS, r"2 ids and vectors of shape \(3, 4\)"),
        (IDS, VECTORS[0], "one vector per item id"),
        ([], np.zeros((0, 4)), "0 ids"),
        (["a", "b", "a"], VECTORS, "1 item ids come twice, e.g. 'a'"),
        (IDS, np.where(VECTORS == 5, np.nan, VECTORS), "1 vectors hold NaN.* item '课程'"),
    ):
        with pytest.raises(ValueError, match=message):
            StoredVectors(ids, vectors)


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file of vectors found at"):
        StoredVectors.read(tmp_path / "v.npy")
    path = tmp_path / "v.npy"
    np.save(path, VECTORS)
    with pytest.raises(FileNotFoundError, match=r"item ids beside it.*v.npy.ids.txt"):
        StoredVectors.read(path)
    (tmp_path / "v.ids.txt").write_text("a\nb\nc\n")
    path.write_bytes(path.read_bytes()[:130])
    with pytest.raises(ValueError, match="cannot be read as a numpy file"):
        StoredVectors.read(path)
    np.save(path, np.array([{"pickle": 1}]))
    with pytest.raises(ValueError, match="cannot be read as a numpy file"):
        StoredVectors.read(path)
    np.savez(tmp_path / "v.npz", embeddings=VECTORS)
    with pytest.raises(ValueError, match="arrays ids and vectors. It holds: embeddings"):
        StoredVectors.read(tmp_path / "v.npz")
    (tmp_path / "v.csv").write_text("x")
    with pytest.raises(ValueError, match="must end in .npy, .npz, .parquet. Received: '.csv'"):
        StoredVectors.read(tmp_path / "v.csv")


def test_wrong_parquet(tmp_path):
    path = tmp_path / "v.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        StoredVectors.read(path)
    pd.DataFrame({"id": IDS, "v": list(VECTORS)}).to_parquet(path)
    with pytest.raises(ValueError, match=r"column item_id .* It has: id .*, v \(list"):
        StoredVectors.read(path)
    pd.DataFrame({"item_id": IDS, "v": [[1.0], [1.0, 2.0], [3.0]]}).to_parquet(path)
    with pytest.raises(ValueError, match="must have one length. Received lengths: {1, 2}"):
        StoredVectors.read(path)
