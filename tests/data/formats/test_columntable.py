from datetime import datetime
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kerasrec.data.formats.columntable import ColumnBuilder
from kerasrec.data.sources import read_interactions, read_items, read_user_ids
from kerasrec.data.tables import as_frame

LOG = {"user": ["007", "二"], "item": [2**53 + 1, 3], "ts": [1393607161, 1393607207]}


def polars_of(data):
    return pl.DataFrame(data)


def arrow_of(data):
    return pa.table(data)


def stream_of(data):
    return pa.table(data).to_reader()


@pytest.mark.parametrize("make", [pd.DataFrame, polars_of, arrow_of, stream_of])
def test_tables_of_python_are_one_and_the_same(make):
    log = read_interactions(make(LOG))
    assert log.frame["user_id"].tolist() == ["007", "二"]
    assert log.frame["item_id"].tolist() == ["9007199254740993", "3"]
    assert log.frame["timestamp"].tolist() == [1393607161, 1393607207]
    assert read_user_ids(make(LOG)).tolist() == ["007", "二"]


def test_kinds_of_columns_that_polars_has():
    frame = pl.DataFrame(
        {
            "user": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "item": pl.Series([1, None, 3], dtype=pl.UInt64),
            "time": [datetime(2024, 3, 1, 8), datetime(2024, 3, 2), None],
            "rating": pl.Series(["4.5", "3", "2"]).cast(pl.Decimal(6, 2)),
        }
    )
    log = read_interactions(frame, on_bad="skip")
    assert log.frame["user_id"].tolist() == ["a"] and log.frame["item_id"].tolist() == ["1"]
    assert log.frame["timestamp"].tolist() == [1709280000]
    assert log.frame["value"].tolist() == [4.5]
    assert (log.report.rows_before, log.report.rows_after) == (3, 1)


def test_lists_and_gaps_of_polars_in_items():
    frame = pl.DataFrame(
        {"sku": ["1", "2"], "name": ["围城", None], "tags": [["小说", "经典"], []]}
    )
    items = read_items(frame)
    assert items.frame.to_dict("list") == {
        "item_id": ["1", "2"],
        "title": ["围城", ""],
        "tags": ["小说\x1f经典", ""],  # white space that no value has
    }


def test_lists_of_tables_and_other_types():
    log = read_interactions([pl.DataFrame(LOG), pd.DataFrame(LOG), pa.table(LOG)])
    assert log.frame["user_id"].tolist() == ["007", "二"] * 3
    with pytest.raises(TypeError, match="a table of pandas, polars or Arrow"):
        read_interactions({"user": [1]})


def test_as_frame_keeps_whole_numbers():
    frame = as_frame(pl.DataFrame({"n": [2**53 + 1, None], "t": ["x", None]}))
    assert frame["n"].tolist()[0] == 2**53 + 1 and pd.isna(frame["n"][1])


def test_columns_of_mixed_values():
    builder = ColumnBuilder(["a", "b", "never"])
    for a, b in ((1, "x"), (None, 2), (2**63, Decimal("1.5")), (3, None)):
        builder.add({"a": a, "b": b})
    columns = builder.columns()
    assert columns["a"].tolist() == [1, None, 2**63, 3]
    assert columns["b"].tolist() == ["x", 2, Decimal("1.5"), None]
    assert columns["never"].to_pylist() == [None] * 4
