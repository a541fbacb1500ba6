"""The shared fixtures: toy data, a planted pattern, a tiny BERT and a tiny exported version."""

import gc
import importlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pandas as pd
import postgres
import pytest
from cputimes import CpuTimes
from numpybert import make_config, make_weights, vocabulary, write_tf_folder
from places import SHARED
from toys import (
    clustered,
    files_of,
    made_once,
    newest_alone,
    once_for_each_structure,
    planted_histories,
    tiny_options,
)

from kerasrec.data.datasets import load_mooccube


def pytest_configure(config):
    config.pluginmanager.register(CpuTimes(config), "cputimes")
    gc.set_threshold(50_000, 20, 20)  # graphs are many small objects: looked through less often


@pytest.fixture(scope="module", autouse=True)
def swept():
    """Graphs are cycles: without a collection after each file a worker had 9 GB in the end."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory):
    """A folder of this session, the same for all workers of pytest-xdist."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("common")
    folder = tmp_path_factory.getbasetemp().parent / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def shared_versions_stay_as_they_are(common_folder):
    """What `made_once` made belongs to all tests: files of tests that write into it fail."""
    roots = [path.with_suffix("") for path in common_folder.glob("*.pickle")]
    before = {root: files_of(root) for root in roots}
    yield
    changed = [root.name for root in roots if files_of(root) != before[root]]
    assert not changed, f"tests wrote into the shared {', '.join(changed)}: copy it before"


@pytest.fixture(scope="session", autouse=True)
def own_cache(common_folder):
    """Vector caches of the tests go into a folder of their own, so that no text is encoded twice.

    Subprocesses and the kernels of notebooks use it too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASREC_CACHE", str(common_folder / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def started(own_cache):
    """TensorFlow, in a worker of pytest-xdist: the test that is first there need not pay for it.

    Exported versions are compared in this process, not in one of their own: that is the subject of
    test_exporter alone, and of `trained`. The tests load what they export, so that here the first
    version of each structure is enough: the same signatures and the same variables. Grappler, which
    makes a graph quicker before its first run, is off: the graphs here are tiny and run a few
    times, so it took a third of all CPU seconds (test_build: 79 s with it, 49 s without). Processes
    that tests start have it, as users do.
    """
    name = "kerasrec.versions.exporter"
    if "PYTEST_XDIST_WORKER" in os.environ or name in sys.modules:
        exporter = importlib.import_module(name)
        tf = importlib.import_module("tensorflow")
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        gc.freeze()  # what is there now stays: no collection looks through it again
        with exporter.compared_by(once_for_each_structure(exporter.compare_here)):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL server; where none can be started the test is skipped and says why.

    Not where KERASREC_NEEDS_POSTGRES is set, as in CI that has installed it: there it fails.
    """
    try:
        with postgres.running() as server:
            yield server
    except postgres.Unavailable as reason:
        if os.environ.get("KERASREC_NEEDS_POSTGRES"):
            raise
        pytest.skip(f"no PostgreSQL: {reason}")


@pytest.fixture(scope="session")
def shared_data():
    """The real data beside the repository; where there is none the test is skipped and says so.

    Not where KERASREC_NEEDS_SHARED is set, as in CI that has found it: there it fails.
    """
    if not SHARED.is_dir():
        reason = "no ../shared/data beside the repository: its corpora are not compared"
        if os.environ.get("KERASREC_NEEDS_SHARED"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


# --- Toy data: a slice of the packaged mooccube ---


@pytest.fixture(scope="session")
def toy_interactions():
    """The enrolments of 150 learners in the 80 courses that the whole data set likes best."""
    interactions, _ = load_mooccube()
    frame = interactions.frame
    popular = frame["item_id"].value_counts().index[:80]
    learners = frame["user_id"].cat.categories[:150]
    return interactions.replace(
        frame[frame["item_id"].isin(popular) & frame["user_id"].isin(learners)]
    )


@pytest.fixture(scope="session")
def toy_items(toy_interactions):
    """The courses of `toy_interactions` and two more, without events, at the end."""
    from kerasrec.data.interactions import Items

    frame = load_mooccube()[1].frame
    taken = frame["item_id"].isin(toy_interactions.frame["item_id"].cat.categories)
    rows = np.concatenate([np.flatnonzero(taken), np.flatnonzero(~taken)[:2]])
    return Items(frame.iloc[rows].reset_index(drop=True))


@pytest.fixture(scope="session")
def toy_histories(toy_interactions, toy_items):
    """`Histories` of `toy_interactions`."""
    from kerasrec.data.histories import make_histories

    return make_histories(toy_interactions, toy_items)


@pytest.fixture(scope="session")
def planted():
    """`planted_histories()`: 90 users, 30 items."""
    return planted_histories()


# --- A tiny BERT: 2 layers, width 16, random weights ---


@pytest.fixture(scope="session")
def tiny_bert_folder(toy_items, tmp_path_factory):
    """Google-style checkpoint folder of a tiny BERT that knows the characters of `toy_items`."""
    vocab = vocabulary(toy_items.texts())
    config = make_config("bert", len(vocab))
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-bert"
    return write_tf_folder(folder, "bert", config, make_weights("bert", config), vocab)


@pytest.fixture
def tiny_bert(tiny_bert_folder):
    """A fresh encoder of `tiny_bert_folder`."""
    from kerasrec.text.encoders import build_encoder

    return build_encoder(tiny_bert_folder, max_tokens=24)


# --- A tiny exported version ---


@pytest.fixture(scope="session")
def trained(toy_interactions, toy_items, common_folder):
    """What `kerasrec.train` gives back for a tiny model, called toy, on the toy data."""
    from kerasrec.training.pipeline import train
    from kerasrec.versions.exporter import compare_in_a_process, compared_by

    options = {
        "encoder": {"name": "tfidf", "whitening_dim": 16},
        "model": {"text_units": 8, "id_units": 8, "max_length": 20, "scorer_units": 8},
        "trainer": {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2},
    }
    given = dict(name="toy", options=options, progress=False)

    def make(folder):
        with compared_by(compare_in_a_process):  # as users have it
            return train(toy_interactions, toy_items, out=folder / "saved_models", **given)

    return made_once(common_folder, "toy", make)


@pytest.fixture(scope="session")
def exported_version(trained):
    """Path of `saved_models/toy`, which holds version 1. Tests must not change it: copy it."""
    return trained.version.parent


# --- A tiny version that generates plans ---


@pytest.fixture(scope="session")
def planning_version(toy_interactions, toy_items, common_folder):
    """Path of `saved_models/plans`, version 1, with a generator. Tests must not change it."""
    from kerasrec.training.pipeline import train

    options = {
        "encoder": {"name": "tfidf", "whitening_dim": 16},
        "model": {"text_units": 8, "id_units": 8, "max_length": 20, "scorer_units": 8},
        "trainer": {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2},
        "fusion": {"parts": ["transitions", "recency"]},
        "generator": {
            **{"levels": 2, "max_items": 12, "units": 16, "num_blocks": 1, "heads": 2},
            **{"epochs": 2, "learning_rate": 1e-2},
        },
    }
    given = dict(name="plans", options=options, generator=True, progress=False)

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            # both have a say, though so small a decoder had better be left out
            patch.setattr("kerasrec.training.generating.TRUSTS", ((0.5, 0.5), (1, 0.2)))
            found = train(toy_interactions, toy_items, out=folder / "saved_models", **given)
        return found.version.parent

    return made_once(common_folder, "plans", make)


@pytest.fixture(scope="session")
def ordered_version(planning_version, common_folder):
    """Path of `saved_models/ordered`, version 1: `planning_version` with an order.

    By rows of the catalogue, from 0: 2 needs 1, 4 needs 2 and 3, and 6 needs 5.
    """
    from dataclasses import replace

    from kerasrec.recommender.recommender import Recommender
    from kerasrec.versions.exporter import export
    from kerasrec.versions.trainingstate import Rebuilt

    def make(folder):
        plain = Recommender.load(planning_version)
        rebuilt = Rebuilt(plain.loaded.folder, plain.items)
        ids, column = list(plain.items.ids), [""] * len(plain.items)
        column[2], column[4], column[6] = ids[1], f"{ids[2]}\x1f{ids[3]}", ids[5]
        frame = plain.items.frame.assign(prerequisite=column)
        found = export(
            rebuilt.model,
            folder / "saved_models" / "ordered",
            items=replace(plain.items, frame=frame, order="prerequisite"),
            manifest={"text_template": plain.about.template},
            encoder=rebuilt.encoder,
            whitening=rebuilt.state.whitening,
            fusion=plain.fusion(),
            generator=plain.plans.generator(),
        )
        return found.parent

    return made_once(common_folder, "ordered", make)


# --- A version that knows groups of users ---


@pytest.fixture(scope="session")
def town():
    """60 users of three cities, who choose items of their city alone: log, catalogue, users."""
    from kerasrec.data.sources import read_interactions, read_items, read_users

    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{3 * rng.integers(0, 10) + user % 3}", 1_700_000_000 + 1000 * user + step)
        for user in range(60)
        for step in range(6)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    ids = [f"i{n}" for n in range(30)]
    items = pd.DataFrame({"item_id": ids, "title": [""] * 30, "stock": ["5", "7"] * 15})
    users = pd.DataFrame(
        {
            "uid": [f"u{n}" for n in range(60)],
            "城市": [["北京", "上海", "广州"][n % 3] for n in range(60)],
            "age": [str(20 + n * 7 % 40) for n in range(60)],
            "tags": ["甲|乙" if n % 2 else "乙" for n in range(60)],
        }
    )
    return read_interactions(log), read_items(items, titles=False), read_users(users)


@pytest.fixture(scope="session")
def town_version(town, common_folder):
    """Version 1 of `saved_models/town`, with groups of users. Tests must not change it."""
    from kerasrec.training.pipeline import train

    interactions, items, users = town
    options = tiny_options({"name": "none"}, sequence=newest_alone)
    given = dict(name="town", options=options, progress=False, users=users, ask="newest")

    def make(folder):
        return train(interactions, items, out=folder / "saved_models", **given).version

    return made_once(common_folder, "town", make)


# --- The toy model, and what happens after its log ---


@pytest.fixture
def toy_base(exported_version, tmp_path):
    """A copy of the toy model, to write into."""
    import shutil

    return shutil.copytree(exported_version, tmp_path / "saved_models" / "toy")


@pytest.fixture(scope="session")
def grown_items(toy_items):
    """The toy catalogue, shuffled, with three new courses."""
    from kerasrec.data.interactions import Items

    new = pd.DataFrame(
        {
            "item_id": ["new-1", "new-2", "new-3"],
            "title": ["深度学习与推荐系统", "唐诗宋词鉴赏", ""],
        }
    )
    frame = toy_items.frame.sample(frac=1, random_state=0)
    return Items(pd.concat([frame, new], ignore_index=True).fillna(""))


@pytest.fixture(scope="session")
def week_log(toy_interactions):
    """The toy log, and a week in which 70 learners, 10 of them new, take what others took."""
    from kerasrec.data.sources import read_interactions

    day, old = 86400, toy_interactions.frame
    rng = np.random.default_rng(0)
    newest = int(old["timestamp"].max())
    popular = old["item_id"].value_counts().index[:30].tolist() + ["new-1"] * 10 + ["new-2"] * 3
    learners = old["user_id"].cat.categories[:60].tolist() + [f"newcomer-{n}" for n in range(10)]
    rows = [
        (user, item, newest + int(second))
        for user in learners
        for item in rng.choice(popular, 4, replace=False)
        for second in rng.integers(1, 7 * day, 1)
    ]
    new = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    whole = pd.concat([old[["user_id", "item_id", "timestamp"]].astype({"user_id": str}), new])
    return read_interactions(whole.drop_duplicates(["user_id", "item_id"]).reset_index(drop=True))


# --- A running server ---


@pytest.fixture(scope="session")
def served_folder(exported_version, common_folder):
    """`saved_models/toy` with versions 1 (lists of 50) and 2 (lists of 5), stable = 1. Copy it."""
    import shutil

    from kerasrec.versions.derive import export_again
    from kerasrec.versions.folders import write_label

    def make(folder):
        base = folder / "saved_models" / "toy"
        shutil.copytree(exported_version, base)
        export_again(base, k=5)
        write_label(base, "stable", 1)
        return base

    return made_once(common_folder, "served", make)


@pytest.fixture
def base(served_folder, tmp_path):
    """A folder of its own with version 1 of `served_folder` (lists of 50) only."""
    import shutil

    base = tmp_path / "saved_models" / "toy"
    base.mkdir(parents=True)
    shutil.copytree(served_folder / "1", base / "1")
    return base


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Files `(authority, certificate, private key)`: one for this machine, signed by the first."""
    import trustme

    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    paths = [folder / name for name in ("authority.pem", "cert.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    return paths


@pytest.fixture(scope="session")
def server(served_folder):
    """A `Server` of `served_folder` in this process, for tests that change nothing."""
    from kerasrec.serving.server import ServerOptions, running_server

    with running_server(served_folder, ServerOptions(policy="all")) as running:
        yield running


# --- A tiny version with the encoder and its tokenizer in the graph ---


@pytest.fixture(scope="session")
def text_parts(toy_items, toy_histories, tiny_bert_folder):
    """`(model, fusion, text part)` over a tiny BERT: untrained, every part of a score has a say.

    The same in every worker: one of them exports it as `text_version`.
    """
    from kerasrec.backend import set_seed
    from kerasrec.fusion.fusion import Fusion, fit_tables
    from kerasrec.models.build import build_model
    from kerasrec.models.textpart import text_part

    set_seed(3)
    num_items, rng = len(toy_items), np.random.default_rng(3)
    options = dict(max_tokens=24, whitening_dim=8, cache=None, progress=False)
    part = text_part(toy_items, name=str(tiny_bert_folder), **options)
    widths = dict(text_units=8, id_units=4, scorer_units=4)
    model = build_model(num_items, text=part.vectors, max_length=6, **widths)
    model.scorer.output_kernel.assign(rng.normal(size=(4, 1)))
    fusion = Fusion.alone(num_items)._replace(
        tables={name: found[0] for name, found in fit_tables(toy_histories, num_items).items()},
        weights={"model": (0.9, 0.3), "transitions": (0.4, 0.0), "mixture": (0.2, -0.1)},
        mixture={"model": 0.5, "transitions": 0.3, "ease": 0.2},
        scorer_weight=0.7,
        epsilon=1e-3,
        starts=np.array([100_000_000, 200_000_000]),
        first=rng.integers(0, 3, num_items + 1).astype(np.int32),  # 2: never seen
        prior=rng.normal(size=(2, num_items + 1)).astype(np.float32),
        popular=rng.normal(size=num_items + 1).astype(np.float32),
    )
    return model, fusion, part


@pytest.fixture(scope="session")
def text_version(text_parts, toy_items, common_folder):
    """Path of `saved_models/texts`, version 1 of `text_parts`. Tests must not change it."""
    from kerasrec.versions.exporter import export

    model, fusion, part = text_parts
    given = dict(encoder=part.encoder, whitening=part.whitening, fusion=fusion)
    given |= dict(items=toy_items, manifest={"name": "texts"})
    return made_once(
        common_folder,
        "texts",
        lambda folder: export(model, folder / "saved_models" / "texts", **given).parent,
    )


@pytest.fixture(scope="session")
def large_version(common_folder):
    """An untrained model of 3000 items with two tables, four moments and new items."""
    from kerasrec.backend import set_seed
    from kerasrec.data.interactions import Items
    from kerasrec.fusion import recency
    from kerasrec.fusion.fusion import Fusion
    from kerasrec.fusion.neighbours import NeighbourTable
    from kerasrec.models.build import build_model
    from kerasrec.versions.exporter import export

    num_items, day = 3000, 86400
    set_seed(0)
    rng = np.random.default_rng(0)
    tables = {}
    for name in ("transitions", "text"):
        near = rng.integers(1, num_items + 1, (num_items + 1, 20)).astype(np.int32)
        votes = (
            rng.standard_normal((num_items + 1, 20)).astype(np.float32) + 0.5
        )  # some are below 0
        near[0], votes[0], votes[:, 15:] = 0, 0, 0
        tables[name] = NeighbourTable(near, votes, 0.6)
    prior = 0.3 * rng.standard_normal((4, num_items + 1)).astype(np.float32)
    fusion = Fusion.alone(num_items, rng.random(num_items + 1).astype(np.float32))._replace(
        tables=tables,
        weights={"model": (0.6, 0.1), "transitions": (0.2, 0.0), "mixture": (0.4, 0.2)},
        mixture={
            "model": tuple(np.linspace(0.6, 0.2, 8)),
            "transitions": 0.2,
            "text": 0.1,
            "popular": tuple(np.linspace(0.1, 0.5, 8)),
        },
        # both come from the same counts
        popular_at=recency.log_shares(np.stack([3 * prior, 2 * prior, prior])),
        scorer_weight=0.5,
        fit="items",
        epsilon=0.01 / num_items,
        starts=day * np.arange(18000, 18004),
        first=rng.choice([0, 0, 0, 1, 2, 3, recency.NEVER], num_items + 1).astype(np.int32),
        prior=prior,
    )
    model = build_model(
        num_items,
        text=clustered(num_items),
        text_units=16,
        id_units=0,
        max_length=12,
        scorer_units=8,
    )
    model.scorer.set_weights(
        [rng.standard_normal(w.shape) * 0.2 for w in model.scorer.get_weights()]
    )
    ids = [f"i{number}" for number in range(num_items)]
    items = Items(pd.DataFrame({"item_id": ids, "title": ids}))
    given = dict(items=items, manifest={"name": "large"}, fusion=fusion)
    return made_once(
        common_folder, "large", lambda folder: export(model, folder / "large", **given)
    )


@pytest.fixture
def chat(monkeypatch):
    """A server of OpenAI's protocol: its `url`, the requests that `came`, its next `answers`.

    An answer is a text (what the model says), a number (seconds to sleep before it says so), or
    `(status, headers, bytes)`. Where none is left it names the first title of the plan.
    """
    monkeypatch.setenv("NO_PROXY", "*")
    stub = SimpleNamespace(answers=[], came=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.came.append((self.path, headers, body))
            answer = stub.answers.pop(0) if stub.answers else 0
            if isinstance(answer, int | float):
                time.sleep(answer)
                answer = f"推荐{json.loads(body['messages'][-1]['content'])['plan'][0]}。"
            if isinstance(answer, str):
                choice = {"message": {"role": "assistant", "content": answer}}
                choice |= {"index": 0, "finish_reason": "stop"}
                answer = (200, {}, json.dumps({"object": "chat.completion", "choices": [choice]}))
            status, headers, content = answer
            content = content.encode() if isinstance(content, str) else content
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words):
            """Nothing."""

        def handle(self):
            try:
                super().handle()
            except ConnectionError:  # the client did not wait
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield stub
    server.shutdown()
    thread.join()
    server.server_close()
