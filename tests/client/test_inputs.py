"""Rows and arrays of requests, worked by hand."""

import pandas as pd
import polars as pl
import pytest

from kerasrec.client.inputs import (
    NEWEST,
    batches,
    flat,
    histories_of,
    ids_of,
    padded,
    text_histories,
)
from kerasrec.serving.admission import Limits


def test_the_newest_events_and_their_padding_are_what_a_server_takes():
    assert NEWEST + 1 == Limits().history


def test_ids_are_texts():
    assert ids_of(("a", 2, 3.5), "x") == ["a", "2", "3.5"]
    for wrong in (None, pd.NA, float("nan"), b"a", ["a"]):
        with pytest.raises(ValueError, match="x must hold ids, texts or numbers"):
            ids_of([wrong], "x")


def test_text_histories():
    assert text_histories({"u": ("a", "b"), "v": []}) == (["u", "v"], [["a", "b"], []])
    assert text_histories(iter([["a"]])) == ([0], [["a"]])
    for wrong in ("a", ["a"], [["a"], "b"], {"u": "a"}, 5, pd.DataFrame({"a": ["b"]})):
        with pytest.raises(ValueError, match=r"write recommend_by_text\(\[\["):
            text_histories(wrong)


def test_batches():
    def parts(widths, rows=9, cells=16):
        return [(s.start, s.stop) for s in batches(len(widths[0]), widths, rows, cells)]

    assert parts([[1] * 40], rows=99) == [(0, 16), (16, 32), (32, 40)]
    assert parts([[1] * 20], rows=9) == [(0, 9), (9, 18), (18, 20)]
    assert parts([[2, 3, 50, 0, 0]]) == [(0, 2), (2, 3), (3, 5)]
    assert parts([[1, 1, 1], [8, 8, 8]]) == [(0, 2), (2, 3)]
    assert parts([[]]) == []


def test_padding():
    make = padded([["a"], ["b", "c"], []])
    assert make.widths == [1, 2, 0]
    assert make(slice(0, 2)).tolist() == [["", "", "a"], ["", "b", "c"]]
    assert padded([[1], [2, 3]], padding=0, first=False)(slice(0, 2)).tolist() == [[1, 0], [2, 3]]
    assert flat(["a", "b"])(slice(1, 2)).tolist() == ["b"]


def test_histories_of_polars_are_as_those_of_pandas():
    data = {
        "user": ["u", "v", "u"],
        "item": ["a", "b", "c"],
        "ts": [1393607207, 1393607161, 1393607161],
    }
    assert histories_of(pl.DataFrame(data), None) == histories_of(pd.DataFrame(data), None)
    assert histories_of(pl.DataFrame(data), None)[1] == [["c", "a"], ["b"]]
