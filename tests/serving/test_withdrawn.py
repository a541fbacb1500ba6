"""Withdrawn items are in no answer of a server, asked over real sockets by gRPC and REST."""

import shutil

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from kerasrec.client.client import Client
from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.server import running_server


@pytest.fixture(scope="module")
def shop(exported_version, tmp_path_factory):
    """`(server, withdrawn ids, all ids)`; version 2, which answers, has lost every second item."""
    base = shutil.copytree(exported_version, tmp_path_factory.mktemp("shop") / "toy")
    recommender = Recommender.load(base)
    ids = list(recommender.items.ids)
    assert recommender.withdraw(ids[::2]) == len(ids[::2])
    assert recommender.save().name == "2"
    with running_server(base) as server:
        yield server, set(ids[::2]), ids


def predict(server, signature, **inputs):
    """The ids of each row, as the official stub gives them; `""` fills a list that is short."""
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name, asked.model_spec.signature_name = "toy", signature
    for name, (values, kind) in inputs.items():
        asked.inputs[name].CopyFrom(tf.make_tensor_proto(values, kind))
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(asked, timeout=60)
    assert answer.model_spec.version.value == 2
    found = tf.make_ndarray(answer.outputs["item_ids"])
    return [[one.decode() for one in row if one] for row in found]


def test_over_grpc(shop):
    server, gone, ids = shop
    # a history of withdrawn items still says what its user likes
    histories = [ids[:6], ids[:12:2], [""] * 6]
    lists = predict(server, "serving_default", history=(histories, tf.string))
    for row in lists:
        assert row and not gone & set(row)
    assert len({tuple(row) for row in lists}) == 3
    allowed = [sorted(gone)[:3] + [ids[13]]]
    lists = predict(
        server,
        "recommend",
        history=([ids[:6]], tf.string),
        timestamps=([[0] * 6], tf.int64),
        allow=(allowed, tf.string),
        deny=([[""]], tf.string),
        keep_seen=([True], tf.bool),
    )
    assert lists == [[ids[13]]]
    for row in predict(server, "similar", item_ids=([ids[0], ids[1]], tf.string)):
        assert row and not gone & set(row)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client(shop, protocol):
    server, gone, ids = shop
    address = server.grpc_address if protocol == "grpc" else server.rest_address
    with Client(address, model="toy", protocol=protocol, timeout=60) as client:
        histories = {"knows": ids[:6], "knew": ids[:12:2], "new": []}
        lists = client.recommend(histories, 50, keep_seen=True)
        assert set(lists["user_id"]) == set(histories)
        assert not gone & set(lists["item_id"])
        allowed = client.recommend(histories, 5, candidates=[*sorted(gone)[:3], ids[13]])
        assert set(allowed["item_id"]) == {ids[13]}
        similar = client.similar(ids[:4])
        assert len(similar) and not gone & set(similar["item_id"])


def test_over_rest(shop):
    server, gone, ids = shop
    body = {"inputs": {"history": [ids[:6]]}}
    answer = httpx.post(f"{server.rest_address}/v1/models/toy:predict", json=body, timeout=60)
    listed = {one for one in answer.json()["outputs"]["item_ids"][0] if one}
    assert listed and not gone & listed
