"""What web pages may have a browser send, over a real socket; programs send no such headers."""

import contextlib
import itertools
import shutil

import httpx
import pytest

from kerasrec.serving.admission import Access
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server

EVENT = '{{"user_id": "u{}", "item_id": "C_1", "event": "purchase"}}'
NUMBERS = itertools.count()
SHOP = "https://shop.example"


@contextlib.contextmanager
def asking(base, folder, **access):
    options = ServerOptions(
        access=Access(**access), feedback=FeedbackOptions(folder / "feedback.db")
    )
    with running_server(base, options) as running:
        with httpx.Client(base_url=running.rest_address, timeout=30) as client:
            yield client, running.feedback.store


@pytest.fixture(scope="module")
def own(served_folder, tmp_path_factory):
    """A client of a server on loopback, and its store."""
    folder = tmp_path_factory.mktemp("own")
    base = shutil.copytree(served_folder / "1", folder / "toy" / "1").parent
    with asking(base, folder, origins=(SHOP,), host_names=("recs.example",)) as found:
        yield found


def add(client, **headers):
    headers = {"content-type": "application/json", **headers}
    return client.post(
        "/v1/feedback", content=EVENT.format(next(NUMBERS)), headers=headers
    ).status_code


def num_events(store):
    return store.last_seq()


def test_programs_are_let_in(own):
    client, store = own
    before = num_events(store)
    assert add(client) == 200
    assert add(client, **{"sec-fetch-site": "none"}) == 200  # typed into the address bar
    assert num_events(store) == before + 2


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null"},
        {"origin": "http://["},  # no address at all
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://shop.example.evil"},
    ],
)
def test_pages_of_other_places_write_and_read_nothing(own, headers):
    client, store = own
    before = num_events(store)
    assert add(client, **headers) == 403
    found = client.get("/v1/recommend", params={"user": "u", "k": 2}, headers=headers)
    assert found.status_code == 403 and "--allow-origin" in found.json()["error"]
    assert "access-control-allow-origin" not in found.headers
    assert num_events(store) == before  # no impressions either


def test_an_origin_that_may_asks_first_and_then_writes(own):
    client, store = own
    asked = client.options(
        "/v1/feedback",
        headers={
            "origin": SHOP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == SHOP
    assert asked.headers["access-control-allow-headers"] == "content-type"
    before = num_events(store)
    assert add(client, origin=SHOP, **{"sec-fetch-site": "cross-site"}) == 200
    assert num_events(store) == before + 1


def test_a_page_of_the_server_itself_may(own):
    client, _ = own
    host = client.base_url.netloc.decode()
    assert add(client, origin=f"http://{host}", **{"sec-fetch-site": "same-origin"}) == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_a_form_can_send_writes_nothing(own, kind):
    client, store = own
    before = num_events(store)
    old = {"content-type": kind, "user-agent": "Mozilla/5.0 (old)"}
    answer = client.post("/v1/feedback", content=EVENT.format(next(NUMBERS)), headers=old)
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]
    assert client.put("/v1/items/C_1", content='{"stock": 0}', headers=old).status_code == 415
    assert num_events(store) == before
    # TF Serving takes any form, and nothing is written
    body = '{"instances": [["a"]]}'
    answer = client.post("/v1/models/toy:predict", content=body, headers=old)
    assert answer.status_code == 200
    # `curl -d` sends a form
    curl = {**old, "user-agent": "curl/8.5.0"}
    assert (
        client.post("/v1/feedback", content=EVENT.format(next(NUMBERS)), headers=curl).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8501", 200), ("127.0.0.1", 200), ("[::1]:8501", 200), ("RECS.example", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421),
    ],
)  # fmt: skip
def test_names_that_are_not_its_own_are_refused(own, host, status):
    client, _ = own
    answer = client.get("/healthz", headers={"host": host})
    assert answer.status_code == status
    if status == 421:
        assert "--host-name" in answer.json()["error"]


def test_elsewhere_than_on_loopback_any_name_will_do(served_folder, tmp_path):
    with asking(served_folder, tmp_path, host="0.0.0.0") as (client, _):
        address = f"http://127.0.0.1:{client.base_url.port}"
        answer = httpx.get(f"{address}/healthz", headers={"host": "recs.example"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host_names": ("http://x",)}, "without scheme and port"),
        ({"origins": ("shop.example",)}, "a scheme and a host"),
        ({"origins": ("https://shop.example/page",)}, "a scheme and a host"),
    ],
)
def test_wrong_names_are_told(given, message):
    with pytest.raises(ValueError, match=message):
        Access(**given).check()
