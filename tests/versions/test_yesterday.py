"""A version that kerasrec exported before the packages loads, and answers as it did then."""

import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
import yesterday
from places import FILES

from kerasrec.data.sources import read_interactions
from kerasrec.fusion.recency import KINDS
from kerasrec.loop.updating import update
from kerasrec.recommender.recommender import Recommender

pytestmark = pytest.mark.slow  # all of it is asked of one version
#: answers that the old code gave
EXPECTED = FILES / "yesterday_answers.npz"


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Folder of version 1 of the model `yesterday`."""
    folder = tmp_path_factory.mktemp("yesterday")
    with tarfile.open(FILES / "yesterday.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "yesterday" / "1"


@pytest.fixture(scope="module")
def found(version):
    """What today's code answers."""
    return yesterday.answers(version)


@pytest.fixture(scope="module")
def expected():
    """What the old code answered."""
    with np.load(EXPECTED) as saved:
        return {name: saved[name] for name in saved.files}


def test_the_same_is_asked(found, expected):
    assert set(found) == set(expected)
    assert sum(value.size for value in expected.values()) > 10_000


def test_ids_and_counts_are_equal(found, expected):
    exact = [name for name, value in expected.items() if value.dtype.kind in "USbiu"]
    assert len(exact) > 50
    for name in exact:
        assert found[name].tolist() == expected[name].tolist(), name


def test_numbers_are_equal(found, expected):
    numbers = [name for name, value in expected.items() if value.dtype.kind == "f"]
    assert len(numbers) > 30
    for name in numbers:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, rtol=1e-6, err_msg=name)


def test_an_update_of_it_counts_what_opens_a_visit(version, tmp_path):
    """It knows no kinds of users; its child, weighed on live requests, does."""
    base = tmp_path / "yesterday"  # without the versions that `found` writes beside it
    parent = Recommender.load(shutil.copytree(version, base / "1"))
    assert not parent.loaded.knows_visits and not parent.counts.opening.any()
    ids, end = parent.items.ids, parent.log_end
    # users walk from item to item, two in a visit
    rows = [
        (f"u{user}", ids[(3 * user + step) % 60], end + 3600 * (step // 2 + 1) + 60 * step + user)
        for user in range(60)
        for step in range(10)
    ]
    log = read_interactions(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))
    child = Recommender.load(update(base, log, force=True).version)
    assert child.loaded.knows_visits and child.log_end == max(row[2] for row in rows)
    assert child.recency.popular_weights.shape[0] == KINDS
    opening = child.counts.opening.sum(axis=1)
    assert (opening > 0).all() and (opening < child.counts.recent[:4].sum(axis=1)).all()
    lists = child.recommend([ids[:2].tolist(), []], k=5)
    assert len(lists) == 10 and np.isfinite(lists["score"]).all()
