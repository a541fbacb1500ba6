"""The table of items that share entities, by hand."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_items, with_relations
from kerasrec.fusion.fusion import fit_again, fit_tables
from kerasrec.fusion.sharing import entity_vectors, sharing_table


@pytest.fixture
def courses():
    """Four courses: a and b have one teacher, a, b and c one school, d nothing."""
    rows = [("a", "teacher", "x"), ("b", "teacher", "x"), ("c", "teacher", "y")]
    rows += [(item, "school", "s") for item in "abc"]
    items = read_items(pd.DataFrame({"item": [*"abcd"], "title": [*"甲乙丙丁"]}))
    return with_relations(items, pd.DataFrame(rows, columns=["item", "relation", "entity"]))


def test_cosines_by_hand(courses):
    two, one, school = np.log(4 / 2), np.log(4 / 1), np.log(4 / 3)
    first = np.hypot(two, school)
    third = np.hypot(one, school)
    unit = entity_vectors(courses).toarray()
    assert np.allclose(np.linalg.norm(unit, axis=1), [1, 1, 1, 0])
    expected = {(1, 2): 1.0, (1, 3): school**2 / (first * third)}
    table = sharing_table(courses)
    found = {
        (row, int(item)): weight
        for row in range(1, 5)
        for item, weight in zip(table.neighbours[row], table.weights[row], strict=True)
        if item
    }
    assert set(found) == {(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}
    for pair, weight in expected.items():
        assert found[pair] == pytest.approx(weight, abs=1e-6)
    assert found[3, 2] == pytest.approx(found[1, 3])


def test_without_relations_there_is_no_table(courses):
    assert sharing_table(Items(courses.frame)) is None
    alone = Items(courses.frame.assign(teacher=[*"pqrs"]), relations=("teacher",))
    assert sharing_table(alone) is None  # nobody shares anything


def test_the_table_is_one_of_the_fusion_and_no_log_changes_it(courses):
    nothing = np.zeros(2, np.int64)
    log = Histories(np.array(["u"], object), np.array([0, 2]), np.array([1, 3], np.int32),
                    nothing, nothing.astype(np.int16), np.ones(2, np.float32))  # fmt: skip
    shared = sharing_table(courses)
    parts = ("transitions", "relations")
    found = fit_tables(log, 4, parts=parts, sharing=shared)
    assert found["relations"] == [shared] and "relations" not in fit_tables(log, 4, parts=parts)
    assert "relations" not in fit_tables(log, 4, sharing=shared)  # who does not ask has none
    tables = {name: one[0] for name, one in found.items()}
    again = fit_again(tables, None, log, 4)
    assert again["relations"] is shared and again["transitions"] is not tables["transitions"]
