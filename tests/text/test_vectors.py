import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kerasrec.text import vectors as textvectors
from kerasrec.text.vectors import MAX_SMALL_SHARDS, VectorCache, fit_whitening, text_keys


def rows(count, dim=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def texts(count, name="课程"):
    return [f"{name} {i}" for i in range(count)]


def test_cache_gives_back_what_was_added(tmp_path):
    cache = VectorCache(tmp_path / "c", 5)
    vectors, found_mask = cache.get(text_keys(texts(3)))  # the folder is not there yet
    assert not found_mask.any() and vectors.shape == (3, 5)
    keys = text_keys(texts(100))
    cache.add(keys[:60], rows(100)[:60])
    cache.add(keys[70:], rows(100)[70:])
    wanted = np.random.default_rng(1).permutation(100)
    vectors, found_mask = VectorCache(tmp_path / "c", 5).get(keys[wanted])
    assert (found_mask == ((wanted < 60) | (wanted >= 70))).all()
    np.testing.assert_array_equal(vectors[found_mask], rows(100)[wanted][found_mask])
    assert not vectors[~found_mask].any()
    assert [part.shape for part in cache.get(text_keys([]))] == [(0, 5), (0,)]


def test_text_keys_differ():
    keys = text_keys(["a", "b", "a ", "", "机", "\ud800"])
    assert len(np.unique(keys, axis=0)) == 6
    assert keys.dtype == np.uint64


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "other form"])
def test_damaged_file_is_dropped_with_a_warning(tmp_path, caplog, damage):
    cache = VectorCache(tmp_path, 5)
    keys = text_keys(texts(20))
    cache.add(keys[:10], rows(20)[:10])
    (broken,) = tmp_path.glob("*.shard")
    cache.add(keys[10:], rows(20)[10:])
    whole = broken.read_bytes()
    contents = {"empty": b"", "truncated": whole[:-9], "text": b"x" * 500}
    broken.write_bytes(contents.get(damage, b""))
    if damage == "other form":
        with broken.open("wb") as file:
            np.save(file, np.ones((3, 4)))
            np.save(file, np.ones((3, 4)))
            file.write(bytes(1000))
    found_mask = cache.get(keys)[1]
    assert found_mask.tolist() == [False] * 10 + [True] * 10
    assert "is damaged" in caplog.text and str(broken) in caplog.text
    assert not broken.exists()


@pytest.mark.parametrize("zero", [True, False])
def test_damaged_row_is_left_out(tmp_path, caplog, zero):
    cache = VectorCache(tmp_path, 5)
    keys = text_keys(texts(10))
    cache.add(keys, rows(10))
    (path,) = tmp_path.glob("*.shard")
    data = bytearray(path.read_bytes())
    start = len(data) - 3 * 5 * 4  # the vector of text 7
    if zero:  # a page that never reached the disk
        data[start : start + 20] = bytes(20)
    else:
        data[start + 2] ^= 4
    path.write_bytes(data)
    vectors, found_mask = cache.get(keys)
    assert found_mask.tolist() == [True] * 7 + [False] + [True] * 2
    assert "damaged vectors, encoded again: 1." in caplog.text
    cache.add(keys[7:8], rows(10)[7:8])  # encoded again
    vectors, found_mask = cache.get(keys)
    assert found_mask.all()
    np.testing.assert_array_equal(vectors, rows(10))


def test_compact_merges_many_small_files(tmp_path):
    cache = VectorCache(tmp_path, 5)
    keys = text_keys(texts(200))
    for i in range(MAX_SMALL_SHARDS):
        cache.add(keys[i : i + 1], rows(200)[i : i + 1])
    cache.compact()
    assert len(list(tmp_path.iterdir())) == MAX_SMALL_SHARDS
    cache.add(keys[: MAX_SMALL_SHARDS + 5], rows(200)[: MAX_SMALL_SHARDS + 5])  # some twice
    cache.compact()
    (path,) = tmp_path.iterdir()
    vectors, found_mask = cache.get(keys)
    assert found_mask.sum() == MAX_SMALL_SHARDS + 5
    np.testing.assert_array_equal(vectors[found_mask], rows(200)[: MAX_SMALL_SHARDS + 5])


def test_compact_of_many_rows_makes_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(textvectors, "MERGED_SHARD", 50)
    cache = VectorCache(tmp_path, 5)
    keys = text_keys(texts(200))
    for i in range(0, 200, 5):
        cache.add(keys[i : i + 5], rows(200)[i : i + 5])
    cache.compact()
    assert len(list(tmp_path.iterdir())) == 5
    vectors, found_mask = cache.get(keys)
    assert found_mask.all()
    np.testing.assert_array_equal(vectors, rows(200))


def write_and_compact(folder, seed):
    cache = VectorCache(folder, 5)
    keys = text_keys(texts(300))
    rng = np.random.default_rng(seed)
    for _ in range(60):
        chosen = rng.integers(0, 300, 7)
        cache.add(keys[chosen], rows(300)[chosen])
        vectors, found_mask = cache.get(keys)
        assert (vectors[found_mask] == rows(300)[found_mask]).all()
        cache.compact()


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_and_compact, args=(tmp_path, s)) for s in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    vectors, found_mask = VectorCache(tmp_path, 5).get(text_keys(texts(300)))
    assert found_mask.sum() > 250
    assert (vectors[found_mask] == rows(300)[found_mask]).all()
    assert not list(tmp_path.glob(".*"))


def test_killed_writer_leaves_whole_files(tmp_path):
    code = (
        "import numpy as np, itertools; from kerasrec.text.vectors import VectorCache, text_keys\n"
        f"cache = VectorCache({str(tmp_path)!r}, 384)\n"
        "for i in itertools.count():\n"
        "    cache.add(text_keys([f'{i} {j}' for j in range(500)]), np.full((500, 384), i))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    while len(list(tmp_path.glob("*.shard"))) < 3 and worker.poll() is None:
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    keys = text_keys([f"{i} {j}" for i in range(3) for j in range(500)])
    vectors, found_mask = VectorCache(tmp_path, 384).get(keys)
    assert found_mask.all()
    assert (vectors[:, 0] == np.repeat([0, 1, 2], 500)).all()


# --- Whitening ---


def test_whitening_gives_unit_variance_and_no_correlation():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12) * 5
    whitening = fit_whitening(vectors, shrinkage=0.0)
    white = whitening.apply(vectors)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=1e-3)
    assert white.dtype == np.float32
    assert whitening.mean.shape == (12,) and whitening.matrix.shape == (12, 12)


def test_whitening_keeps_the_largest_components():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, 3)) * [1.0, 10.0, 5.0]
    white = fit_whitening(vectors, 2).apply(vectors)
    assert white.shape == (5000, 2)
    assert abs(np.corrcoef(white[:, 0], vectors[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(white[:, 1], vectors[:, 2])[0, 1]) > 0.99


def test_whitening_shrinkage_by_hand():
    vectors = np.array([[2.0, 0], [-2.0, 0], [0, 1.0], [0, -1.0]])  # variances 8/3 and 2/3
    matrix = fit_whitening(vectors, shrinkage=0.1).matrix
    mixed = 0.9 * np.array([8 / 3, 2 / 3]) + 0.1 * (5 / 3)
    np.testing.assert_allclose(np.abs(matrix), np.diag(mixed**-0.5), atol=1e-6)


def test_whitening_survives_components_without_variance():
    vectors = np.zeros((10, 4))
    vectors[:, 1] = np.arange(1, 11)
    for shrinkage in (0.0, 1e-3):
        white = fit_whitening(vectors, shrinkage=shrinkage).apply(vectors)
        assert np.isfinite(white).all()
        assert white[:, 0].std() == pytest.approx(0.95, abs=0.02)  # ddof
        np.testing.assert_allclose(white[:, 1:], 0, atol=1e-5)
    assert np.isfinite(fit_whitening(np.ones((3, 2))).apply(np.ones((3, 2)))).all()
    few = np.random.default_rng(0).normal(size=(4, 8))  # fewer rows than columns
    assert np.isfinite(fit_whitening(few).apply(few)).all()


def test_whitening_is_deterministic_in_sign():
    vectors = rows(50, 6)
    first, second = fit_whitening(vectors), fit_whitening(vectors[::-1])
    np.testing.assert_allclose(first.matrix, second.matrix, atol=1e-4)


def test_whitening_leaves_a_row_of_zeros_zero():
    vectors = np.random.default_rng(0).normal(size=(9, 3)) + 5
    vectors[[2, 6]] = 0
    white = fit_whitening(vectors).apply(vectors)
    assert (white[[2, 6]] == 0).all() and white[[0, 1, 3, 4, 5, 7, 8]].any(axis=1).all()


def test_whitening_errors():
    for bad, message in (
        (dict(vectors=np.ones(3)), r"matrix of at least 2 rows. Received shape: \(3,\)"),
        (dict(vectors=np.ones((1, 3))), "at least 2 rows"),
        (dict(vectors=np.array([[1.0, np.nan], [0, 1]])), "1 rows hold NaN"),
        (dict(vectors=rows(9), dim=6), r"width of the vectors \(5\). Received: 6"),
        (dict(vectors=rows(9), dim=0), "Received: 0"),
        (dict(vectors=rows(9), shrinkage=2), "between 0 and 1. Received: 2"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_whitening(**bad)
