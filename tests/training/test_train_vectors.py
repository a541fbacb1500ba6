"""Models that read vectors of pictures; the pictures are drawn, and alone decide what follows."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from drawnpictures import drawn_shop
from toys import tiny_options

from kerasrec.data.formats.vectorfiles import pack_vectors
from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions, read_items, with_vectors
from kerasrec.loop.updating import grown_catalogue
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.pipeline import train
from kerasrec.versions.trainingstate import Rebuilt


@pytest.fixture(scope="module")
def shop():
    return drawn_shop(num_items=120, num_new=24, num_users=200)


def make(shop, folder, encoder, without=()):
    """Version of the shop, with vectors of all items but some."""
    items = read_items(shop.items)
    there = ~items.frame["item_id"].isin(without).to_numpy()
    items = with_vectors(items, "image", (items.ids[there], shop.vectors[there]))
    options = tiny_options({"name": encoder}, text_units=16, sequence="rnn")
    options["trainer"] |= {"epochs": 6}
    log, valid = read_interactions(shop.log), read_interactions(shop.valid)
    given = dict(name=encoder, out=folder, options=options, progress=False)
    return train(log, items, valid=valid, ask="end", **given).version


@pytest.fixture(scope="module")
def pictures_alone(shop, tmp_path_factory):
    return make(shop, tmp_path_factory.mktemp("pictures"), "none")


def test_new_items_are_found_by_their_pictures_alone(shop, pictures_alone):
    recommender = Recommender.load(pictures_alone)
    assert recommender.manifest["encoder"]["features"] == {"image": "vector"}
    known = pd.concat([shop.log, shop.valid])
    histories = make_histories(read_interactions(known), recommender.items)
    lists = recommender.recommend(histories, k=2, candidates=shop.cold)
    asked = shop.later[shop.later["item_id"].isin(shop.cold)]
    found = asked.merge(lists, on=["user_id", "item_id"])
    # of 24 new items two are listed: by chance a twelfth is found
    assert len(found) / len(asked) > 2 * 2 / 24
    kind = dict(zip(shop.items["item_id"], shop.kinds, strict=True))
    taste = asked.set_index("user_id")["item_id"].map(kind)
    alike = lists["item_id"].map(kind) == lists["user_id"].map(taste)
    assert alike.mean() > 0.25  # a twelfth by chance


def test_an_item_is_added_by_its_picture_and_corrected_by_another(shop, pictures_alone):
    recommender = Recommender.load(pictures_alone)
    one, other = pack_vectors(shop.vectors[[4, 5]])
    recommender.add_items(pd.DataFrame({"item_id": ["twin", "none"], "image": [one, ""]}))
    twin, none, known = recommender.item_vectors(["twin", "none", "i4"])
    np.testing.assert_allclose(twin[:16], known[:16], atol=1e-4)
    assert not none.any()
    assert recommender.correct_items(pd.DataFrame({"item_id": ["none"], "image": [one]})) == 1
    np.testing.assert_allclose(recommender.item_vectors(["none"])[0], twin, atol=1e-5)
    with pytest.raises(ValueError, match="image: expected vectors of 80 numbers. Received: one of"):
        wide = with_vectors(pd.DataFrame({"item_id": ["w"]}), "image", (["w"], np.ones((1, 3))))
        recommender.add_items(wide)
    rebuilt = Rebuilt(pictures_alone, recommender.items)
    vectors = rebuilt.model.item_vectors(np.arange(1, 123, dtype=np.int32)).numpy()
    np.testing.assert_allclose(vectors, recommender.loaded.vectors()[1:], atol=1e-4)
    assert len(rebuilt.changed) == 0


def test_a_grown_catalogue_keeps_the_vectors_that_it_is_not_given():
    one, two, three = pack_vectors(np.eye(3))
    known = Items(pd.DataFrame({"item_id": ["a", "b"], "title": "甲", "image": [one, two]}))
    bare = Items(pd.DataFrame({"item_id": ["b", "c", "a"], "title": "乙"}))
    assert grown_catalogue(known, bare).frame["image"].tolist() == [one, two, ""]
    new = Items(bare.frame.assign(image=[three, three, ""]))
    assert grown_catalogue(known, new).frame["image"].tolist() == [one, three, three]


@pytest.mark.slow
def test_text_or_picture_does_for_a_new_item(shop, tmp_path):
    """With texts beside, saved, and read by another process."""
    version = make(shop, tmp_path, "tfidf", without=[f"i{number}" for number in range(0, 48, 2)])
    recommender = Recommender.load(version)
    rows = {"item_id": ["text", "picture", "both"], "title": ["商品 3", "", "商品 3"]}
    image = pack_vectors(shop.vectors[[1]])[0]
    added = pd.DataFrame(rows).assign(image=["", image, image])
    recommender.add_items(added)
    text, picture, both = recommender.item_vectors(rows["item_id"])
    assert text.any() and picture.any()
    # the way from text and features to a vector is a matrix
    np.testing.assert_allclose(text + picture, both, atol=1e-4)
    saved = recommender.save()
    added.to_json(tmp_path / "added.json")
    script = (
        "import json, sys, pandas as pd, kerasrec\n"
        "one, saved = (kerasrec.Recommender.load(path) for path in sys.argv[1:3])\n"
        "one.add_items(pd.read_json(sys.argv[3]))\n"
        "ids = ['text', 'picture', 'both']\n"
        "print(json.dumps([part.item_vectors(ids).tolist() for part in (one, saved)]))"
    )
    paths = [str(path) for path in (version, saved, tmp_path / "added.json")]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found in json.loads(done.stdout.splitlines()[-1]):
        np.testing.assert_allclose(found, [text, picture, both], atol=1e-5)
