"""Conditions on items and live values among 100,000 items, against the targets of the project.

    .venv/bin/python benchmarks/features.py [--only where stock] [--work build/features] [--write]

Loopback only. An untrained version of generated items is made in --work at the first call, as for
`serving.py`; its catalogue has a category (100 of them), tags, a price and stock. Parts:

- where: single lists without and with a condition, taking turns, in Python and over REST; the
  lists compared with a slow computation of their own from all scores.
- index: the same of a version that an index of nearest items answers for (extra ann): under a
  condition every item is looked at; recall is the share of the exact list.
- stock: `PUT /v1/items/ID {"stock": 0}` for an item of the list, then the next list, which must
  not hold it, over REST; from the sending of the PUT to the answer with the list.
- pictures: cold and known items by drawn pictures (synthetic: 240 items whose titles say nothing,
  600 users who stay with items of one colour and shape); without vectors, with them, and with
  those of half of the items; three seeds, `--preset fast`.
- cost: training and lists with ten columns of items and five of users, taking turns with the same
  data without them (4,000 generated users of 2,000 items; three times two epochs each).
"""

import argparse
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import httpx
import numpy as np
from serving import export_generated, histories_of, in_turns, percentiles
from serving import serving as server_of

HERE = Path(__file__).parent
PARTS = ("where", "index", "stock", "cost", "pictures")
#: share of the items that meet a condition -> the condition
CONDITIONS = {
    "50 %": {"price": {"lt": 500}},
    "1 %": {"category": "c7"},
    "0.3 %": {"category": "c7", "price": {"lt": 600}, "tags": {"ne": "t1"}, "stock": {"gt": 25}},
}
K, RERANKED = 20, 100


def version_with_columns(num_items, base):
    """The version of `serving.py`, with columns in its catalogue; made once."""
    from kerasrec.versions import folders

    if not folders.versions(base):
        print(f"making {base} ({num_items:,} items)", file=sys.stderr, flush=True)
        export_generated(num_items, base)
        version = folders.find_version(base)
        frame, rng = folders.read_catalogue(version), np.random.default_rng(0)
        frame["category"] = [f"c{number}" for number in rng.integers(0, 100, num_items)]
        frame["tags"] = ["|".join(f"t{one}" for one in row) for row in
                         rng.integers(0, 500, (num_items, 4))]  # fmt: skip
        frame["price"] = rng.integers(0, 1000, num_items).astype(str)
        frame["stock"] = rng.integers(1, 50, num_items).astype(str)
        folders.write_catalogue(version, frame)
    return folders.find_version(base)


def slow_list(recommender, history, allowed):
    """The best of some items from the scores of all: sorted in numpy, re-ranked by `score`."""
    from kerasrec.backend import tf
    from kerasrec.data.histories import model_inputs
    from kerasrec.recommender.questions import read_histories

    inputs = model_inputs(read_histories([history], recommender.items), len(history))
    given = [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]
    module, now = recommender.loaded.module, tf.zeros([1], tf.int64)
    interest = module.interest_rows(*given)
    padded = tf.pad(given[0], [[0, 0], [1, 0]])
    fused = module.fused_rows(padded, interest, now, now).numpy()[0]
    index = np.setdiff1d(np.flatnonzero(allowed) + 1, inputs["history"])
    best = index[np.argsort(-fused[index], kind="stable")][:RERANKED]
    scores = module.score_rows(*given, tf.constant([best], tf.int32), now, now).numpy()[0]
    return recommender.items.ids[best[np.argsort(-scores, kind="stable")] - 1][:K]


def measure_where(options):
    """Single lists without and with a condition."""
    from kerasrec.recommender.recommender import Recommender

    base = options.work / f"gen{options.items}"
    version = version_with_columns(options.items, base)
    recommender = Recommender.load(version, index="exact")
    rows = [list(row) for row in histories_of(version, options.requests)]
    found = {"items": options.items}
    for share, where in CONDITIONS.items():
        recommender.choose(where)
        pairs = [(row, row) for row in rows]
        plain, under = in_turns(
            lambda row: recommender.recommend([row], k=K, at="now"),
            lambda row, where=where: recommender.recommend([row], k=K, at="now", where=where),
            pairs,
        )
        p50, of_where = percentiles(plain)[0], percentiles(under)[0]
        mask = recommender.choose(where).mask
        equal = [
            list(recommender.recommend([row], k=K, at="now", where=where)["item_id"])
            == list(slow_list(recommender, row, mask))
            for row in rows[: options.compared]
        ]
        found[share] = {
            "items": int(mask.sum()),
            "p50 ms without, with": [round(p50, 2), round(of_where, 2)],
            "ratio": round(of_where / p50, 2),
            "equal lists": f"{sum(equal)} of {len(equal)}",
        }
    times = []
    for _ in range(20):  # of the condition alone, without what is kept
        columns = recommender._columns
        columns._kept.clear()
        began = time.perf_counter()
        columns.choose(CONDITIONS["0.3 %"])
        times.append(1000 * (time.perf_counter() - began))
    found["condition of four columns ms"] = round(float(np.median(times)), 2)
    store = options.work / "where.db"
    with server_of(base, options.work / "where.log", more=("--store", store)) as (_, address, _):
        with httpx.Client(base_url=address, timeout=60) as client:
            where = json.dumps(CONDITIONS["1 %"])
            fill(client, rows)

            def ask(number, **more):
                params = {"user": f"u{number}", "k": K, "log": 0, **more}
                return client.get("/v1/recommend", params=params).raise_for_status()

            pairs = [(n % len(rows), n % len(rows)) for n in range(options.requests)]
            for number, _ in pairs[:20]:
                ask(number), ask(number, where=where)
            plain, under = in_turns(ask, lambda number: ask(number, where=where), pairs)
    p50, of_where = percentiles(plain)[0], percentiles(under)[0]
    found["REST, 1 %"] = {
        "p50 ms without, with": [round(p50, 2), round(of_where, 2)],
        "p99 ms without, with": [round(percentiles(t)[1], 2) for t in (plain, under)],
        "ratio": round(of_where / p50, 2),
    }
    return found


def measure_index(options):
    """Single lists of a version that an index answers for, without and with a condition."""
    from kerasrec.recommender.recommender import Recommender

    version = version_with_columns(options.items, options.work / f"gen{options.items}")
    near, exact = (Recommender.load(version, index=index) for index in ("ann", "exact"))
    rows = [list(row) for row in histories_of(version, options.requests)]

    def listed(recommender, row, where=None):
        return list(recommender.recommend([row], k=K, at="now", where=where)["item_id"])

    found = {}
    for share, where in {"all": None, **CONDITIONS}.items():
        plain, under = in_turns(
            lambda row: listed(near, row),
            lambda row, where=where: listed(near, row, where),
            [(row, row) for row in rows],
        )
        compared = rows[: options.compared]
        pairs = [(listed(near, row, where), listed(exact, row, where)) for row in compared]
        p50, of_where = percentiles(plain)[0], percentiles(under)[0]
        found[share] = {
            "p50 ms without, with": [round(p50, 2), round(of_where, 2)],
            "ratio": round(of_where / p50, 2),
            "recall": round(float(np.mean([len({*a} & {*b}) / len(b) for a, b in pairs])), 4),
        }
    return found


def fill(client, rows):
    """Put the histories into the store of a server, as those of u0, u1, ..."""
    events = [
        {"user_id": f"u{n}", "item_id": item, "timestamp": 1_700_000_000 + place}
        for n, row in enumerate(rows)
        for place, item in enumerate(row)
    ]
    for start in range(0, len(events), 1000):
        client.post("/v1/feedback", json=events[start : start + 1000]).raise_for_status()


def measure_stock(options):
    """Milliseconds from a change of stock to the list that knows of it."""
    base = options.work / f"gen{options.items}"
    version = version_with_columns(options.items, base)
    rows = [list(row) for row in histories_of(version, 50)]
    store = options.work / "stock.db"
    for path in options.work.glob("stock.db*"):
        path.unlink()
    puts, lists, both, wrong = [], [], [], 0
    with server_of(base, options.work / "stock.log", more=("--store", store)) as (_, address, _):
        with httpx.Client(base_url=address, timeout=60) as client:
            fill(client, rows)
            # what another job of the server reads at its start must not be what is measured
            client.put("/v1/items/item 1", json={"stock": 1}).raise_for_status()
            params = {"k": K, "log": 0}
            for number in range(options.requests):
                params["user"] = f"u{number % len(rows)}"
                listed = client.get("/v1/recommend", params=params).raise_for_status().json()
                item = listed["items"][0]["item_id"]
                began = time.perf_counter()
                client.put(f"/v1/items/{item}", json={"stock": 0}).raise_for_status()
                stored = time.perf_counter()
                answer = client.get("/v1/recommend", params=params).raise_for_status().json()
                ended = time.perf_counter()
                wrong += item in [row["item_id"] for row in answer["items"]]
                puts.append(1000 * (stored - began))
                lists.append(1000 * (ended - stored))
                both.append(1000 * (ended - began))
                if number % 2:  # some stay sold out
                    client.put(f"/v1/items/{item}", json={"stock": 9}).raise_for_status()
    shown = {"PUT": puts, "next list": lists, "both": both}
    times = {name: [round(one, 2) for one in percentiles(taken)] for name, taken in shown.items()}
    return {"items": options.items, "changes": len(both), "p50, p99 ms": times, "wrong": wrong}


def measure_pictures(options):
    """Recall@10 of lists at the cut: of new items, of known ones, of all; a row for each seed."""
    import pandas as pd

    import kerasrec
    from kerasrec.data.histories import make_histories
    from kerasrec.recommender.recommender import Recommender

    sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))
    from drawnpictures import drawn_shop

    found = []
    for seed in range(3):
        shop = drawn_shop(seed=seed, num_items=240, num_new=36, num_users=600)
        plain = kerasrec.read_items(shop.items)
        some = np.random.default_rng(9).random(len(plain)) < 0.5
        for what, kept in (("without", None), ("with", slice(None)), ("of half", some)):
            items = plain
            if kept is not None:
                pair = (plain.ids[kept], shop.vectors[kept])
                items = kerasrec.with_vectors(plain, "image", pair)
            trained = kerasrec.train(
                shop.log,
                items,
                valid=shop.valid,
                ask="end",
                name=f"pictures-{seed}-{what.replace(' ', '-')}",
                out=options.work / "pictures",
                preset="fast",
                options={"encoder": {"name": "tfidf"}, "trainer": {"seed": seed}},
                progress=False,
            )
            log = kerasrec.read_interactions(pd.concat([shop.log, shop.valid]))
            histories = make_histories(log, items)
            lists = Recommender.load(trained.version).recommend(histories, k=K // 2)
            listed = set(zip(lists["user_id"], lists["item_id"], strict=True))
            later = zip(shop.later["user_id"], shop.later["item_id"], strict=True)
            hit = np.array([pair in listed for pair in later])
            is_new = shop.later["item_id"].isin(set(shop.cold)).to_numpy()
            recall = {"new": hit[is_new], "known": hit[~is_new], "all": hit}
            row = {name: round(float(hits.mean()), 3) for name, hits in recall.items()}
            found.append({"seed": seed, "vectors": what, **row})
    return found


def pictures_table(rows):
    """Markdown of the rows of `measure_pictures`."""
    lines = ["", "Recall@10 by drawn pictures (synthetic), seeds 0, 1, 2:", ""]
    lines += [
        "| vectors of pictures | new items | known items | all |",
        "| --- | --- | --- | --- |",
    ]
    for what in ("without", "with", "of half"):
        of_kind = [row for row in rows if row["vectors"] == what]
        cells = [
            ", ".join(f"{row[part]:.3f}" for row in of_kind) for part in ("new", "known", "all")
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def ten_columns(num_items):
    """A catalogue with ten columns beside the title: categories, lists, numbers, times."""
    import pandas as pd

    rng = np.random.default_rng(0)
    ids = [f"i{number}" for number in range(num_items)]
    frame = pd.DataFrame({"item_id": ids, "title": [f"商品 {number}" for number in ids]})
    for name, values in {"brand": 200, "category": 30, "city": 50, "colour": 12}.items():
        frame[name] = [f"{name} {one}" for one in rng.integers(0, values, num_items)]
    for name in ("tags", "labels"):
        drawn = rng.integers(0, 100, (num_items, 3))
        frame[name] = ["|".join(f"{name}{one}" for one in row) for row in drawn]
    for name in ("price", "weight", "rating"):
        frame[name] = rng.gamma(2, 50, num_items).round(1).astype(str)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, num_items), "D")
    frame["released"] = days.strftime("%Y-%m-%d")
    declared = "brand:category category:category city:category colour:category "
    declared += "tags:categories labels:categories price:number weight:number rating:number "
    return frame, declared + "released:time"


def people(user_ids):
    """Five columns of users."""
    import pandas as pd

    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"user_id": user_ids, "age": rng.integers(15, 80, len(user_ids))})
    for name, values in {"city": 30, "job": 20, "gender": 2, "level": 6}.items():
        frame[name] = [f"{name} {one}" for one in rng.integers(0, values, len(user_ids))]
    return frame.astype(str)


def measure_cost(options, users=4_000, num_items=2_000, length=10):
    """Seconds of epochs and of the whole training, milliseconds of a list, without and with."""
    import pandas as pd
    from speed import generated

    import kerasrec
    from kerasrec.recommender.recommender import Recommender

    histories = generated(users, num_items, length)
    owner = np.repeat(histories.user_ids, histories.lengths)
    log = pd.DataFrame({"user_id": owner, "item_id": [f"i{one - 1}" for one in histories.items]})
    log["timestamp"] = 1_700_000_000 + 60 * np.random.default_rng(2).permutation(len(log))
    frame, declared = ten_columns(num_items)
    asked_of = people(histories.user_ids)
    took, versions = {"without": [], "with": []}, {}
    for turn in range(3):
        for name in took if turn % 2 else reversed(took):
            more, encoder = {}, {"name": "tfidf"}
            if name == "with":
                more, encoder = {"users": asked_of}, {**encoder, "features": declared}
            began = time.perf_counter()
            trained = kerasrec.train(
                log,
                frame if name == "with" else frame[["item_id", "title"]],
                name=name,
                out=options.work / "cost",
                options={"encoder": encoder, "trainer": {"epochs": 2}},
                progress=False,
                **more,
            )
            whole = time.perf_counter() - began
            took[name].append((float(trained.history["seconds"].iloc[-1]), whole))
            versions[name] = trained.version
    loaded = {name: Recommender.load(version) for name, version in versions.items()}
    rows = [f"i{one}" for one in np.random.default_rng(3).integers(0, num_items, (300, 10)).ravel()]
    rows = [rows[start : start + 10] for start in range(0, len(rows), 10)]
    known = asked_of.iloc[[0]].assign(user_id="0")  # a history without a name is user 0

    def plain(row):
        return loaded["without"].recommend([row], k=K, at="now")

    def featured(row):
        return loaded["with"].recommend([row], k=K, at="now", users=known)

    for row in rows[:20]:
        plain(row), featured(row)
    times = [percentiles(one)[0] for one in in_turns(plain, featured, [(r, r) for r in rows])]
    of_user = {f"user_{name}": value for name, value in known.iloc[0].drop("user_id").items()}
    store = options.work / "cost.db"
    for path in options.work.glob("cost.db*"):
        path.unlink()
    base = options.work / "cost" / "with"
    with server_of(base, options.work / "cost.log", more=("--store", store)) as (_, address, _):
        with httpx.Client(base_url=address, timeout=60) as client:
            fill(client, rows)

            def ask(number, **more):
                params = {"user": f"u{number}", "k": K, "log": 0, **more}
                return client.get("/v1/recommend", params=params).raise_for_status()

            pairs = [(number % len(rows), number % len(rows)) for number in range(options.requests)]
            for number, _ in pairs[:20]:
                ask(number), ask(number, **of_user)
            both = in_turns(ask, lambda number: ask(number, **of_user), pairs)
    served = [percentiles(one)[0] for one in both]
    epochs = [min(epoch for epoch, _ in took[name]) for name in ("without", "with")]
    wholes = [min(whole for _, whole in took[name]) for name in ("without", "with")]
    pairs = {
        "second epoch s": epochs,
        "training s": wholes,
        "served list p50 ms": served,
        "list in Python p50 ms": times,
    }
    return {
        name: {
            "without, with": [round(one, 2) for one in pair],
            "ratio": round(pair[1] / pair[0], 2),
        }
        for name, pair in pairs.items()
    }


def table(work):
    """Markdown of the results in the work folder."""
    lines = ["| what | target | measured | met |", "| --- | --- | --- | --- |"]
    path = work / "where.json"
    if path.exists():
        found = json.loads(path.read_text())
        for share in CONDITIONS:
            row = found[share]
            plain, under = row["p50 ms without, with"]
            is_goal = share == "1 %"
            met = ("yes" if row["ratio"] <= 1.5 else "no") if is_goal else ""
            lines.append(
                f"| `where` that leaves {share} ({row['items']:,} items), in Python | "
                f"{'equal lists; p50 <= 1.5x' if is_goal else ''} | {row['equal lists']} equal; "
                f"{under} ms, without {plain}: {row['ratio']}x | {met} |"
            )
        row = found["REST, 1 %"]
        plain, under = row["p50 ms without, with"]
        met = "yes" if row["ratio"] <= 1.5 else "no"
        lines.append(
            f"| `where` that leaves 1 %, `GET /v1/recommend` | p50 <= 1.5x | {under} ms, without "
            f"{plain}: {row['ratio']}x | {met} |"
        )
        took = found["condition of four columns ms"]
        lines.append(f"| a condition of four columns alone | < 2 ms | {took} ms | "
                     f"{'yes' if took < 2 else 'no'} |")  # fmt: skip
    path = work / "index.json"
    if path.exists():
        for share, row in json.loads(path.read_text()).items():
            plain, under = row["p50 ms without, with"]
            what = "no condition" if share == "all" else f"`where` that leaves {share}"
            lines.append(
                f"| with an index of nearest items: {what} |  | recall@{K} {row['recall']} of the "
                f"exact list; {under} ms, without a condition {plain}: {row['ratio']}x |  |"
            )
    path = work / "stock.json"
    if path.exists():
        found = json.loads(path.read_text())
        times = found["p50, p99 ms"]
        (_, p99), both = times["next list"], times["both"]
        met = "yes" if both[1] <= 50 and not found["wrong"] else "no"
        lines.append(
            f"| stock change to next list, {found['changes']} changes over REST | <= 50 ms p99 | "
            f"PUT and list p50 {both[0]}, p99 {both[1]} ms; the list alone p99 {p99}; "
            f"{found['wrong']} lists with a sold-out item | {met} |"
        )
    path = work / "cost.json"
    if path.exists():
        targets = {"second epoch s": "<= 1.15x", "served list p50 ms": "<= 1.15x"}
        for name, row in json.loads(path.read_text()).items():
            plain, more = row["without, with"]
            goal = targets.get(name, "")
            met = ("yes" if row["ratio"] <= 1.15 else "no") if goal else ""
            lines.append(
                f"| ten columns of items, five of users: {name} | {goal} | {more}, "
                f"without {plain}: {row['ratio']}x | {met} |"
            )
    path = work / "pictures.json"
    if path.exists():
        lines += pictures_table(json.loads(path.read_text()))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "features")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=300, help="lists that are timed")
    parser.add_argument("--compared", type=int, default=50, help="lists that are compared")
    parser.add_argument("--write", action="store_true", help="write FEATURES.md too")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        found = globals()[f"measure_{part}"](options)
        (options.work / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{part}: {json.dumps(found, ensure_ascii=False)}", file=sys.stderr, flush=True)
    printed = table(options.work)
    print(printed)
    if options.write:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = (
            f"# Conditions, stock and prices\n\nMeasured {date.today()} on {os.cpu_count()} cores "
            f"({machine}) by\n`benchmarks/features.py`, 100,000 generated items, over loopback; "
            "the caller runs on the same cores.\n\n"
        )
        (HERE / "FEATURES.md").write_text(head + printed + "\n")


if __name__ == "__main__":
    main()
