"""Models that read columns of the catalogue: what is added, corrected and updated follows them."""

import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toys import newest_alone, tiny_options

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items, join_interactions
from kerasrec.data.sources import read_interactions, read_items, with_relations
from kerasrec.data.splits import split_leave_one_out
from kerasrec.evaluation.evaluation import evaluate
from kerasrec.loop.updating import update
from kerasrec.models.itemvectors import ItemVectors, WhiteningLayer
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.recommender.ablation import feature_worth
from kerasrec.recommender.recommender import Recommender
from kerasrec.text.encoders import build_encoder
from kerasrec.text.vectors import Whitening
from kerasrec.text.withfeatures import FeaturedEncoder
from kerasrec.training.pipeline import train
from kerasrec.versions.trainingstate import Rebuilt

COLOURS = ["红", "绿", "蓝"]
DECLARED = "colour:category price:number"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """30 items of three colours; who likes a colour stays with it. Titles say nothing."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(30)],
            "title": [f"商品 {n * 7 % 30}" for n in range(30)],
            "colour": [COLOURS[n % 3] for n in range(30)],
            "price": [str(10 + n) for n in range(30)],
        }
    )
    rows = [
        (f"u{user}", f"i{3 * rng.integers(0, 10) + user % 3}", 1_700_000_000 + 1000 * user + step)
        for user in range(60)
        for step in range(8)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    folder = tmp_path_factory.mktemp("shop")
    vectors = rng.normal(size=(30, 6))
    np.savez(folder / "v.npz", ids=frame["item_id"].to_numpy(str), vectors=vectors)
    return read_interactions(log), read_items(frame), folder


def make(shop, name, encoder, **more):
    interactions, items, folder = shop
    more = {"sequence": newest_alone, **more}
    options = tiny_options({"features": DECLARED, **encoder}, **more)
    given = dict(name=name, out=folder / "saved_models", options=options, progress=False)
    return train(interactions, items, ask="newest", **given).version


@pytest.fixture(scope="module", autouse=True)
def known_sequence():
    """`newest_alone` under its name: further training finds it there, as that of a user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEQUENCE_MODELS, "newest_alone", newest_alone)
        yield


@pytest.fixture(scope="module")
def version_of(shop, tiny_bert_folder, known_sequence):
    """Function of a kind of encoder that gives a version that reads features beside it."""
    names = {
        "tfidf": {"name": "tfidf"},
        "none": {"name": "none"},
        "vectors": {"name": f"vectors:{shop[2] / 'v.npz'}"},
        "lora": {"name": str(tiny_bert_folder), "mode": "lora"},
        "frozen": {"name": str(tiny_bert_folder)},
    }
    more = {"frozen": {"members": 2, "sequence": "rnn"}}

    @functools.cache
    def version(kind):
        return make(shop, kind, names[kind], **more.get(kind, {}))

    return version


#: the first goes the way that all go; the others are slow tests
SLOW = {kind: pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "lora", "frozen")}
KINDS = ("tfidf", SLOW["none"], "vectors", SLOW["lora"], SLOW["frozen"])


def new_items(rows):
    frame = pd.DataFrame(rows, columns=["item_id", "title", "colour", "price"])
    return Items(frame.astype(str))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_item_is_placed_by_its_row(version_of, shop, kind):
    """The same text and the same row as a known item: the same vector but for the id part."""
    recommender = Recommender.load(version_of(kind))
    twin = shop[1].frame.iloc[4]
    items = new_items(
        [
            ("twin", twin["title"], twin["colour"], twin["price"]),
            ("other", twin["title"], "红", "10"),
            ("unknown", twin["title"], "紫", ""),
            ("missing", twin["title"], "", ""),
        ]
    )
    vectors = None
    if kind == "vectors":
        with np.load(shop[2] / "v.npz") as saved:
            vectors = np.repeat(saved["vectors"][4:5], 4, axis=0)
    recommender.add_items(items, vectors=vectors)
    known = recommender.item_vectors(["i4"])[0]
    found = recommender.item_vectors(["twin", "other", "unknown", "missing"])
    options = recommender.manifest["options"]
    width = len(known) // options.get("members", 1)
    is_text = np.arange(len(known)) % width < options["text_units"]
    # of several members each is of unit length, and the id part shortens the rest
    parts = [vector[is_text].reshape(-1, 4) for vector in (found[0], known)]
    if kind == "frozen":
        parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    np.testing.assert_allclose(*parts, atol=1e-4)
    np.testing.assert_allclose(found[:, ~is_text], 0, atol=1e-5)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_is_read(version_of, kind):
    manifest = Recommender.load(version_of(kind)).manifest
    assert manifest["encoder"]["features"] == {"colour": "category", "price": "number"}
    assert manifest["encodes_texts"] == (kind in ("tfidf", "lora", "frozen"))


@pytest.mark.parametrize("kind", ["tfidf", SLOW["none"], SLOW["lora"], SLOW["frozen"]])
def test_the_model_goes_on_where_it_was(version_of, shop, kind):
    """What further training begins with gives the vectors of the version, also of new items."""
    recommender = Recommender.load(version_of(kind))
    added = new_items([("new", "商品 1", "蓝", "25")])
    recommender.add_items(added)
    rebuilt = Rebuilt(version_of(kind), recommender.items)
    vectors = rebuilt.model.item_vectors(np.arange(32, dtype=np.int32)).numpy()
    np.testing.assert_allclose(vectors[1:], recommender.loaded.vectors()[1:], atol=1e-4)
    assert len(rebuilt.changed) == 0


@pytest.mark.parametrize("kind", ["tfidf", SLOW["none"], SLOW["lora"]])
def test_another_price_is_taken_by_correct_items_and_by_further_training(version_of, shop, kind):
    recommender = Recommender.load(version_of(kind))
    before = recommender.item_vectors(["i4", "i5"])
    frame = shop[1].frame.copy()
    frame.loc[4, "price"] = "39"
    assert recommender.correct_items(Items(frame)) == 1
    after = recommender.item_vectors(["i4", "i5"])
    assert np.abs(after - before)[0].max() > 1e-4
    np.testing.assert_array_equal(after[1], before[1])
    rebuilt = Rebuilt(version_of(kind), Items(frame))
    assert rebuilt.changed.tolist() == [4]
    vectors = rebuilt.model.item_vectors(np.array([5], np.int32)).numpy()
    np.testing.assert_allclose(vectors, after[:1], atol=1e-4)


def test_update_teaches_a_model_with_features(version_of, shop, tmp_path):
    interactions, items, _ = shop
    base = shutil.copytree(version_of("tfidf").parent, tmp_path / "tfidf")
    rows = [  # of another colour than before
        (f"u{user}", f"i{3 * ((user + step) % 10) + (user + 1) % 3}", 1_701_000_000 + user + step)
        for user in range(60)
        for step in range(2)
    ]
    later = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    log = join_interactions([interactions, read_interactions(later)])
    frame = pd.concat([items.frame, new_items([("new", "新", "绿", "12")]).frame])
    frame = frame.reset_index(drop=True)
    frame.loc[3, "price"] = "38"
    found = update(base, log, Items(frame), force=True)
    parent, child = Recommender.load(base / "1"), Recommender.load(found.version)
    assert child.manifest["encoder"]["features"]["price"] == "number"
    assert child.item_vectors(["new"]).any()
    # the projection has learned, so the child's own features are what its files say
    again = child.item_vectors(["i3"])
    child.add_items(new_items([("twin", frame["title"][3], frame["colour"][3], "38")]))
    np.testing.assert_allclose(child.item_vectors(["twin"])[:, :4], again[:, :4], atol=1e-4)
    assert len(child.recommend([["i1"]], k=40)) == 31 and len(parent.items) == 30


@pytest.mark.slow
def test_a_fresh_process_places_the_same(version_of):
    script = (
        "import json, sys, pandas as pd, kerasrec\n"
        "found = []\n"
        "for version in sys.argv[1:]:\n"
        "    one = kerasrec.Recommender.load(version)\n"
        "    row = dict(item_id=['x'], title=['商品 3'], colour=['蓝'], price=['12'])\n"
        "    one.add_items(pd.DataFrame(row))\n"
        "    found.append(one.item_vectors(['x']).tolist())\n"
        "print(json.dumps(found))"
    )
    paths = [str(version_of(kind)) for kind in ("tfidf", "none", "lora")]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path, vectors in zip(paths, json.loads(done.stdout.splitlines()[-1]), strict=True):
        here = Recommender.load(path)
        here.add_items(new_items([("x", "商品 3", "蓝", "12")]))
        np.testing.assert_allclose(here.item_vectors(["x"]), vectors, atol=1e-5)


# --- the parts ---


def test_features_begin_without_a_say_beside_a_text():
    layer = ItemVectors(3, text_units=2, id_units=2, features=2)
    text = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    other = text.copy()
    other[:, 4:] += 1
    np.testing.assert_array_equal(layer([text]), layer([other]))
    projection = layer.projection.numpy()
    assert not projection[4:].any()
    np.testing.assert_allclose(projection[:4].T @ projection[:4], np.eye(2), atol=1e-5)


def test_a_share_of_the_rows_of_features_is_dropped_in_training():
    layer = ItemVectors(1000, text_units=2, id_units=0, features=2, id_dropout=0.3)
    text = np.ones((1000, 4), np.float32)
    layer([text])
    layer.projection.assign([[1, 0], [0, 0], [0, 1], [0, 0]])
    found = layer([text], training=True).numpy()
    assert (found[:, 0] > 0).all()
    assert 0.6 < (found[:, 1] > 0).mean() < 0.8
    assert (layer([text]).numpy()[:, 1] > 0).all()


def test_whitening_leaves_features_alone():
    text = Whitening(np.array([1.0], np.float32), np.array([[2.0, 0.0]], np.float32))
    both = text.beside(2, 3.0)
    rows = np.array([[2, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    # (2 - 1) * 2 and 3 * feature; without a text its part is zeros
    expected = [[2, 0, 3, 0], [0, 0, 0, 3], [0, 0, 0, 0]]
    np.testing.assert_allclose(both.apply(rows), expected)
    layer = WhiteningLayer(3, 4, 2)
    layer.build(None)
    layer.set_constants(both.mean, both.matrix)
    np.testing.assert_allclose(layer(rows), expected)


def test_an_encoder_with_features_says_all_that_decides_its_vectors(shop):
    items = shop[1]
    from kerasrec.features.itemfeatures import fit_item_features

    base = build_encoder("tfidf").fit(items.texts())
    one, two = (
        FeaturedEncoder(base, fit_item_features(items.frame, words))
        for words in ("colour:category", "price:number")
    )
    assert one.fingerprint != two.fingerprint
    assert one.encode_items(items).shape == (30, base.dim + 3)
    np.testing.assert_array_equal(one.encode(["商品 1"])[:, base.dim :], 0)
    with pytest.raises(ValueError, match="features and cannot encode texts"):
        FeaturedEncoder(None, one.features).encode(["x"])


@pytest.mark.parametrize("kind", ["tfidf", SLOW["none"], SLOW["frozen"]])
def test_the_worth_of_a_column_is_that_of_lists_without_it(shop, version_of, kind):
    interactions, items, _ = shop
    split = split_leave_one_out(interactions)
    known = join_interactions([split.train, split.valid])
    histories = make_histories(known, items)
    recommender = Recommender.load(version_of(kind))
    before = recommender.loaded.vectors()
    table = feature_worth(recommender, histories, split.test, train=known, k=5)
    np.testing.assert_allclose(recommender.loaded.vectors(), before, atol=1e-6)
    assert sorted(zip(table["column"], table["type"], strict=True)) == [
        ("colour", "category"),
        ("price", "number"),
    ]
    given = dict(histories=histories, train=known, items=items, ks=[5])
    whole = evaluate({"": recommender.recommend(histories, k=5)}, split.test, **given)
    assert table.attrs["ndcg"] == pytest.approx(whole.value("", "ndcg")[0])
    for row in table.itertuples():  # the long way: every item without the value, encoded anew
        blank = Recommender.load(version_of(kind))
        frame = items.frame[["item_id", "title"]].assign(**{row.column: ""})
        assert blank.correct_items(frame) == len(items)
        lists = blank.recommend(histories, k=5)
        slow = evaluate({"": lists}, split.test, **given).value("", "ndcg")[0]
        assert row.without == pytest.approx(slow, abs=1e-4)
        assert row.difference == pytest.approx(table.attrs["ndcg"] - slow, abs=1e-4)
        assert row.low <= row.difference <= row.high
    assert (np.diff(table["difference"]) <= 0).all()


@pytest.fixture(scope="module")
def sharing_version(shop, known_sequence):
    """A version of the shop whose colours are relations."""
    interactions, items, folder = shop
    rows = items.frame[["item_id", "colour"]].rename(columns={"colour": "entity"})
    bare = Items(items.frame[["item_id", "title"]])
    shared = with_relations(bare, rows.assign(relation="colour"))
    options = tiny_options({"name": "tfidf"}, sequence=newest_alone)
    options["fusion"] = {"parts": ["transitions", "recency", "relations"]}
    given = dict(name="sharing", out=folder / "saved_models", options=options, progress=False)
    return train(interactions, shared, ask="newest", **given).version, shared


def test_what_items_share_is_a_table_of_the_fusion(sharing_version):
    version, shared = sharing_version
    recommender = Recommender.load(version)
    assert recommender.about.relations == ["colour"] and "relations" in recommender.loaded.decays
    assert recommender.items.relations == ("colour",)
    table = recommender.fusion().tables["relations"]
    for row in (1, 2, 3):  # nine others of the colour, all alike
        near = table.neighbours[row][table.weights[row] > 0]
        assert sorted(near) == [n for n in range(1, 31) if n % 3 == row % 3 and n != row]


@pytest.mark.slow
def test_new_items_of_an_update_have_neighbours(shop, sharing_version, tmp_path):
    version, shared = sharing_version
    base = shutil.copytree(version.parent, tmp_path / "sharing")
    interactions = shop[0]
    frame = interactions.frame
    start = int(frame["timestamp"].max())
    newer = pd.DataFrame(
        [(f"u{n}", f"i{(3 * n + n % 3) % 30}", start + n) for n in range(1, 60)],
        columns=["user_id", "item_id", "timestamp"],
    )
    log = join_interactions([interactions, read_interactions(newer)])
    more = pd.DataFrame({"item_id": ["new"], "title": ["商品"], "colour": ["红"]})
    grown = Items(pd.concat([shared.frame, more], ignore_index=True), relations=("colour",))
    found = update(base, log, grown, force=True)
    child = Recommender.load(found.version)
    assert child.about.relations == ["colour"]
    table = child.fusion().tables["relations"]
    near = table.neighbours[31][table.weights[31] > 0]
    assert sorted(near) == list(range(1, 31, 3))
