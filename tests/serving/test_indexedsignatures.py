"""The embedded server's lists of a large catalogue: by the index, and by the graph as saved."""

import json
import logging
import shutil

import numpy as np
import pytest

from kerasrec.backend import tf
from kerasrec.data.histories import Histories
from kerasrec.recommender.recommender import Recommender
from kerasrec.recommender.shortlist import sparse_table
from kerasrec.serving.indexedsignatures import IndexedSignatures
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.serving.servedversion import ServedVersion
from kerasrec.versions.loaded import LoadedVersion

DAY = 86400


@pytest.fixture
def low_bar(monkeypatch):
    """A catalogue of 3000 items counts as large."""
    monkeypatch.setattr("kerasrec.recommender.shortlist.ANN_FROM", 3000)


@pytest.fixture
def pair(large_version, low_bar):
    """`(the signatures as saved, IndexedSignatures)` of one version."""
    loaded = LoadedVersion.load(large_version)
    return loaded.signatures, IndexedSignatures.of(loaded)


def rows_of_ids(count=40, width=30, seed=0):
    """Ids with holes and unknown ones among them; the first row is empty, the second unknown."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"i{n}" for n in rng.integers(0, 3000, count * width)], object)
    ids = ids.reshape(count, width)
    ids[rng.random((count, width)) < 0.4] = ""
    ids[rng.random((count, width)) < 0.05] = "no such item"
    ids[0], ids[1] = "", "no such item"
    return ids


def overlap(one, other):
    pairs = zip(one["item_ids"].numpy(), other["item_ids"].numpy(), strict=True)
    return np.mean([len(set(a) & set(b)) / len(set(a)) for a, b in pairs])


def test_serving_default(pair):
    signatures, lists = pair
    history = tf.constant(rows_of_ids())
    exact, near = signatures["serving_default"](history=history), lists.serving_default(history)
    assert overlap(exact, near) >= 0.99
    for name in ("item_ids", "scores"):
        assert (exact[name].shape, exact[name].dtype) == (near[name].shape, near[name].dtype)
    # a sample stands for the items that are no candidates
    np.testing.assert_allclose(exact["scores"], near["scores"], atol=0.15)
    np.testing.assert_array_equal(exact["item_ids"][:2], near["item_ids"][:2])  # popular items


def test_histories_without_columns(pair):
    signatures, lists = pair
    history = tf.constant(np.zeros((2, 0), object), tf.string)
    exact, near = signatures["serving_default"](history=history), lists.serving_default(history)
    np.testing.assert_array_equal(exact["item_ids"], near["item_ids"])


def test_recommend_with_times_and_wishes(pair):
    """Rows with wishes are answered as saved; the others know the moment they are asked at."""
    signatures, lists = pair
    history = rows_of_ids(12)
    rng = np.random.default_rng(1)
    given = {
        "history": tf.constant(history),
        "timestamps": tf.constant(
            np.sort(rng.integers(DAY * 18000, DAY * 18004, history.shape), axis=1)
        ),
        "allow": tf.constant([["", ""]] * 4 + [["i5", "i6"]] + [["", ""]] * 7),
        "deny": tf.constant([["", ""]] * 5 + [["i7", ""]] + [["", ""]] * 6),
        "keep_seen": tf.constant([False] * 6 + [True] + [False] * 5),
    }
    exact, near = signatures["recommend"](**given), lists.recommend(**given)
    np.testing.assert_allclose(exact["scores"][4:7], near["scores"][4:7], atol=1e-4)
    np.testing.assert_array_equal(exact["item_ids"][4:7], near["item_ids"][4:7])
    for name in ("item_ids", "scores"):
        assert (exact[name].shape, exact[name].dtype) == (near[name].shape, near[name].dtype)
    assert {*near["item_ids"].numpy()[4]} == {b"i5", b"i6", b""}
    assert overlap(exact, near) >= 0.99
    later = lists.recommend(**{**given, "timestamps": given["timestamps"] - 3 * DAY})
    assert overlap(near, later) < 0.9  # what is recent has its say


def test_the_wait_is_counted_from_the_newest_event(pair):
    """Times in any order; the moment of asking stands beside the id ""."""
    signatures, lists = pair
    newest, found = DAY * 18003 + 500, []
    for waited in (30, 10**6):
        times = tf.constant([[newest - 400, newest, newest - 100, newest + waited]], tf.int64)
        given = wishes(1, history=tf.constant([["i1", "i2", "i3", ""]]), timestamps=times)
        exact, near = signatures["recommend"](**given), lists.recommend(**given)
        np.testing.assert_array_equal(exact["item_ids"][:, :10], near["item_ids"][:, :10])
        np.testing.assert_allclose(exact["scores"][:, :10], near["scores"][:, :10], atol=0.01)
        found.append(exact["scores"].numpy())
    assert np.abs(found[0] - found[1]).max() > 0.05


def wishes(rows, width=3, **changed):
    """Inputs of `recommend` without a wish, but for what is given."""
    given = {
        "history": tf.constant([["i1", "i2", "i3"]] * rows, tf.string, [rows, 3]),
        "timestamps": tf.fill([rows, width], tf.constant(DAY * 18002, tf.int64)),
        "allow": tf.fill([rows, 0], ""),
        "deny": tf.fill([rows, 0], ""),
        "keep_seen": tf.zeros([rows], tf.bool),
    }
    return {**given, **changed}


@pytest.fixture
def counted(pair, monkeypatch):
    """`(IndexedSignatures, rows of each call of the graph, rows of each call of the index)`."""
    (signatures, lists), by_graph, by_index = pair, [], []
    find = lists._shortlist.lists

    def graph(**given):
        by_graph.append(len(given["history"]))
        return signatures["recommend"](**given)

    def index(tensors, asked, waited, **options):
        by_index.append(len(asked))
        return find(tensors, asked, waited, **options)

    monkeypatch.setattr(lists, "_exact", {"recommend": graph})
    monkeypatch.setattr(lists._shortlist, "lists", index)
    return lists, by_graph, by_index


def test_the_graph_takes_a_few_rows_at_once(counted, pair, monkeypatch):
    """Each of its rows needs numbers for the whole catalogue; the index looks at the others."""
    lists, by_graph, by_index = counted
    monkeypatch.setattr("kerasrec.serving.indexedsignatures.SCORES_AT_ONCE", 4 * 3000 + 5)
    keep = np.arange(23) % 2 == 0
    given = wishes(23, keep_seen=tf.constant(keep))
    found = lists.recommend(**given)
    assert by_graph == [4, 4, 4] and by_index == [11]
    exact = pair[0]["recommend"](**given)
    np.testing.assert_array_equal(found["item_ids"][::2], exact["item_ids"][::2])
    assert overlap(found, exact) >= 0.99
    monkeypatch.setattr(
        "kerasrec.serving.indexedsignatures.SCORES_AT_ONCE", 1
    )  # fewer than there are items
    lists.recommend(**wishes(2, keep_seen=tf.constant([True, True])))
    assert by_graph[3:] == [1, 1] and by_index == [11]


def test_times_of_another_width(counted, pair):
    """What comes of them is for the graph to say, as in TF Serving."""
    lists, by_graph, by_index = counted
    found, exact = (answer(**wishes(2, 5)) for answer in (lists.recommend, pair[0]["recommend"]))
    np.testing.assert_array_equal(found["item_ids"], exact["item_ids"])
    for answer in (lists.recommend, pair[0]["recommend"]):
        with pytest.raises(tf.errors.InvalidArgumentError):  # an event without a time
            answer(**wishes(2, 1))
    assert by_graph == [2, 2] and by_index == []


def test_no_rows(pair):
    signatures, lists = pair
    exact, found = signatures["recommend"](**wishes(0)), lists.recommend(**wishes(0))
    assert {name: (t.shape, t.dtype) for name, t in exact.items()} == {
        name: (t.shape, t.dtype) for name, t in found.items()
    }


def test_as_recommender(large_version, pair):
    history = [[i for i in row if i] for row in rows_of_ids()]
    table = Recommender.load(large_version).recommend(history, k=50)
    found = pair[1].serving_default(tf.constant(rows_of_ids()))["item_ids"].numpy()
    listed = table.groupby("user_id")["item_id"].apply(lambda ids: {i.encode() for i in ids})
    assert np.mean([len(set(r) & listed[n]) / 50 for n, r in enumerate(found)]) >= 0.99


def test_small_catalogues_have_none(large_version):
    assert IndexedSignatures.of(LoadedVersion.load(large_version)) is None


def test_a_server_takes_it(large_version, low_bar, tmp_path, caplog):
    base = tmp_path / "large"
    base.mkdir()
    shutil.copytree(large_version, base / "1")
    model = ModelVersions(base)
    with caplog.at_level(logging.INFO, "kerasrec"):
        model.refresh()
    [record] = [r for r in caplog.records if r.message == "version loaded"]
    assert record.index["recall@100"] >= 0.99
    json.dumps(record.index)  # it goes into a log of JSON lines
    with model.use() as version:
        history = tf.constant([["i5", "i6"]])
        near = version.signature()({"history": history})
        exact = version._loaded.signatures["serving_default"](history=history)
        assert overlap(near, exact) >= 0.99
        assert version.signature("similar")({"item_ids": tf.constant(["i5"])})["item_ids"][0, 0]


def test_one_row_with_denied_and_seen_items_needs_no_graph(pair, monkeypatch):
    signatures, lists = pair
    history = tf.constant(rows_of_ids()[5:6])
    given = {"history": history, "timestamps": tf.zeros(history.shape, tf.int64)}
    given |= {"allow": tf.zeros((1, 0), tf.string), "keep_seen": tf.constant([True])}
    first = signatures["recommend"](**given, deny=tf.zeros((1, 0), tf.string))
    given["deny"] = tf.concat([first["item_ids"][:, :5], [["no such item", ""]]], axis=1)
    exact = signatures["recommend"](**given)
    monkeypatch.setattr(lists, "_exact", None)  # asking the graph would fail
    near = lists.recommend(**given)
    assert overlap(exact, near) >= 0.98
    assert not set(near["item_ids"].numpy()[0]) & set(first["item_ids"].numpy()[0, :5])


def test_what_is_popular_is_read_again(pair):
    _, lists = pair
    module = lists._shortlist._loaded.module
    popular = module.popularity.numpy()
    module.popularity.assign(-popular)
    lists.know()
    found = lists.serving_default(tf.constant([[""]]))["item_ids"].numpy()[0, 0]
    assert found == f"i{popular[1:].argmin()}".encode()


def test_a_served_version_exchanges_one_table(large_version, low_bar):
    """What is made beside the requests is taken as it is; the other tables stay as they were."""
    version = ServedVersion("large", 1, large_version)
    rng = np.random.default_rng(0)
    items = np.stack([rng.integers(1, 3001, 200)] * 2 + [np.full(200, 9)], axis=1)  # 9 follows all
    histories = Histories(
        np.arange(200).astype(object),
        np.arange(0, 601, 3),
        items.ravel().astype(np.int32),
        np.zeros(600, np.int64),
        np.zeros(600, np.int16),
        np.ones(600, np.float32),
    )
    shortlist = version.indexed._shortlist
    before = dict(zip(shortlist._names, shortlist._tables, strict=True))
    _, found = version.following(histories)
    table, matrix = found["transitions"]
    assert shortlist._tables == list(before.values())
    version.set_following(found)
    after = dict(zip(shortlist._names, shortlist._tables, strict=True))
    assert after["transitions"] is matrix and after["text"] is before["text"]
    read = shortlist._table("transitions")  # of the loaded version
    assert (read != matrix).nnz == 0 and matrix.nnz > 0


def test_neighbours_are_read_again(pair):
    """What item 5 alone is followed by becomes a candidate, and is listed as by the graph."""
    signatures, lists = pair
    module, history = lists._shortlist._loaded.module, tf.constant([["i4"]])
    last = lists.serving_default(history)["item_ids"].numpy()[0, -1]
    place = int(last[1:]) + 1
    for name in ("transitions", "text"):
        neighbours, votes = (getattr(module, f"{n}_{name}") for n in ("neighbours", "votes"))
        near, given = neighbours.numpy(), votes.numpy()
        near[5], given[5] = 0, 0
        near[5, 0], given[5, 0] = place, 9
        neighbours.assign(near)
        votes.assign(given)
        lists.take(name, sparse_table(near, given))
    found = lists.serving_default(history)["item_ids"].numpy()[0]
    exact = signatures["serving_default"](history=history)["item_ids"].numpy()[0]
    assert found[0] == exact[0] == last
