"""Stock and prices that change by the minute, over real servers of one store."""

import shutil
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest

from kerasrec.client.client import Client
from kerasrec.feedback.store import FeedbackStore
from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.admission import Access
from kerasrec.serving.items.live import _States
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server


def items(answer):
    assert answer.status_code == 200, answer.text
    return [row["item_id"] for row in answer.json()["items"]]


def listed(client, **more):
    return items(client.get("/v1/recommend", params={"user": "nobody", "k": 50, "log": 0, **more}))


@pytest.fixture(scope="module")
def priced(served_folder, tmp_path_factory):
    """A model folder whose catalogue has prices and stock; item number 3 is sold out."""
    base = tmp_path_factory.mktemp("priced") / "toy"
    shutil.copytree(served_folder / "1", tmp_path_factory.mktemp("one") / "toy" / "1")
    recommender = Recommender.load(served_folder / "1")
    frame = recommender.items.frame
    stock = ["0" if row == 3 else "5" for row in range(len(frame))]
    frame = frame.assign(price=[str(row) for row in range(len(frame))], stock=stock)
    shutil.copytree(served_folder / "1", base / "1")
    recommender = Recommender.load(base)
    from dataclasses import replace

    recommender.correct_items(replace(recommender.items, frame=frame))
    recommender.withdraw([frame["item_id"][3], frame["item_id"][4]])  # 4: the catalogue lacks it
    recommender.save()
    shutil.rmtree(base / "1")
    return base


@pytest.fixture
def store_path(tmp_path):
    return tmp_path / "feedback.db"


@pytest.fixture(scope="module")
def common_store(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "feedback.db"


@pytest.fixture(scope="module")
def running_once(priced, common_store):
    with running_server(priced, ServerOptions(feedback=FeedbackOptions(common_store))) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client, server


@pytest.fixture
def running(running_once, common_store):
    """One server for all tests; the values that a test has put are taken back after it."""
    yield running_once
    client, _ = running_once
    with FeedbackStore(common_store) as store:
        changed = {one.item_id for one in store.item_values()}
    for item in changed:
        assert client.delete(f"/v1/items/{item}").status_code == 200


@pytest.fixture(scope="module")
def ids(priced):
    return list(Recommender.load(priced).items.ids)


def test_what_is_sold_out_leaves_the_next_list_and_comes_back(running, ids):
    client, server = running
    before = listed(client)
    gone = before[0]
    answer = client.put(f"/v1/items/{gone}", json={"stock": 0})
    assert answer.json() == {"items": 1, "values": 1, "unknown_items": 0}
    after = listed(client)
    assert after[:-1] == before[1:] and after[-1] not in before
    # every other way of asking knows it too
    url = "/v1/models/toy:predict"
    assert gone not in client.post(url, json={"instances": [[""]]}).json()["predictions"][0]
    inputs = {"signature_name": "similar", "inputs": {"item_ids": [before[1]]}}
    near = client.post(url, json=inputs).json()["outputs"]["item_ids"][0]
    assert gone not in near
    assert client.get(f"/v1/items/{gone}").json() == {"item_id": gone, "values": {"stock": 0}}
    client.put(f"/v1/items/{gone}", json={"stock": "3"})
    assert listed(client) == before
    client.put(f"/v1/items/{gone}", json={"available": False})  # the catalogue has no such column
    assert gone not in listed(client)
    assert client.delete(f"/v1/items/{gone}").json()["values"] == 2
    assert listed(client) == before
    assert client.get(f"/v1/items/{gone}").json()["values"] == {}


def test_a_sold_out_item_of_the_catalogue_comes_in_again(running, ids):
    client, _ = running
    where = {"where": f"item_id={ids[3]}"}
    assert listed(client, **where) == []
    client.put(f"/v1/items/{ids[3]}", json={"stock": 2})
    assert listed(client, **where) == [ids[3]]
    client.delete(f"/v1/items/{ids[3]}")
    assert listed(client, **where) == []
    # what an update took out because the catalogue lacks it stays out
    client.put(f"/v1/items/{ids[4]}", json={"stock": 2})
    assert listed(client, where=f"item_id={ids[4]}") == []


def test_prices_count_in_conditions_at_once(running, ids):
    client, _ = running
    where = {"where": "price>1000"}
    assert listed(client, **where) == []
    rows = [{"item_id": ids[7], "price": "￥1,299"}, {"item_id": ids[8], "price": 2000}]
    assert client.put("/v1/items", json={"items": rows}).json()["values"] == 2
    assert sorted(listed(client, **where)) == sorted([ids[7], ids[8]])
    client.put(f"/v1/items/{ids[7]}", json={"price": None})
    assert listed(client, **where) == [ids[8]]


def test_the_client_sends_values(running, ids):
    client, server = running
    gone = listed(client)[0]
    with Client(server.rest_address, model="toy", protocol="rest") as own:
        answer = own.set_items({gone: {"stock": np.int64(0)}, "new": {"stock": 1}})
        assert answer["values"] == 2 and answer["unknown"] == ["new"]
        assert gone not in listed(client)
        with pytest.raises(ValueError, match="Did you mean 'stock'"):
            own.set_items({gone: {"stok": 0}})


def test_many_are_sold_out_at_once(running, ids):
    client, server = running
    rows = [{"item_id": item, "stock": 0} for item in ids[:-3]]
    assert client.put("/v1/items", json=rows).json()["items"] == len(ids) - 3
    assert sorted(listed(client)) == sorted(ids[-3:])


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/x", {"stok": 0}, "items: unknown column 'stok'. Did you mean 'stock'?"),
        ("/x", {"stock": "many"}, "expected a number for the column 'stock'. Received: 'many'"),
        ("/x", {}, 'expected columns and values such as {"stock": 0}'),
        ("/x", {"stock": {"a": 1}}, "expected a text, number, true, false, null or list"),
        ("/x", {"category": ["a"]}, "expected a text or a number for the column 'category'"),
        ("/x", {"category": 5}, "expected a text such as "),
        ("/x", {"item_id": "x"}, "expected columns and values"),
        ("/x", {"item_id": "y", "stock": 0}, "expected the item_id of the address, 'x', or none"),
        ("", {"a": {"stock": 0}}, "expected a list such as"),
        ("", [{"stock": 0}], "expected an item_id in item 1"),
        ("", [{"item_id": "a"}], "expected columns and values"),
        ("", [{"item_id": "a", "stock": 0}, {"item_id": "b", "stock": "x"}], "expected a number"),
    ],
)
def test_a_wrong_value_is_a_400_and_stores_nothing(running, common_store, path, body, expected):
    client, _ = running
    with FeedbackStore(common_store) as store:
        before = store.item_values()
    answer = client.put(f"/v1/items{path}", json=body)
    assert answer.status_code == 400 and expected in answer.json()["error"]
    with FeedbackStore(common_store) as store:
        assert store.item_values() == before


def test_the_id_of_the_address_may_be_named_again(running, ids):
    client, _ = running
    answer = client.put(f"/v1/items/{ids[7]}", json={"item_id": ids[7], "stock": 2})
    assert answer.json()["values"] == 1
    assert client.get(f"/v1/items/{ids[7]}").json()["values"] == {"stock": 2}


def test_an_unknown_item_is_stored_and_told(running):
    client, _ = running
    answer = client.put("/v1/items/new", json={"stock": 0}).json()
    assert answer == {"items": 1, "values": 1, "unknown_items": 1, "unknown": ["new"]}


@pytest.mark.slow
def test_values_survive_a_restart_and_reach_other_servers(priced, store_path, ids):
    options = ServerOptions(feedback=FeedbackOptions(store_path))
    with running_server(priced, options) as one, running_server(priced, options) as other:
        first, second = (
            httpx.Client(base_url=server.rest_address, timeout=30) for server in (one, other)
        )
        gone = listed(second)[0]
        first.put(f"/v1/items/{gone}", json={"stock": 0})
        until = time.monotonic() + 5
        while gone in listed(second) and time.monotonic() < until:
            time.sleep(0.05)
        assert gone not in listed(second)
    with running_server(priced, options) as again:
        with httpx.Client(base_url=again.rest_address, timeout=30) as client:
            assert gone not in listed(client)
    # the version was never touched
    assert gone in list(Recommender.load(priced).recommend([[]], k=50, at="now")["item_id"])


def test_lists_are_whole_while_values_change(running, ids):
    client, server = running
    stopping, failures = threading.Event(), []

    def change():
        rng = np.random.default_rng(0)
        with httpx.Client(base_url=server.rest_address, timeout=30) as own:
            while not stopping.is_set():
                rows = [
                    {"item_id": ids[row], "stock": int(rng.integers(0, 2))}
                    for row in rng.choice(len(ids) - 10, 30, replace=False)
                ]
                if own.put("/v1/items", json=rows).status_code != 200:
                    failures.append("put")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(60):
            answer = client.get("/v1/recommend", params={"user": "nobody", "k": 10, "log": 0})
            if answer.status_code != 200:
                failures.append(answer.text)
    finally:
        stopping.set()
        thread.join()
    assert failures == []


def test_the_key_of_the_server_is_asked_for(priced, store_path):
    options = ServerOptions(access=Access(api_key="geheim"), feedback=FeedbackOptions(store_path))
    with running_server(priced, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            assert client.put("/v1/items/a", json={"stock": 0}).status_code == 401
            key = {"x-api-key": "geheim"}
            assert client.put("/v1/items/a", json={"stock": 0}, headers=key).status_code == 200


def test_a_server_without_a_store_says_so(server):
    answer = httpx.put(f"{server.rest_address}/v1/items/a", json={"stock": 0})
    assert answer.status_code == 404 and "--store" in answer.json()["error"]


def test_states_by_hand():
    frame = pd.DataFrame({"item_id": list("abcd"), "stock": ["1", "0", "5", ""], "下架": "是"})
    states = _States(frame, np.array([2, 4]))  # b by its stock, d because the catalogue lacks it
    assert states.withdrawn().tolist() == [2, 4]  # 下架 is 是 for all: it says something else
    states.change("stock", [0, 1], ["0", "3"])
    assert states.withdrawn().tolist() == [1, 4]
    states.change("下架", [2], ["是"])
    states.change("available", [3], ["0"])
    assert states.withdrawn().tolist() == [1, 3, 4]
