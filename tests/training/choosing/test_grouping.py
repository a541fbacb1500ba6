import numpy as np
from toys import histories_of

from kerasrec.models.validation import Validation
from kerasrec.training.choosing import grouping
from kerasrec.training.choosing.heldout import HeldOut


def held_out(newcomers):
    known = histories_of([[1, 2], [3]])
    validation = Validation(known, np.array([0, 1]), np.array([4, 5], np.int32), newcomers)
    return HeldOut("newest", known, validation, known)


def test_few_newcomers_are_no_judges():
    known, new = grouping._both_kinds(held_out(histories_of([[7]] * 49)))
    assert new.histories.lengths.tolist() == [0, 0]
    np.testing.assert_array_equal(new.target_items, known.target_items)


def test_newcomers_are_judged_by_what_they_chose():
    _, new = grouping._both_kinds(held_out(histories_of([[7, 8], [9]] * 25)))
    assert new.histories.num_users == 50 and not new.histories.lengths.any()
    assert new.target_rows[:3].tolist() == [0, 0, 1] and new.target_items[:3].tolist() == [7, 8, 9]
