"""The routes of the feedback store over real sockets, a real server and a real SQLite file."""

import contextlib
import shutil
import sqlite3
import threading
import time
from concurrent import futures

import httpx
import pytest

from kerasrec.cli.serveverb import examples
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import Rules
from kerasrec.serving.admission import Access, Limits, Refusal
from kerasrec.serving.predictor import Target
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server

ASK = {"instances": [["a"]]}


@pytest.fixture(scope="module")
def shop(served_folder, tmp_path_factory):
    """`(client, server)` with a store; every test has users of its own."""
    feedback = FeedbackOptions(tmp_path_factory.mktemp("shop") / "feedback.db")
    options = ServerOptions(feedback=feedback, policy="all")
    with running_server(served_folder, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            yield client, server


@pytest.fixture(scope="module")
def small(base_of_module, tmp_path_factory):
    """`(client with a key, server)` with tight limits, and a key."""
    feedback = FeedbackOptions(tmp_path_factory.mktemp("small") / "feedback.db")
    limits = Limits(body_bytes=2000, concurrent=4, workers=1, seconds=1.5)
    access = Access(api_key="geheim")
    options = ServerOptions(access=access, limits=limits, feedback=feedback)
    with running_server(base_of_module, options) as server:
        key = {"x-api-key": "geheim"}
        with httpx.Client(base_url=server.rest_address, timeout=30, headers=key) as client:
            yield client, server


@pytest.fixture(scope="module")
def base_of_module(served_folder, tmp_path_factory):
    """A folder with version 1 of `served_folder` only."""
    base = tmp_path_factory.mktemp("one") / "toy"
    shutil.copytree(served_folder / "1", base / "1")
    return base


@pytest.fixture
def client(shop):
    return shop[0]


def error_of(response):
    assert list(response.json()) == ["error"] and response.json()["error"]
    return response.status_code


def said(response):
    assert error_of(response) == 400
    return response.json()["error"]


def recommend(client, user, **more):
    answer = client.get("/v1/recommend", params={"user": user, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def items(answer):
    return [row["item_id"] for row in answer["items"]]


def send(client, *events):
    answer = client.post("/v1/feedback", json=list(events))
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(**counts):
    """The whole answer to a batch."""
    return dict(stored=0, repeated=0, erased=0, unknown_items=0, events={}) | counts


def event(user, item, kind="click", **more):
    return {"user_id": user, "item_id": item, "event": kind, **more}


# --- lists ---


def test_a_click_changes_the_very_next_list(client, shop):
    before = recommend(client, "clicks")
    assert list(before) == ["request_id", "user", "model", "version", "items"]
    assert (before["user"], before["model"], before["version"]) == ("clicks", "toy", 1)
    assert [row["rank"] for row in before["items"]] == list(range(1, 11))
    scores = [row["score"] for row in before["items"]]
    assert scores == sorted(scores, reverse=True)
    clicked = items(before)[3]
    assert send(client, event("clicks", clicked)) == told(stored=1)
    after = recommend(client, "clicks")
    assert clicked not in items(after) and items(after) != items(before)
    assert after["request_id"] != before["request_id"]
    # the same as asking the version itself
    (row,) = shop[1].feedback.store.latest("clicks")
    history = {
        "history": [[clicked, ""]],
        "timestamps": [[row.timestamp, int(time.time())]],
        "allow": [[]],
        "deny": [[]],
        "keep_seen": [False],
    }
    body = {"signature_name": "recommend", "inputs": history}
    asked = client.post("/v1/models/toy:predict", json=body).json()["outputs"]
    assert asked["item_ids"][0][:10] == items(after)


def test_a_user_without_events_gets_what_is_popular(client):
    first, second = recommend(client, "nobody 1"), recommend(client, "无名")
    assert items(first) == items(second) and len(items(first)) == 10
    assert recommend(client, "nobody 1", k=50, log=0)["items"][:10] == first["items"]


def test_dislikes_are_no_interest_and_never_come_back(client):
    before = items(recommend(client, "dislikes", k=20))
    send(client, event("dislikes", before[2], "dislike"), event("dislikes", before[2], "view"))
    after = items(recommend(client, "dislikes", k=19))
    assert after == [item for item in before if item != before[2]]  # still what is popular


def test_purchases_and_what_was_seen_stay_out(client):
    first = items(recommend(client, "buys"))
    send(client, event("buys", first[0], "purchase"), event("buys", first[1], "like"))
    assert not {first[0], first[1]} & set(items(recommend(client, "buys", k=50)))


def test_consumables_may_be_listed_again(client, shop, monkeypatch):
    monkeypatch.setattr(shop[1].feedback, "rules", Rules(keep_purchased=True))
    first = items(recommend(client, "eats"))
    send(client, event("eats", first[0], "purchase"), event("eats", first[1], "like"))
    listed, rounds = items(recommend(client, "eats", k=50)), 0
    while first[0] not in listed and rounds < 3:  # 50 of 82 items: ask for what is left
        send(client, *(event("eats", item, "dislike") for item in listed))
        listed, rounds = items(recommend(client, "eats", k=50)), rounds + 1
    assert first[0] in listed and first[1] not in listed


def test_versions_and_labels(client):
    assert recommend(client, "v", label="stable")["version"] == 1
    two = recommend(client, "v", version=2, k=5, model="toy")
    assert two["version"] == 2 and len(two["items"]) == 5
    too_many = client.get("/v1/recommend", params={"user": "v", "version": 2, "k": 6})
    assert said(too_many) == (
        "k must be at most 5, the length of the lists that this version was exported with. "
        "Received: k=6."
    )
    for wrong, status in (
        ({"label": "canary"}, 400),
        ({"version": 9}, 404),
        ({"model": "no"}, 404),
        ({"version": 1, "label": "stable"}, 400),
    ):
        assert error_of(client.get("/v1/recommend", params={"user": "v", **wrong})) == status


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "expected user=ID"),
        ("user=%20", "expected user=ID"),
        ("user=" + "u" * 257, "expected user=ID"),
        ("user=a%00", "expected user=ID"),
        ("user=a&k=0", "k as a whole number from 1"),
        ("user=a&k=1.5", "k as a whole number from 1"),
        ("user=a&log=no", "log=0 or log=1"),
        ("user=a&version=one", "version as a whole number"),
        ("user=a&deny=", "deny=ITEM, of at most 256 characters"),
        ("user=a" + "&deny=x" * 1001, "at most 1000 times deny=ITEM"),
        ("user=a&top=5", "a parameter of user, k, model"),
    ],
)
def test_mistakes_in_a_question(client, query, expected):
    assert expected in said(client.get(f"/v1/recommend?{query}"))


def test_a_question_can_leave_items_out(client):
    plain = items(recommend(client, "w", k=5, log=0))
    left = items(recommend(client, "w", k=3, log=0, deny=[plain[0], plain[2], "unknown, id"]))
    assert left == [plain[1], plain[3], plain[4]]
    assert items(recommend(client, "w", k=1, log=0, deny=plain[0])) == [plain[1]]


def test_two_models_need_a_name(base, tmp_path):
    other = base.parent / "课程"
    shutil.copytree(base, other)
    options = ServerOptions(feedback=FeedbackOptions(tmp_path / "f.db"))
    with running_server([base, other], options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            assert "(toy, 课程)" in said(client.get("/v1/recommend?user=u"))
            assert recommend(client, "u", model="课程")["model"] == "课程"
        assert len(examples(server)) == 3


# --- attribution ---


def test_clicks_are_attributed_to_version_and_position(client, shop, tmp_path, monkeypatch):
    with FeedbackStore(tmp_path / "f.db") as store:
        monkeypatch.setattr(shop[1].feedback, "store", store)
        one, two = recommend(client, "a", k=4), recommend(client, "b", version=2, k=4)
        recommend(client, "c", k=4, log=0)
        for user, answer, position in (("a", one, 1), ("a", one, 3), ("b", two, 1)):
            item = items(answer)[position - 1]
            send(client, event(user, item, request_id=answer["request_id"]))
        wait_for(lambda: store.stats().events == 11)
        found, stats = client.get("/v1/feedback/stats").json(), store.stats()
        clicks = store.read(events="click", users=["a"])
    columns = ["model", "version", "impressions", "clicked", "rate"]
    assert stats.versions[columns].values.tolist() == [
        ["toy", 1, 4, 2, 0.5],
        ["toy", 2, 4, 1, 0.25],
    ]
    assert stats.positions["clicked"].tolist() == [2, 0, 1, 0] and stats.unmatched == 0
    assert clicks["position"].tolist() == [1, 3] and clicks["version"].tolist() == [1, 1]
    assert found["versions"] == stats.versions.to_dict("records")
    assert found["types"] == {"impression": 8, "click": 3}


def wait_for(happens, seconds=10):
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.02)


# --- events ---


def test_events_in_every_form_and_sent_again(client, shop):
    one = event("forms", "x", timestamp="2024-01-01")
    for body in (one, [one], {"events": [one]}):
        answer = client.post("/v1/feedback", json=body)
        assert answer.status_code == 200 and answer.json()["stored"] == (body is one)
        assert answer.json()["repeated"] == (body is not one)
    assert client.post("/v1/feedback", json=[]).json() == told()
    assert len(shop[1].feedback.store.latest("forms")) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{", "JSON Parse error"),
        ("", "JSON Parse error"),
        (b"\xff\xfe\x00", "JSON Parse error"),
        ("[" * 100_000, "too many lists"),
        ("3", "expected an event"),
        ('{"events": 3}', "expected an event"),
        ('[{"user_id": "bad", "item_id": "x"}, 7]', "event 2: expected a dict"),
        ('[{"user_id": "bad", "item_id": "x"}, {"user_id": "bad"}]', "event 2: expected a text"),
        ('{"user_id": "bad", "item_id": "x", "evnt": "click"}', "unknown field 'evnt'"),
        ('{"user_id": "bad", "item_id": "x", "event": "clik"}', "did you mean 'click'"),
        ('{"user_id": "bad", "item_id": "x", "position": 0}', "a whole number from 1"),
    ],
)
def test_what_is_malformed_is_refused_as_a_whole(client, shop, body, expected):
    assert expected in said(client.post("/v1/feedback", content=body))
    assert shop[1].feedback.store.latest("bad") == []


def test_forgotten_users_are_counted(client, shop):
    send(client, event("gone", "x", timestamp=1_700_000_000))
    shop[1].feedback.store.forget("gone")
    again = send(client, event("gone", "x", timestamp=1_700_000_000))
    assert again == told(erased=1, unknown_items=1, events={"erased": [1], "unknown_items": [1]})


def test_each_event_of_a_batch_is_answered(client, shop):
    """The numbers of those that were not simply stored; what nobody can list is stored too."""
    known = items(recommend(client, "batch", log=0))[0]
    send(client, event("batch", known, timestamp=1_700_000_000))
    sent = [event("batch", item, timestamp=1_700_000_000) for item in ("新的", known, "new")]
    answer = send(client, *sent)
    lists = {"repeated": [2], "unknown_items": [1, 3]}
    assert answer == told(stored=2, repeated=1, unknown_items=2, events=lists)
    assert [row.item_id for row in shop[1].feedback.store.latest("batch")] == [known, "新的", "new"]
    found = client.get("/v1/feedback/stats").json()["unknown"]
    assert found["items"] >= 2 and found["most"]["新的"] == 1
    page = client.get("/monitoring/prometheus/metrics").text
    outcomes = ("stored", "repeated", "erased", "unknown_item")
    assert all(f'kerasrec_feedback_events_total{{outcome="{name}"}}' in page for name in outcomes)


def test_an_event_of_the_future_is_refused_and_named(client, shop):
    sent = [event("future", "x"), event("future", "y", timestamp="2090-01-01")]
    message = said(client.post("/v1/feedback", json=sent))
    assert message.startswith("event 2: expected a time before 20") and "as timestamp" in message
    assert "2090-01-01" in message and shop[1].feedback.store.latest("future") == []
    shop[1].feedback.store.add(sent, max_ahead=None)  # as an older kerasrec did
    (first,) = items(recommend(client, "past", k=1))
    send(client, event("future", first))
    assert first not in items(recommend(client, "future", k=50))
    assert client.get("/v1/feedback/stats").json()["ahead"] == 1


def test_many_at_once_are_all_stored(client, shop):
    def add(number):
        return sum(send(client, event(f"many{number}", f"i{n}"))["stored"] for n in range(10))

    with futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 80
    assert len(shop[1].feedback.store.latest("many3")) == 10


# --- limits, keys, no store, a store that is away ---


def test_limits(small, monkeypatch):
    client, server = small
    monkeypatch.setattr(server.feedback._gate, "limit", 1)
    assert error_of(client.post("/v1/feedback", content=b" " * 3000)) == 413
    with server.predictor._slots:  # the model is busy
        with futures.ThreadPoolExecutor() as pool:
            job = pool.submit(client.get, "/v1/recommend?user=u")
            wait_for(lambda: server.feedback._gate.in_flight == 1)
            assert error_of(client.get("/v1/recommend?user=u")) == 429
            assert error_of(client.post("/v1/feedback", json=event("u", "i"))) == 429
            assert error_of(job.result()) == 504
    wait_for(lambda: server.feedback._gate.in_flight == 0)
    assert send(client, event("u", "i"))["stored"] == 1
    assert recommend(client, "u")["items"]
    page = client.get("/monitoring/prometheus/metrics").text
    assert 'code="OK",model="toy",protocol="rest",signature="recommend",version="1"' in page
    assert 'code="RESOURCE_EXHAUSTED",model="",protocol="rest",signature="feedback"' in page


def test_api_key(small):
    url = small[1].rest_address
    for path in ("/v1/recommend?user=u", "/v1/feedback/stats"):
        assert error_of(httpx.get(url + path)) == 401
    assert error_of(httpx.post(f"{url}/v1/feedback", json=event("u", "i"))) == 401
    assert "$KERASREC_API_KEY" in examples(small[1])[-1]


def test_without_a_store_the_routes_do_not_exist(server):
    with httpx.Client(base_url=server.rest_address) as client:
        for answer in (client.post("/v1/feedback", json=[]), client.get("/v1/recommend?user=u")):
            assert error_of(answer) == 404
            assert "no feedback store; start it with --store" in answer.json()["error"]
    options = ServerOptions(feedback=FeedbackOptions("x", Rules(events=0)))
    with pytest.raises(ValueError, match="between 1 and 1000"):
        with running_server(server.models["toy"].base, options):
            pass


def test_wrong_methods(client):
    assert "Malformed request: GET" in said(client.get("/v1/feedback"))
    assert "Malformed request: PUT" in said(client.put("/v1/recommend?user=u"))


def test_while_the_store_is_locked_predict_goes_on(small):
    client, server = small
    store = server.feedback.store
    with contextlib.closing(sqlite3.connect(store.name, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with futures.ThreadPoolExecutor(4) as pool:
            sent = [event("lock", f"i{n}") for n in range(4)]
            jobs = [pool.submit(client.post, "/v1/feedback", json=one) for one in sent]
            wait_for(lambda: server.feedback._gate.in_flight == 4)
            assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200
            answers = [job.result() for job in jobs]
        assert [error_of(answer) for answer in answers] == [503] * 4
        assert "out of reach" in answers[0].json()["error"]
        wait_for(lambda: server.feedback._gate.in_flight < 4)  # one is in the writer's hands
        assert recommend(client, "lock")["items"]  # reading goes on; the impressions wait
        other.execute("ROLLBACK")
    wait_for(lambda: server.feedback._gate.in_flight == 0)
    assert send(client, event("lock", "after"))["stored"] == 1
    wait_for(lambda: len(store.latest("lock", impressions=True)) >= 11)


def test_a_store_that_is_gone(shop, monkeypatch):
    client, server = shop

    def away(*_, **__):
        raise ConnectionError("connection refused by db.internal")

    with monkeypatch.context() as patch:
        # a file is held open, so what a database server does that goes away
        patch.setattr(server.feedback.store._database.engine, "connect", away)
        answers = [
            client.post("/v1/feedback", json=event("u", "i")),
            client.get("/v1/recommend?user=u"),
            client.get("/v1/feedback/stats"),
        ]
        assert [error_of(answer) for answer in answers] == [503] * 3
        assert "db.internal" not in answers[0].text + answers[1].text
        assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200
        assert client.get("/healthz").status_code == 200
    assert recommend(client, "u")["items"]


def test_statistics_are_counted_for_one_at_a_time(client, shop):
    with shop[1].feedback._counting:
        assert error_of(client.get("/v1/feedback/stats")) == 429
    found = client.get("/v1/feedback/stats").json()
    assert {"events", "users", "types", "versions", "positions"} <= set(found)


def test_impressions_that_cannot_be_stored_do_not_pile_up(shop, monkeypatch):
    client, server = shop
    monkeypatch.setattr(server.feedback, "_unlogged", 1000)
    answer = recommend(client, "piled")
    assert answer["items"] and server.feedback._unlogged == 1000
    assert server.feedback.store.latest("piled", impressions=True) == []


def test_swaps_and_clicks_at_once(shop):
    """Readers and writers of one user: every answer is whole."""
    client, server = shop
    over, wrong = threading.Event(), []

    def ask():
        with httpx.Client(base_url=server.rest_address, timeout=30) as own:
            while not over.is_set():
                answer = own.get("/v1/recommend?user=busy&k=5")
                if answer.status_code != 200 or len(answer.json()["items"]) != 5:
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        first = items(recommend(client, "busy", k=5, log=0))[0]
        send(client, event("busy", first))
        assert first not in items(recommend(client, "busy", k=5, log=0))
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_refusals_have_codes():
    from kerasrec.serving.listquery import read_events, read_query

    with pytest.raises(Refusal, match="several \\(a, b\\)"):
        read_query({"user": "u"}, ["a", "b"])
    query = read_query({"user": "u"}, ["a"])
    assert query == (Target("a", None, None, "recommend"), "u", 10, True, (), "", {})
    assert read_events(b'{"events": []}') == []


def test_a_request_has_so_many_events_at_most(client, shop, monkeypatch):
    server = shop[1]
    limits = server.predictor.limits._replace(events=3)
    monkeypatch.setattr(server.predictor, "limits", limits)
    rows = [{"user_id": "many", "item_id": f"i{number}"} for number in range(8)]
    for number in (4, 8):  # the second is not even parsed
        answer = client.post("/v1/feedback", json=rows[:number])
        assert answer.status_code == 400 and "--max-events" in answer.json()["error"]
        assert f"at most 3 events in a request. Received: {4}" in answer.json()["error"]
    assert server.feedback.store.latest("many") == []
    assert client.post("/v1/feedback", json=rows[:3]).json()["stored"] == 3
