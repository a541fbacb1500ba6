"""Conditions on items over REST and gRPC: the lists of `Recommender`, and what is refused."""

import json

import httpx
import numpy as np
import pandas as pd
import pytest

from kerasrec.client.client import Client
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import LiveLists
from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server


@pytest.fixture(scope="module")
def recommender(served_folder):
    return Recommender.load(served_folder / "1")


@pytest.fixture(scope="module")
def schools(recommender):
    """The categories of the catalogue, the most frequent first."""
    return list(recommender.items.frame["category"].value_counts().index)


@pytest.fixture(scope="module")
def shop(served_folder, tmp_path_factory):
    """`(client, server)` with a store."""
    feedback = FeedbackOptions(tmp_path_factory.mktemp("where") / "feedback.db")
    with running_server(served_folder, ServerOptions(feedback=feedback)) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client, server


def items(answer):
    assert answer.status_code == 200, answer.text
    return [row["item_id"] for row in answer.json()["items"]]


def said(answer):
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_a_list_under_a_condition_is_that_of_the_recommender(shop, recommender, schools):
    client, server = shop
    history = list(recommender.items.ids[:2])
    events = [{"user_id": "w1", "item_id": item, "timestamp": 1_700_000_000} for item in history]
    client.post("/v1/feedback", json=events)
    where = {"category": schools[:2], "not": {"title": {"contains": "自主"}}}
    expected = LiveLists(recommender, server.feedback.store).recommend(
        "w1", 7, log=False, where=where
    )
    text = json.dumps(where)
    found = client.get("/v1/recommend", params={"user": "w1", "k": 7, "where": text, "log": 0})
    assert items(found) == list(expected["item_id"]) and len(expected)
    posted = {"user": "w1", "k": 7, "where": where, "log": False}
    assert items(client.post("/v1/recommend", json=posted)) == items(found)


def test_the_short_form_may_be_repeated(shop, schools, recommender):
    client, _ = shop
    words = [f"category={schools[0]}", f"category={schools[1]}", "item_id!=x"]
    params = {"user": "nobody", "k": 50, "where": words}
    found = items(client.get("/v1/recommend", params=params))
    expected = recommender.recommend([[]], k=50, where=words, at="now")
    assert set(found) == set(expected["item_id"])


def test_fewer_items_make_a_shorter_list(shop, recommender):
    client, _ = shop
    few = {"item_id": list(recommender.items.ids[:2])}
    posted = {"user": "nobody", "where": few}
    assert sorted(items(client.post("/v1/recommend", json=posted))) == sorted(few["item_id"])
    posted = {"user": "nobody", "where": few, "deny": few["item_id"]}
    assert items(client.post("/v1/recommend", json=posted)) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"category": "book"}, "a column: where=COLUMN=VALUE"),
        ({"where": "catgory=book"}, "unknown column 'catgory'. Did you mean 'category'"),
        ({"where": '{"category": {"lte": 5}}'}, "unknown operator 'lte'"),
        ({"where": "{"}, "expected JSON such as"),
        ({"where": "category<5"}, "lt is for numbers and times"),
    ],
)
def test_a_wrong_condition_is_a_400_that_names_what_was_meant(shop, query, expected):
    client, _ = shop
    assert expected in said(client.get("/v1/recommend", params={"user": "u", **query}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], "expected JSON such as"),
        ({"user": "u", "where": 5}, "where: expected a mapping"),
        ({"user": "u", "k": 1.5}, "expected a text or a whole number as k"),
        ({"user": "u", "deny": [[]]}, "expected a list of item ids as deny"),
        ({"user": "u", "kk": 5}, "expected a parameter of user, k"),
        ({"k": 5}, "expected user=ID"),
    ],
)
def test_a_wrong_post_is_refused(shop, body, expected):
    client, _ = shop
    assert expected in said(client.post("/v1/recommend", json=body))


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_client_has_conditions_too(server, recommender, schools, protocol):
    address = server.rest_address if protocol == "rest" else server.grpc_address
    ids = list(recommender.items.ids)
    histories = [ids[:3], [], ids[10:11]]
    where = {"category": {"ne": schools[0]}}
    with Client(address, model="toy", protocol=protocol) as client:
        found = client.recommend(histories, k=5, where=where)
        expected = recommender.recommend(histories, k=5, where=where, at="now")
        pd.testing.assert_frame_equal(
            found.drop(columns="score"), expected.drop(columns="score"), check_dtype=False
        )
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)
        options = dict(candidates=ids[:9], deny=ids[5:6], keep_seen=True)
        found = client.recommend(histories, k=9, where=where, **options)
        expected = recommender.recommend(histories, k=9, where=where, at="now", **options)
        assert list(found["item_id"]) == list(expected["item_id"])
        with pytest.raises(ValueError, match="Did you mean 'category'"):
            client.recommend(histories, where={"catgory": "x"})
        with pytest.raises(ValueError, match="unknown operator"):
            client.recommend(histories, where={"category": {"is": "x"}})
        assert not len(client.recommend([[]], where={"category": "no such"}))


def test_the_client_asks_for_a_user_under_a_condition(shop, recommender, schools):
    _, server = shop
    with Client(server.rest_address, model="toy", protocol="rest") as client:
        found = client.recommend_for("nobody", 5, log=False, where={"category": schools[0]})
        expected = recommender.recommend([[]], k=5, where={"category": schools[0]}, at="now")
        assert list(found["item_id"]) == list(expected["item_id"])


def predict(server, inputs, form="inputs"):
    body = {"signature_name": "recommend", form: inputs}
    url = f"{server.rest_address}/v1/models/toy:predict"
    return httpx.post(url, json=body, timeout=30)


def test_each_row_may_have_a_condition_of_its_own(server, recommender, schools):
    ids = list(recommender.items.ids)
    row = {"timestamps": [0], "allow": [""], "deny": [""], "keep_seen": False}
    conditions = [{"category": schools[0]}, f"category={schools[1]}", ""]
    rows = [{**row, "history": ids[:1], "where": where} for where in conditions]
    answer = predict(server, rows, "instances")
    assert answer.status_code == 200, answer.text
    for found, where in zip(answer.json()["predictions"], conditions, strict=True):
        expected = recommender.recommend([ids[:1]], k=5, where=where, at="now")
        assert [item for item in found["item_ids"] if item][:5] == list(expected["item_id"])


def test_the_input_is_checked(server, recommender):
    one = recommender.items.ids[0]
    inputs = {"history": [[one]], "timestamps": [[0]], "allow": [[]], "deny": [[]]}
    inputs |= {"keep_seen": [False]}
    for where, expected in (
        (5, "where"),
        ([[["a"]]], "input where must be a string"),
        (["a=1", "b=2"], "one for each row"),
        ("nonsense", "expected COLUMN=VALUE"),
    ):
        assert expected in said(predict(server, {**inputs, "where": where})), where


def test_lists_in_python_take_a_condition(recommender, tmp_path, schools):
    with FeedbackStore(tmp_path / "f.db") as store:
        lists = LiveLists(recommender, store)
        found = lists.recommend("u", 5, where={"category": schools[0]})
        frame = recommender.items.frame.set_index("item_id")
        assert set(frame.loc[found["item_id"], "category"]) == {schools[0]}
