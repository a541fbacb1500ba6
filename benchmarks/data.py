"""Read, clean and sequence a large log, padded batches included: seconds and peak memory.

    .venv/bin/python benchmarks/data.py [--rows 10000000] [--form csv|csv.gz|parquet]

Target: 10 million rows in under 60 s and 4 GB on 2 cores. The data are generated (Zipf items, about
200,000 users, 100,000 items, times in order of the log); the steps run in a fresh process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


def write_log(path, rows, users, items, seed=0):
    """A log as a shop writes it: in order of time, ids with a prefix, four kinds of events."""
    rng = np.random.default_rng(seed)
    item_share = 1 / np.arange(1, items + 1) ** 1.05
    user_share = rng.lognormal(0, 1, users)
    names = ["view", "like", "cart", "purchase"]
    columns = {
        "user": _draw(rng, [f"u{code:07d}" for code in range(users)], user_share, rows),
        "item": _draw(rng, [f"商品{code}" for code in rng.permutation(items)], item_share, rows),
        "timestamp": pa.array(np.sort(rng.integers(1_600_000_000, 1_650_000_000, rows))),
        "event": _draw(rng, names, np.array([0.8, 0.1, 0.06, 0.04]), rows),
    }
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".gz":
        with pa.CompressedOutputStream(path, "gzip") as stream:
            pa.csv.write_csv(table, stream)
    else:
        pa.csv.write_csv(table, path)
    pd.DataFrame({"item": [f"商品{code}" for code in range(items)], "title": "标题"}).to_csv(
        path.parent / "items.csv", index=False
    )


def _draw(rng, names, share, rows):
    edges = np.cumsum(share / share.sum())
    codes = np.searchsorted(edges, rng.random(rows)).clip(max=len(names) - 1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(codes, names).cast(pa.string())


def peak_gigabytes():
    """Of this process alone: Linux lets `ru_maxrss` start from the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 2)


def measure(path):
    """The three steps; prints one JSON line."""
    seconds = {}
    clock = time.perf_counter()

    def done(step):
        nonlocal clock
        now = time.perf_counter()
        seconds[f"{step}: s"] = round(now - clock, 2)
        clock = now
        seconds[f"{step}: peak GB so far"] = peak_gigabytes()

    from kerasrec.data.cleaning import clean
    from kerasrec.data.histories import make_histories, make_windows, training_batches
    from kerasrec.data.sources import read_interactions, read_items

    done("import")
    interactions = read_interactions(path)
    items = read_items(path.parent / "items.csv")
    done("read")
    cleaned = clean(interactions, items, repeats="first", min_user_events=5, min_item_events=5)
    done("clean")
    histories = make_histories(cleaned, items)
    done("histories")
    windows = make_windows(histories, 50)
    done("windows")
    events = sum(
        int((batch["target"] > 0).sum())
        for batch in training_batches(windows, batch_size=256, seed=0)
    )
    done("one epoch of batches")
    seconds["total: s"] = round(sum(v for k, v in seconds.items() if "peak" not in k), 2)
    print(
        json.dumps(
            {
                "rows": len(interactions),
                "rows after cleaning": len(cleaned),
                "users with histories": len(histories.user_ids),
                "training targets": events,
                **seconds,
                "peak GB": peak_gigabytes(),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--form", choices=["csv", "csv.gz", "parquet"], default="csv")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{args.form}"
        write_log(path, args.rows, args.users, args.items)
        print(f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB, {args.rows} rows")
        command = [sys.executable, __file__, "--measure", str(path)]
        result = json.loads(
            subprocess.run(command, capture_output=True, check=True, text=True).stdout
        )
        for name, value in result.items():
            print(f"{name:40}{value:>14,}")


if __name__ == "__main__":
    main()
