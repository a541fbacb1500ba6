"""What the graph of a version knows of groups of users."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.features.columntypes import Column
from kerasrec.features.itemfeatures import OWN, SHARED, FeatureColumn
from kerasrec.versions.usergraph import Members, input_names


def test_numbers_lie_between_two_knots_as_in_python():
    column = FeatureColumn(Column("number", 0.0, 4, "", ""), knots=(10.0, 20.0, 40.0))
    values = ["10", "15", "30", "99", "", "1"]
    found = Members(column).call(np.array([10, 15, 30, 99, np.nan, 1], np.float32)).numpy()
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(column.rows(pd.Series(values)), expected)


def test_knots_that_are_one_number_in_float32_do_no_harm():
    times = (1_600_000_000.0, 1_700_000_000.0, 1_700_000_010.0)
    column = FeatureColumn(Column("time", 0.0, 3, "", ""), knots=times)
    found = Members(column).call(np.array([*times, 1_800_000_000], np.float32)).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_lists_and_texts_are_read_as_in_python():
    """Each value counts once, whatever spaces stand around it; rare values share places."""
    names = ("a", "b c", *(f"v{number}" for number in range(OWN + SHARED)))
    weights = (1.0,) * len(names)
    lists = FeatureColumn(Column("categories", 0.0, 9, "", "", "|;"), names, weights)
    last, shared = names[-1], names[-1 - SHARED]
    values = ["a|b c", "a|a|b  c", " a ;　a", "x", "", f"a|{last}", f"{shared}|{last}|x"]
    found = Members(lists).call(np.array(values)).numpy()
    np.testing.assert_allclose(found, lists.rows(pd.Series(values)), rtol=1e-6)
    assert found[1, :2] == pytest.approx(np.sqrt([0.5, 0.5])) and found[2, 0] == 1
    assert found[6].max() == pytest.approx(2 / np.sqrt(2))  # two values of one place
    one = FeatureColumn(Column("category", 0.0, 9, "", ""), names, weights)
    values = ["a", " b　c", "a|b c", "", last]
    found = Members(one).call(np.array(values)).numpy()
    np.testing.assert_allclose(found, one.rows(pd.Series(values)), rtol=1e-6)
    assert found.sum(axis=1).tolist() == [1, 1, 0, 0, 1]


def test_written_lists_are_read_as_in_python():
    names = ("甲", "乙 丙", "b|c", "7", "it's")
    lists = FeatureColumn(Column("categories", 0.0, 9, "", "", "|"), names, (1.0,) * len(names))
    values = [
        '["甲", "乙 丙"]',
        "['甲']",
        ' [ "b|c" ,"甲"] ',
        "[7, 8]",
        "[]",
        '["it\'s"]',
        "[甲]",
        "甲|7",
    ]
    found = Members(lists).call(np.array(values)).numpy()
    np.testing.assert_allclose(found, lists.rows(pd.Series(values)), rtol=1e-6)
    assert found[0, :2] == pytest.approx(np.sqrt([0.5, 0.5])) and found[2, 2] > 0
    assert not found[4].any()


def test_every_input_has_a_name_of_its_own():
    names = ["age", "user_age", "Age", "年龄", "zip code"]
    assert input_names(names) == ["user_age", "user_age_2", "user_age_3", "user_4", "user_zip_code"]
