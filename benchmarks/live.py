"""The live protocol by the yardstick: what next, for this user, now, with all that was known then.

    .venv/bin/python benchmarks/live.py SPLITS/NAME-live [...] --work WORK [--update 1d]

SPLITS/NAME-live is what the yardstick's split.py writes for --protocol live: each event after the
cut is a request of its own. Every row is `kerasrec train` on the events before the cut (train.csv
and valid.csv, default options, seed 0), `kerasrec replay` over the requests and score.py, each in a
process of its own; beside it `live_knn`, whose counts grow with every event, with options chosen
before the cut. The table goes to standard output. `accuracy.py --protocol live` makes the splits
too, runs variants, and keeps what is done.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

import kerasrec
from kerasrec.data.histories import make_histories
from kerasrec.evaluation.livebaselines import LiveKnn, choose_options

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "yardstick"))
import score as yardstick  # noqa: E402

METRICS = ["ndcg@10", "ndcg@10_se", "recall@10", "recall@10_se"]


def run(arguments, log):
    """One kerasrec process; its output goes to a log file. Returns its wall seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "kerasrec.cli.entry", *map(str, arguments)]
    with open(log, "a") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {log}")
    return time.perf_counter() - started


def judged(lists, folder):
    """Figures of score.py for lists by request."""
    test, known, items = (
        yardstick.read(folder / f"{name}.csv") for name in ("test", "histories", "items")
    )
    return {m: yardstick.score(lists, test, known, (10,), items["item"])[m] for m in METRICS}


def kerasrec_rows(folder, work, update=None, *, tag=None, arguments=()):
    """Figures of a version, without and with updates: `(label, figures)`, with the seconds."""
    tag = tag or folder.name
    models, log, out = work / "models", work / f"{tag}.log", work / f"{tag}.csv"
    train = ["train", "--interactions", folder / "train.csv", folder / "valid.csv"]
    train += ["--items", folder / "items.csv", "--name", tag, "--out", models, "--quiet"]
    train_s = run([*train, *arguments], log)
    for label, more in {"": [], f", update {update}": ["--update", update]}.items():
        if more and not update:
            continue
        replay = ["replay", "--model", models / tag, "--log", folder / "log.csv", "--k", 10]
        replay += ["--requests", folder / "requests.csv", "--out", out, *more]
        replay += ["--work", work / f"{tag}-replay"] if more else []
        replay_s = run(replay, log)
        row = judged(yardstick.read(out), folder)
        yield label, {**row, "train_s": train_s, "recommend_s": replay_s}


def knn_row(folder):
    """`live_knn`: how it ranks what was taken at each request; options chosen before the cut."""
    started = time.perf_counter()
    log = kerasrec.read_interactions(folder / "log.csv", columns={"user_id": "who"})
    items = kerasrec.read_items(folder / "items.csv")
    histories = make_histories(log, items)
    cut = pd.read_csv(folder / "requests.csv")["timestamp"].min()
    past = histories.where(histories.timestamps < cut)
    first = pd.read_csv(folder / "valid.csv")["timestamp"].min()
    options = choose_options(past, np.flatnonzero(past.timestamps >= first), len(items))
    places = np.flatnonzero(histories.timestamps >= cut)
    (ranks,) = LiveKnn(histories, len(items), (options,)).ranks(places)
    hits = (ranks > 0) & (ranks <= 10)
    found = {"ndcg@10": np.where(hits, 1 / np.log2(np.maximum(ranks, 1) + 1), 0), "recall@10": hits}
    row = {name: values.mean() for name, values in found.items()}
    row |= {f"{n}_se": v.std(ddof=1) / len(v) ** 0.5 for n, v in found.items()}
    return {**row, "train_s": time.perf_counter() - started}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("splits", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for versions and lists")
    parser.add_argument("--update", help="also with an update every so often, such as 1d")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| data | | NDCG@10 | Recall@10 | seconds |\n| --- | --- | --- | --- | --- |")
    for folder in args.splits:
        found = kerasrec_rows(folder, args.work, args.update)
        rows = [("live_knn", knn_row(folder)), *((f"kerasrec{name}", row) for name, row in found)]
        for name, row in rows:
            figures = [f"{row[m]:.4f} ({row[f'{m}_se']:.4f})" for m in ("ndcg@10", "recall@10")]
            seconds = " + ".join(f"{row[s]:.0f}" for s in ("train_s", "recommend_s") if s in row)
            print("|", " | ".join([folder.name, name, *figures, seconds]), "|", flush=True)


if __name__ == "__main__":
    main()
