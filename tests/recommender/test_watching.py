"""A version that counts alone answers as `Counting` does, and is watched by what it lists."""

import shutil

import numpy as np
import pytest

import kerasrec
from kerasrec.checks import ArtifactError
from kerasrec.fusion.counting import Counting
from kerasrec.fusion.following import Following
from kerasrec.fusion.fusion import FOLLOWING
from kerasrec.recommender.watching import guard_of, watch


@pytest.fixture(scope="module")
def counting(exported_version, toy_interactions):
    """`(Recommender that counts alone, Counting, Following)`."""
    recommender = kerasrec.Recommender.load(exported_version)
    counting = Counting(recommender.loaded.decays)
    # shares that no part can hide behind
    counting.shares[:] = np.random.default_rng(0).dirichlet(np.ones(11), 3)
    histories = recommender.histories(toy_interactions)
    assert recommender.remember(histories)  # of the held-out events too
    recommender.count_alone(counting)
    following = Following(histories, len(recommender.items), recommender.about.tables)
    return recommender, counting, following


def test_the_graph_ranks_as_counting(counting, toy_interactions):
    """Tables keep the nearest neighbours: the first items are the same, up to equal scores."""
    recommender, counting, following = counting
    histories = recommender.histories(toy_interactions)
    histories = histories.select(np.arange(40))
    ends = histories.timestamps[histories.offsets[1:] - 1]
    kinds = 0, 600, 1, 7200, 2, 100_000  # a wait for each kind
    for kind, wait in zip(kinds[::2], kinds[1::2], strict=True):
        asked = np.maximum(ends + wait, recommender.log_end)
        kept = asked == ends + wait  # others wait longer
        lists = recommender.recommend(histories, k=3, at=asked)
        for row in np.flatnonzero(kept):
            user = histories.user_ids[row]
            listed = recommender.index_of(lists[lists["user_id"] == user]["item_id"])
            history = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            parts = counting.parts(history, following, recommender.counts)
            scores = counting.scores(parts, kind)
            best = np.sort(scores)[::-1][:3]
            np.testing.assert_allclose(scores[listed], best, rtol=0.02)


def test_it_is_not_saved(counting):
    with pytest.raises(ArtifactError, match="counts alone"):
        counting[0].save()


def test_lists_of_a_version_are_compared(exported_version, toy_interactions):
    """Each newest event of 20 users, which neither knows: what is compared is what it lists."""
    recommender = kerasrec.Recommender.load(exported_version)
    loaded, guard = recommender.loaded, guard_of(recommender.loaded)
    assert set(guard.counting.mixture()) == {*FOLLOWING, "popular"}
    histories = recommender.histories(toy_interactions)
    places = histories.offsets[1:31] - 1
    known = Following(histories, len(recommender.items), None), recommender.counts
    assert not watch(loaded, guard, histories, places, known)
    assert 0 < guard.events <= 20 and -1 < guard.gain < 1
    nobody = places[:0]
    assert not watch(loaded, guard, histories, nobody, known)


def test_a_version_without_counts_has_no_guard(exported_version, tmp_path):
    """One whose model ranks alone cannot fall back, and says so."""
    copy = shutil.copytree(exported_version, tmp_path / "toy")
    recommender = kerasrec.Recommender.load(copy)
    facts = recommender.about.fusion._replace(mixture={}, weights={"model": [1.0, 0.0]})
    recommender.loaded._manifest = recommender.about._replace(fusion=facts)
    assert guard_of(recommender.loaded) is None
    with pytest.raises(ArtifactError, match="no counts in its score"):
        recommender.count_alone(Counting({"follows": 0.5}))
