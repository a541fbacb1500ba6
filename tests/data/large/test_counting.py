"""What is counted on disk is what is counted in memory."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data import load_mooccube, read_interactions, read_items
from kerasrec.data.large.coded import CodedLog
from kerasrec.data.large.counting import count_coded
from kerasrec.data.large.database import open_database
from kerasrec.data.large.staging import stage
from kerasrec.data.statistics import describe, describe_figures, find_problems, problems_of_figures


def odd_log():
    rng = np.random.default_rng(0)
    rows = 400
    users = rng.choice(["a", "b", "游客", "1**2", "3**4", *map(str, range(40))], rows)
    users[:150] = "robot"
    return pd.DataFrame(
        {
            "uid": users,
            "sku": rng.integers(0, 30, rows) ** 2,
            "ts": 1_700_000_000 + rng.integers(0, 200, rows),
            "event": rng.choice(["pv", "buy"], rows, p=[0.8, 0.2]),
            "rating": rng.choice([1.0, 4.5, np.nan], rows),
        }
    )


LOGS = {
    "odd": odd_log,
    "without times": lambda: odd_log()[["uid", "sku"]],
    "one user": lambda: pd.DataFrame({"uid": "a", "sku": [1, 2], "ts": [1_700_000_000] * 2}),
}


@pytest.mark.parametrize("name", LOGS)
def test_figures_of_an_odd_log(name, tmp_path):
    log = LOGS[name]()
    items = read_items(pd.DataFrame({"sku": np.arange(15) ** 2, "title": "书"}))
    right = read_interactions(log, on_bad="skip")
    with open_database("2GB", tmp_path) as connection:
        figures = count_coded(CodedLog(stage(connection, log, on_bad="skip")))
        for catalogue in (None, items):
            found = describe_figures(figures, catalogue)
            pd.testing.assert_frame_equal(found, describe(right, catalogue))
            assert problems_of_figures(figures, catalogue) == find_problems(right, catalogue)
    if name == "odd":
        assert any("robot" in what for what in found["what"]) is False  # 150 is below the limit
        assert any("游客" in one for one in problems_of_figures(figures))


def test_figures_of_the_packaged_log(tmp_path):
    interactions, items = load_mooccube()
    log = interactions.frame[["user_id", "item_id", "timestamp"]]
    with open_database("2GB", tmp_path) as connection:
        figures = count_coded(CodedLog(stage(connection, log)))
        pd.testing.assert_frame_equal(
            describe_figures(figures, items), describe(interactions, items)
        )
