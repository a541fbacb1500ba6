"""What the graph of a version knows of groups of users."""

import numpy as np
import pandas as pd

from kerasrec.features.columntypes import Column
from kerasrec.features.itemfeatures import FeatureColumn
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


def test_every_input_has_a_name_of_its_own():
    names = ["age", "user_age", "Age", "年龄", "zip code"]
    assert input_names(names) == ["user_age", "user_age_2", "user_age_3", "user_4", "user_zip_code"]
