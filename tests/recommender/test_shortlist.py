"""Lists from candidates against lists from the whole catalogue."""

import sys

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.recommender import shortlist
from kerasrec.recommender.questions import history_tensors, read_histories
from kerasrec.recommender.recommender import Recommender

NUM_ITEMS = 3000
DAY = 86400


@pytest.fixture(scope="module")
def exact(large_version):
    return Recommender.load(large_version, index="exact")


@pytest.fixture(scope="module")
def near(large_version):
    return Recommender.load(large_version, index="ann")


@pytest.fixture(scope="module")
def histories(exact):
    rng = np.random.default_rng(3)
    return [list(rng.choice(exact.items.ids, n)) for n in rng.integers(1, 40, 60)]


def overlap(one, other):
    lists = [t.groupby("user_id")["item_id"].apply(list) for t in (one, other)]
    return np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(*lists, strict=True)])


@pytest.mark.parametrize("at", [None, DAY * 18001, DAY * 18002 + 5])
def test_lists_are_those_of_the_whole_catalogue(exact, near, histories, at):
    one, other = (r.recommend(histories, k=20, at=at) for r in (exact, near))
    assert overlap(one, other) >= 0.99
    np.testing.assert_allclose(one["score"], other["score"], atol=0.05)
    assert near.index.report["recall@100"] >= 0.99


def test_among_rows_is_exact_where_all_items_are_candidates(exact, histories):
    """The same numbers as `recommend_rows`, bit by bit up to rounding."""
    module = exact.loaded.module
    inputs = history_tensors(read_histories(histories[:4], exact.items))
    history = inputs[0].numpy()
    listing = shortlist.Shortlist(exact.loaded, folder=False)
    interest = module.interest_rows(*inputs)
    everything = np.tile(np.arange(NUM_ITEMS + 1, dtype=np.int32), (4, 1))
    for row, past in enumerate(history):
        everything[row, past] = 0
    everything.sort(axis=1)
    votes, totals = [], []
    for table, decay in zip(listing._tables, listing._decays, strict=True):
        given = listing._voted(history, table, decay).toarray()
        rows = np.take_along_axis(given, everything, axis=1)
        votes.append(rows)
        totals.append(np.where(everything > 0, rows, 0).sum(axis=1))
    asked, k = np.array([0, DAY * 18001, DAY * 18000, 0]), 30
    index, scores = module.among_rows(
        history,
        interest,
        everything,
        np.stack(votes),
        np.stack(totals),
        listing.sample,
        asked,
        asked,
        k,
    )
    none, kept = tf.zeros((4, 0), tf.int32), tf.fill([4], False)
    expected = module.recommend_rows(*inputs, none, none, kept, asked, asked, k)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_allclose(scores, expected[1], atol=1e-3)


def test_votes_and_totals_equal_the_table(exact, histories):
    listing = shortlist.Shortlist(exact.loaded, folder=False)
    inputs = history_tensors(read_histories(histories[:10], exact.items))
    history, interest = inputs[0].numpy(), exact.loaded.module.interest_rows(*inputs).numpy()
    found = listing.candidates(history, interest, np.zeros(10, np.int64), k=20)
    for number, name in enumerate(("text", "transitions")):
        table = exact.loaded.table(name)
        assert table.decay == pytest.approx(0.6)
        dense = np.zeros((10, NUM_ITEMS + 1))
        for row, past in enumerate(history):
            newest = past[-12:]
            newest = newest[newest > 0]
            for age, item in enumerate(newest[::-1]):
                np.add.at(dense[row], table.neighbours[item], table.weights[item] * 0.6**age)
        dense[:, 0] = 0
        dense = np.maximum(dense, 0)
        rows = np.take_along_axis(dense, found.items, axis=1)
        np.testing.assert_allclose(found.votes[number], rows, atol=1e-5)
        for row, past in enumerate(history):
            dense[row, past] = 0
        np.testing.assert_allclose(found.totals[number], dense.sum(axis=1), rtol=1e-4)
    assert (np.diff(found.items, axis=1) >= 0).all() and (found.items[:, 0] == 0).all()
    assert found.enough.all()


def test_wishes(exact, near, histories):
    deny = list(exact.recommend(histories, k=3)["item_id"].unique())
    for options in (
        {"deny": deny},
        {"keep_seen": True},
        {"candidates": list(exact.items.ids[:40])},
        {"k": 1},
        {"k": 500},  # longer than short lists can be: the whole catalogue is looked at
    ):
        one, other = (r.recommend(histories, **{"k": 15, **options}) for r in (exact, near))
        assert overlap(one, other) >= 0.985, options
        assert len(one) == len(other)
        if "deny" in options:
            assert not set(other["item_id"]) & set(deny)


def test_users_without_a_history(exact, near, histories):
    rows = [[], histories[0], ["?"]]
    one, other = (r.recommend(rows, k=30) for r in (exact, near))
    cold = [0, 2]
    pd.testing.assert_frame_equal(
        one[one["user_id"].isin(cold)], other[other["user_id"].isin(cold)]
    )
    assert other.attrs["popular_for"] == cold


def test_single_and_batch_agree(near, histories):
    together = near.recommend(histories[:5], k=10)
    for number, history in enumerate(histories[:5]):
        alone = near.recommend([history], k=10)
        part = together[together["user_id"] == number]
        assert alone["item_id"].tolist() == part["item_id"].tolist()
        np.testing.assert_allclose(alone["score"], part["score"], atol=1e-4)


def test_new_items_of_a_moment_by_brute_force(exact, monkeypatch):
    listing = shortlist.Shortlist(exact.loaded, folder=False)
    first = exact.loaded.module.first.numpy()
    vectors = exact.loaded.module.item_vectors.numpy()
    queries = vectors[[5, 70, 900]] + vectors[[6, 71, 901]]
    cosine = (
        queries @ (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).T
    )
    for scanned in (4096, 10):  # all of them, and through the index
        monkeypatch.setattr(shortlist, "_SCANNED", scanned)
        listing.know()
        for now in range(4):
            new = np.flatnonzero(first[1:] > now) + 1
            found = listing._nearest_new(queries, np.full(3, now))
            best = new[np.argsort(-cosine[:, new], axis=1)[:, :64]]
            share = [np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]
            assert np.mean(share) >= (1.0 if scanned > 10 else 0.9)


def test_load_chooses(large_version, exact, monkeypatch):
    """`load` hands its choice on to the constructor, which need not load the version again."""
    assert Recommender.load(large_version).index is None  # few items
    monkeypatch.setattr("kerasrec.recommender.shortlist.ANN_FROM", 3000)
    assert len(Recommender(exact.loaded).index) == 3000
    with pytest.raises(ValueError, match="one of auto, exact, ann. Received: 'hnsw'"):
        Recommender.load(large_version, index="hnsw")
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert Recommender(exact.loaded).index is None
    with pytest.raises(ImportError, match=r"pip install 'kerasrec\[ann\]'"):
        Recommender.load(large_version, index="ann")


def test_tune_index_on_real_histories(exact, histories):
    near = Recommender(exact.loaded, index="ann")
    assert near.tune_index(histories) >= 0.99
    assert near.index.report["queries"] == len(histories)
    with pytest.raises(ValueError, match='Load with index="ann"'):
        exact.tune_index(histories)


def test_walks_are_histories(exact):
    listing = shortlist.Shortlist(exact.loaded, folder=False)
    walks = listing.walks(50)
    assert walks.shape == (50, 10) and walks.max() <= NUM_ITEMS and (walks[:, -1] > 0).all()
    assert (np.diff((walks > 0).astype(int), axis=1) >= 0).all()  # padded on the left
    np.testing.assert_array_equal(walks, listing.walks(50))


def test_added_and_observed_are_listed(exported_version, tmp_path):
    """The toy version has an encoder and times: new items and events change short lists too."""
    import shutil

    shutil.copytree(exported_version, tmp_path / "toy")
    both = [Recommender.load(tmp_path / "toy", index=index) for index in ("exact", "ann")]
    ids = list(both[0].items.ids)
    for recommender in both:
        recommender.add_items(pd.DataFrame({"item_id": ["新"], "title": ["大学物理"]}))
        assert recommender.index is None or len(recommender.index) == 83
    table = both[1].recommend([["新"], ids[:3]], k=50)
    pd.testing.assert_frame_equal(table, both[0].recommend([["新"], ids[:3]], k=50), atol=1e-3)
    log = pd.DataFrame({"user_id": list("abc") * 20, "item_id": ["新"] * 60, "timestamp": 1.7e9})
    for recommender in both:
        recommender.observe(log)
    one, other = (recommender.recommend([[], ids[:3]], k=50) for recommender in both)
    pd.testing.assert_frame_equal(one, other, atol=1e-3)
    assert "新" in set(other["item_id"])
