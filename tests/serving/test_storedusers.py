"""What a store knows of users, over a real server: `PUT /v1/users` and the next list."""

import httpx
import pandas as pd
import pytest

from kerasrec.client.client import Client
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import LiveLists
from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return tmp_path_factory.mktemp("users") / "feedback.db"


@pytest.fixture(scope="module")
def running(town_version, store_path):
    options = ServerOptions(feedback=FeedbackOptions(store_path))
    with running_server(town_version.parent, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client, server


@pytest.fixture
def client(running):
    return running[0]


def listed(client, **asked):
    answer = client.get("/v1/recommend", params={"k": 8, "log": 0, **asked})
    assert answer.status_code == 200, answer.text
    return [row["item_id"] for row in answer.json()["items"]]


def place_of(items):
    """The city whose items these are: 0, 1 or 2."""
    (place,) = {int(item[1:]) % 3 for item in items}
    return place


def test_the_next_list_knows_what_was_stored(client, town_version, store_path):
    before = listed(client, user="neu")
    answer = client.put("/v1/users/neu", json={"城市": "上海", "age": 31})
    assert answer.json() == {"users": 1, "values": 2}
    found = listed(client, user="neu")
    assert found != before and place_of(found) == 1
    assert found == listed(client, user="fremd", user_1="上海", user_age=31)
    assert found == listed(client, user="fremd", user_城市="上海", user_age=31)
    known = pd.DataFrame({"user_id": ["neu"], "城市": ["上海"], "age": ["31"]})
    recommender = Recommender.load(town_version)
    expected = recommender.recommend({"neu": []}, users=known, k=8, at="now")
    assert found == expected["item_id"].tolist()
    with FeedbackStore(store_path) as store:  # beside the server
        lists = LiveLists(recommender, store)
        assert lists.recommend("neu", 8, log=False)["item_id"].tolist() == found
        assert len(lists.recommend("niemand", 8, log=False)) == 8
    # what the request says counts in the place of the same column of the store
    assert place_of(listed(client, user="neu", user_1="广州")) == 2
    assert client.get("/v1/users/neu").json()["values"] == {"城市": "上海", "age": 31}
    assert client.put("/v1/users/neu", json={"城市": None}).json()["values"] == 1
    assert client.delete("/v1/users/neu").json() == {"users": 1, "values": 1}
    assert listed(client, user="neu") == before
    assert client.get("/v1/users/neu").json()["values"] == {}


def test_many_users_conditions_and_lists_of_values(client):
    rows = [{"user_id": "m/1", "城市": "北京"}, {"user_id": 7, "tags": ["甲", "乙"], "age": None}]
    assert client.put("/v1/users", json={"users": rows}).json()["values"] == 3
    found = listed(client, user="m/1", where="stock=5", k=5)
    assert place_of(found) == 0 and {int(item[1:]) % 2 for item in found} == {0}
    assert client.get("/v1/users/m%2F1").json()["values"] == {"城市": "北京"}
    assert listed(client, user="7") == listed(client, user="x", user_tags='["甲", "乙"]')
    assert listed(client, user="7") == listed(client, user="x", user_tags="甲|乙")
    asked = {"user": "x", "k": 8, "user_tags": ["甲", "乙"]}
    found = client.post("/v1/recommend", json=asked).json()["items"]
    assert [row["item_id"] for row in found] == listed(client, user="7")


def test_a_value_that_no_group_has_is_told(client):
    answer = client.get("/v1/recommend", params={"user": "w", "user_1": "拉萨", "log": 0}).json()
    assert answer["unknown_values"] == {"城市": "拉萨"}
    answer = client.get("/v1/recommend", params={"user": "w", "user_1": "上海", "log": 0}).json()
    assert "unknown_values" not in answer


def test_the_client_sends_and_asks(running):
    client, server = running
    with Client(server.rest_address, model="town", protocol="rest") as own:
        assert own.set_users({"k/1": {"城市": "广州", "age": 30}})["values"] == 2
        assert own.user_values("k/1") == {"城市": "广州", "age": 30}
        assert place_of(own.recommend_for("k/1", 8, log=False)["item_id"]) == 2
        known = {"城市": "北京", "tags": ["甲"], "age": None}
        found = own.recommend_for("k/1", 8, log=False, known=known)
        assert place_of(found["item_id"]) == 0
        strange = own.recommend_for("k/1", 8, log=False, known={"user_1": "拉萨"})
        assert strange.attrs["unknown_values"] == {"城市": "拉萨"}
        with pytest.raises(ValueError, match="Did you mean 'age'"):
            own.set_users({"k/1": {"agee": 3}})


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/x", {"agee": 3}, "users: unknown column 'agee'. Did you mean 'age'?"),
        ("/x", {"age": "60岁"}, "expected a number for the column 'age'. Received: '60岁'."),
        ("/x", {"age": [3]}, "expected a number for the column 'age'"),
        ("/x", {"城市": ["a"]}, "expected a text or a number for the column '城市'"),
        ("/x", {}, 'expected columns and values such as {"age": 30}'),
        ("/x", {"age": {"a": 1}}, "expected a text, number, true, false, null or list as age"),
        ("/x", {"user_id": "y", "age": 3}, "expected the user_id of the address, 'x', or none"),
        ("", {"a": {"age": 3}}, "expected a list such as"),
        ("", [{"age": 3}], "expected a user_id in user 1"),
        ("", [{"user_id": "a"}], "expected columns and values"),
        ("", [{"user_id": "a", "age": 3}, {"user_id": "b", "age": "x"}], "expected a number"),
    ],
)
def test_a_wrong_value_is_a_400_and_stores_nothing(client, path, body, expected):
    answer = client.put(f"/v1/users{path}", json=body)
    assert answer.status_code == 400 and expected in answer.json()["error"]
    assert "Nothing was stored" in answer.json()["error"]
    assert client.get("/v1/users/a").json()["values"] == {}


def test_values_survive_a_restart_and_forget_erases_them(town_version, tmp_path):
    options = ServerOptions(feedback=FeedbackOptions(tmp_path / "feedback.db"))
    with running_server(town_version.parent, options) as server:
        httpx.put(f"{server.rest_address}/v1/users/neu", json={"城市": "上海"}, timeout=30)
    with running_server(town_version.parent, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            assert place_of(listed(client, user="neu")) == 1
            with FeedbackStore(tmp_path / "feedback.db") as store:
                store.forget("neu")
            assert listed(client, user="neu") == listed(client, user="niemand")


@pytest.mark.slow
def test_without_groups_values_are_stored_and_told_to_be_unused(served_folder, tmp_path):
    options = ServerOptions(feedback=FeedbackOptions(tmp_path / "feedback.db"))
    with running_server(served_folder, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            answer = client.put("/v1/users/u", json={"age": 3}).json()
            assert answer == {"users": 1, "values": 1, "unused": ["age"]}
            assert len(listed(client, user="u")) == 8
