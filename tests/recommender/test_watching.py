"""A version that counts alone answers as `Counting` does, and is watched by what it lists."""

import shutil

import numpy as np
import pytest

import kerasrec
from kerasrec.checks import ArtifactError
from kerasrec.data.histories import before
from kerasrec.fusion.counting import Counting, Guard
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


class Listening(Guard):
    """A guard that keeps what it was asked last."""

    def compare(self, asked, users, taken, listed, known, withdrawn):
        self.asked = users.tolist(), taken.tolist(), listed
        return super().compare(asked, users, taken, listed, known, withdrawn)


def test_what_is_compared_is_what_a_server_lists_now(exported_version, toy_interactions):
    """The newest event of each user, however late it came; no item that no list can have."""
    recommender = kerasrec.Recommender.load(exported_version)
    loaded, guard = recommender.loaded, Listening(recommender.loaded.decays)
    assert set(guard_of(loaded).counting.mixture()) == {*FOLLOWING, "popular"}
    histories = recommender.histories(toy_interactions)
    ends = histories.offsets[1:26]
    places = np.sort(np.concatenate([ends - 1, ends - 2]))  # two events of 25 users
    assert (histories.timestamps[places] < loaded.moments().starts[-1]).all()  # they come late
    known = Following(histories, len(recommender.items), None), recommender.counts
    gone = int(histories.items[ends[24] - 1])
    recommender.withdraw([recommender.items.ids[gone - 1]])
    assert not watch(loaded, guard, histories, places, known)
    users, taken, listed = guard.asked
    assert len(users) == len(set(users)) == 20 and gone not in taken
    rows = [list(histories.user_ids).index(user) for user in users]
    newest = np.array([histories.offsets[row + 1] - 1 for row in rows])
    newest -= histories.items[newest] == gone  # of such a user it is the one before
    assert histories.items[newest].tolist() == taken
    lists = recommender.recommend(before(histories, newest), k=10, at="now")
    assert recommender.index_of(lists["item_id"]).tolist() == listed[listed > 0].tolist()
    assert gone not in listed and guard.events > 0
    assert not watch(loaded, guard, histories, places[:0], known)  # nobody


def test_a_version_without_counts_has_no_guard(exported_version, tmp_path):
    """One whose model ranks alone cannot fall back, and says so."""
    copy = shutil.copytree(exported_version, tmp_path / "toy")
    recommender = kerasrec.Recommender.load(copy)
    facts = recommender.about.fusion._replace(mixture={}, weights={"model": [1.0, 0.0]})
    recommender.loaded._manifest = recommender.about._replace(fusion=facts)
    assert guard_of(recommender.loaded) is None
    with pytest.raises(ArtifactError, match="no counts in its score"):
        recommender.count_alone(Counting({"follows": 0.5}))
