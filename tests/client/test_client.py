"""The client against `serve`, over both protocols: the answers are those of `Recommender`."""

import httpx
import numpy as np
import pandas as pd
import pytest

import kerasrec
from kerasrec.client.client import Client
from kerasrec.serving.server import running_server

PROTOCOLS = ("grpc", "rest")


@pytest.fixture
def model(served_folder):
    return served_folder


@pytest.fixture(scope="module")
def recommender(served_folder):
    return kerasrec.Recommender.load(served_folder / "1")


def address(server, protocol):
    return server.grpc_address if protocol == "grpc" else server.rest_address


@pytest.fixture(params=PROTOCOLS)
def client(server, request):
    options = {"model": "toy", "version": 1, "timeout": 60, "batch_size": 40}
    with Client(address(server, request.param), protocol=request.param, **options) as client:
        yield client


def same(found, expected):
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected) > 0
    for column in expected.columns.drop("score"):
        assert found[column].tolist() == expected[column].tolist(), column
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)


def test_lists_of_a_log_in_batches(client, recommender, toy_interactions):
    same(client.recommend(toy_interactions, k=7), recommender.recommend(toy_interactions, k=7))


def test_lists_of_ragged_histories(client, recommender):
    ids = list(recommender.items.ids)
    histories = {"a": ids[:4], "nobody": [], "b": ids[9:8:-1], "c": ["no such item", ids[7]]}
    same(client.recommend(histories, 5), recommender.recommend(histories, k=5))
    options = {"deny": ids[20:25], "keep_seen": True}
    same(
        client.recommend(histories, 5, candidates=ids[:24], **options),
        recommender.recommend(histories, k=5, candidates=ids[:24], **options),
    )


def test_allow_is_the_old_name_of_candidates(client, recommender):
    ids = list(recommender.items.ids)
    with pytest.warns(DeprecationWarning, match="Write candidates=... instead") as warned:
        found = client.recommend([ids[:2]], allow=ids[:24])
    assert [warning.filename for warning in warned] == [__file__]
    pd.testing.assert_frame_equal(found, client.recommend([ids[:2]], candidates=ids[:24]))
    with pytest.raises(ValueError, match="Give candidates; allow is its old name"):
        client.recommend([ids[:2]], allow=ids[:24], candidates=ids[:24])
    with pytest.warns(DeprecationWarning, match="Client.generate.allow=...."):
        with pytest.raises(ValueError, match="candidates must name items"):
            client.generate([ids[:2]], allow=[])


def test_times_count(client, recommender, toy_interactions):
    frame = toy_interactions.frame.head(30).sort_values("timestamp")
    rows = frame.groupby("user_id", observed=True)
    histories = {user: part["item_id"].tolist() for user, part in rows}
    times = {user: part["timestamp"].tolist() for user, part in rows}
    expected = recommender.recommend(toy_interactions.replace(frame), k=5)
    same(client.recommend(histories, 5, timestamps=times), expected)


def test_a_table_is_read_as_a_log(client, recommender, toy_interactions):
    """Rows in any order: its times say which event is the newest, and when a list is asked for."""
    frame = toy_interactions.frame.head(30)
    log = frame[["user_id", "item_id", "timestamp"]].astype({"user_id": str, "item_id": str})
    shuffled = client.recommend(log.sample(frac=1, random_state=0), 5)
    expected = recommender.recommend(toy_interactions.replace(frame), k=5)
    same(*(t.sort_values(["user_id", "rank"], ignore_index=True) for t in (shuffled, expected)))
    with pytest.raises(ValueError, match="item_id"):
        client.recommend(log[["user_id"]])


def test_one_rows_list_does_not_depend_on_its_batch(client, recommender):
    """Rows of a request are padded; nothing of it may count."""
    ids = list(recommender.items.ids)
    together = client.recommend([ids[:2], ids[:30]], 5)
    same(together[together["user_id"] == 0], client.recommend([ids[:2]], 5))


def test_similar_score_vectors(client, recommender):
    ids = list(recommender.items.ids)
    same(client.similar(ids[:50], 3), recommender.similar(ids[:50], k=3))
    assert client.similar(ids[0])["query"].unique().tolist() == [ids[0]]
    histories = [ids[:3], ids[4:5]]
    np.testing.assert_allclose(
        client.interest(histories), recommender.interests(histories), atol=1e-5
    )
    vectors = client.item_vectors([*ids, "unknown"])
    np.testing.assert_allclose(vectors, recommender.item_vectors([*ids, "unknown"]), atol=1e-6)
    assert vectors.dtype == np.float32 and not vectors[-1].any()
    best = client.recommend(histories, 2)
    scored = client.score(histories, [best["item_id"][:2].tolist(), ["unknown"]])
    assert scored["user_id"].tolist() == [0, 0, 1]
    np.testing.assert_allclose(scored["score"][:2], best["score"][:2], atol=1e-4)
    assert scored["score"][2] == float("-inf")


@pytest.fixture
def sent(client, monkeypatch):
    """`[(signature, inputs), ...]` of the requests of `client`."""
    asked, predict = [], client._transport.predict

    def noted(signature, inputs, seconds):
        asked.append((signature, inputs))
        return predict(signature, inputs, seconds)

    monkeypatch.setattr(client._transport, "predict", noted)
    return asked


def test_a_long_history_does_not_fail_the_call(client, recommender, sent):
    """The newest events are sent; what is older was seen, and is not listed either."""
    ids = list(recommender.items.ids)
    long = [*ids[:60], *(f"gone {number}" for number in range(1440)), *ids[60:63]]
    lists = client.recommend({"one": long, "other": ids[:2]}, 5)
    assert sent[0][0] == "recommend" and sent[0][1]["history"].shape == (2, 1000)
    of_one = lists.loc[lists["user_id"] == "one", "item_id"]
    assert len(of_one) == 5 and not set(of_one) & set(long)
    same(lists[lists["user_id"] == "other"], recommender.recommend({"other": ids[:2]}, k=5))
    times = {"one": list(range(1, len(long) + 1)), "other": [5, 6]}
    timed = client.recommend({"one": long, "other": ids[:2]}, 5, timestamps=times)
    assert len(timed) == 10
    assert sent[-1][1]["timestamps"][0, -2:].tolist() == [1502, 1503]
    again = client.recommend([long], 50, keep_seen=True)
    assert set(again["item_id"]) & set(ids[:60])
    newest = long[-999:]
    np.testing.assert_allclose(client.interest([long]), client.interest([newest]), atol=1e-6)
    same(client.score([long], ids[:3]), client.score([newest], ids[:3]))


def test_long_lists_go_in_several_requests(client, recommender, sent):
    """A server takes so many values and bytes; many ids of the caller's are parted, not refused."""
    ids = list(recommender.items.ids)
    deny = [*ids[:5], *(f"gone {number}" for number in range(30_000))]
    lists = client.recommend([ids[20:22]] * 5, 3, deny=deny)
    assert [len(inputs["deny"]) for _, inputs in sent] == [2, 2, 1]
    same(lists, recommender.recommend([ids[20:22]] * 5, k=3, deny=ids[:5]))


def test_numbers_stand_for_their_texts(client):
    assert not client.item_vectors([1, "2", np.int64(3)]).any()
    assert len(client.recommend([[1, 2]], 3)) == 3
    assert client.score([[]], [1, 2])["item_id"].tolist() == ["1", "2"]


def test_an_unknown_item_without_similar_ones_is_logged(client, recommender, caplog):
    found = client.similar([recommender.items.ids[0], 7], 3)
    assert len(found) == 3
    assert "1 of 2 items are unknown to the server and have no similar ones: '7'" in caplog.text


def test_nothing_asked_nothing_answered(client):
    assert list(client.recommend([]).columns) == ["user_id", "item_id", "rank", "score"]
    assert client.recommend([]).empty and client.similar([]).empty
    assert client.item_vectors([]).shape[0] == 0


def test_texts(client, model):
    """Titles that the model never saw, where the version takes texts."""
    from kerasrec.versions.warmup import read_signatures

    if "recommend_by_text" in read_signatures(model / "1"):
        lists = client.recommend_by_text({"a": ["高等数学", "线性代数"]}, 5)
        assert lists["rank"].tolist() == [1, 2, 3, 4, 5]
        assert client.encode_items(["高等数学"]).shape[0] == 1
    else:
        with pytest.raises((ValueError, LookupError), match="said .*recommend_by_text"):
            client.recommend_by_text([["高等数学"]])


def test_status_version_and_label(client, server):
    status = client.status()
    assert status[["version", "state"]].to_numpy().tolist() == [[1, "AVAILABLE"]]
    for protocol in PROTOCOLS:
        target, options = address(server, protocol), {"model": "toy", "protocol": protocol}
        for which, length in (({"version": 2}, 5), ({"label": "stable"}, 50)):
            with Client(target, **options, **which) as one:
                assert one.recommend([[]])["rank"].max() == length
        with Client(target, **options) as every:
            assert every.status()["version"].tolist() == [1, 2]


def test_the_server_is_quoted(client, server):
    for protocol in PROTOCOLS:
        target = address(server, protocol)
        with Client(target, model="none", protocol=protocol) as wrong:
            with pytest.raises(LookupError, match=f"{target} said NOT_FOUND: .*none"):
                wrong.recommend([[]])


# --- plans ---


@pytest.fixture(scope="module")
def planning_server(planning_version):
    with running_server(planning_version) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def planner(planning_server, request):
    options = {"model": "plans", "timeout": 60, "batch_size": 2, "protocol": request.param}
    with Client(address(planning_server, request.param), **options) as client:
        yield client


@pytest.fixture(scope="module")
def planning(planning_version):
    return kerasrec.Recommender.load(planning_version)


def same_plans(found, expected):
    assert list(found.columns) == ["user_id", "rank", "item_id", "log_probability"]
    assert len(found) == len(expected) > 0
    for column in ("user_id", "rank", "item_id"):
        assert found[column].tolist() == expected[column].tolist(), column
    np.testing.assert_allclose(found["log_probability"], expected["log_probability"], atol=1e-4)


def test_plans_are_those_of_the_recommender(planner, planning, toy_interactions):
    ids = list(planning.items.ids)
    histories = {"a": ids[:4], "nobody": [], "b": ids[9:8:-1], "c": ["no such item", ids[7]]}
    same_plans(planner.generate(histories), planning.generate(histories))
    found = planner.generate(histories, candidates=ids[:14], deny=ids[10:12])
    same_plans(found, planning.generate(histories, candidates=ids[:14], deny=ids[10:12]))
    log = toy_interactions.frame[toy_interactions.frame["user_id"].cat.codes < 5]
    some = toy_interactions.replace(log)
    same_plans(planner.generate(some), planning.generate(some))
    assert planner.generate([]).empty and planner.generate([ids]).empty


def test_plans_under_a_condition(planner, planning):
    ids = list(planning.items.ids)
    histories = [ids[:4], [], ids[9:8:-1]]
    schools = list(planning.items.frame["category"].value_counts().index)
    # few items, most items, all of them, none
    for where in (
        {"category": schools[0]},
        {"not": {"category": schools[0]}},
        {"item_id": {"exists": True}},
    ):
        same_plans(
            planner.generate(histories, where=where), planning.generate(histories, where=where)
        )
    assert planner.generate(histories, where={"category": "no such"}).empty
    where, few = {"category": schools[0]}, ids[:40]
    found = planner.generate(histories, where=where, candidates=few, deny=ids[20:30])
    expected = planning.generate(histories, where=where, candidates=few, deny=ids[20:30])
    same_plans(found, expected)
    with pytest.raises(Exception, match="Did you mean 'category'"):
        planner.generate(histories, where={"categry": "x"})


def test_a_condition_for_each_row(planning_server, planning):
    ids = list(planning.items.ids)
    schools = list(planning.items.frame["category"].value_counts().index)
    inputs = {
        "history": [[ids[0]], [ids[1]], [ids[0]]],
        "timestamps": [[0], [0], [0]],
        **{"allow": [[""]] * 3, "deny": [[""]] * 3},
        **{"temperature": [0.0] * 3, "top_p": [1.0] * 3, "seed": [0] * 3},
        "where": [{"category": schools[1]}, {"category": schools[0]}, {"category": schools[1]}],
    }
    body = {"signature_name": "generate", "inputs": inputs}
    path = f"{planning_server.rest_address}/v1/models/plans:predict"
    answer = httpx.post(path, json=body, timeout=60).json()["outputs"]["item_ids"]
    for row, school in enumerate((schools[1], schools[0], schools[1])):
        history = [inputs["history"][row]]
        expected = planning.generate(history, where={"category": school})["item_id"].tolist()
        assert [item for item in answer[row] if item] == expected


@pytest.mark.slow
def test_plans_in_order(ordered_version):
    recommender = kerasrec.Recommender.load(ordered_version)
    ids = list(recommender.items.ids)
    with running_server(ordered_version) as server:
        with Client(server.rest_address, model="ordered", timeout=60, protocol="rest") as client:
            given = dict(candidates=[ids[2], ids[5], ids[6]], order=True)
            found = client.generate([[], [ids[1]]], **given)
            expected = recommender.generate([[], [ids[1]]], **given)
            same_plans(found, expected.drop(columns=["list", "missing"]))
            assert found["item_id"].tolist()[:2] == [ids[5], ids[6]]


def test_drawn_plans_are_those_of_the_recommender(planner, planning, toy_interactions):
    ids = list(planning.items.ids)
    draws = dict(temperature=1.0, top_p=0.9)
    rows = [ids[:4]] * 5  # in three requests
    for seed in (3, -7, 2**40):
        same_plans(
            planner.generate(rows, seed=seed, **draws), planning.generate(rows, seed=seed, **draws)
        )
    found = planner.generate(rows, seed=3, **draws).groupby("user_id")["item_id"].agg(tuple)
    assert found.nunique() > 1
    # a user draws the same whoever is asked for besides
    named = {"b": ids[:4], "课": [], 7: ids[:4]}
    whole = planner.generate(named, seed=3, **draws)
    same_plans(whole, planning.generate(named, seed=3, **draws))
    alone = planner.generate({"课": []}, seed=3, **draws)["item_id"].tolist()
    assert alone == whole[whole["user_id"] == "课"]["item_id"].tolist()
    log = toy_interactions.frame[toy_interactions.frame["user_id"].cat.codes < 4]
    some = toy_interactions.replace(log)
    same_plans(planner.generate(some, **draws), planning.generate(some, **draws))
    likeliest = planner.generate([ids[:4]] * 2, temperature=1.0, top_p=0.0)
    expected = planning.generate([ids[:4]], 5, temperature=1.0, top_p=0.0)["item_id"].tolist()
    assert likeliest["item_id"].tolist() == expected * 2


def test_plans_of_a_history_too_long_to_be_sent(planner, planning):
    ids = list(planning.items.ids)
    history = [*ids[:60], *[ids[60]] * 999]
    found = planner.generate([history])
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] and not set(found["item_id"]) & set(history)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -1}, "temperature must be a number, 0 or above. Received: -1."),
        ({"temperature": "1"}, "temperature must be a number, 0 or above. Received: '1'."),
        ({"temperature": float("nan")}, "temperature must be a number, 0 or above. Received: nan."),
        ({"top_p": 1.5}, "top_p must be a number, from 0 to 1. Received: 1.5."),
        ({"seed": 0.5}, "seed must be a whole number. Received: 0.5."),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_draws_are_refused_before_any_request(protocol, given, message):
    # nobody is there: a request would be a ConnectionError
    with Client("localhost:1", model="plans", protocol=protocol, retries=0) as client:
        with pytest.raises(ValueError) as raised:
            client.generate([[]], **given)
    assert str(raised.value) == message


def test_a_server_without_a_generator_says_so(client):
    with pytest.raises((ValueError, LookupError), match="said .*generate"):
        client.generate([[]])


def test_plans_over_plain_rest(planning_server, planning):
    ids = list(planning.items.ids)
    row = {
        **{"history": ids[:3], "timestamps": [0, 0, 0], "allow": [""], "deny": [""]},
        **{"temperature": 0.0, "top_p": 1.0, "seed": 0},
    }
    answer = httpx.post(
        f"{planning_server.rest_address}/v1/models/plans:predict",
        json={"signature_name": "generate", "instances": [row, row]},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    one, other = answer.json()["predictions"]
    assert one == other and set(one) == {"item_ids", "log_probabilities"}
    expected = planning.generate([ids[:3]])
    assert one["item_ids"] == expected["item_id"].tolist()
    np.testing.assert_allclose(one["log_probabilities"], expected["log_probability"], atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.recommend([[]], 51), "k must be at most 50, .* Received: k=51"),
        (lambda c: c.recommend([[]], 0), "k must be a whole number of at least 1. Received: 0"),
        (lambda c: c.recommend(["C_1"]), "histories must be a list of histories"),
        (lambda c: c.recommend([[]], candidates=[]), "candidates must name items"),
        (lambda c: c.recommend([["a"]], timestamps=[[]]), "one time for each item"),
        (lambda c: c.score([[]], [["a"], ["b"]]), "one per history .1.. Received: 2"),
        (lambda c: c.encode_items("text"), "texts must be a list .* Received: the text 'text'"),
        (lambda c: c.encode_items([1]), "texts must hold texts .str.. Received: 1 among them"),
        (lambda c: c.encode_items(None), "texts must be a list of texts. Received: None"),
        (lambda c: c.recommend([["a", None]]), "a history must hold ids, .* Received: None among"),
        (lambda c: c.item_vectors([float("nan")]), "item_ids must hold ids, .* Received: nan"),
        (lambda c: c.similar(None), "item_ids must hold ids, texts or numbers. Received: None"),
        (lambda c: c.recommend([[]], deny="a"), "deny must be a list of ids. .* the text 'a'"),
        (lambda c: c.recommend_by_text("课"), r"recommend_by_text.\[\[.*Received: the text '课'"),
        (lambda c: c.recommend_by_text(["课"]), r"write recommend_by_text.\[\[.*list with .*'课'"),
        (lambda c: c.recommend_by_text([[1]]), "a history of texts must hold texts .*Received: 1"),
    ],
)
def test_mistakes_of_the_caller(client, call, message):
    with pytest.raises(ValueError, match=message):
        call(client)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "http"}, "protocol must be 'grpc' or 'rest'. Received: 'http'"),
        ({"version": 1, "label": "stable"}, "Give version or label, not both"),
        ({"retries": -1}, "retries at least 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Client("localhost:1", model="m", **options)


def test_key_and_tls(base, certificate):
    from kerasrec.serving import Access, ServerOptions, running_server

    authority, cert, key = certificate
    access = Access(api_key="secret", tls_cert=str(cert), tls_key=str(key))
    with running_server(base, ServerOptions(access=access)) as server:
        for protocol in PROTOCOLS:
            options = {"model": "toy", "protocol": protocol, "ca": authority, "retries": 0}
            target = address(server, protocol)
            with Client(target, api_key="secret", **options) as client:
                assert client.status()["state"].tolist() == ["AVAILABLE"]
                assert len(client.recommend([[]], 3)) == 3
            with Client(target, api_key="wrong", **options) as client:
                with pytest.raises(PermissionError, match="said (UNAUTHENTICATED|PERMISSION)"):
                    client.status()
            options["retries"] = 3
            with Client(target, api_key="secret", **{**options, "ca": True}) as client:
                with pytest.raises(ConnectionError, match="is not trusted: give ca=") as refused:
                    client.status()
                assert "tries" not in str(refused.value)
            bare = target.removeprefix("https://")
            with Client(bare, **{**options, "ca": None, "retries": 0}) as client:
                with pytest.raises(ConnectionError, match="if the server speaks TLS, give ca="):
                    client.status()


def test_tls_at_a_server_without(server, certificate):
    for protocol in PROTOCOLS:
        target = address(server, protocol).removeprefix("http://")
        with Client(target, model="toy", protocol=protocol, ca=certificate[0]) as client:
            with pytest.raises(ConnectionError, match=r"no TLS is spoken there: leave ca out\)$"):
                client.status()


def test_serving_has_it_too():
    from kerasrec.serving import server as serving

    assert serving.Client is kerasrec.Client is Client


def test_few_texts_a_request(monkeypatch):
    """Each costs a pass through the encoder: more would not end before the deadline."""
    client, shapes = Client("localhost:1", model="m", protocol="rest"), []

    def predict(signature, inputs, seconds):
        (array,) = inputs.values()
        shapes.append(array.shape)
        rows = len(array)
        if signature == "encode_items":
            return {"vectors": np.ones((rows, 2))}
        return {"item_ids": np.full((rows, 1), "i", object), "scores": np.ones((rows, 1))}

    monkeypatch.setattr(client._transport, "predict", predict)
    assert client.encode_items(["课"] * 40).shape == (40, 2)
    assert shapes == [(16,), (16,), (8,)]
    shapes.clear()
    assert len(client.recommend_by_text([["课"] * 5] * 7)) == 7
    assert shapes == [(3, 6), (3, 6), (1, 6)]
    client.close()


# --- the loop ---


@pytest.fixture(scope="module")
def shop(served_folder, tmp_path_factory):
    from kerasrec.serving import FeedbackOptions, ServerOptions, running_server

    feedback = FeedbackOptions(tmp_path_factory.mktemp("shop") / "feedback.db")
    with running_server(served_folder, ServerOptions(feedback=feedback)) as server:
        yield server


def test_feedback_changes_the_next_list(shop):
    options = dict(model="toy", protocol="rest", timeout=60)
    with Client(shop.rest_address, **options) as client:
        before = client.recommend_for("u 1", k=5)
        assert list(before.columns) == ["user_id", "item_id", "rank", "score"]
        assert before["user_id"].unique().tolist() == ["u 1"] and len(before) == 5
        assert before.attrs["model"] == "toy" and before.attrs["version"] == 1
        clicked = before["item_id"][2]
        click = {"user_id": "u 1", "item_id": clicked, "timestamp": np.int64(1_700_000_000)}
        click["request_id"] = before.attrs["request_id"]
        click["value"] = np.nan  # missing, as in pandas
        told = {"stored": 1, "repeated": 0, "erased": 0, "unknown_items": 0, "events": {}}
        assert client.feedback(click) == told
        assert client.feedback([click])["repeated"] == 1
        assert client.feedback([])["stored"] == 0
        after = client.recommend_for("u 1", k=5, log=False)
        assert clicked not in set(after["item_id"])
        with pytest.raises(ValueError, match="event 1: unknown field 'time'"):
            client.feedback({"user_id": 1, "item_id": 2, "time": 3})
        with pytest.raises(ValueError, match="event 1: expected a finite number as value"):
            client.feedback({"user_id": 1, "item_id": 2, "value": np.inf})
        with pytest.raises(ValueError, match="a dict or a list"):
            client.feedback("click")
        with pytest.raises(ValueError, match="k must be at most 50"):
            client.recommend_for("u 1", k=51)
    with Client(shop.rest_address, version=2, **options) as client:
        assert client.recommend_for("u 1", k=5).attrs["version"] == 2
    with Client(shop.rest_address, label="canary", **options) as client:
        with pytest.raises(ValueError, match="canary"):
            client.recommend_for("u 1")


def test_the_loop_is_spoken_over_rest_only(server):
    with Client(server.grpc_address, model="toy") as client:
        with pytest.raises(ValueError, match='feedback needs .* protocol="rest"'):
            client.feedback([])
        with pytest.raises(ValueError, match='recommend_for needs .* protocol="rest"'):
            client.recommend_for("u")
    with Client(server.rest_address, model="toy", protocol="rest") as client:
        with pytest.raises(LookupError, match="no feedback store"):
            client.recommend_for("u")
