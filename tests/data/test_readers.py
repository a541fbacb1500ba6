import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kerasrec.data.interactions import read_interactions, read_items
from kerasrec.data.readers import as_categories


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([3, 1, 3]), ["3", "1", "3"]),
        (pd.Series([12.0, np.nan, 7.0]), ["12", None, "7"]),
        (pd.Series(["007", "7", "007"]), ["007", "7", "007"]),
        (pd.Series([1, "1", 2.0], dtype=object), ["1", "1", "2"]),
        (pd.Series(["b", "a", None, "b"], dtype="category"), ["b", "a", None, "b"]),
        (pd.Series([5, 6], dtype="category"), ["5", "6"]),
        (pd.Series(["x", None], dtype="string"), ["x", None]),
        (pd.Series([2**60, None], dtype="Int64"), [str(2**60), None]),
        (pa.chunked_array([["x", None], ["y", "x"]]), ["x", None, "y", "x"]),
        (pa.chunked_array([[4, 5]]), ["4", "5"]),
        (
            pa.chunked_array(
                [pa.array(["x", "y"]).dictionary_encode(), pa.array(["z", "x"]).dictionary_encode()]
            ),
            ["x", "y", "z", "x"],
        ),
        (
            pa.chunked_array([pa.DictionaryArray.from_arrays([0, 1, 2, 0], ["x", None, "z"])]),
            ["x", None, "z", "x"],
        ),
    ],
)
def test_as_categories_keeps_ids_as_exact_strings(column, expected):
    result = as_categories(column, "user")
    assert [None if pd.isna(value) else value for value in result] == expected
    assert result.categories.is_unique
    assert all(isinstance(text, str) for text in result.categories)


def test_as_categories_orders_by_first_appearance():
    assert as_categories(pd.Series(["b", "a", "b"]), "user").categories.tolist() == ["b", "a"]


@pytest.mark.parametrize(
    "value", [12.5, True, b"x", pd.Timestamp("2014-03-01"), ["a"], {"a": 1}, ("a",)]
)
def test_as_categories_refuses_other_ids(value):
    with pytest.raises(ValueError, match="user: expected ids that are texts or whole numbers"):
        as_categories(pd.Series([value], dtype=object), "user")


def test_whole_numbers_with_gaps_stay_whole(tmp_path):
    big = [1234567890123456789, None, 1234567890123456790]
    table = pa.table({"user": pa.array(big, pa.int64()), "item": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "log.parquet")
    found = read_interactions(tmp_path / "log.parquet", on_bad="skip")
    assert found.frame["user_id"].tolist() == ["1234567890123456789", "1234567890123456790"]
    table = pa.table({"item": ["a", "b", "c"], "title": ["x"] * 3, "shop": pa.array(big)})
    pq.write_table(table, tmp_path / "items.parquet")
    shops = read_items(tmp_path / "items.parquet").frame["shop"].tolist()
    assert shops == ["1234567890123456789", "", "1234567890123456790"]
    price = pd.array([1.5, None, 2.0], "Float64")
    frame = pd.DataFrame({"item": list("abc"), "title": list("xyz"), "price": price})
    assert read_items(frame).frame["price"].tolist() == ["1.5", "", "2"]
