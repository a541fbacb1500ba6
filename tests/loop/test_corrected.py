"""New titles of known items are taken by an update, and their texts are encoded anew."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.interactions import Items, changed_texts
from kerasrec.loop.updating import update
from kerasrec.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def corrected(exported_version, week_log, grown_items, tmp_path_factory):
    """`(Updated, parent, {item: new title})`: two items have exchanged their titles."""
    base = shutil.copytree(exported_version, tmp_path_factory.mktemp("corrected") / "toy")
    parent = Recommender.load(base)
    first, second = parent.items.frame.drop_duplicates("title").iloc[[3, 40]]["item_id"].tolist()
    titles = dict(zip((first, second), parent.titles([second, first]), strict=True))
    frame = grown_items.frame.copy()
    for item, title in titles.items():
        frame.loc[frame["item_id"] == item, "title"] = title
    # spaces are no other text, and a title that is left out takes nothing away
    others = frame.index[~frame["item_id"].isin([*titles, "new-1", "new-2", "new-3"])]
    frame.loc[others[0], "title"] = " " + frame.loc[others[0], "title"] + "  "
    frame.loc[others[1], "title"] = ""
    return update(base, week_log, Items(frame), force=True), parent, titles


def text_parts(recommender, vectors):
    """The text columns of item vectors of a model with one member."""
    return vectors[:, : recommender.about.options["text_units"]]


def test_changed_texts_are_counted_and_encoded_anew(corrected):
    found, parent, titles = corrected
    assert found.changed == 2
    child = Recommender.load(found.version)
    assert child.about.update.more["changed"] == 2
    ids = list(titles)
    assert child.titles(ids).tolist() == list(titles.values())
    vectors = child.item_vectors(ids)
    expected = text_parts(child, child.encode(list(titles.values())))
    np.testing.assert_allclose(text_parts(child, vectors), expected, atol=1e-4)
    # what users did with them is not forgotten: the id part is there
    assert (vectors[:, child.about.options["text_units"] :] != 0).any()
    # an item that was not changed has the part of its own text
    same = [one for one in parent.items.ids if one not in titles and parent.titles([one])[0]][5:8]
    expected = text_parts(child, child.encode(list(child.titles(same))))
    np.testing.assert_allclose(text_parts(child, child.item_vectors(same)), expected, atol=1e-4)


def test_similar_items_follow(corrected):
    found, parent, titles = corrected
    child = Recommender.load(found.version)
    for item, title in titles.items():
        near = child.similar(text=title, k=3)
        assert item in set(near["item_id"])


@pytest.mark.slow
def test_the_next_update_begins_with_the_corrected_texts(corrected, week_log, tmp_path):
    found, parent, titles = corrected
    base = shutil.copytree(found.version.parent, tmp_path / "toy")
    times = week_log.frame["timestamp"].to_numpy()
    new = times >= np.sort(times)[-150]
    again = update(base, week_log, force=True, new=new)
    assert again.changed == 0
    child = Recommender.load(again.version)
    expected = text_parts(child, child.encode(list(titles.values())))
    np.testing.assert_allclose(
        text_parts(child, child.item_vectors(list(titles))), expected, atol=1e-4
    )


def test_changed_texts_by_hand():
    before = pd.DataFrame({"title": ["a", "b", "c", "d"], "tag": ["x", "x", "x", "x"]})
    now = pd.DataFrame({"title": [" a", "b2", "", "d"], "tag": ["x", "x", "", "y"]})
    assert changed_texts(before, now, "{title}").tolist() == [1]
    assert changed_texts(before, now, "{title} {tag}").tolist() == [1, 3]
