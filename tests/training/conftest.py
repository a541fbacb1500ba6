"""A small log under odd ids."""

import pandas as pd
import pytest

from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions

ODD = [
    "a,b",
    "  spaced  ",
    "书 籍",
    'say "hi"',
    "'",
    "a\u2028b",
    "tab\tbed",
    "#1",
    "-",
    "0",
    "中,文",
]


@pytest.fixture(scope="session")
def small(toy_interactions, toy_items):
    """30 courses and their learners, the courses under odd ids."""
    frame = toy_interactions.frame
    courses = frame["item_id"].value_counts().index[:30]
    frame = frame[frame["item_id"].isin(courses)]
    new = dict(zip(courses, ODD + [f"c{n}" for n in range(30 - len(ODD))], strict=True))
    log = pd.DataFrame(
        {"uid": frame["user_id"], "iid": frame["item_id"].map(new), "ts": frame["timestamp"]}
    )
    table = toy_items.frame[toy_items.frame["item_id"].isin(courses)]
    table = table.assign(item_id=table["item_id"].map(new)).reset_index(drop=True)
    return read_interactions(log.astype(str)), Items(table)
