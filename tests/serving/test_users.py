"""Lists of a server for users of whom columns are known: `GET /v1/recommend?user_age=...`."""

import httpx
import pandas as pd
import pytest

from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server


@pytest.fixture(scope="module")
def client(town_version, tmp_path_factory):
    feedback = FeedbackOptions(tmp_path_factory.mktemp("users") / "feedback.db")
    with running_server(town_version.parent, ServerOptions(feedback=feedback)) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client


def listed(client, **asked):
    answer = client.get("/v1/recommend", params={"user": "neu", "log": 0, **asked})
    assert answer.status_code == 200, answer.text
    return [row["item_id"] for row in answer.json()["items"]]


def test_who_has_no_history_is_listed_for_by_city(client, town_version):
    recommender = Recommender.load(town_version)
    for place, city in enumerate(("北京", "上海", "广州")):
        found = listed(client, k=8, user_1=city, user_age="31")
        known = pd.DataFrame({"user_id": ["neu"], "城市": [city], "age": ["31"]})
        expected = recommender.recommend({"neu": []}, users=known, k=8, at="now")
        assert found == expected["item_id"].tolist()
        assert {int(item[1:]) % 3 for item in found} == {place}
    assert listed(client, k=8) == listed(client, k=8, user_1="拉萨")
    asked = {"user": "neu", "k": 8, "log": 0, "user_age": None, "user_1": "上海"}
    found = client.post("/v1/recommend", json=asked).json()["items"]
    assert [row["item_id"] for row in found] == listed(client, k=8, user_1="上海")


def test_conditions_hold_for_known_users_too(client):
    found = listed(client, k=8, user_1="北京", where="stock=5")
    assert found and {int(item[1:]) % 2 for item in found} == {0}
    asked = {"user": "neu", "k": 8, "user_1": "北京", "where": {"stock": 7}, "deny": ["i3"]}
    answer = client.post("/v1/recommend", json=asked).json()
    ids = [row["item_id"] for row in answer["items"]]
    assert ids and "i3" not in ids and {int(item[1:]) % 2 for item in ids} == {1}
    asked = {"user": "neu", "k": 3, "user_1": True, "user_age": 30.5}  # no city is called true
    assert client.post("/v1/recommend", json=asked).status_code == 200
    assert listed(client, user_1="北京", where="stock>100") == []


def test_what_is_not_known_is_refused(client):
    for asked, words in (
        ({"user_age": "alt"}, "a number as user_age"),
        ({"user_town": "x"}, "one of user_1, user_age, user_tags"),
    ):
        answer = client.get("/v1/recommend", params={"user": "neu", **asked})
        assert answer.status_code == 400 and words in answer.json()["error"]


def test_a_column_that_is_named_twice_is_refused(client):
    for asked in ("user_age=3&user_age=4", "user_age=3&user_user_age=4", "user_1=x&user_城市=y"):
        answer = client.get(f"/v1/recommend?user=neu&{asked}")
        assert answer.status_code == 400 and " once. Received" in answer.json()["error"]


def test_a_version_without_groups_says_so(served_folder, tmp_path):
    feedback = FeedbackOptions(tmp_path / "feedback.db")
    with running_server(served_folder, ServerOptions(feedback=feedback)) as server:
        address = f"{server.rest_address}/v1/recommend?user=a&user_age=3"
        answer = httpx.get(address, timeout=30)
    assert answer.status_code == 400 and "without a table of users" in answer.json()["error"]


def test_predict_takes_the_signature_over_rest(client):
    inputs = {
        "history": [["i1"]],
        "timestamps": [[0]],
        "allow": [[""]],
        "deny": [[""]],
        "keep_seen": [False],
        "user_1": ["上海"],
        "user_age": [30.0],
        "user_tags": [""],
    }
    unknown = {"signature_name": "recommend_for", "inputs": {**inputs, "user_age": [None]}}
    assert client.post("/v1/models/town:predict", json=unknown).status_code == 200
    body = {"signature_name": "recommend_for", "inputs": inputs}
    answer = client.post("/v1/models/town:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["outputs"]["item_ids"][0]) == 30
