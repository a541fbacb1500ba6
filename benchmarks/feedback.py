"""The feedback store against the targets of the project, on SQLite and on PostgreSQL.

    .venv/bin/python benchmarks/feedback.py [--only ingest latest live kill kill-update same]
        [--stores sqlite postgresql] [--events 1000000] [--kills 50] [--seconds 5]
        [--log DATA/caixin-news] [--work build/feedback]

PostgreSQL is a server of its own on loopback (tests/postgres.py), with fsync on; where none can be
started it is left out and said. Parts:

- ingest: durable events/s, one by one and in batches of 100, of one caller and of eight.
- latest: p50 and p99 of a user's newest events, and of a click that is stored and read back, with
  --events stored.
- live: p50 and p99 of a click and the changed list of the same user, over the REST routes of
  `kerasrec serve`, with --events stored.
- kill: kill -9 at random moments of ingest; acknowledged events lost, doubled, batches in half.
- kill-update: kill -9 at random moments of `kerasrec update` and of an ingest beside it: events as
  above, versions that are not whole, labels that name none, starts that failed afterwards.
- same: the first 100,000 events of --log (a folder with interactions.csv.gz and items.csv.gz) sent
  once in order to one store, three times in random order (but for those of a user in one second) to
  another; what both have stored, and how
  far the next versions of the same model differ, and those after them. Left out without --log.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
PARTS = ("ingest", "latest", "live", "kill", "kill-update", "same")
#: of a model that is trained in seconds
TINY = {
    "encoder": {"name": "tfidf", "whitening_dim": 16},
    "model": {"text_units": 8, "id_units": 8, "max_length": 20, "scorer_units": 8},
    "trainer": {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2, "deterministic": True},
}
SENT = 100_000  # events of `same`
START = 1_700_000_000
CHILD = """
import itertools, sys
from kerasrec.feedback import FeedbackStore
store, start = FeedbackStore(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for n in itertools.count(start):
    ids = [f"{n}-{m}" for m in range(1 + n % 5 * 20)]
    store.add([{"user_id": f"u{n % 50}", "item_id": "i", "event_id": i, "timestamp": 1700000000 + n}
        for i in ids])
    print(n, flush=True)
"""


def batches(size, seed, items=None):
    """Endless batches of new events of 10,000 users."""
    draw, number = random.Random(seed), 0
    items = items or [f"item {n}" for n in range(5_000)]
    while True:
        yield [
            {
                "user_id": f"user {draw.randrange(10_000)}",
                "item_id": draw.choice(items),
                "event": draw.choice(["view", "click", "purchase"]),
                "timestamp": START + draw.randrange(10**7),
                "event_id": f"{seed}-{number + n}",
            }
            for n in range(size)
        ]
        number += size


def measure_ingest(store, options):
    """Events/s that are durable."""
    found = {}
    for size in (1, 100):
        for callers in (1, 8):
            counts = [0] * callers
            until = time.perf_counter() + options.seconds

            def add(number, size=size, callers=callers, counts=counts, until=until):
                for batch in batches(size, f"{size}-{callers}-{number}"):
                    counts[number] += store.add(batch).stored
                    if time.perf_counter() > until:
                        return

            started = time.perf_counter()
            threads = [threading.Thread(target=add, args=[number]) for number in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = sum(counts) / (time.perf_counter() - started)
            found[f"batches of {size}, {callers} caller(s), events/s"] = round(rate)
    return found


def fill(store, count, items=None):
    """Store so many events, every fifth an impression; gives back events/s."""
    events, started = batches(5000, "fill", items), time.perf_counter()
    for number in range(0, count, 5000):
        batch = next(events)
        for event in batch[::5]:
            event["event"] = "impression"
        store.submit(batch).result()
        if number % 200_000 == 0:
            print(f"{number:,} events stored", file=sys.stderr, flush=True)
    return round(count / (time.perf_counter() - started))


def measure_latest(store, options):
    """Reads among many events."""
    rate = fill(store, options.events)
    draw = random.Random(1)
    users = [f"user {draw.randrange(10_000)}" for _ in range(2000)]

    def click(user):
        store.add([{"user_id": user, "item_id": f"item {draw.random()}"}])
        return store.latest(user)

    found = {"events": store.last_seq(), "filled, events/s": rate}
    for what, function, some in (
        ("latest", store.latest, users),
        ("click and latest", click, users[:500]),
    ):
        found[f"{what}, ms p50, p99"] = percentiles(function, some)
    return found


def percentiles(function, values):
    """Milliseconds of calls, p50 and p99, the first 20 aside."""
    taken = []
    for value in values:
        started = time.perf_counter()
        function(value)
        taken.append(1000 * (time.perf_counter() - started))
    return [round(float(found), 2) for found in np.percentile(taken[20:], [50, 99])]


def measure_live(url, options):
    """Click to changed list over HTTP, one caller, the server a process of its own."""
    import httpx

    from kerasrec import load_mooccube, train
    from kerasrec.feedback.store import FeedbackStore

    interactions, items = load_mooccube()
    model = options.work / "saved_models" / "courses"
    if not model.exists():
        small = {"encoder": {"name": "tfidf"}, "trainer": {"epochs": 1}}
        out = model.parent
        train(interactions, items, name="courses", out=out, options=small, progress=False)
    with FeedbackStore(url) as store:
        fill(store, options.events, list(items.ids))
    command = [sys.executable, "-m", "kerasrec.cli.entry", "serve", "--model", str(model)]
    command += ["--store", str(url), "--rest-port", "0", "--grpc-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    log = open(options.work / "serve.log", "w", encoding="utf-8")
    with (
        log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as server,
    ):
        try:
            address = next(line for line in server.stdout if line.startswith("REST ")).split()[1]
            with httpx.Client(base_url=address, timeout=30) as client:
                return {"events": options.events} | click_and_list(client)
        finally:
            server.terminate()


def click_and_list(client):
    """Figures of a server that answers; each click is gone from the list that follows it."""
    draw, unchanged = random.Random(2), 0
    shown = {}
    users = [f"user {draw.randrange(10_000)}" for _ in range(1000)]

    def ask(user):
        answer = client.get("/v1/recommend", params={"user": user})
        answer.raise_for_status()
        found = answer.json()
        return found["request_id"], [row["item_id"] for row in found["items"]]

    def click(user):
        nonlocal unchanged
        request_id, listed = shown[user]
        event = {"user_id": user, "item_id": listed[0], "request_id": request_id}
        client.post("/v1/feedback", json=event).raise_for_status()
        shown[user] = ask(user)
        unchanged += listed[0] in shown[user][1]

    def see(user):
        shown[user] = ask(user)

    found = {"list, ms p50, p99": percentiles(see, users)}
    found["click to changed list, ms p50, p99"] = percentiles(click, users)
    return found | {"lists that a click did not change": unchanged}


def measure_kill(url, options):
    """Counts after kill -9 at random moments."""
    from kerasrec.feedback.store import FeedbackStore

    draw, known, lost, doubled, broken = random.Random(0), set(), 0, 0, 0
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    for number in range(options.kills):
        command = [sys.executable, "-c", CHILD, str(url), str(100_000 * number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            child.stdout.readline()  # ready
            time.sleep(draw.uniform(0, 0.4))
            child.send_signal(signal.SIGKILL)
            lines = child.stdout.read().split("\n")[:-1]
        for n in map(int, lines):
            known |= {f"{n}-{m}" for m in range(1 + n % 5 * 20)}
        with FeedbackStore(url) as store:
            ids = store.read()["event_id"]
        lost += len(known - set(ids))
        doubled += int(ids.duplicated().sum())
        sizes = ids.str.split("-").str[0].value_counts()
        broken += sum(count != 1 + int(n) % 5 * 20 for n, count in sizes.items())
    return {
        "kills": options.kills,
        "acknowledged events": len(known),
        "lost": lost,
        "doubled": doubled,
        "batches half stored": broken,
    }


def measure_kill_update(url, options):
    """Counts after kill -9 at random moments of an update and of an ingest beside it."""
    import loopchecks

    from kerasrec.feedback.store import FeedbackStore
    from kerasrec.versions import folders

    draw, log = random.Random(0), open(options.work / "updates.log", "a", encoding="utf-8")
    base, known, ids = small_model(options.work / "saved_models", url)
    twin = shutil.copytree(base, options.work / "twin" / base.name)
    whole, writing = seconds_of_update(twin, url, log)
    found = {"kills": options.kills, "undisturbed update, s": round(whole, 1)}
    found["of it, publishing, s"] = round(writing, 1)
    counts = dict.fromkeys(["learning", "writing", "unlabelled", "labelled", "ended"], 0)
    wrong, failed, lost, doubled, broken = [], 0, 0, 0, 0
    newest, checked, acknowledged = newest_of(url), {1}, set()
    for number, (phase, seconds) in enumerate(
        loopchecks.moments(draw, options.kills, whole, writing)
    ):
        ingest = loopchecks.start_ingest(url, 1000 * number, newest, ids)
        update = loopchecks.start_update(base, url, log=log)
        reached = loopchecks.kill_update(update, base, phase, seconds, also=[ingest])
        counts[reached] += 1
        failed += update.returncode not in (0, -signal.SIGKILL)
        for n in ingest.stdout.read().split("\n")[:-1]:
            acknowledged |= {f"{n}-{m}" for m in range(1 + int(n) % 5 * 2)}
        new = set(folders.versions(base)) - checked
        wrong += loopchecks.broken_versions(base, sorted(new))
        checked |= new
        with FeedbackStore(url) as store:
            stored = store.read()["event_id"]
        lost += len((known | acknowledged) - set(stored))
        doubled += int(stored.duplicated().sum())
        sizes = stored[~stored.isin(known)].str.split("-").str[0].value_counts()
        broken += sum(count != 1 + int(n) % 5 * 2 for n, count in sizes.items())
        said = f"{phase} + {seconds:.3f} s: {reached}; {len(acknowledged)} acknowledged"
        said += f"; wrong {wrong}, failed {failed}, lost {lost}, doubled {doubled}, half {broken}"
        print(f"kill {number + 1}, {said}", file=sys.stderr, flush=True)
    left = loopchecks.leftovers(base)
    for folder in left:  # as if it were the day after: the next update removes them
        os.utime(folder, (0, time.time() - 2 * 86400))
    failed += loopchecks.start_update(base, url, log=log).wait() != 0
    wrong += loopchecks.broken_versions(base)
    found |= {f"killed {what}" if what != "ended" else what: n for what, n in counts.items()}
    found |= {"versions": len(folders.versions(base)), "wrong versions and labels": len(wrong)}
    found |= {"starts that failed": failed, "acknowledged events": len(known | acknowledged)}
    found |= {"lost": lost, "doubled": doubled, "batches half stored": broken}
    found |= {"half folders left": len(left), "a day later": len(loopchecks.leftovers(base))}
    return found


def small_model(out, url):
    """A model of 80 courses that learned four fifths of their log; all of it is in the store.

    Returns:
        `(its folder, the event ids that are stored, the ids of its items)`.
    """
    from kerasrec import load_mooccube, train
    from kerasrec.data.interactions import Items
    from kerasrec.feedback.store import FeedbackStore
    from kerasrec.versions import folders

    log, items = load_mooccube()
    popular = log.frame["item_id"].value_counts().index[:80]
    users = log.frame["user_id"].cat.categories[:150]
    log = log.replace(
        log.frame[log.frame["item_id"].isin(popular) & log.frame["user_id"].isin(users)]
    )
    items = Items(items.frame[items.frame["item_id"].isin(popular)].reset_index(drop=True))
    times = log.frame["timestamp"]
    old = log.replace(log.frame[times <= times.quantile(0.8)])
    made = train(old, items, name="toy", out=out, options=TINY, progress=False)
    folders.write_label(made.version.parent, "stable", 1)
    with FeedbackStore(url) as store:
        store.add(log)
        return made.version.parent, set(store.read()["event_id"]), items.ids.tolist()


def newest_of(url):
    """The newest time in a store."""
    from kerasrec.feedback.store import FeedbackStore

    with FeedbackStore(url) as store:
        return store.newest()


def seconds_of_update(base, url, log):
    """Seconds of an update, and those of them from the first file of the new version on."""
    import loopchecks

    started, writing = time.perf_counter(), None
    process = loopchecks.start_update(base, url, log=log)
    while process.poll() is None:
        if writing is None and loopchecks.leftovers(base):
            writing = time.perf_counter()
        time.sleep(0.005)
    ended = time.perf_counter()
    if process.returncode or writing is None:
        raise SystemExit(f"an undisturbed update failed: see {log.name}")
    return ended - started, ended - writing


def measure_same(new_url, options):
    """The same events once in order and thrice shuffled: stores and the versions from them."""
    import loopchecks
    import pandas as pd

    from kerasrec import train
    from kerasrec.feedback.store import FeedbackStore
    from kerasrec.versions import folders

    frame = pd.read_csv(options.log / "interactions.csv.gz", dtype={"user": str, "item": str})
    frame = frame.sort_values("timestamp", kind="stable", ignore_index=True)
    old = frame[: SENT * 7 // 10]  # what the parent learned
    out, log = options.work / "same", open(options.work / "updates.log", "a", encoding="utf-8")
    given = dict(name="news", out=out / "once", options=TINY, progress=False)
    parent = train(old, options.log / "items.csv.gz", **given).version.parent
    folders.write_label(parent, "stable", 1)
    twin = shutil.copytree(parent, out / "thrice" / parent.name)
    columns = {"user": "user_id", "item": "item_id"}
    events = frame.rename(columns=columns).assign(event_id=[f"e{n}" for n in frame.index])
    events = events.to_dict("records")
    urls, found = (new_url(), new_url()), {}
    for which, part in (("", events[:SENT]), (" after it", events[SENT:])):
        with FeedbackStore(urls[0]) as once, FeedbackStore(urls[1]) as thrice:
            for start in range(0, len(part), 1000):
                once.submit(part[start : start + 1000]).result()
            sent = [loopchecks.send_shuffled(thrice, part, seed) for seed in range(3)]
            found[f"sent{which}"] = len(part)
            found[f"stored once, thrice{which}"] = [s.stats().events for s in (once, thrice)]
            found[f"repeated{which}"] = sum(added.repeated for added in sent)
        taken = time.perf_counter()
        for base, url in ((parent, urls[0]), (twin, urls[1])):
            if loopchecks.start_update(base, url, log=log).wait():
                raise SystemExit(f"an update failed: see {log.name}")
        found[f"two updates{which}, s"] = round(time.perf_counter() - taken)
        next_ones = [folders.find_version(base) for base in (parent, twin)]
        largest, places = loopchecks.difference(*next_ones, users=1000)
        found[f"versions{which}"] = [int(version.name) for version in next_ones]
        found[f"largest difference{which}"] = largest
        found[f"items of 1000 lists that differ{which}"] = places
    return found


@contextlib.contextmanager
def places(options):
    """Store name -> function that makes a URL of an empty store."""
    with contextlib.ExitStack() as stack:
        found = {}
        if "sqlite" in options.stores:
            numbers = iter(range(1000))
            found["sqlite"] = lambda: options.work / f"store-{next(numbers)}.db"
        if "postgresql" in options.stores:
            import postgres

            try:
                server = stack.enter_context(postgres.running(fsync=True))
                found["postgresql"] = server.new_url
            except postgres.Unavailable as reason:
                print(f"no PostgreSQL: {reason}", file=sys.stderr)
        yield found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "feedback")
    parser.add_argument("--events", type=int, default=1_000_000, help="stored, for latest and live")
    parser.add_argument("--seconds", type=float, default=5, help="of each ingest")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--log", type=Path, help="for same: a folder with a log and a catalogue")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    from kerasrec.feedback.store import FeedbackStore

    rows = ["| store | part | measured |", "| --- | --- | --- |"]
    with places(options) as found:
        for name, new_url in found.items():
            for part in options.only:
                if part == "same" and options.log is None:
                    print("same needs --log: left out", file=sys.stderr)
                    continue
                function = globals()[f"measure_{part.replace('-', '_')}"]
                if part == "same":
                    result = function(new_url, options)
                elif part in ("live", "kill", "kill-update"):
                    result = function(new_url(), options)
                else:
                    with FeedbackStore(new_url()) as store:
                        result = function(store, options)
                print(f"{name}, {part}: {json.dumps(result)}", file=sys.stderr, flush=True)
                shown = "; ".join(f"{what} {value}" for what, value in result.items())
                rows.append(f"| {name} | {part} | {shown} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
