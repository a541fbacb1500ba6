"""What a loaded version learns of a longer log without training."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items
from kerasrec.fusion.following import add_new
from kerasrec.fusion.fusion import FOLLOWING, fit_again
from kerasrec.fusion.recency import NEVER, log_shares
from kerasrec.recommender.loadedlog import VersionLog, fit_following, following_tables
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions.loaded import LoadedVersion


@pytest.fixture
def parent(toy_base):
    return Recommender.load(toy_base / "1")


def test_remember_fits_the_table_on_the_whole_log(parent, week_log):
    """Afterwards the version holds the very table that a fit gives, and lists follow it."""
    known = week_log.replace(
        week_log.frame[parent.index_of(week_log.frame["item_id"].astype(str)) > 0]
    )
    histories = make_histories(known, parent.items)
    before = parent.fusion()
    asked = histories.select(range(40))
    old = parent.recommend(asked, k=5)
    assert parent.remember(histories)
    after = parent.fusion()
    chosen = parent.manifest["tables"]
    expected = fit_again(before.tables, chosen, histories, len(parent.items), parts=FOLLOWING)
    assert set(FOLLOWING) & set(before.tables)
    for name in set(FOLLOWING) & set(before.tables):
        table, fitted = after.tables[name], expected[name]
        np.testing.assert_array_equal(table.neighbours, fitted.neighbours)
        real = fitted.neighbours > 0
        np.testing.assert_allclose(table.weights[real], fitted.weights[real], rtol=1e-6)
    for name in set(before.tables) - set(FOLLOWING):
        np.testing.assert_array_equal(after.tables[name].weights, before.tables[name].weights)
    new = parent.recommend(asked, k=5)
    assert not np.array_equal(old["score"], new["score"])
    # a table or a log file is taken as well, and gives the same
    assert parent.remember(known)
    np.testing.assert_array_equal(parent.recommend(asked, k=5)["score"], new["score"])


def test_transitions_change_nothing_until_they_are_set(parent, week_log):
    known = week_log.frame["item_id"].astype(str)
    histories = parent.histories(week_log.replace(week_log.frame[parent.index_of(known) > 0]))
    asked = histories.select(range(40))
    old = parent.recommend(asked, k=5)
    assert "transitions" in following_tables(parent.loaded)
    _, tables = fit_following(parent.loaded, histories, len(parent.items))
    table = tables["transitions"]
    assert table.decay == parent.manifest["fusion"]["decays"]["transitions"]
    np.testing.assert_array_equal(parent.recommend(asked, k=5)["score"], old["score"])
    parent.loaded.set_table("transitions", table)
    for found, expected in zip(parent.loaded.table("transitions"), table, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(parent.recommend(asked, k=5)["score"], old["score"])


def test_a_version_without_the_table_has_no_transitions(parent):
    fusion = parent.about.fusion
    fusion = fusion._replace(decays={"text": fusion.decays["text"]})
    loaded = LoadedVersion(parent.loaded.module, parent.about._replace(fusion=fusion))
    version = VersionLog(loaded, parent._knowledge.recency)
    assert not following_tables(loaded) and not version.remember(None, 0)


def test_tables_that_grow_are_those_of_the_whole_log(parent, week_log):
    """Fitted on most of a log and grown by the rest: near a fit of all, and lists follow it."""
    known = week_log.frame["item_id"].astype(str)
    histories = parent.histories(week_log.replace(week_log.frame[parent.index_of(known) > 0]))
    parent.remember(histories)
    whole = {name: parent.loaded.table(name) for name in following_tables(parent.loaded)}
    is_new = histories.timestamps > np.quantile(histories.timestamps, 0.98)
    older = histories.where(~is_new)
    counts, tables = fit_following(parent.loaded, older, len(parent.items))
    for name, table in tables.items():
        parent.loaded.set_table(name, table)
    assert add_new(counts, histories, is_new)
    touched = counts.changed("transitions", 1).items
    parent.grow(counts)
    assert not len(counts.changed("transitions", 1).items)  # noted anew from now on
    for name, expected in whole.items():
        grown = parent.loaded.table(name)
        votes = [dense(table, len(parent.items)) for table in (grown, expected)]
        if name == "follows":
            np.testing.assert_allclose(votes[0], votes[1], rtol=1e-5)
        else:  # the damping of what did not change is a little old, not that of what did
            np.testing.assert_allclose(votes[0], votes[1], rtol=0.3)
            np.testing.assert_allclose(votes[0][touched], votes[1][touched], rtol=1e-5)


def dense(table, num_items):
    found = np.zeros((num_items + 1, num_items + 1))
    np.add.at(found, (np.arange(num_items + 1)[:, None], table.neighbours), table.weights)
    return found[:, 1:]


def test_fusion_is_what_the_graph_computes_with(parent):
    """Weights in full, and the moments: read back from a version, they are those of its module."""
    fusion, module = parent.fusion(), parent.loaded.module
    np.testing.assert_array_equal(fusion.prior, module.prior.numpy())
    np.testing.assert_array_equal(fusion.starts, module.starts.numpy())
    for name, table in fusion.tables.items():
        neighbours = getattr(module, f"neighbours_{name}").numpy()
        np.testing.assert_array_equal(table.neighbours, neighbours)
        assert table.decay == parent.manifest["fusion"]["decays"][name]
    assert fusion.scorer_weight == pytest.approx(module.scorer_weight.numpy())


def test_new_items_have_no_neighbours_and_no_event(parent):
    parent.add_items(Items(pd.DataFrame({"item_id": ["n1", "n2"], "title": ["新课", "另一门"]})))
    fusion = parent.fusion()
    assert (fusion.first[-2:] == NEVER).all() and fusion.prior.shape[1] == len(parent.items) + 1
    # what is popular is shared among all items, the new ones too
    if fusion.popular_at is not None:
        np.testing.assert_allclose(np.exp(fusion.popular_at).sum(axis=-1), 1, rtol=1e-5)
        last = fusion.popular_at[-1, -1]
        np.testing.assert_allclose(last, log_shares(fusion.popular), atol=1e-4)
    for table in fusion.tables.values():
        assert len(table.neighbours) == len(parent.items) + 1
        assert not table.neighbours[-2:].any()
