"""Accuracy by the neutral yardstick: full ranking, tuned on valid, scored on test by score.py.

    .venv/bin/python benchmarks/accuracy.py --data DATA [--only NAME ...] [--out benchmarks]
        [--protocol loo temporal] [--seeds 0 1 2] [--variants default text-only ...]

DATA holds a folder per data set, with interactions.csv.gz and items.csv.gz. `yardstick/` holds
copies of the deterministic split and of the scorer. Every row is `kerasrec train` and `kerasrec
recommend` in a process of its own, with the defaults but for what the variant says, fitted on
train.csv, stopped and fused on valid.csv, history at test = train + valid. Under each table stands
the difference to the best baseline over the same users, with its interval. Rows that are done are
not run again (delete the work folder to start anew); the tables go to standard output and, with
--out, to OUT/ACCURACY.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "yardstick"))
import score as yardstick  # noqa: E402
import split  # noqa: E402

LOSSES = ("softmax", "sampled_softmax", "bce", "gbce", "bpr", "infonce", "mse")
#: variant -> arguments of `kerasrec train`; --set options of the variants are joined
VARIANTS = {
    "default": [],
    "text-only": ["--set", "model.id_units=0", "model.text_units=128", "fusion.parts=[text]"],
    "no-text": ["--encoder", "none", "--set", "model.id_units=128"],
    "no-id": ["--set", "model.id_units=0", "model.text_units=128"],
    "no-tables": ["--set", "fusion.parts=[recency]"],
    "model-alone": ["--set", "fusion.parts=[]"],
    "no-transitions": ["--set", "fusion.parts=[ease,text,recency]"],
    "no-recency": ["--set", "fusion.parts=[transitions,ease,text]"],
    "no-residual": ["--set", "model.residual=false"],
    "refit": ["--refit"],
    "fast": ["--preset", "fast"],
    "accurate": ["--preset", "accurate"],
    "rnn": ["--set", "model.sequence=rnn"],
    "bert": ["--set", "model.sequence=bert"],
    "gmf": ["--set", "model.interest=gmf"],
    "tfidf": ["--encoder", "tfidf"],
    **{f"loss-{name}": ["--set", f"model.loss={name}"] for name in LOSSES},
}
METRICS = ["ndcg@10", "ndcg@10_se", "recall@10", "recall@10_se"]


def run(arguments, log):
    """One kerasrec process; its output goes to a log file. Returns its wall seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "kerasrec.cli", *map(str, arguments)]
    with open(log, "a") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {log}")
    return time.perf_counter() - started


def kerasrec_row(folder, work, variant, seed):
    """Train, recommend and score one variant: a dict of figures."""
    tag = f"{folder.name}-{variant}-{seed}"
    done = work / f"{tag}.json"
    if done.exists():
        return json.loads(done.read_text())
    log, models, lists = work / f"{tag}.log", work / "models", work / f"{tag}.csv"
    train = ["train", "--interactions", folder / "train.csv", "--items", folder / "items.csv"]
    train += ["--valid", folder / "valid.csv", "--name", tag, "--out", models, "--quiet"]
    train += ["--seed", seed, *VARIANTS[variant]]
    known = [folder / "train.csv", folder / "valid.csv"]
    recommend = ["recommend", "--model", models / tag, "--histories", *known]
    recommend += ["--users", folder / "test_users.csv", "--k", 20, "--out", lists]
    row = {"variant": variant, "seed": seed, "train_s": run(train, log)}
    row["recommend_s"] = run(recommend, log)
    row.update(judge(yardstick.read(lists), folder))
    newest = max((models / tag).glob("[0-9]*"), key=lambda path: int(path.name))
    manifest = json.loads((newest / "assets.extra" / "manifest.json").read_text())
    row.update(valid=manifest["metrics"], fusion=manifest["fusion"], asked=manifest["asked"])
    row["scorer_weight"] = manifest["scorer_weight"]
    done.write_text(json.dumps(row))
    return row


def judge(lists, folder):
    """Figures of score.py for one set of lists."""
    known = pd.concat([yardstick.read(folder / name) for name in ("train.csv", "valid.csv")])
    catalogue = yardstick.read(folder / "items.csv")["item"]
    found = yardstick.score(lists, yardstick.read(folder / "test.csv"), known, (10,), catalogue)
    return {name: found[name] for name in METRICS}


def baseline_lists(folder):
    """name -> lists of kerasrec's baselines, fitted on train.csv."""
    from kerasrec.data import join_interactions, read_interactions, read_items
    from kerasrec.evaluation import run_baselines
    from kerasrec.sequences import make_histories

    items = read_items(folder / "items.csv")
    train, valid = (read_interactions(folder / f"{name}.csv") for name in ("train", "valid"))
    users = pd.read_csv(folder / "test_users.csv", dtype=str)["user"].to_numpy(object)
    histories = make_histories(join_interactions([train, valid]), items).of_users(users)
    fitted = make_histories(train, items)
    found = run_baselines(fitted, histories, items, texts=items.texts())
    names = {"user_id": "user", "item_id": "item"}
    return {name: lists.rename(columns=names) for name, lists in found.items()}


def compare(folder, lists, baselines):
    """A sentence: the first default row against the best baseline, over the same users."""
    from kerasrec.data import join_interactions, read_interactions, read_items
    from kerasrec.evaluation import evaluate
    from kerasrec.sequences import make_histories

    items = read_items(folder / "items.csv")
    parts = [read_interactions(folder / f"{name}.csv") for name in ("train", "valid")]
    known, test = join_interactions(parts), read_interactions(folder / "test.csv")
    names = {"user": "user_id", "item": "item_id"}
    models = {"kerasrec": yardstick.read(lists), **baselines}
    models = {name: found.rename(columns=names) for name, found in models.items()}
    histories = make_histories(known, items)
    return evaluate(models, test, histories=histories, train=known, items=items).summary()


def table(rows):
    """Markdown table: the mean over seeds of every variant."""
    frame = pd.DataFrame(rows)
    lines = [
        "| variant | seeds | NDCG@10 | Recall@10 | train s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for variant, group in frame.groupby("variant", sort=False):
        cells = []
        for metric in ("ndcg@10", "recall@10"):
            spread = f", seeds ± {group[metric].std():.4f}" if len(group) > 1 else ""
            error = group[f"{metric}_se"].mean()
            cells.append(f"{group[metric].mean():.4f} (se {error:.4f}{spread})")
        seconds = group["train_s"].mean() if "train_s" in group else float("nan")
        shown = f"{seconds:.0f}" if seconds == seconds else ""
        seeds = len(group) if str(group["seed"].iloc[0]) else ""
        lines.append(f"| {variant} | {seeds} | {cells[0]} | {cells[1]} | {shown} |")
    return "\n".join(lines)


def data_folders(data, only):
    """The data sets in a folder, or those named."""
    found = {p.parent.name: p.parent for p in sorted(data.glob("*/interactions.csv.gz"))}
    unknown = [name for name in only or [] if name not in found]
    if unknown or not found:
        wanted = ", ".join(unknown) or "interactions.csv.gz in a folder per data set"
        raise SystemExit(f"{data} has no {wanted}. It has: {', '.join(found) or 'none'}.")
    return [found[name] for name in only or found]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder per data set")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the data sets")
    parser.add_argument("--out", type=Path, help="folder that ACCURACY.md is written to")
    parser.add_argument("--protocol", nargs="+", choices=["loo", "temporal"], default=["loo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "accuracy")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    parts = []
    for data in data_folders(options.data, options.only):
        for protocol in options.protocol:
            try:
                name, _ = split.write_split(data, options.work / "splits", protocol)
            except SystemExit as refusal:  # positions instead of times
                print(f"{data.name}: {refusal}", file=sys.stderr)
                continue
            folder = options.work / "splits" / name
            parts.append(f"## {name}\n\n{measure(folder, options)}\n")
            print(parts[-1], flush=True)
    if options.out:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = (
            f"# Accuracy\n\nMeasured {date.today()} on {os.cpu_count()} cores ({machine}) by "
            f"`benchmarks/accuracy.py`, seeds {options.seeds};\ntimes are wall seconds. se = "
            "standard error over the test users.\n\n"
        )
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "ACCURACY.md").write_text(head + "\n".join(parts))


def measure(folder, options):
    """Table of a split and the comparison with the best baseline."""
    baselines = baseline_lists(folder)
    rows = [
        {"variant": f"baseline: {name}", "seed": "", **judge(lists, folder)}
        for name, lists in baselines.items()
    ]
    for variant in options.variants:
        for seed in options.seeds:
            rows.append(kerasrec_row(folder, options.work, variant, seed))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    first = f"{folder.name}-{options.variants[0]}-{options.seeds[0]}.csv"
    return f"{table(rows)}\n\n{compare(folder, options.work / first, baselines)}"


if __name__ == "__main__":
    main()
