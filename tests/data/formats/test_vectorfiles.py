import numpy as np
import pandas as pd
import pytest

from kerasrec.data.cleaningreport import column_lines
from kerasrec.data.formats.vectorfiles import pack_vectors, unpack_vector, vector_columns
from kerasrec.data.sources import read_items, with_vectors
from kerasrec.features.columntypes import propose
from kerasrec.features.itemcolumns import ItemColumns


@pytest.fixture
def items():
    return read_items(pd.DataFrame({"item": ["a", "b", "c"], "title": ["甲", "乙", "丙"]}))


def test_a_file_becomes_a_column_and_what_lacks_is_counted(items, tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, ids=np.array(["c", "z", "a"]), vectors=[[1.0, -2], [0, 0], [0.25, 0.5]])
    found = with_vectors(items, "image", path)
    assert found.frame["image"].tolist() == [*pack_vectors(np.array([[0.25, 0.5]])), "",
                                             *pack_vectors(np.array([[1.0, -2.0]]))]  # fmt: skip
    assert list(items.frame) == ["item_id", "title"] and vector_columns(found.frame) == ["image"]
    assert column_lines(found.report, "x")[-1] == (
        "image: vectors of 2 numbers for 2 of 3 items; the catalogue lacks the items of 1 others"
    )
    both = with_vectors(found, "sound", (["b"], np.ones((1, 3))))
    assert vector_columns(both.frame) == ["image", "sound"]


def test_a_packed_vector_keeps_three_digits():
    vectors = np.random.default_rng(0).normal(size=(50, 20)) * 10.0 ** np.arange(-3, 47)[:, None]
    vectors = vectors[:30].astype(np.float32)
    for vector, text in zip(vectors, pack_vectors(vectors), strict=True):
        np.testing.assert_allclose(unpack_vector(text), vector, atol=5e-4 * np.abs(vector).max())
    assert unpack_vector(pack_vectors(np.zeros((1, 3)))[0]).tolist() == [0, 0, 0]


def test_what_cannot_be_is_one_sentence(items, tmp_path):
    some = np.ones((1, 2))
    for ids, vectors, message in (
        (["A"], some, "expected ids of the catalogue, such as 'a'. Received: 'A' and others"),
        (["a", "a"], np.ones((2, 2)), "1 item ids come twice, e.g. 'a'"),
        (["a"], some * np.nan, "image: 1 vectors hold NaN or infinity, the first of item 'a'"),
        (["a", "b"], some, r"2 ids and vectors of shape \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            with_vectors(items, "image", (ids, vectors))
    with pytest.raises(ValueError, match="has a column 'title' already"):
        with_vectors(items, "title", (["a"], some))
    with pytest.raises(FileNotFoundError, match="No file of vectors found at"):
        with_vectors(items, "image", tmp_path / "none.npz")


def test_inspect_reads_it_and_no_condition_does(items):
    frame = with_vectors(items, "image", (["a", "b"], np.eye(2, 5))).frame
    column = propose(frame)["image"]
    assert (column.type, column.example) == ("vector", "5 numbers")
    assert column.missing == pytest.approx(1 / 3, abs=1e-4)
    columns = ItemColumns(frame)
    columns.warm()
    assert columns.values_of("image", np.array([0, 2])) == [(), ()]
    with pytest.raises(ValueError, match="'image', which holds vectors. Name another column"):
        columns.choose({"image": "x"})
    with pytest.raises(ValueError, match="'image', which holds vectors. Change these by"):
        columns.read_value("image", "x")
