"""Accuracy by the neutral yardstick: full ranking, tuned on valid, scored on test by score.py.

    .venv/bin/python benchmarks/accuracy.py --data DATA [--only NAME ...] [--out benchmarks]
        [--protocol loo] [--seeds 0 1 2] [--variants default text-only ...] [--update 1d]
        [--peers PEERS] [--peer-name NAME]

DATA holds a folder per data set, with interactions.csv.gz and items.csv.gz. `yardstick/` holds
copies of the deterministic split and of the scorer. Every row is `kerasrec train` and `kerasrec
recommend` in a process of its own, with the defaults but for what the variant says, fitted on
train.csv, stopped and fused on valid.csv, history at test = train + valid. Under each table stands
the difference to the best baseline over the same users, with its interval. Split by time, cold
items are targets without an event before the test, asked by users who have one, ranked among the
whole catalogue.

In the live protocol each event after the cut is a request of its own: a row is `kerasrec train` on
train.csv and valid.csv and `kerasrec replay` over the requests, with --update also with an update
every so often. Beside it stands `live_knn`, whose counts grow with every event (`live.py`).

The variants "users", "relations" and "relations table" need users.csv.gz and relations.csv.gz in
the folder of the data set: who has no history is then
asked for with the columns of the table. Split by time, users without a history have figures too.

Rows that are done are not run again unless code, data or arguments have changed; the tables go to
standard output and, with --out, to OUT/ACCURACY.md and OUT/accuracy.svg.

PEERS may hold lists of a program that is not kerasrec, one file per split: PEERS/SPLIT.csv with the
columns user, item, rank, e.g. those of `speed_peer.py --lists`. They are scored as all other lists
are, and kerasrec is compared with them over the same users too.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "yardstick")]
import live  # noqa: E402
import score as yardstick  # noqa: E402
import split  # noqa: E402
from live import METRICS, run  # noqa: E402

PROTOCOLS = ["loo", "temporal", "live"]
LOSSES = ("softmax", "sampled_softmax", "bce", "gbce", "bpr", "infonce", "mse")
#: parts of a fusion beside the model
TABLES = ("transitions", "follows", "ease", "text", "recency")


def _without(part):
    """The other parts of the fusion, as `--set` takes them."""
    return "[" + ",".join(name for name in TABLES if name != part) + "]"


#: variant -> arguments of `kerasrec train`; --set options of the variants are joined
VARIANTS = {
    "default": [],
    "text-only": ["--set", "model.id_units=0", "model.text_units=128", "fusion.parts=[text]"],
    "ids-only": ["--encoder", "none", "--set", "model.id_units=128"],
    "no-id": ["--set", "model.id_units=0", "model.text_units=128"],
    "no-tables": ["--set", "fusion.parts=[recency]"],
    "model-alone": ["--set", "fusion.parts=[]"],
    **{f"no-{part}": ["--set", f"fusion.parts={_without(part)}"] for part in TABLES},
    "no-residual": ["--set", "model.residual=false"],
    "refit": ["--refit"],
    "no-refit": ["--no-refit"],
    "fast": ["--preset", "fast"],
    "accurate": ["--preset", "accurate"],
    "codes": ["--set", "trainer.codes=true"],
    "rnn": ["--set", "model.sequence=rnn"],
    "bert": ["--set", "model.sequence=bert"],
    "gmf": ["--set", "model.interest=gmf"],
    "tfidf": ["--encoder", "tfidf"],
    "features": ["--item-features", "auto"],
    "relations": ["--relations", "{relations}"],
    "relations table": [
        *("--relations", "{relations}", "--set"),
        f"fusion.parts=[{','.join([*TABLES, 'relations'])}]",
    ],
    "users": ["--users", "{users}"],
    "features and users": ["--item-features", "auto", "--users", "{users}"],
    **{f"loss-{name}": ["--set", f"model.loss={name}"] for name in LOSSES},
}
FEW_USERS, MANY_SEEDS = 1000, 5  # one seed says little of the default on few users
#: split -> (who, NDCG@10, Recall@10): the best known on the same split before kerasrec, measured
#: with the same scorer, one seed; their lists are not here (for a paired comparison: --peers)
PEERS = {
    "caixin-news": ("RecTools SASRec, softmax", 0.5027, 0.6325),
    "amazon-beauty": ("SASRec + sequential kNN", 0.0574, 0.0947),
    "mooccube-courses": ("sequential kNN + EASE + TF-IDF", 0.159, 0.268),
    "movielens-small-zh": ("sequential kNN", 0.095, 0.173),
    "caixin-news-temporal": ("popularity of the last 24 h", 0.0665, 0.0523),
    "mooccube-courses-temporal": ("kNN x recency + TF-IDF", 0.126, 0.188),
}


def made_of(folder, variant):
    """Digest of what a row depends on: kerasrec's code, the split, the arguments."""
    paths = sorted((HERE.parent / "kerasrec").rglob("*.py")) + sorted(folder.glob("*.csv"))
    digest = hashlib.sha256(json.dumps(VARIANTS[variant]).encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kerasrec_row(folder, work, variant, seed):
    """Train, recommend and score one variant: a dict of figures."""
    tag = f"{folder.name}-{variant.replace(' ', '-')}-{seed}"
    done, key = work / f"{tag}.json", made_of(folder, variant)
    if done.exists() and (row := json.loads(done.read_text())).get("made_of") == key:
        return row
    log, models, lists = work / f"{tag}.log", work / "models", work / f"{tag}.csv"
    train = ["train", "--interactions", folder / "train.csv", "--items", folder / "items.csv"]
    train += ["--valid", folder / "valid.csv", "--name", tag, "--out", models, "--quiet"]
    # the split is by time where it has cold items
    ask = "end" if (folder / "cold_items.csv").exists() else "newest"
    table, asking = folder / "users.csv", folder / "test_users.csv"
    tables = {"users": table, "relations": folder / "relations.csv"}
    arguments = [str(one).format(**tables) for one in VARIANTS[variant]]
    if str(table) in arguments:  # who asks, with what is known of them
        who = yardstick.read(asking).merge(yardstick.read(table), how="left")
        asking = work / f"{tag}-asking.csv"
        who.to_csv(asking, index=False)
    train += ["--ask", ask, "--seed", seed, *arguments]
    known = [folder / "train.csv", folder / "valid.csv"]
    recommend = ["recommend", "--model", models / tag, "--histories", *known]
    recommend += ["--users", asking, "--k", 50, "--out", lists]
    row = {"made_of": key, "date": str(date.today()), "variant": variant, "seed": seed}
    row.update(train_s=run(train, log), recommend_s=run(recommend, log))
    found = yardstick.read(lists)
    row.update(judge(found, folder))
    if (folder / "cold_items.csv").exists():
        new = yardstick.read(folder / "cold_items.csv")["item"]
        warm = judge(found[~found["item"].isin(new)], folder)
        row["ndcg@10 without cold items in the lists"] = warm["ndcg@10"]
    newest = max((models / tag).glob("[0-9]*"), key=lambda path: int(path.name))
    manifest = json.loads((newest / "assets.extra" / "manifest.json").read_text())
    row.update(valid=manifest["metrics"], fusion=manifest["fusion"], asked=manifest["asked"])
    row["scorer_weight"] = manifest["scorer_weight"]
    done.write_text(json.dumps(row))
    return row


def live_rows(folder, work, variant, seed, update):
    """Train, replay and score one variant: a dict of figures, and another one with updates."""
    tag, arguments = f"{folder.name}-{variant}-{seed}", ["--seed", seed, *VARIANTS[variant]]
    done, key = work / f"{tag}.json", made_of(folder, variant)
    rows = json.loads(done.read_text()) if done.exists() else []
    wanted = ["", *([f", update {update}"] if update else [])]
    if [row["label"] for row in rows if row["made_of"] == key][: len(wanted)] != wanted:
        given = dict(tag=tag, arguments=arguments)
        facts = {"made_of": key, "date": str(date.today()), "seed": seed}
        rows = [
            {**facts, "variant": f"{variant}{label}", "label": label, **row}
            for label, row in live.kerasrec_rows(folder, work, update, **given)
        ]
        done.write_text(json.dumps(rows))
    return rows[: len(wanted)]


def judge(lists, folder):
    """Figures of score.py for one set of lists; with a split by time also those of cold items."""
    known = pd.concat([yardstick.read(folder / name) for name in ("train.csv", "valid.csv")])
    catalogue = yardstick.read(folder / "items.csv")["item"]
    test = yardstick.read(folder / "test.csv")
    found = yardstick.score(lists, test, known, (10,), catalogue)
    row = {name: found[name] for name in METRICS}
    if (folder / "cold_items.csv").exists():
        new = yardstick.read(folder / "cold_items.csv")["item"]
        asked = test[test["item"].isin(new) & test["user"].isin(known["user"])]
        cold = yardstick.score(lists, asked, known, (10,), catalogue)
        row.update({f"cold {name}": cold[name] for name in ("users", *METRICS)})
        first = test[~test["user"].isin(known["user"])]
        if len(first):
            found = yardstick.score(lists, first, known, (10,), catalogue)
            row.update({f"first {name}": found[name] for name in ("users", *METRICS)})
    return row


def read_split(folder):
    """Items, training and known events and test events of a split, as kerasrec reads them."""
    from kerasrec.data.interactions import join_interactions
    from kerasrec.data.sources import read_interactions, read_items

    names = ("train", "valid", "test")
    train, valid, test = (read_interactions(folder / f"{name}.csv") for name in names)
    return read_items(folder / "items.csv"), train, join_interactions([train, valid]), test


def baseline_lists(folder):
    """name -> lists of kerasrec's baselines, fitted on train.csv."""
    from kerasrec.data.histories import make_histories
    from kerasrec.evaluation.evaluation import run_baselines

    items, train, known, _ = read_split(folder)
    users = pd.read_csv(folder / "test_users.csv", dtype=str)["user"].to_numpy(object)
    histories = make_histories(known, items).of_users(users)
    fitted = make_histories(train, items)
    found = run_baselines(fitted, histories, items, texts=items.texts())
    names = {"user_id": "user", "item_id": "item"}
    return {name: lists.rename(columns=names) for name, lists in found.items()}


def peer_lists(folder, peers, name):
    """label -> lists of an external peer, from peers/<split>.csv; empty where there are none."""
    path = peers / f"{folder.name}.csv" if peers else None
    return {f"peer: {name}": yardstick.read(path)} if path and path.exists() else {}


def compare(folder, name, lists, others):
    """A sentence: the lists of `name` against the best of the others, over the same users."""
    from kerasrec.data.histories import make_histories
    from kerasrec.evaluation.evaluation import evaluate

    items, _, known, test = read_split(folder)
    names = {"user": "user_id", "item": "item_id"}
    models = {name: yardstick.read(lists), **others}
    models = {name: found.rename(columns=names) for name, found in models.items()}
    histories = make_histories(known, items)
    return evaluate(models, test, histories=histories, train=known, items=items).summary()


def table(rows):
    """Markdown table: the mean over seeds of every variant."""
    frame = pd.DataFrame(rows)
    metrics = {"NDCG@10": "ndcg@10", "Recall@10": "recall@10"}
    if "cold users" in frame:
        users = f"{frame['cold users'].iloc[0]} users"
        metrics[f"cold items, Recall@10 ({users})"] = "cold recall@10"
    if "first users" in frame:
        users = f"{frame['first users'].iloc[0]}"
        metrics[f"{users} users without a history, NDCG@10"] = "first ndcg@10"
    columns = ["variant", "seeds", *metrics, "train s"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for variant, group in frame.groupby("variant", sort=False):
        cells = []
        for metric in metrics.values():
            spread = f", seeds ± {group[metric].std():.4f}" if len(group) > 1 else ""
            error = group[f"{metric}_se"].mean()
            cells.append(f"{group[metric].mean():.4f} (se {error:.4f}{spread})")
        seconds = group["train_s"].mean() if "train_s" in group else float("nan")
        seeds = str(len(group)) if str(group["seed"].iloc[0]) else ""
        cells.append(f"{seconds:.0f}" if seconds == seconds else "")
        lines.append("| " + " | ".join([variant, seeds, *cells]) + " |")
    return "\n".join(lines)


def cost_of_cold_items(rows):
    """A sentence for a split by time: what new items in the lists cost or give all users."""
    frame = pd.DataFrame(rows)
    column = "ndcg@10 without cold items in the lists"
    if column not in frame:
        return ""
    means = frame[["ndcg@10", column]].mean()
    return (
        f"\n\nNDCG@10 of {rows[0]['variant']} over all test users: {means.iloc[0]:.4f}; "
        f"with cold items taken out of the lists: {means.iloc[1]:.4f}."
    )


def plot(results, path):
    """Bars of NDCG@10 per split: the peers, the best baseline, the variants."""
    import matplotlib
    from matplotlib.figure import Figure

    # letters stay letters, and the same figures give the same bytes
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kerasrec"})
    columns = min(len(results), 5)  # more beside each other cannot be read on a page
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(1 + 1.7 * columns, 0.3 + 3.1 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(results) :]:
        axes.remove()
    for axes, (name, measured) in zip(grid, results.items(), strict=False):
        frame = pd.DataFrame(measured)
        frame = frame.groupby("variant", sort=False)[["ndcg@10", "ndcg@10_se"]].mean()
        own = frame.index.str.startswith("baseline: ")
        best = frame[own].nlargest(1, "ndcg@10")
        best = best.rename(lambda label: label.removeprefix("baseline: "))
        outside = frame.index.str.startswith("peer: ")
        peers = frame[outside].rename(lambda label: label.removeprefix("peer: "))
        if name in PEERS:
            known = pd.DataFrame({"ndcg@10": PEERS[name][1]}, [PEERS[name][0]])
            peers = pd.concat([known, peers])
        mine = frame[~own & ~outside].rename(lambda label: f"kerasrec, {label}")
        bars = pd.concat([peers, best, mine])
        colours = ["#e08a1e"] * len(peers) + ["#9aa5b1"] + ["#3b82f6"] * len(mine)
        axes.bar(range(len(bars)), bars["ndcg@10"], color=colours, yerr=bars["ndcg@10_se"])
        axes.set_xticks(range(len(bars)), bars.index, rotation=90, fontsize=7)
        axes.set_title(name, fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("NDCG@10, full ranking; bars: standard error over users", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def data_folders(data, only):
    """The data sets in a folder, or those named."""
    found = {p.parent.name: p.parent for p in sorted(data.glob("*/interactions.csv.gz"))}
    unknown = [name for name in only or [] if name not in found]
    if unknown or not found:
        wanted = ", ".join(unknown) or "interactions.csv.gz in a folder per data set"
        print(f"{data} has no {wanted}. It has: {', '.join(found) or 'none'}.", file=sys.stderr)
        raise SystemExit(2)
    return [found[name] for name in only or found]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder per data set")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the data sets")
    parser.add_argument("--out", type=Path, help="folder that ACCURACY.md is written to")
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=PROTOCOLS,
        default=PROTOCOLS,
        help="leave-one-out, split by time, live; default: all",
    )
    seeds = f"0; the default over {MANY_SEEDS} where fewer than {FEW_USERS} users are tested"
    parser.add_argument("--seeds", nargs="+", type=int, help=f"default: {seeds}")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["default"],
        metavar="NAME",
        help=f"of {', '.join(VARIANTS)}; default: default",
    )
    parser.add_argument("--update", help="live: also with an update every so often, such as 1d")
    parser.add_argument("--peers", type=Path, help="a folder with lists of a peer, SPLIT.csv each")
    parser.add_argument("--peer-name", default="RecTools SASRec", help="default: %(default)s")
    parser.add_argument(
        "--work",
        type=Path,
        default=HERE.parent / "build" / "accuracy",
        help="where splits, models and rows are kept; default: build/accuracy",
    )
    options = parser.parse_args()
    if options.peers and not options.peers.is_dir():
        parser.error(f"--peers needs a folder with lists of a peer. Received: {options.peers}")
    options.work.mkdir(parents=True, exist_ok=True)
    parts, results = [], {}
    for data in data_folders(options.data, options.only):
        for protocol in options.protocol:
            try:
                name, _ = split.write_split(data, options.work / "splits", protocol)
            except SystemExit as refusal:  # positions instead of times
                print(f"{data.name}: {refusal}", file=sys.stderr)
                continue
            folder = options.work / "splits" / name
            for more in ("users", "relations"):
                if (data / f"{more}.csv.gz").exists():
                    pd.read_csv(data / f"{more}.csv.gz", dtype=str).to_csv(
                        folder / f"{more}.csv", index=False
                    )
            results[name], text = measure(folder, options)
            parts.append(f"## {name}\n\n{text}\n")
            print(parts[-1], flush=True)
            if options.out:
                write(options.out, parts, results)
    if not parts:
        raise SystemExit("There is nothing to measure: none of the data could be split.")


def write(out, parts, results):
    """ACCURACY.md and its plot, of what there is so far."""
    days = sorted({row["date"] for rows in results.values() for row in rows if "date" in row})
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    head = (
        f"# Accuracy\n\nMeasured {' to '.join(days)} on {os.cpu_count()} cores ({machine}) by "
        "`benchmarks/accuracy.py`;\ntimes are wall seconds of `kerasrec train`. se = "
        "standard error over the test users.\n\n![NDCG@10](accuracy.svg)\n\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "ACCURACY.md").write_text(head + "\n".join(parts))
    plot(results, out / "accuracy.svg")


def measure_live(folder, options):
    """As `measure`, in the live protocol."""
    rows = [{"variant": "baseline: live_knn", "seed": "", **live.knn_row(folder)}]
    for variant in options.variants:
        for seed in options.seeds or [0]:
            rows += live_rows(folder, options.work, variant, seed, options.update)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows, table(rows)


def measure(folder, options):
    """Rows of a split, the baselines, the peer, then the variants; and the text on them."""
    if (folder / "requests.csv").exists():
        return measure_live(folder, options)
    baselines = baseline_lists(folder)
    peer = peer_lists(folder, options.peers, options.peer_name)
    labelled = {f"baseline: {name}": lists for name, lists in baselines.items()} | peer
    rows = [
        {"variant": label, "seed": "", **judge(lists, folder)} for label, lists in labelled.items()
    ]
    users = len(pd.read_csv(folder / "test_users.csv"))
    for variant in options.variants:
        many = variant == "default" and users < FEW_USERS
        for seed in options.seeds or range(MANY_SEEDS if many else 1):
            rows.append(kerasrec_row(folder, options.work, variant, seed))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    first = rows[len(labelled)]
    name = f"kerasrec ({first['variant']}, seed {first['seed']})"
    lists = options.work / f"{folder.name}-{first['variant']}-{first['seed']}.csv"
    text = f"{table(rows)}\n\n{compare(folder, name, lists, baselines)}"
    if peer:
        text += f"\n\n{compare(folder, name, lists, peer)}"
    if folder.name in PEERS:
        who, ndcg, recall = PEERS[folder.name]
        text += f"\n\nBest known before kerasrec: {who}, NDCG@10 {ndcg}, Recall@10 {recall}."
    return rows, text + cost_of_cold_items([r for r in rows if r["variant"] == first["variant"]])


if __name__ == "__main__":
    main()
