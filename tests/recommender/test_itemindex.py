"""The index of item vectors against an exact search."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import clustered

from kerasrec import backend
from kerasrec.recommender.itemindex import ItemIndex, import_faiss


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return clustered(8000, dim=32, clusters=100)


@pytest.fixture(scope="module")
def queries():
    """Interests between items, as those of users are."""
    rng, items = np.random.default_rng(1), clustered(8000, dim=32, clusters=100)
    return unit(items[rng.integers(8000, size=300)] + items[rng.integers(8000, size=300)])


@pytest.fixture(scope="module")
def index(vectors, queries):
    return ItemIndex.build(vectors, queries, folder=False)


def exact(vectors, queries, k):
    return np.argsort(-(unit(queries) @ unit(vectors).T), axis=1, kind="stable")[:, :k] + 1


def recall(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)])


@pytest.mark.parametrize("k", [10, 50, 100])
def test_recall_against_brute_force(index, vectors, queries, k):
    found, cosine = index.search(queries, k)
    assert recall(found, exact(vectors, queries, k)) >= 0.985  # 0.99 at 100 is what was asked
    rows = np.arange(len(queries))[:, None]
    expected = (unit(queries) @ unit(vectors).T)[rows, found - 1]
    np.testing.assert_allclose(cosine, expected, atol=2e-3)  # float16
    assert (np.diff(cosine, axis=1) <= 0).all()


def test_report_says_what_was_measured(index, vectors, queries):
    report = index.report
    assert report["recall@100"] >= 0.99 and report["items"] == len(index) == 8000
    assert report["nprobe"] < report["cells"]  # less than everything is looked at
    found, _ = index.search(queries, 100)
    assert abs(recall(found, exact(vectors, queries, 100)) - report["recall@100"]) < 1e-3
    assert json.loads(json.dumps(report)) == report


def test_tune_takes_the_smallest_effort(vectors, queries):
    index = ItemIndex.build(vectors, queries, folder=False)
    index.tune(vectors, queries, recall=0.5)
    low = index.report["nprobe"]
    assert index.tune(vectors, queries, recall=1.0) > 0.995  # every cell; float16 may swap equals
    assert low < index.report["nprobe"] == index.report["cells"]


def test_few_items():
    for count in (1, 2, 50):
        vectors = clustered(count, dim=32)
        index = ItemIndex.build(vectors, folder=False)
        found, cosine = index.search(vectors, 60)
        assert (np.sort(found, axis=1)[:, -count:] == np.arange(1, count + 1)).all()
        assert (found[:, count:] == 0).all() and (cosine[:, count:] == -np.inf).all()


def test_search_among_some(index, vectors, queries):
    chosen = np.zeros(8000, bool)
    chosen[::3] = True
    found, _ = index.search(queries, 20, among=index.selector(chosen))
    assert chosen[found[found > 0] - 1].all()
    place = np.flatnonzero(chosen) + 1
    assert recall(found, place[exact(vectors[chosen], queries, 20) - 1]) > 0.97


def test_added_items_are_found(vectors, queries):
    index = ItemIndex.build(vectors, queries, folder=False)
    new = clustered(20, dim=32, clusters=20, seed=9)
    index.add(new)
    found, _ = index.search(new, 1)
    assert found[:, 0].tolist() == list(range(8001, 8021))
    assert len(index) == index.report["items"] == 8020


def test_files_are_used_again_and_built_anew(vectors, queries, tmp_path, caplog):
    first = ItemIndex.build(vectors, queries, folder=tmp_path)
    file, report = sorted(tmp_path.iterdir())
    again = ItemIndex.build(vectors, queries, folder=tmp_path)
    assert again.report == first.report  # its seconds too: nothing was built
    np.testing.assert_array_equal(again.search(queries, 9)[0], first.search(queries, 9)[0])
    again.add(queries[:1])
    assert len(ItemIndex.build(vectors, queries, folder=tmp_path)) == 8000
    file.write_bytes(file.read_bytes()[:1000])
    assert len(ItemIndex.build(vectors, queries, folder=tmp_path)) == 8000
    assert "is damaged and built again" in caplog.text
    report.write_text("{}")
    ItemIndex.build(vectors, queries, folder=tmp_path)
    assert json.loads(report.read_text())["items"] == 8000
    ItemIndex.build(vectors[:500], queries, folder=tmp_path)  # other vectors, other files
    assert len(list(tmp_path.iterdir())) == 4


def test_files_that_were_not_used_for_longest_go(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrec.recommender.itemindex._KEPT", 2)

    def build(part):
        ItemIndex.build(vectors[part : part + 500], folder=tmp_path)
        for file in tmp_path.iterdir():  # as if that were a minute ago
            seconds = file.stat().st_mtime - 60
            os.utime(file, (seconds, seconds))
        return {file.stem for file in tmp_path.glob("*.faiss")}

    (first,) = build(0)
    (second,) = build(1) - {first}
    build(0)
    assert second not in build(2) and {first} < {file.stem for file in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4  # reports go with them


def test_a_full_disk_leaves_nothing(vectors, tmp_path, monkeypatch, caplog):
    faiss = import_faiss()

    def full(index, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(faiss, "write_index", full)
        ItemIndex.build(vectors[:500], folder=tmp_path)
    assert "the index is not kept: no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    caplog.clear()
    ItemIndex.build(vectors[:500], folder=tmp_path)
    next(tmp_path.glob("*.faiss")).unlink()
    ItemIndex.build(vectors[:500], folder=tmp_path)
    assert caplog.text == "" and len(list(tmp_path.iterdir())) == 2


def test_files_go_to_the_cache_folder(vectors, queries, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASREC_CACHE", str(tmp_path))
    ItemIndex.build(vectors, queries)
    assert {path.suffix for path in (tmp_path / "ann").iterdir()} == {".faiss", ".json"}


def test_missing_faiss_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert not backend.is_installed("faiss")
    with pytest.raises(
        ImportError, match=r"needs faiss, which is missing. Run: pip install 'kerasrec\[ann\]'"
    ):
        import_faiss()


def test_an_index_that_cannot_be_kept_is_used_all_the_same(vectors, queries, monkeypatch, caplog):
    monkeypatch.setenv("KERASREC_CACHE", "/proc/no such folder")
    found = ItemIndex.build(vectors, queries)
    assert found.report["recall@100"] >= 0.99
    assert "the index is not kept" in caplog.text
