"""What tests and benchmarks check of the loop: updates killed, events sent again, twins compared.

All of it with real processes: `kerasrec update` as a user starts it, and an ingest beside it.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
from places import ROOT

from kerasrec.checks import ArtifactError
from kerasrec.versions import folders

INGEST = """
import itertools, sys, time
from kerasrec.feedback import FeedbackStore
store, start, newest, items = FeedbackStore(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4:]
print("ready", flush=True)
for n in itertools.count(start):
    store.add([{"user_id": f"u{n // 5}", "item_id": items[(7 * n + m) % len(items)],
        "event_id": f"{n}-{m}", "timestamp": newest + 60 * n} for m in range(1 + n % 5 * 2)])
    print(n, flush=True)
    time.sleep(0.5)
"""


def start_update(base, store, *words, log=subprocess.DEVNULL):
    """`kerasrec update` of a model from a store, forced, a process group of its own."""
    command = [sys.executable, "-m", "kerasrec.cli.entry", "update", "--name", base.name, "--force"]
    command += ["--out", base.parent, "--store", store, *words]
    return _start(command, stdout=log, stderr=log)


def start_ingest(store, start, newest, items):
    """A process that stores batches without end and says the number of each that is durable."""
    command = [sys.executable, "-c", INGEST, store, start, newest, *items]
    process = _start(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def _start(command, **streams):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        list(map(str, command)), env=environment, start_new_session=True, **streams
    )


def kill(process):
    """SIGKILL to the process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def leftovers(base):
    """Folders beside the model that exports are writing, or that killed ones left."""
    return set(base.parent.glob(f".writing-{base.name}-*"))


def kill_update(process, base, phase, seconds, *, also=()):
    """Kill an update so many seconds after a phase has begun, and other processes with it.

    Args:
        phase: "start", "writing" (the new version has its first file) or "renamed".

    Returns:
        "learning", "writing", "unlabelled" or "labelled": how far it had come; or "ended": it had
        ended by itself.
    """
    before = leftovers(base), folders.versions(base)

    def has_begun():
        if phase == "renamed":
            return folders.versions(base) != before[1]
        return phase == "start" or leftovers(base) != before[0]

    while process.poll() is None and not has_begun():
        time.sleep(0.0002)
    until = time.perf_counter() + seconds
    while process.poll() is None and time.perf_counter() < until:
        time.sleep(min(0.01, max(0, until - time.perf_counter())))
    is_alive = process.poll() is None
    if is_alive:
        kill(process)
    for other in also:
        kill(other)
    if not is_alive:
        return "ended"
    new = sorted(set(folders.versions(base)) - set(before[1]))
    if new:
        return "labelled" if folders.read_labels(base)["stable"] == new[-1] else "unlabelled"
    return "writing" if leftovers(base) - before[0] else "learning"


def broken_versions(base, numbers=None):
    """What is wrong with a model folder, one line each; empty where all is whole.

    Args:
        base: `saved_models/NAME`.
        numbers: of the versions to load and ask; None = all.
    """
    from kerasrec.recommender.recommender import Recommender

    known, wrong = folders.versions(base), []
    labels = folders.read_labels(base)
    wrong += [f"{label} names {number}" for label, number in labels.items() if number not in known]
    for number in known if numbers is None else numbers:
        try:
            loaded = Recommender.load(base / str(number))
            found = loaded.recommend([list(loaded.items.ids[:3]), []], k=5)
            told = loaded.manifest
            if told["version"] != number or told.get("parent", 0) not in [0, *known]:
                wrong.append(f"version {number} says that it is {told['version']}")
            if len(found) != 10 or not np.isfinite(found["score"]).all():
                wrong.append(f"version {number} answers {len(found)} of 10 items")
        except Exception as error:  # whatever it is, the version is not whole
            wrong.append(f"version {number}: {error}")
    try:
        folders.find_version(base)
    except ArtifactError as error:
        wrong.append(str(error))
    return wrong


def send_shuffled(store, events, seed, largest=1000):
    """Send all events in random order, in batches of 1 to `largest`; gives back `Added`.

    Those of one user in one second keep their order, which is that of what the user did.
    """
    draw = random.Random(seed)
    order = list(range(len(events)))
    draw.shuffle(order)
    places = [(event["user_id"], event["timestamp"]) for event in events]
    of_place = {place: [] for place in places}
    for place, event in zip(places, events, strict=True):
        of_place[place].append(event)
    turns = {place: iter(same) for place, same in of_place.items()}
    rest = [next(turns[places[number]]) for number in order]
    sent = []
    while rest:
        size = draw.randint(1, largest)
        sent.append(store.submit(rest[:size]))
        rest = rest[size:]
    added = [future.result() for future in sent]
    return type(added[0])(*map(sum, zip(*added, strict=True)))


def difference(one, other, users=200):
    """How far two versions differ: `(largest difference of a number, places that differ)`.

    Compared are all numbers of the two SavedModels, the states for further training, the recency,
    the scores that both give the same users; places that differ are items of their lists.
    """
    from kerasrec.recommender.recommender import Recommender

    numbers = [_numbers(version) for version in (one, other)]
    assert numbers[0].keys() == numbers[1].keys()
    largest = max(_distance(numbers[0][name], numbers[1][name]) for name in numbers[0])
    ids = Recommender.load(one).items.ids
    draw = np.random.default_rng(0)
    asked = [list(draw.choice(ids, draw.integers(0, 9))) for _ in range(users)]
    lists = [Recommender.load(version).recommend(asked, k=20) for version in (one, other)]
    differ = int((lists[0]["item_id"].to_numpy() != lists[1]["item_id"].to_numpy()).sum())
    return max(largest, _distance(lists[0]["score"], lists[1]["score"])), differ


def _distance(one, other):
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return np.inf
    if one.dtype.kind not in "fiub":
        return 0 if (one == other).all() else np.inf
    one, other = one.astype(float), other.astype(float)
    is_same = (one == other) | (np.isnan(one) & np.isnan(other))
    far = np.abs(one[~is_same] - other[~is_same])
    return float(np.nan_to_num(far, nan=np.inf, posinf=np.inf).max(initial=0))


def _numbers(version):
    """Name -> array of everything that a version holds."""
    from kerasrec.backend import tf

    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    own = ("_CHECKPOINTABLE_OBJECT_GRAPH",)
    found = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map() if n not in own}
    for path in (version / folders.TRAIN / "state.npz", version / folders.RECENCY):
        with np.load(path) as saved:
            found |= {f"{path.name}/{name}": saved[name] for name in saved.files}
    return found


def moments(draw, count, seconds, writing):
    """`(phase, seconds)` of so many kills: three of five anywhere, the others while it publishes.

    Args:
        draw: `random.Random`.
        count: of kills.
        seconds: of an undisturbed update.
        writing: seconds of it from the first file of the new version to the end.
    """
    spans = itertools.cycle([*[("start", seconds)] * 3, ("writing", writing), ("renamed", 0.003)])
    return [(phase, draw.uniform(0, span)) for phase, span in itertools.islice(spans, count)]
