"""Serving: `kerasrec serve` and exported versions against the targets of the project.

    .venv/bin/python benchmarks/serving.py [--encoder-model saved_models/NAME] [--write]
        [--only grpc large throughput swaps malformed encode kill] [--work build/serving]

Loopback only; bounded in requests and seconds. Versions of untrained models with generated items
and events are made in --work at the first call (some minutes). Every figure is a ratio, or a count,
of one run: what is compared takes turns on the same machine. Parts:

- grpc: single requests over gRPC, and the same call in process, 12,000 items.
- large: a single request with 100,000 items, and a bare matrix product with top_k of that size;
  what an index makes of it in `Recommender`.
- throughput: users/s over gRPC in batches of 32, 12,000 items.
- swaps: new versions under load; failed requests and answers that mix two versions.
- malformed: requests of which 1 in 10 is malformed or oversized; memory of the server.
- encode: the signature `encode_items` against the Python tokenizer (needs --encoder-model, a model
  of texts such as `kerasrec demo` trains).
- kill: kill -9 at random moments of an export, with a server that looks on.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PARTS = ("grpc", "large", "throughput", "swaps", "malformed", "encode", "kill")
K = 50


# --- Versions and servers ---


def generated_version(num_items, base):
    """An untrained model of generated items; made once."""
    from kerasrec.versions import folders

    if not folders.versions(base):
        print(f"making {base} ({num_items:,} items)", file=sys.stderr, flush=True)
        export_generated(num_items, base)
    return folders.find_version(base)


def export_generated(num_items, base):
    """Export it: items in clusters, transitions of generated events, a popularity prior."""
    import pandas as pd
    from speed import generated

    from kerasrec.data.interactions import Items
    from kerasrec.fusion.fusion import Fusion, fit_tables
    from kerasrec.models.build import build_model
    from kerasrec.versions.exporter import export

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2000, 64)).astype(np.float32)
    text = centres[rng.integers(2000, size=num_items)]
    text += 0.4 * rng.standard_normal((num_items, 64)).astype(np.float32)
    histories = generated(2 * num_items, num_items, 10)
    popular = np.log(np.bincount(histories.items, minlength=num_items + 1) + 0.5)
    popular = popular.astype(np.float32)
    fusion = Fusion.alone(num_items, popular)._replace(
        tables={
            "transitions": fit_tables(histories, num_items, parts=("transitions",))["transitions"][
                0
            ]
        },
        weights={"model": (0.6, 0.1), "transitions": (0.2, 0.0), "mixture": (0.4, 0.1)},
        mixture={"model": 0.5, "transitions": 0.5},
        scorer_weight=0.5,
        epsilon=0.01 / num_items,
        prior=0.3 * popular[None],
    )
    ids = [f"item {number}" for number in range(num_items)]
    items = Items(pd.DataFrame({"item_id": ids, "title": ids}))
    model = build_model(num_items, text=text)
    export(model, base, items=items, manifest={"name": base.name}, fusion=fusion, k=K)


def histories_of(version, count, length=10, seed=0):
    """Histories as a server gets them, object `(count, length)`: what follows depends on before."""
    from kerasrec.versions.folders import read_catalogue

    ids = read_catalogue(version)["item_id"].to_numpy(object)
    rng = np.random.default_rng(seed)
    start = rng.integers(len(ids), size=(count, 1))
    step = np.where(
        rng.random((count, length)) < 0.5, 1, rng.integers(1, len(ids), (count, length))
    )
    return ids[(start + np.cumsum(step, axis=1)) % len(ids)]


@contextlib.contextmanager
def serving(base, log, poll=0.2, more=()):
    """`kerasrec serve` in a process of its own: `(process, REST address, gRPC address)`.

    `more` are further options of it.
    """
    import httpx

    rest, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "kerasrec.cli.entry", "serve", "--model", base]
    command += ["--rest-port", rest, "--grpc-port", grpc_port, "--poll", poll, *more]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with open(log, "w") as out:
        process = subprocess.Popen(
            [*map(str, command)], stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    address = f"http://127.0.0.1:{rest}"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit(f"the server ended; see {log}")
            with contextlib.suppress(httpx.HTTPError):
                url = f"{address}/v1/models/{base.name}"
                if httpx.get(url, timeout=5).status_code == 200:
                    break
            time.sleep(0.1)
        else:
            raise SystemExit(f"the server does not answer; see {log}")
        yield process, address, f"127.0.0.1:{grpc_port}"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def free_port():
    """A port that nobody listens on."""
    import socket

    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def resident(process):
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Caller:
    """`serving_default` over gRPC."""

    def __init__(self, address, model):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model

    def request(self, history, name="history", signature="serving_default"):
        """A PredictRequest of rows of ids."""
        from tensorflow_serving.apis import predict_pb2

        from kerasrec.backend import tf

        asked = predict_pb2.PredictRequest()
        asked.model_spec.name, asked.model_spec.signature_name = self.model, signature
        asked.inputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(history)))
        return asked

    def __call__(self, request, timeout=60):
        return self.stub.Predict(request, timeout)


# --- The parts ---


def milliseconds(function, arguments):
    """Wall milliseconds of a call with each argument."""
    taken = []
    for argument in arguments:
        started = time.perf_counter()
        function(argument)
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def in_turns(one, other, pairs, *, block=25):
    """Milliseconds of two functions that take turns in blocks; the first block of each warms."""
    found = [], []
    for start in range(0, len(pairs), block):
        part = pairs[start : start + block]
        taken = milliseconds(one, [a for a, _ in part]), milliseconds(other, [b for _, b in part])
        if start:
            found[0].extend(taken[0])
            found[1].extend(taken[1])
    return found


def percentiles(taken):
    """`(p50, p99)`."""
    return tuple(float(np.percentile(taken, q)) for q in (50, 99))


def measure_grpc(options):
    """p50 and p99 of single requests, over gRPC and in process."""
    from kerasrec.backend import tf

    version = generated_version(12_000, options.work / "models" / "gen12k")
    rows = histories_of(version, options.requests)
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    with serving(version.parent, options.work / "serve-grpc.log") as (_, _, address):
        caller = Caller(address, version.parent.name)
        pairs = [(caller.request([row]), tf.constant([list(row)])) for row in rows]

        def direct(history):
            return {name: value.numpy() for name, value in signature(history=history).items()}

        served, inside = in_turns(caller, direct, pairs)
    (p50, p99), (in50, in99) = percentiles(served), percentiles(inside)
    return {
        "gRPC ms": [round(p50, 2), round(p99, 2)],
        "in process ms": [round(in50, 2), round(in99, 2)],
        "ratio p50": round(p50 / in50, 2),
        "ratio p99": round(p99 / in99, 2),
    }


def measure_large(options):
    """A single request with 100,000 items against the least that it can cost."""
    from kerasrec.backend import tf
    from kerasrec.recommender.recommender import Recommender

    version = generated_version(options.items, options.work / "models" / f"gen{options.items}")
    exact = Recommender.load(version, index="exact")
    module, signature = exact.loaded.module, exact.loaded.module.signatures["serving_default"]
    rows = histories_of(version, min(options.requests, 400))
    histories = [list(row) for row in rows]
    queries = tf.constant(exact.interests(histories))

    @tf.function
    def bare(query):
        return tf.math.top_k(tf.matmul(query, module.item_matrix), K)

    pairs = [(tf.constant([row]), queries[n : n + 1]) for n, row in enumerate(histories)]
    served, least = in_turns(
        lambda history: signature(history=history)["scores"].numpy(),
        lambda query: bare(query).values.numpy(),
        pairs,
    )
    p50, least50 = percentiles(served)[0], percentiles(least)[0]
    found = {
        "items": options.items,
        "request ms": round(p50, 2),
        "matmul + top_k ms": round(least50, 2),
        "ratio": round(p50 / least50, 2),
    }
    from kerasrec.backend import is_installed

    if is_installed("faiss"):
        near = Recommender.load(version, index="ann")
        for size in (1, 32):
            parts = [histories[n : n + size] for n in range(0, len(histories) - size, size)][:100]
            pairs = list(zip(parts, parts, strict=True))
            ours, index = in_turns(
                lambda part: exact.recommend(part, k=20),
                lambda part: near.recommend(part, k=20),
                pairs,
                block=max(len(pairs) // 4, 1),
            )
            found[f"Recommender ms, {size} user(s): exact, index"] = [
                round(percentiles(taken)[0], 2) for taken in (ours, index)
            ]
        lists = [r.recommend(histories[:200], k=20) for r in (exact, near)]
        sets = [t.groupby("user_id")["item_id"].apply(set) for t in lists]
        shared = [len(a & b) / 20 for a, b in zip(*sets, strict=True)]
        found["overlap@20 of exact and index"] = round(float(np.mean(shared)), 4)
        found["index"] = near.index.report
    return found


def measure_throughput(options):
    """Users/s of batches of 32 from a few callers at once."""
    version = generated_version(12_000, options.work / "models" / "gen12k")
    rows = histories_of(version, 32 * 64).reshape(64, 32, -1)
    with serving(version.parent, options.work / "serve-throughput.log") as (_, _, address):
        counts = itertools.count()

        def ask(until):
            caller = Caller(address, version.parent.name)
            requests = [caller.request(batch) for batch in rows]
            for request in itertools.cycle(requests):
                caller(request)
                next(counts)
                if time.perf_counter() > until:
                    return

        ask(time.perf_counter() + 3)  # warm
        before, started = next(counts), time.perf_counter()
        in_threads(ask, [started + options.seconds] * 4)
        took = time.perf_counter() - started
        users = 32 * (next(counts) - before - 1)
    return {"users/s": round(users / took), "callers": 4, "seconds": round(took, 1)}


def in_threads(function, arguments):
    """Run it once per argument, all at once; the first error is raised here."""
    errors = []

    def guarded(argument):
        try:
            function(argument)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[argument]) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def measure_swaps(options):
    """New versions under load: even ones give lists of 5, odd ones of 50."""
    import grpc

    from kerasrec.versions.derive import export_again

    source = generated_version(12_000, options.work / "models" / "gen12k")
    base = options.work / "swaps" / "gen12k"
    shutil.rmtree(base.parent, ignore_errors=True)
    base.mkdir(parents=True)
    shutil.copytree(source, base / "1")
    spare = options.work / "swaps-spare" / "gen12k"
    shutil.rmtree(spare.parent, ignore_errors=True)
    spare.mkdir(parents=True)
    shutil.copytree(source, spare / "1")
    export_again(spare, k=5)
    over, failed, mixed, asked, seen = threading.Event(), [], [], itertools.count(), set()
    rows = histories_of(source, 64)
    with serving(base, options.work / "serve-swaps.log") as (_, _, address):

        def ask(_):
            caller = Caller(address, base.name)
            for request in itertools.cycle([caller.request([row]) for row in rows]):
                if over.is_set():
                    return
                next(asked)
                try:
                    answer = caller(request)
                except grpc.RpcError as error:
                    failed.append(f"{error.code().name}: {error.details()}")
                    continue
                version = answer.model_spec.version.value
                widths = {answer.outputs[n].tensor_shape.dim[1].size for n in answer.outputs}
                if widths != {5 if version % 2 == 0 else K}:
                    mixed.append((version, widths))
                seen.add(version)

        def publish():
            try:
                for number in range(2, options.swaps + 2):
                    hidden = base.parent / f".writing-{number}"
                    shutil.copytree(spare / str(2 - number % 2), hidden)
                    os.rename(hidden, base / str(number))
                    until = time.monotonic() + 60
                    while number not in seen and time.monotonic() < until:
                        time.sleep(0.05)
            finally:
                over.set()

        in_threads(lambda function: function(), [publish, *[lambda: ask(0)] * 4])
    return {
        "swaps seen": len(seen) - 1,
        "requests": next(asked),
        "failed": len(failed),
        "mixed": len(mixed),
        "examples": [*failed, *map(str, mixed)][:3],
    }


#: malformed or oversized REST requests, and what answers them
BAD_BODIES = (
    (b"{", 400),
    (b'{"instances": [{"history": 5}]}', 400),
    (b'{"instances": [{"histori": ["a"]}]}', 400),
    (b'{"instances": [["a", {"b": 1}]]}', 400),
    (b'{"signature_name": "no such", "instances": [["a"]]}', (400, 404)),
    (b'{"instances": []}', 400),
    (b"\xff\xfe\x00", 400),
    (b'{"instances": [[' + b",".join([b'"a"'] * 5000) + b"]]}", (400, 413, 429)),
    (b'{"instances": [' + b",".join([b'["a"]'] * 5000) + b"]}", (400, 413, 429)),
)
HUGE = (b'{"instances": [["' + b"a" * (9 << 20) + b'"]]}', (400, 413, 429))


def measure_malformed(options):
    """1 in 10 requests is bad; memory of the server after the first tenth and at the end."""
    import httpx

    version = generated_version(12_000, options.work / "models" / "gen12k")
    name, total, threads = version.parent.name, options.mix, 4
    rows = histories_of(version, 64)
    good = [json.dumps({"instances": [list(row)]}).encode() for row in rows]
    wrong, sizes, numbers = [], {}, itertools.count()
    with serving(version.parent, options.work / "serve-malformed.log") as (process, rest, _):
        url = f"{rest}/v1/models/{name}:predict"

        def ask(seed):
            draw = random.Random(seed)
            with httpx.Client(timeout=60) as client:
                while (number := next(numbers)) < total:
                    body, expected = good[number % len(good)], 200
                    if draw.random() < 0.1:
                        body, expected = HUGE if draw.random() < 0.01 else draw.choice(BAD_BODIES)
                    answer = client.post(url, content=body)
                    codes = expected if isinstance(expected, tuple) else (expected,)
                    if answer.status_code not in codes:
                        wrong.append((answer.status_code, body[:60], answer.text[:120]))
                    elif expected == 200 and len(answer.json()["predictions"][0]["item_ids"]) != K:
                        wrong.append((200, body[:60], answer.text[:120]))
                    for share in (0.1, 0.25, 0.5, 0.75):
                        if number == int(share * total):
                            sizes[share] = round(resident(process))

        started = time.perf_counter()
        in_threads(ask, range(threads))
        took = time.perf_counter() - started
        sizes[1.0] = round(resident(process))
    return {
        "requests": total,
        "wrong answers": len(wrong),
        "examples": [str(answer) for answer in wrong[:3]],
        "MB at 10 %": sizes[0.1],
        "MB at the end": sizes[1.0],
        "growth %": round(100 * (sizes[1.0] / sizes[0.1] - 1), 1),
        "requests/s": round(total / took),
    }


def measure_encode(options):
    """Raw titles through the signature, and through the Python tokenizer."""
    from kerasrec.backend import tf
    from kerasrec.recommender.recommender import Recommender

    if options.encoder_model is None:
        return {"skipped": "no --encoder-model given"}
    recommender = Recommender.load(options.encoder_model)
    signatures = recommender.loaded.module.signatures
    if "encode_items" not in signatures:
        return {"skipped": f"{recommender.version} has no signature encode_items"}
    titles = list(recommender.items.frame["title"])[: options.titles]
    batches = [titles[n : n + 32] for n in range(0, len(titles), 32)]
    encode = signatures["encode_items"]
    found, rounds = ([], []), 4
    gap = 0.0
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        for way in order:
            started, parts = time.perf_counter(), []
            for batch in batches:
                if way:
                    parts.append(recommender.encode(batch))
                else:
                    parts.append(encode(texts=tf.constant(batch))["vectors"].numpy())
            if number:  # the first round warms
                found[way].append(time.perf_counter() - started)
            if not way:
                mine = np.concatenate(parts)
            else:
                other = np.concatenate(parts)
        gap = max(gap, float(np.abs(mine - other).max()))
    inside, python = (float(np.median(taken)) for taken in found)
    return {
        "titles": len(titles),
        "in graph s": round(inside, 2),
        "Python tokenizer s": round(python, 2),
        "ratio": round(inside / python, 3),
        "largest difference": float(f"{gap:.2g}"),
    }


_EXPORT = """
import sys
sys.path.insert(0, sys.argv[2])
from serving import export_small
# the kills are for the export, not for the imports
import kerasrec.versions.exporter, kerasrec.models.build
print("ready", flush=True)
sys.stdin.readline()
export_small(sys.argv[1])
print("done", flush=True)
"""


def export_small(base):
    """A whole export of a model of 200 items."""
    import pandas as pd

    from kerasrec.data.interactions import Items
    from kerasrec.models.build import build_model
    from kerasrec.versions.exporter import export

    text = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    model = build_model(200, text=text, text_units=8, id_units=8, max_length=10)
    ids = [f"item {number}" for number in range(200)]
    items = Items(pd.DataFrame({"item_id": ids, "title": ids}))
    return export(model, Path(base), items=items, manifest={"name": Path(base).name}, k=20)


def measure_kill(options):
    """kill -9 at random moments of an export; what is visible must load and answer."""
    import httpx

    from kerasrec.backend import tf
    from kerasrec.versions import folders

    base = options.work / "kill" / "small"
    shutil.rmtree(base.parent, ignore_errors=True)
    export_small(base)
    started = time.perf_counter()
    export_small(base)
    length = 1.3 * (time.perf_counter() - started)
    draw, broken, unanswered, finished = random.Random(0), [], 0, 0

    def spawn():
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        command = [sys.executable, "-c", _EXPORT, str(base), str(HERE)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return subprocess.Popen(
            command, text=True, env=environment, start_new_session=True, **pipes
        )

    with serving(base, options.work / "serve-kill.log") as (_, rest, _):
        checked, next_one = set(), spawn()
        for number in range(options.kills):
            child = next_one
            child.stdout.readline()  # ready
            if number + 1 < options.kills:
                next_one = spawn()
            child.stdin.write("\n")
            child.stdin.flush()
            time.sleep(draw.uniform(0, length))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its own session: nobody else's process
            child.wait()
            finished += "done" in child.stdout.read()
            for found in set(folders.versions(base)) - checked:
                try:
                    path = folders.find_version(base / str(found))
                    folders.read_manifest(path)
                    answer = tf.saved_model.load(str(path)).signatures["serving_default"](
                        history=tf.constant([["item 3"]])
                    )
                    assert answer["item_ids"].shape == (1, 20)
                except Exception as error:
                    broken.append(f"{found}: {error}")
                checked.add(found)
            answer = httpx.post(
                f"{rest}/v1/models/small:predict", json={"instances": [["item 3"]]}, timeout=60
            )
            unanswered += answer.status_code != 200
        time.sleep(1)
        states = httpx.get(f"{rest}/v1/models/small", timeout=60).json()["model_version_status"]
    failed = [s for s in states if s.get("status", {}).get("error_code", "OK") != "OK"]
    return {
        "kills": options.kills,
        "exports that were done before": finished,
        "visible versions": len(checked),
        "broken": len(broken) + len(failed),
        "unanswered": unanswered,
        "left beside (not visible)": len(list(base.parent.glob(".writing-*"))),
        "examples": broken[:3],
    }


# --- The table ---


TARGETS = {
    "grpc": ("single request, gRPC against in process, 12k items", "p50 <= 1.5x, p99 <= 4x"),
    "large": ("single request, 100k items, against matmul + top_k", "<= 2.5x"),
    "throughput": ("throughput over gRPC, 12k items, batch 32", ">= 3,000 users/s"),
    "swaps": ("version swaps under load", "0 failed, 0 mixed"),
    "malformed": ("requests, 1 in 10 malformed or oversized", "0 wrong, growth <= 5 %"),
    "encode": ("encode_items against the Python tokenizer", "<= 1.15x"),
    "kill": ("kill -9 at random moments of an export", "0 broken, 0 unanswered"),
}


def shown(part, found):
    """`(what was measured, whether the target is met)`; met is None where it was skipped."""
    if "skipped" in found:
        return f"skipped: {found['skipped']}", None
    if part == "grpc":
        met = found["ratio p50"] <= 1.5 and found["ratio p99"] <= 4
        ways = f"{found['gRPC ms']} against {found['in process ms']} ms"
        return f"{found['ratio p50']}x / {found['ratio p99']}x ({ways})", met
    if part == "large":
        ways = f"{found['request ms']} against {found['matmul + top_k ms']} ms"
        return f"{found['ratio']}x ({ways})", found["ratio"] <= 2.5
    if part == "throughput":
        return f"{found['users/s']:,} users/s", found["users/s"] >= 3000
    if part == "swaps":
        counts = f"{found['swaps seen']} swaps, {found['requests']:,} requests"
        met = not (found["failed"] or found["mixed"])
        return f"{found['failed']} failed, {found['mixed']} mixed ({counts})", met
    if part == "malformed":
        met = not found["wrong answers"] and found["growth %"] <= 5
        size = f"{found['growth %']} % ({found['MB at 10 %']} to {found['MB at the end']} MB)"
        return (
            f"{found['wrong answers']} of {found['requests']:,} wrong, growth {size}",
            met,
        )
    if part == "encode":
        ways = f"{found['in graph s']} against {found['Python tokenizer s']} s"
        return f"{found['ratio']}x ({ways}, {found['titles']} titles)", found["ratio"] <= 1.15
    met = not (found["broken"] or found["unanswered"])
    return (
        f"{found['broken']} broken, {found['unanswered']} unanswered ({found['kills']} kills)",
        met,
    )


def table(work):
    """Markdown of every result in the work folder."""
    lines = ["| what | target | measured | met |", "| --- | --- | --- | --- |"]
    for part, (what, target) in TARGETS.items():
        path = work / f"{part}.json"
        if path.exists():
            measured, met = shown(part, json.loads(path.read_text()))
            says = {True: "yes", False: "no", None: ""}[met]
            lines.append(f"| {what} | {target} | {measured} | {says} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--encoder-model", help="for encode: a model that encodes texts")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "serving")
    parser.add_argument("--requests", type=int, default=1000, help="single requests timed")
    parser.add_argument("--items", type=int, default=100_000, help="for large")
    parser.add_argument("--seconds", type=float, default=15, help="for throughput")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--mix", type=int, default=60_000, help="requests of malformed")
    parser.add_argument("--titles", type=int, default=256, help="for encode")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="write SERVING.md too")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        found = globals()[f"measure_{part}"](options)
        (options.work / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{part}: {json.dumps(found)}", file=sys.stderr, flush=True)
    printed = table(options.work)
    print(printed)
    if options.write:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = (
            f"# Serving\n\nMeasured {date.today()} on {os.cpu_count()} cores ({machine}) by\n"
            "`benchmarks/serving.py`, over loopback; the caller runs on the same cores.\n\n"
        )
        (HERE / "SERVING.md").write_text(head + printed + "\n")


if __name__ == "__main__":
    main()
