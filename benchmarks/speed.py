"""Training and scoring speed: back to back with RecTools, and as the data grow.

    .venv/bin/python benchmarks/speed.py --data ../shared/data [--peer-python PEER_PYTHON]
        [--only train peer growth million scoring] [--work build/speed] [--write]

--data is a folder with caixin-news and amazon-beauty (interactions.csv.gz and items.csv.gz each).
--peer-python is a Python with rectools and torch in an environment of its own; without it the peer
is skipped. Parts:

- peer: RecTools SASRec on caixin-news, leave-one-out (`speed_peer.py`).
- train: `kerasrec.train` with default options on the same split: seconds from the call, reading,
  encoding (empty cache) and tracing included, to the peer's best validation NDCG@10 and to the end;
  and where the seconds go, stage by stage.
- growth: an epoch on generated data, and with 10x the users, the items, the length.
- million: steps with 1,000,000 items and 10,000,000 events, beside those with 12,000 items; with
  --whole-epoch a whole epoch over the million items.
- scoring: users/s of `Recommender.recommend(k=20)` on amazon-beauty.

Every measurement is a process of its own, so that its peak memory is true; nothing else should run
on the machine. Results are JSON in --work (a part that is there already is run anew when named by
--only); the table goes to standard output and to SPEED.md beside this file with --write.
"""

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PARTS = ("peer", "train", "growth", "million", "scoring")
#: generated data: users, items, mean events of a user
GROWTH = {
    "start": (5_000, 2_000, 10),
    "users x 10": (50_000, 2_000, 10),
    "items x 10": (5_000, 20_000, 10),
    "length x 10": (5_000, 2_000, 100),
}
MILLION = {"12,000 items": 12_000, "1,000,000 items": 1_000_000}
_STEPS = 100  # of 128 histories, whose median counts


def peak_gigabytes():
    """Of this process alone: Linux lets `ru_maxrss` start from the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 2)


def generated(users, items, length, seed=0):
    """`Histories` of Zipf items in which what follows depends on what was before."""
    from kerasrec.data.histories import Histories

    rng = np.random.default_rng(seed)
    lengths = rng.poisson(length - 2, users) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    share = 1 / np.arange(1, items + 1) ** 0.8
    edges = np.cumsum(share / share.sum())
    drawn = np.searchsorted(edges, rng.random(offsets[-1])).clip(max=items - 1)
    codes = rng.permutation(items)[drawn].astype(np.int32) + 1
    follow = np.flatnonzero(rng.random(len(codes) - 1) < 0.5) + 1
    codes[follow] = codes[follow - 1] % items + 1  # often the next one in line
    count = len(codes)
    ids = np.array([f"u{number}" for number in range(users)], object)
    zeros = np.zeros(count, np.int64)
    return Histories(ids, offsets, codes, zeros, zeros.astype(np.int16), np.ones(count, np.float32))


def processor_seconds():
    """Of this process and of those that it has waited for, user and system."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


class Stages:
    """Seconds of functions: label -> [wall, processor], a call within another counted in both."""

    def __init__(self):
        self.seconds = {}

    def add(self, label, since):
        """Add what has passed since a pair that `clock` gave."""
        spent = self.seconds.setdefault(label, [0.0, 0.0])
        for place, (end, begin) in enumerate(zip(self.clock(), since, strict=True)):
            spent[place] += end - begin

    def clock(self):
        """Wall and processor seconds by now."""
        return time.perf_counter(), processor_seconds()

    def watch(self, owner, name, label):
        """Have a function, wherever it is looked up in `owner`, add its seconds to a label."""
        function = getattr(owner, name)

        def watched(*given, **named):
            since = self.clock()
            try:
                return function(*given, **named)
            finally:
                self.add(label, since)

        self.seconds.setdefault(label, [0.0, 0.0])
        setattr(owner, name, watched)


def watched_stages():
    """Imports kerasrec and watches the stages of `train`; what is indented is a part of the above.

    The check runs in a process of its own beside this one: its processor seconds are in those of
    "check", its wall seconds only as far as this one waits.
    """
    stages = Stages()
    since = stages.clock()
    from kerasrec.training import catchup
    from kerasrec.training import stages as of_train
    from kerasrec.training.run import Run
    from kerasrec.versions import exporter

    stages.add("import", since)
    for name, label in {
        "read_tables": "read",
        "read": "read",
        "encode": "encode the texts",
        "fit": "train",
        "build_model": "- build the model",
    }.items():
        stages.watch(of_train, name, label)
    first, others = "- first step (trace)", "- other steps"
    stages.seconds |= {first: [0.0, 0.0], others: [0.0, 0.0]}
    begun = []
    end_of_step = Run.on_train_batch_end

    def begin(self, batch, logs=None):
        begun.append(stages.clock())

    def end(self, batch, logs=None):
        stages.add(first if len(begun) == 1 else others, begun[-1])
        end_of_step(self, batch, logs)

    Run.on_train_batch_begin, Run.on_train_batch_end = begin, end
    stages.watch(Run, "_quality", "- validate")
    for owner, name, label in (
        (of_train, "choose", "choose tables and weights"),
        (catchup, "catch_up", "catch up"),
        (of_train, "publish", "export"),
        (exporter, "serving_module", "- make the graph"),
        (exporter.tf.saved_model, "save", "- save it"),
        (exporter, "_answers", "- own answers"),
        (exporter.FreshProcess, "answers", "- check"),
    ):
        stages.watch(owner, name, label)
    return stages


# --- One measurement each, in a process of its own ---


def measure_train(split, preset, seed):
    """`kerasrec.train` on a split; the seconds of every epoch since the call."""
    import tempfile

    started, rows = time.perf_counter(), []

    class Clock(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("epoch"):
                rows.append(round(time.perf_counter() - started, 1))

    stages = watched_stages()
    import kerasrec

    logger = logging.getLogger("kerasrec.training.run")
    logger.addHandler(Clock())
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASREC_CACHE"] = folder
        trained = kerasrec.train(
            split / "train.csv",
            split / "items.csv",
            valid=split / "valid.csv",
            name="speed",
            out=Path(folder) / "models",
            preset=preset,
            options={"trainer": {"seed": seed}},
            progress=False,
        )
    history = trained.history
    table = zip(rows, history["valid_ndcg@10"], history["seconds"], strict=True)
    return {
        "rows": [
            {"epoch": epoch, "since_call_s": since, "epoch_s": took, "valid_ndcg@10": quality}
            for epoch, (since, quality, took) in enumerate(table, start=1)
        ],
        "total_s": round(time.perf_counter() - started, 1),
        "fused_valid_ndcg@10": trained.metrics["valid_ndcg@10"],
        "cpu_s": round(processor_seconds(), 1),
        "stages": {name: [round(v, 1) for v in pair] for name, pair in stages.seconds.items()},
    }


def measure_growth(users, items, length):
    """Seconds of a second epoch (the first traces), its validation of 500 users included."""
    from kerasrec.models.build import build_model
    from kerasrec.models.validation import hold_out_last
    from kerasrec.training.trainer import Trainer

    histories = generated(users, items, length)
    train, validation = hold_out_last(histories)
    validation = _first_targets(validation, 500)
    text = np.random.default_rng(1).standard_normal((items, 64), dtype=np.float32)
    trainer = Trainer(lambda: build_model(items, text=text), epochs=2, progress=False)
    seconds = float(trainer.fit(train, validation)["seconds"].iloc[-1])
    return {
        "events": len(histories.items),
        "epoch_s": round(seconds, 1),
        "sequences_per_s": round(users / seconds),
        "events_per_s": round(len(train.items) / seconds),
    }


def measure_million(items, users=1_000_000, length=10, steps=_STEPS):
    """Step time and memory with all the events loaded; `steps=None` trains the whole epoch."""
    from kerasrec.models.build import build_model
    from kerasrec.models.validation import hold_out_last
    from kerasrec.training.trainer import Trainer

    started = time.perf_counter()
    histories = generated(users, items, length)
    train, validation = hold_out_last(histories)
    text = np.random.default_rng(1).standard_normal((items, 64), dtype=np.float32)
    prepared = time.perf_counter()
    if steps is not None:
        train = train.select(np.arange(min(steps * 128, users)))
    trainer = Trainer(lambda: build_model(items, text=text), epochs=1, progress=False)
    ends = _clocked()
    history = trainer.fit(train, _first_targets(validation, 500))
    return {
        "items": items,
        "events": len(histories.items),
        "prepare_s": round(prepared - started, 1),
        "steps": len(ends),
        "step_ms": round(1000 * statistics.median(np.diff(ends)), 1),
        "epoch_s": float(history["seconds"].iloc[0]),
    }


def _first_targets(validation, count):
    kept = validation.target_rows < count
    histories = validation.histories.select(np.arange(min(count, validation.histories.num_users)))
    return type(validation)(histories, validation.target_rows[kept], validation.target_items[kept])


def _clocked():
    """Wall time of the end of every step of the trainers in this process."""
    from kerasrec.training.run import Run

    ends, original = [], Run.on_train_batch_end

    def timed(self, batch, logs=None):
        original(self, batch, logs)
        ends.append(time.perf_counter())

    Run.on_train_batch_end = timed
    return ends


def measure_scoring(version, split):
    """Users/s of lists of 20 for every user of a split."""
    from kerasrec.data.sources import read_interactions
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(version)
    interactions = read_interactions(split / "train.csv")
    recommender.recommend(interactions, k=20)  # warm
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        lists = recommender.recommend(interactions, k=20)
        seconds.append(time.perf_counter() - started)
    users = lists["user_id"].nunique()
    return {"users": users, "users_per_s": [round(users / value) for value in seconds]}


def measure_version(split, out):
    """A version to score with: two epochs, as its quality does not matter here."""
    import kerasrec

    trained = kerasrec.train(
        split / "train.csv",
        split / "items.csv",
        valid=split / "valid.csv",
        name="scoring",
        out=out,
        options={"trainer": {"epochs": 2}},
        progress=False,
    )
    return {"version": str(trained.version)}


# --- All of them ---


def run(name, work, command):
    """One measurement in a fresh process; its result with wall seconds and peak memory."""
    result = work / f"{name}.json"
    with open(work / f"{name}.log", "w") as log:
        done = subprocess.run([*map(str, command)], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{name} failed; see {log.name}")
    print(f"{name}: {result.read_text()}", file=sys.stderr, flush=True)


def ours(work, name, function, **arguments):
    """One of the functions above in a process of its own."""
    call = json.dumps({"function": function, "arguments": arguments}, default=str)
    run(name, work, [sys.executable, __file__, "--call", call, "--out", work / f"{name}.json"])


def call(text, out):
    """The process of one measurement."""
    wanted = json.loads(text)
    arguments = {k: Path(v) if k == "split" else v for k, v in wanted["arguments"].items()}
    found = globals()[wanted["function"]](**arguments)
    out.write_text(json.dumps({**found, "peak_gb": peak_gigabytes()}))


def measure(options):
    """Run the parts that were asked for."""
    sys.path.insert(0, str(HERE / "yardstick"))
    import split as yardstick

    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    folders = {}
    for name in ("caixin-news", "amazon-beauty"):
        found, _ = yardstick.write_split(options.data / name, work / "splits", "loo")
        folders[name] = work / "splits" / found
    for part in options.only:
        if part == "peer" and options.peer_python is None:
            print("peer: skipped, no --peer-python given", file=sys.stderr)
        elif part == "peer":
            for seed in options.seeds:
                name, script = f"peer-{seed}", HERE / "speed_peer.py"
                command = [options.peer_python, script, folders["caixin-news"], "--seed", seed]
                command += ["--patience", 4, "--out", work / f"{name}.json"]
                run(name, work, command)
        elif part == "train":
            for seed in options.seeds:
                arguments = dict(split=folders["caixin-news"], preset=options.preset, seed=seed)
                ours(work, f"train-{seed}", "measure_train", **arguments)
        elif part == "growth":
            for name, (users, items, length) in GROWTH.items():
                arguments = dict(users=users, items=items, length=length)
                ours(work, f"growth {name}", "measure_growth", **arguments)
        elif part == "million":
            for name, items in MILLION.items():
                whole = options.whole_epoch and items == max(MILLION.values())
                steps = None if whole else _STEPS
                ours(work, f"million {name}", "measure_million", items=items, steps=steps)
        elif part == "scoring":
            split = folders["amazon-beauty"]
            ours(work, "version", "measure_version", split=split, out=str(work / "models"))
            version = json.loads((work / "version.json").read_text())["version"]
            ours(work, "scoring", "measure_scoring", version=version, split=split)


def table(work):
    """Markdown of every result that is in the work folder."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(work.glob("*.json"))}
    parts = [_training_table(found), *_stage_table(found)]
    rows = [f"growth {name}" for name in GROWTH], [f"million {name}" for name in MILLION]
    for title, names in zip(("As the data grow", "A million items"), rows, strict=True):
        kept = {name: found[name] for name in names if name in found}
        if kept:
            columns = list(next(iter(kept.values())))
            head = f"| | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}"
            lines = [
                f"| {name.split(' ', 1)[1]} | {' | '.join(str(row[c]) for c in columns)} |"
                for name, row in kept.items()
            ]
            parts.append(f"## {title}\n\n" + "\n".join([head, *lines]))
    if "scoring" in found:
        row = found["scoring"]
        parts.append(
            f"## Scoring, amazon-beauty\n\n{row['users']} users, top 20, three times: "
            f"{row['users_per_s']} users/s; peak {row['peak_gb']} GB."
        )
    return "\n\n".join(parts)


def _training_table(found):
    peers = {name: row for name, row in found.items() if name.startswith("peer-")}
    mine = {name: row for name, row in found.items() if name.startswith("train-")}
    lines = [
        "## To the peer's best validation NDCG@10, caixin-news\n",
        "| run | best NDCG@10 | s to its best epoch | s to the peer's best | s in all | peak GB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    goal = None
    for name, row in peers.items():
        best = max(row["rows"], key=lambda epoch: epoch["valid_ndcg@10"])
        goal = max(goal or 0.0, best["valid_ndcg@10"])
        cells = best["valid_ndcg@10"], best["train_s"], best["train_s"], row["rows"][-1]["train_s"]
        shown = " | ".join(map(str, cells))
        lines.append(f"| RecTools SASRec {name[5:]} | {shown} | {row['peak_gb']} |")
    for name, row in mine.items():
        best = max(row["rows"], key=lambda epoch: epoch["valid_ndcg@10"])
        reached = [e for e in row["rows"] if goal and e["valid_ndcg@10"] >= goal]
        cells = [round(best["valid_ndcg@10"], 4), best["since_call_s"]]
        cells.append(reached[0]["since_call_s"] if reached else "not by the model alone")
        cells.append(f"{row['total_s']} (fused {row['fused_valid_ndcg@10']:.4f})")
        shown = " | ".join(map(str, cells))
        lines.append(f"| kerasrec {name[6:]} | {shown} | {row['peak_gb']} |")
    return "\n".join(lines)


def _stage_table(found):
    """Where the seconds of each `train` go."""
    tables = []
    for name, row in found.items():
        if name.startswith("train-") and "stages" in row:
            lines = [
                f"## Where the seconds go, kerasrec {name[6:]}\n",
                "| stage | wall s | processor s |\n| --- | --- | --- |",
                *(f"| {label} | {w} | {cpu} |" for label, (w, cpu) in row["stages"].items()),
                f"| all | {row['total_s']} | {row['cpu_s']} |",
            ]
            tables.append("\n".join(lines))
    return tables


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with caixin-news and amazon-beauty")
    parser.add_argument("--peer-python", help="a Python with rectools and torch")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--whole-epoch", action="store_true", help="all the steps of the million")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "speed")
    parser.add_argument("--write", action="store_true", help="write SPEED.md too")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        call(options.call, options.out)
        return
    if options.data is None:
        parser.error("--data is needed: a folder with caixin-news and amazon-beauty")
    measure(options)
    shown = table(options.work)
    print(shown)
    if options.write:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = (
            f"# Speed\n\nMeasured {date.today()} on {os.cpu_count()} cores ({machine}) by\n"
            f"`benchmarks/speed.py`, seeds {options.seeds}; wall seconds. The peer's seconds are "
            "those of its training alone,\nkerasrec's those since the call of `kerasrec.train`: "
            "reading, encoding, tracing and validation included.\n\n"
        )
        (HERE / "SPEED.md").write_text(head + shown + "\n")


if __name__ == "__main__":
    main()
