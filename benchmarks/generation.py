"""Generation: items through their codes, plans of five, cold items, seconds.

    .venv/bin/python benchmarks/generation.py --data DATA [--only codes plans cold speed]
        [--out benchmarks] [--work build/generation]

DATA holds a folder per data set, with interactions.csv.gz and items.csv.gz. Splits and scores are
those of `yardstick/`, but for the split of the plans: each user's last five events are the test, of
users with ten or more; the five before them validate, of users who then have ten or more.

codes   leave-one-out, next item, models alone (no tables, no recency): the dense model, the same
        with codes as a third part of the item vectors, and items through their codes only. The
        codes are made of the dense model's vectors, so its seconds come on top of theirs.
plans   five items in order against the five that came, beside the top five of the same version and
        of its dense model alone, all made once, at the end of what is known of each user; other
        users' later events are trained on, as in leave-one-out.
cold    split by time: targets that nobody had before, among the whole catalogue.
speed   amazon-beauty, 12,101 items, four codes, 16 beams: one user, batches; training.

Every part is done once and kept under --work: delete it there to have it done again, the version in
models/ too to have that trained again. The tables go to standard output and, with --out, to
OUT/GENERATION.md.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "yardstick"))
import score as yardstick  # noqa: E402
import split  # noqa: E402

PLANNED = 5
CODED = ("amazon-beauty", "mooccube-courses", "caixin-news", "movielens-small-zh")
PLANS = ("mooccube-courses", "caixin-news")
COLD = ("caixin-news", "mooccube-courses")


# --- splits ---


def plan_split(events):
    """`(train, valid, test)`: see the module."""
    test = _last(events)
    rest = events[~test]
    valid = _last(rest)
    return rest[~valid], rest[valid], events[test]


def _last(events):
    """The last five events of users with ten or more."""
    from_end = events.groupby("user").cumcount(ascending=False)
    length = events.groupby("user")["item"].transform("size")
    return (from_end < PLANNED) & (length >= 2 * PLANNED)


def write_split(data, work, protocol):
    """A folder with train.csv, valid.csv, test.csv and items.csv."""
    if protocol != "plans":
        name, _ = split.write_split(data, work / "splits", protocol)
        return work / "splits" / name
    folder = work / "splits" / f"{data.name}-plans"
    folder.mkdir(parents=True, exist_ok=True)
    events, items = split.read_data(data)
    events = split.prepare(events)
    items = items[items["item"].isin(events["item"])].drop_duplicates("item")
    for part, name in zip(plan_split(events), ("train", "valid", "test"), strict=True):
        part.to_csv(folder / f"{name}.csv", index=False)
    items.to_csv(folder / "items.csv", index=False)
    return folder


class Split:
    """What a split holds, as kerasrec reads it."""

    def __init__(self, folder):
        from kerasrec.data.histories import make_histories
        from kerasrec.data.interactions import join_interactions
        from kerasrec.data.sources import read_interactions, read_items
        from kerasrec.models.validation import make_validation

        self.folder = folder
        self.items = read_items(folder / "items.csv")
        self.train, self.valid, self.test = (
            read_interactions(folder / f"{name}.csv") for name in ("train", "valid", "test")
        )
        self.fitted = make_histories(self.train, self.items)
        later = make_histories(self.valid, self.items)
        self.validation = make_validation(self.fitted, later)
        known = make_histories(join_interactions([self.train, self.valid]), self.items)
        self.tested = make_histories(self.test, self.items)
        self.known = known.of_users(self.tested.user_ids)

    def score(self, lists, only=None):
        """Figures of score.py for lists of item indices `(num_users, k)`; `only` some targets."""
        row, column = np.nonzero(lists)
        found = pd.DataFrame(
            {
                "user": self.known.user_ids[row],
                "item": self.items.ids[lists[row, column] - 1],
                "rank": column + 1,
            }
        )
        past = pd.concat(
            [yardstick.read(self.folder / name) for name in ("train.csv", "valid.csv")]
        )
        test = yardstick.read(self.folder / "test.csv")
        if only is not None:
            test = test[test["item"].isin(only) & test["user"].isin(past["user"])]
        return yardstick.score(found, test, past, (10,), self.items.ids)


def trained(data, work, protocol, seed=0):
    """`(Split, Recommender)` of a version with a generator, default options."""
    import kerasrec
    from kerasrec.versions.folders import find_version

    of, name = Split(write_split(data, work, protocol)), f"{data.name}-{protocol}-{seed}"
    if not (work / "models" / name).exists():
        kerasrec.train(
            of.folder / "train.csv",
            of.folder / "items.csv",
            name=name,
            valid=of.folder / "valid.csv",
            out=work / "models",
            options={"trainer": {"seed": seed}, "generator": {"seed": seed}},
            generator=True,
            progress=False,
            ask="end" if protocol == "temporal" else "newest",
        )
    version = find_version(work / "models" / name)
    recommender = kerasrec.Recommender.load(version, index="exact")
    return of, made_anew(recommender, of)


def made_anew(recommender, of):
    """The version with a graph by the code as it is now; the exponents are chosen again as well.

    Training takes far longer than all else, and what is measured here is the search.
    """
    import kerasrec
    from kerasrec.fusion.recency import AT_THE_END, NEVER, Counts, newest_times
    from kerasrec.generation.generator import Generator
    from kerasrec.training.generating import choose_trust
    from kerasrec.training.stages import no_time
    from kerasrec.versions import folders
    from kerasrec.versions.exporter import serving_module
    from kerasrec.versions.loaded import LoadedVersion
    from kerasrec.versions.plangraph import PLAN_ITEMS
    from kerasrec.versions.trainingstate import Rebuilt

    version, items = recommender.version, len(of.items)
    model = Rebuilt(version).model
    generator = Generator.load(version / folders.GENERATOR)

    def graph(fusion):
        with tempfile.TemporaryDirectory() as folder:
            ids = Path(folder) / folders.ITEM_IDS.name
            folders.write_item_ids(ids, of.items.ids)
            return serving_module(model, asset=ids, fusion=fusion, k=1, generator=generator)

    fusion = recommender.fusion()
    # weighed before what was held out is known, as in `train`
    counts = Counts.of(items, of.fitted)
    first = np.where(counts.total > 0, fusion.first, NEVER).astype(np.int32)
    module = graph(fusion._replace(first=first).at_end(counts))
    asked_of = no_time if recommender.manifest["asked"] == AT_THE_END else newest_times
    trust, prior, _ = choose_trust(module, of.validation, asked_of, PLAN_ITEMS)
    generator = generator._replace(trust=trust, prior=prior)
    loaded = LoadedVersion(graph(fusion), recommender.about, version)
    return kerasrec.Recommender(loaded, index="exact")


# --- parts ---


def codes(data, work):
    """Rows of the models alone on one data set."""
    from kerasrec import build_model, fit_product_codes, fit_semantic_ids
    from kerasrec.models.textpart import text_part
    from kerasrec.models.validation import Ranker
    from kerasrec.training.generating import text_columns
    from kerasrec.training.trainer import Trainer

    of = Split(write_split(data, work, "loo"))
    part = text_part(of.items, progress=False)
    timed = bool(of.fitted.timestamps.any())
    rows, scores = [], {}

    def measure(label, *, text=part.text, **options):
        def build():
            return build_model(len(of.items), text=text, time_gaps=timed, **options)

        begin = time.perf_counter()
        trainer = Trainer(build, progress=False)
        trainer.fit(of.fitted, of.validation)
        seconds = time.perf_counter() - begin
        ranker = Ranker(trainer.model)
        lists = ranker.top(of.known, 20)
        scores[label] = user_ndcg(lists, of)
        found = of.score(lists)
        rows.append(
            {
                "model": label,
                **{name: found[name] for name in ("ndcg@10", "ndcg@10_se", "recall@10")},
                "seconds": seconds,
            }
        )
        return trainer.model, ranker

    model, ranker = measure("dense")
    vectors = ranker.item_vectors().numpy()[1:]
    known = text_columns(model.config, vectors.shape[1])
    ids = fit_semantic_ids(vectors, part.vectors, known=known)
    unordered = fit_product_codes(vectors, part.vectors)
    alone = dict(text=None, text_units=0, id_units=0, code_units=128)
    measure("dense, as wide as with codes", id_units=128)
    measure("dense + 32 codes as a third part", codes=unordered)
    measure("32 codes only", codes=unordered, **alone)
    measure("semantic ids only: 3 residual codes", codes=ids.codes, **alone)
    for row in rows:
        row["difference"] = interval(scores[row["model"]] - scores["dense"])
    return {"rows": rows, "usage": ids.usage()}


def user_ndcg(lists, of):
    """NDCG@10 of each user with one target."""
    target = of.tested.items[of.tested.offsets[:-1]]
    hit = lists[:, :10] == target[:, None]
    return (hit / np.log2(np.arange(2, 12))).sum(axis=1)


def interval(values):
    """Mean and its 95 % interval over users."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean()), float(values.mean() - half), float(values.mean() + half)]


def dense_top(recommender, histories, k):
    """Best `k` unseen items by the model alone."""

    vectors = recommender.loaded.vectors()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    scores = recommender.interests(histories) @ unit.T
    scores[:, 0] = -9
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    scores[row, histories.items] = -9
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def planned(recommender, histories, num_items, *, trust=None, prior=None, beams=16):
    """Plans `(num_users, num_items)`, with other exponents for the while."""
    with exponents(recommender, trust, prior):
        questions = questions_of(recommender, histories)
        return recommender.plans.index(questions, num_items, beams=beams)[0][:, 0]


def questions_of(recommender, histories):
    """`Questions` of histories, each asked at the time that `recommend` takes."""
    from kerasrec.recommender.questions import read_questions

    return read_questions(histories, recommender.items, asked=recommender.manifest["asked"])


@contextlib.contextmanager
def exponents(recommender, trust, prior):
    """Other exponents of decoder and recommender for the while; None = those of the version."""
    module = recommender.loaded.module
    variables = (module.planner.trust, module.prior_trust)
    before = [variable.numpy() for variable in variables]
    for variable, value in zip(variables, (trust, prior), strict=True):
        if value is not None:
            variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def plans(data, work):
    """Rows of lists of five against the five that came."""
    of, recommender = trained(data, work, "plans")
    true = of.tested.items.reshape(-1, PLANNED)
    table = recommender.recommend(of.known, k=PLANNED)
    lists = {
        "dense model alone, top 5": dense_top(recommender, of.known, PLANNED),
        "the version, top 5": recommender.index_of(table["item_id"]).reshape(-1, PLANNED),
        "decoder alone, plan": planned(recommender, of.known, PLANNED, trust=1, prior=0),
        "generate, plan": planned(recommender, of.known, PLANNED),
    }
    discount = 1 / np.log2(np.arange(2, PLANNED + 2))
    rows, first = [], None
    for label, found in lists.items():
        hit = (found[:, :, None] == true[:, None]).any(axis=2)
        share = hit.mean(axis=1)
        first = share if first is None else first
        by_place = [
            float(((hit * discount)[:, :n].sum(axis=1) / discount[:n].sum()).mean())
            for n in range(1, PLANNED + 1)
        ]
        rows.append(
            {
                "lists": label,
                "share": float(share.mean()),
                "se": float(share.std(ddof=1) / len(share) ** 0.5),
                "ratio": ratio(share, first),
                "in place": float((found == true).mean()),
                "ndcg": by_place,
            }
        )
    seconds = recommender.manifest["train_seconds"]
    return {"rows": rows, "users": len(true), "seconds": seconds, "chosen": chosen(recommender)}


def chosen(recommender):
    """The exponents of a version: dict."""
    module = recommender.loaded.module
    found = {"trust": module.planner.trust, "prior": module.prior_trust}
    return {name: round(float(value.numpy()), 4) for name, value in found.items()}


def ratio(values, base, draws=2000):
    """Ratio of two means over the same users, with its 95 % interval by bootstrap."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(values), (draws, len(values)))
    found = values[rows].mean(axis=1) / np.maximum(base[rows].mean(axis=1), 1e-12)
    return [float(values.mean() / base.mean()), *map(float, np.quantile(found, [0.025, 0.975]))]


def cold(data, work):
    """Recall@10 on targets that nobody had before, by plans of ten items."""
    of, recommender = trained(data, work, "temporal")
    new = yardstick.read(of.folder / "cold_items.csv")["item"]
    table = recommender.recommend(of.known, k=10)
    row = pd.Index(of.known.user_ids).get_indexer(table["user_id"])
    top = np.zeros((of.known.num_users, 10), np.int32)
    top[row, table["rank"] - 1] = recommender.index_of(table["item_id"])
    lists = {
        "the version, top 10": top,
        "decoder alone, plan of 10": planned(recommender, of.known, 10, trust=1, prior=0),
        "recommender alone, plan of 10": planned(recommender, of.known, 10, trust=0, prior=1),
        "generate, plan of 10": planned(recommender, of.known, 10),
    }
    rows = []
    for label, found in lists.items():
        every, some = of.score(found), of.score(found, only=new)
        rows.append(
            {
                "lists": label,
                "ndcg": [every["ndcg@10"], every["ndcg@10_se"]],
                "cold": [some["recall@10"], some["recall@10_se"]],
                "users": int(some["users"]),
            }
        )
    return {"rows": rows, "chosen": chosen(recommender)}


def speed(data, work):
    """Seconds of training and of search on amazon-beauty, and how good its plans are."""
    from kerasrec.recommender.questions import Questions

    of, recommender = trained(data, work, "loo")
    epochs = recommender.manifest["plans"]["epochs"]
    found = {
        "training the whole version, s": recommender.manifest["train_seconds"],
        "training the generator, s": recommender.manifest["plans"]["seconds"],
        "epochs": len(epochs),
        "decoder alone, next item": of.score(beam_tops(recommender, of)),
    }
    some = Questions(of.known.select(np.arange(512)), *np.zeros((2, 512), np.int64))
    for num_items in (1, PLANNED):
        run = recommender.plans.index
        run(some.select(np.arange(1)), num_items)  # traced and warm
        alone = []
        for user in range(60):
            begin = time.perf_counter()
            run(some.select(np.array([user])), num_items)
            alone.append(1000 * (time.perf_counter() - begin))
        run(some, num_items, batch_size=64)
        together = []
        for _ in range(3):
            begin = time.perf_counter()
            run(some, num_items, batch_size=64)
            together.append(512 / (time.perf_counter() - begin))
        found[f"{num_items} items"] = {
            "one user, ms": [float(np.median(alone)), float(np.quantile(alone, 0.95))],
            "users per s": [float(np.median(together)), min(together), max(together)],
        }
    return found


def beam_tops(recommender, of, beams=20):
    """The first item of plans of one, best beams first, by the decoder alone."""
    from kerasrec.recommender.questions import Questions

    questions = Questions(of.known, *np.zeros((2, of.known.num_users), np.int64))
    with exponents(recommender, 1.0, 0.0):
        index, _ = recommender.plans.index(questions, 1, beams=beams, num_lists=beams)
    return index[:, :, 0]


# --- text ---


def text_of_codes(name, found):
    """Markdown of a data set's models alone."""
    lines = [
        f"### {name}\n",
        "| model alone | NDCG@10 | Recall@10 | difference to dense (95 %) | train s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        mean, low, high = row["difference"]
        difference = "" if row["model"] == "dense" else f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(
            f"| {row['model']} | {row['ndcg@10']:.4f} ± {row['ndcg@10_se']:.4f} | "
            f"{row['recall@10']:.4f} | {difference} | {row['seconds']:.0f} |"
        )
    usage = ", ".join(
        f"level {row['level']}: {row['used']} of {row['codes']} used, perplexity "
        f"{row['perplexity']}, {row['unique']:.0%} of the items unique"
        for row in found["usage"]
    )
    return "\n".join([*lines, f"\nCodes of 3 levels: {usage}."])


def text_of_plans(name, found):
    """Markdown of a data set's plans."""
    lines = [
        f"### {name}, {found['users']:,} users\n",
        "| lists of 5 | share of the true 5 | ratio to the first (95 %) | in the right place "
        "| NDCG@1 to @5 | mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        value, low, high = row["ratio"]
        ndcg = " ".join(f"{v:.3f}" for v in row["ndcg"])
        lines.append(
            f"| {row['lists']} | {row['share']:.4f} ± {row['se']:.4f} | {value:.3f} ({low:.3f} to "
            f"{high:.3f}) | {row['in place']:.4f} | {ndcg} | {np.mean(row['ndcg']):.4f} |"
        )
    trained_in = f"Training the version: {found['seconds']:.0f} s."
    return "\n".join([*lines, f"\n{text_of_chosen(found)} {trained_in}"])


def text_of_cold(name, found):
    """Markdown of a data set's cold items."""
    lines = [
        f"### {name}, {found['rows'][0]['users']:,} users with cold targets\n",
        "| lists of 10 | NDCG@10, all targets | Recall@10, cold targets (95 %) |",
        "| --- | --- | --- |",
    ]
    for row in found["rows"]:
        (all_, all_se), (new, new_se) = row["ndcg"], row["cold"]
        lines.append(
            f"| {row['lists']} | {all_:.4f} ± {all_se:.4f} | {new:.4f} "
            f"({max(new - 1.96 * new_se, 0):.4f} to {new + 1.96 * new_se:.4f}) |"
        )
    return "\n".join([*lines, "\n" + text_of_chosen(found)])


def text_of_chosen(found):
    """The exponents in words."""
    trust, prior = (found["chosen"][name] for name in ("trust", "prior"))
    return f"Chosen on validation: trust in the decoder {trust:g}, in the recommender {prior:g}."


def text_of_speed(name, found):
    """Markdown of seconds."""
    lines = [
        f"### {name}\n",
        "| 16 beams, 4 codes an item | one user, ms (95 % below) | users per s, batches of 64 "
        "(3 runs) |",
        "| --- | --- | --- |",
    ]
    for num_items in (1, PLANNED):
        row = found[f"{num_items} items"]
        median, high = row["one user, ms"]
        rate, low, top = row["users per s"]
        lines.append(
            f"| plan of {num_items} | {median:.1f} ({high:.1f}) | {rate:.0f} ({low:.0f} to "
            f"{top:.0f}) |"
        )
    quality = found["decoder alone, next item"]
    return "\n".join(
        [
            *lines,
            f"\nTraining the generator: {found['training the generator, s']:.0f} s, "
            f"{found['epochs']} epochs; the whole version "
            f"{found['training the whole version, s']:.0f} s. Next item by the decoder alone: "
            f"NDCG@10 {quality['ndcg@10']:.4f} ± "
            f"{quality['ndcg@10_se']:.4f}, Recall@10 {quality['recall@10']:.4f}.",
        ]
    )


PARTS = {
    "codes": (codes, text_of_codes, CODED, "Items through their codes: next item, leave-one-out"),
    "plans": (plans, text_of_plans, PLANS, "Plans of five"),
    "cold": (cold, text_of_cold, COLD, "Cold items, split by time"),
    "speed": (speed, text_of_speed, ("amazon-beauty",), "Seconds"),
}


def done(part, data, work):
    """Figures of a part on a data set, from the last time if there are any."""
    kept = work / f"{part}-{data.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    )
    found = {"date": str(date.today()), "commit": commit.stdout.strip()}
    found |= PARTS[part][0](data, work)
    kept.write_text(json.dumps(found))
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder per data set")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="of the data sets")
    parser.add_argument("--out", type=Path, help="folder that GENERATION.md is written to")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "generation")
    parser.add_argument("--kept", action="store_true", help="show what is kept, measure nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    texts, days = [], set()
    for part in options.only:
        _, text_of, names, title = PARTS[part]
        parts = []
        for name in names:
            if options.sets and name not in options.sets:
                continue
            if options.kept and not (options.work / f"{part}-{name}.json").exists():
                continue
            if not (options.data / name / "interactions.csv.gz").is_file():
                parser.error(f"--data {options.data} has no {name}/interactions.csv.gz")
            found = done(part, options.data / name, options.work)
            days.add(found["date"])
            parts.append(f"{text_of(name, found)}\n\nCommit {found['commit']}.\n")
            print(parts[-1], flush=True)
        texts += [f"## {title}\n", *parts] if parts else []
    if options.out:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = (
            f"# Generation\n\nMeasured {' to '.join(sorted(days))} on {os.cpu_count()} cores "
            f"({machine}) by `benchmarks/generation.py`;\n± is the standard error over users, "
            "default options, seed 0. A version that was kept may have been trained by an earlier\n"
            "commit; its graph, and so the search, is that of the commit that is named.\n\n"
        )
        (options.out / "GENERATION.md").write_text(head + "\n".join(texts))


if __name__ == "__main__":
    main()
