"""Lists under a condition: the best of the items that meet it, wherever lists are made."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.interactions import Items
from kerasrec.loop.updating import grown_catalogue
from kerasrec.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(exported_version):
    """Its lists never change: nothing here is added to it."""
    return Recommender.load(exported_version)


@pytest.fixture(scope="module")
def planner(planning_version):
    return Recommender.load(planning_version)


def rows(table):
    """What is listed for whom, without the ranks, which a filter moves."""
    name = table.columns[0]
    return {user: list(part["item_id"]) for user, part in table.groupby(name, sort=False)}


def filtered(table, ids, k):
    table = table[table["item_id"].isin(ids)]
    return {user: found[:k] for user, found in rows(table).items()}


def test_the_list_is_the_whole_list_without_the_others(recommender, toy_histories):
    """Of 82 items all are re-ranked, so the whole list can be filtered afterwards."""
    some = toy_histories.select(np.arange(30))
    whole = recommender.recommend(some, k=len(recommender.items))
    frame = recommender.items.frame
    schools = frame["category"].value_counts().index
    for where, chosen in (
        ({"category": schools[0]}, frame["category"] == schools[0]),
        ({"not": {"category": list(schools[:2])}}, ~frame["category"].isin(schools[:2])),
        ({"title": {"contains": "自主"}}, frame["title"].str.contains("自主")),
    ):
        ids = set(frame["item_id"][chosen])
        assert 1 < len(ids) < len(frame)
        table = recommender.recommend(some, k=10, where=where)
        assert rows(table) == filtered(whole, ids, 10)
        assert table.attrs["chosen"] == len(ids) == recommender.choose(where).number
        # scores and ranks are those of a list of its own
        expected = recommender.recommend(some, k=10, candidates=ids)
        pd.testing.assert_frame_equal(table, expected)


def test_users_without_a_history_get_the_popular_ones_of_them(recommender):
    frame = recommender.items.frame
    school = frame["category"].value_counts().index[0]
    whole = recommender.recommend([[]], k=len(frame))
    ids = frame["item_id"][frame["category"] == school]
    found = recommender.recommend([[]], k=3, where={"category": school})
    assert rows(found) == filtered(whole, set(ids), 3)
    assert found.attrs["popular_for"] == [0]


def test_fewer_items_than_asked_for_make_a_shorter_list(recommender):
    ids = list(recommender.items.ids)
    found = recommender.recommend([ids[:1]], k=10, where={"item_id": ids[:3]})
    assert set(found["item_id"]) == set(ids[1:3])  # what is in the history stays out
    assert found["rank"].tolist() == [1, 2] and found.attrs["chosen"] == 3
    none = recommender.recommend([ids[:1]], k=10, where={"item_id": "no such"})
    assert not len(none) and none.attrs["chosen"] == 0


def test_conditions_go_with_candidates_and_deny(recommender):
    ids = list(recommender.items.ids)
    where = {"item_id": ids[2:6]}
    given = dict(k=10, where=where)
    found = recommender.recommend([ids[:1]], candidates=ids[:4], deny=[ids[2]], **given)
    assert list(found["item_id"]) == [ids[3]]
    assert not len(recommender.recommend([ids[:1]], candidates=ids[10:12], **given))
    most = {"not": {"item_id": ids[5]}}
    found = recommender.recommend([ids[:1]], k=100, where=most, deny=[ids[6]])
    assert set(found["item_id"]) == set(ids) - {ids[0], ids[5], ids[6]}


def test_a_wrong_condition_is_told_with_what_was_meant(recommender):
    for ask in (
        lambda where: recommender.recommend([[]], where=where),
        lambda where: recommender.similar(recommender.items.ids[0], where=where),
    ):
        with pytest.raises(ValueError, match="unknown column 'catgory'. Did you mean 'category'"):
            ask({"catgory": "x"})
        with pytest.raises(TypeError, match="expected a mapping"):
            ask(5)


def test_similar_items_that_meet_a_condition(recommender):
    frame = recommender.items.frame
    school = frame["category"].value_counts().index[0]
    ids = set(frame["item_id"][frame["category"] == school])
    queries = list(frame["item_id"][:5])
    for ask in (dict(item=queries), dict(text=list(frame["title"][:5]))):
        whole = recommender.similar(**ask, k=len(frame))
        found = recommender.similar(**ask, k=3, where={"category": school})
        assert rows(found) == filtered(whole, ids, 3)
        scores = whole[whole["item_id"].isin(ids)].groupby("query", sort=False).head(3)["score"]
        np.testing.assert_allclose(found["score"], scores, atol=1e-6)
        assert not len(recommender.similar(**ask, where={"item_id": "no such"}))


def test_plans_of_items_that_meet_a_condition(planner, toy_histories):
    frame = planner.items.frame
    chosen = frame["category"].isin(frame["category"].value_counts().index[:3])
    some = toy_histories.select(np.arange(5))
    where = {"category": sorted(set(frame["category"][chosen]))}
    found = planner.generate(some, 3, 4, where=where)
    expected = planner.generate(some, 3, 4, candidates=frame["item_id"][chosen])
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs["chosen"] == chosen.sum()


def test_an_index_answers_as_all_items_do(large_version):
    pytest.importorskip("faiss")
    exact = Recommender.load(large_version, index="exact")
    ann = Recommender.load(large_version, index="ann")
    histories = [["i1", "i2"], ["i77"], []]
    for where in ({"item_id": {"contains": "77"}}, {"not": {"item_id": {"contains": "1"}}}):
        tables = [one.recommend(histories, k=20, where=where) for one in (exact, ann)]
        pd.testing.assert_frame_equal(*tables)
        assert len(tables[0]) == 60 or where == {"item_id": {"contains": "77"}}


def test_new_items_bring_their_columns(exported_version):
    recommender = Recommender.load(exported_version)
    frame = recommender.items.frame
    new = pd.DataFrame({"item_id": ["n1", "n2"], "title": "高等数学", "category": ["新校", ""]})
    recommender.add_items(new)
    found = recommender.recommend([list(frame["item_id"][:2])], where={"category": "新校"})
    assert list(found["item_id"]) == ["n1"]
    with pytest.raises(ValueError, match="unknown column 'price'"):
        recommender.choose("price<50")
    priced = recommender.items.frame.assign(price="60")
    priced.loc[priced["item_id"] == "n2", "price"] = "￥5"
    recommender.correct_items(Items(priced))  # as an update with another table does
    assert recommender.choose("price<50").allow.tolist() == [len(priced)]


def test_an_update_takes_new_columns(toy_items, grown_items):
    now = grown_items.frame.assign(price=[str(row) for row in range(len(grown_items))])
    grown = grown_catalogue(toy_items, Items(now))
    assert list(grown.frame.columns) == [*toy_items.frame.columns, "price"]
    expected = dict(zip(now["item_id"], now["price"], strict=True))
    assert dict(zip(grown.ids, grown.frame["price"], strict=True)) == expected


def test_an_allow_list_that_holds_nothing_stays_so():
    from kerasrec.features.itemcolumns import Chosen
    from kerasrec.recommender.questions import NO_ITEMS, NOTHING, Questions, among_chosen

    chosen = Chosen(np.array([True]), 1, NO_ITEMS, NO_ITEMS)  # a catalogue of one item
    asked = Questions(None, np.zeros(1), np.zeros(1), allow=NOTHING)
    assert among_chosen(asked, chosen).allow.tolist() == [-1]
    assert among_chosen(asked._replace(allow=np.array([1])), chosen).allow.tolist() == [1]
