import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kerasrec.data.cleaningreport import DirtyRows
from kerasrec.data.rows import as_categories
from kerasrec.data.sources import read_interactions, read_items


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


# --- all kinds of bad rows in one report ---


def test_all_kinds_of_bad_rows_are_named_at_once(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "user,item,event,timestamp\n"
        "a,x,click,1500000000\n"
        ",x,click,1500000001\n"
        "a,,click,1500000002\n"
        ",y,click,1500000003\n"
        "a,y,click,soon\n"
        "a,y,teleport,1500000004\n"
        "a,y,click,1500000005,9\n"
        "b,y,click,1500000006\n"
    )
    with pytest.raises(DirtyRows) as error:
        read_interactions(path)
    kinds = [(one.what, one.count) for one in error.value.refusals]
    assert kinds == [
        ("rows without exactly 4 values", 1),
        ("empty user_id", 2),
        ("empty item_id", 1),
        ("unparsable time", 1),
        ("unknown event", 1),
    ]
    text = str(error.value)
    assert "\n" not in text and text.count("on_bad='skip'") == 1 and "teleport=click" in text
    assert "Besides: 2 x empty user_id (data row 2); 1 x empty item_id (data row 3)" in text
    # what is left is what skipping gives
    rest = error.value.rest
    pd.testing.assert_frame_equal(rest.frame, read_interactions(path, on_bad="skip").frame)
    assert rest.frame["timestamp"].tolist() == [1500000000, 1500000006]


def test_all_files_are_looked_at(tmp_path):
    good = "user,item\na,x\nb,y\n"
    for name, text in {"a": good + ",x\n", "b": "user,item\n,x\n", "c": good + "a,\n"}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(DirtyRows) as error:
        read_interactions([tmp_path / f"{name}.csv" for name in "abc"])
    found = [(one.source[-5:], one.what) for one in error.value.refusals]
    empty = "empty user_id"
    assert found == [("a.csv", empty), ("b.csv", empty), ("c.csv", "empty item_id")]
    assert len(error.value.rest) == 4


def test_items_with_several_kinds(tmp_path):
    table = pd.DataFrame({"item": ["a", "", "a", "b"], "title": list("甲乙丙丁")})
    with pytest.raises(DirtyRows, match="Besides: 1 x repeated item_id") as error:
        read_items(table)
    assert error.value.rest.ids.tolist() == ["a", "b"]


def test_a_catalogue_without_titles_is_read_where_none_are_needed():
    table = pd.DataFrame({"item": ["a", "b"], "price": [1, 2]})
    items = read_items(table, titles=False)
    assert items.frame.to_dict("list") == {
        "item_id": ["a", "b"],
        "title": ["", ""],
        "price": ["1", "2"],
    }
    with pytest.raises(ValueError, match="expected a column title"):
        read_items(table)
    blank = pd.DataFrame({"item": ["a"], "title": [" "]})
    assert read_items(blank, titles=False).ids.tolist() == ["a"]
