"""Measures logs larger than memory: `kerasrec condense` and `kerasrec inspect --memory`.

    python benchmarks/large_log.py --work /a/folder/with/10/GB [--rows 100000000]

A log is generated as a folder of parquet files, in parts, each from a seed of its own: users and
items with long tails, three kinds of events, one row in ten thousand dirty (no user, no item, no
time, a time of 2090). Each verb runs in a fresh process. `kept` compares what came out with counts
that are made of the generator again, without kerasrec. At the end the folder is empty again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

PART = 2_000_000
#: 2024-01-01; the log is a year long
START, SECONDS = 1_704_067_200, 365 * 86_400
DIRTY = 1e-4
EVENTS = ("click", "cart", "purchase")
COLUMNS = ["--columns", "user_id=uid", "item_id=sku", "timestamp=ts", "event=behavior"]


def part_of(number: int, rows: int, parts: int, users: int, items: int) -> dict[str, np.ndarray]:
    """One part of the log as numbers; `dirt` is 0 for a good row, else what is wrong with it."""
    rng = np.random.default_rng([7, number])
    span = SECONDS // parts
    return {
        "user": (users * rng.random(rows) ** 2).astype(np.int64),
        "item": (items * rng.random(rows) ** 3).astype(np.int64),
        "time": START + number * span + np.sort(rng.integers(0, span, rows)),
        "event": rng.choice(3, rows, p=[0.9, 0.07, 0.03]),
        "dirt": np.where(rng.random(rows) < DIRTY, rng.integers(1, 5, rows), 0),
    }


def write(folder: Path, rows: int, users: int, items: int) -> int:
    """Writes the log and gives its size in bytes."""
    user_ids = pa.array([f"user-{number:08d}" for number in range(users)])
    item_ids = pa.array([f"SKU{number:07d}" for number in range(items)])
    parts = -(-rows // PART)
    folder.mkdir(parents=True)
    for number in range(parts):
        size = min(PART, rows - number * PART)
        part = part_of(number, size, parts, users, items)
        dirt = part["dirt"]
        times = np.where(dirt == 4, 3_800_000_000, part["time"])
        table = pa.table(
            {
                "uid": named(part["user"], user_ids, dirt == 1),
                "sku": named(part["item"], item_ids, dirt == 2),
                "ts": pa.array(times, mask=dirt == 3),
                "behavior": named(part["event"], pa.array(EVENTS), np.zeros(size, bool)),
            }
        )
        pa.parquet.write_table(table, folder / f"part-{number}.parquet")
    return sum(file.stat().st_size for file in folder.iterdir())


def named(codes, names, missing):
    """A column of texts."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=missing), names)


def expected(rows: int, users: int, items: int, last: int) -> tuple[int, int]:
    """Good rows, and rows that are left of them when each user keeps the newest `last`."""
    parts = -(-rows // PART)
    counts = np.zeros(users, np.int64)
    for number in range(parts):
        part = part_of(number, min(PART, rows - number * PART), parts, users, items)
        counts += np.bincount(part["user"][part["dirt"] == 0], minlength=users)
    return int(counts.sum()), int(np.minimum(counts, last).sum())


def measure(words: list, work: Path) -> tuple[float, float, float, str]:
    """(seconds, GB at the peak, GB on disk at the peak, output) of `kerasrec` in a new process."""
    begin, disk = time.monotonic(), 0
    env = {**os.environ, "TMPDIR": str(work)}
    with open(work / "output.txt", "w+") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "kerasrec.cli", *map(str, words)], stdout=output, env=env
        )
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            disk = max(disk, size_below(work))
            time.sleep(2)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if child.returncode:
        raise SystemExit(f"{words} ended with {child.returncode}: {said}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024 / 1e9, disk / 1e9, said


def size_below(folder: Path) -> int:
    """Bytes of hidden folders, in which kerasrec works."""
    total = 0
    for path in folder.glob(".*/**/*"):
        try:
            total += path.stat().st_size
        except OSError:  # gone meanwhile
            continue
    return total


def main() -> None:
    """Generates, measures, prints rows of a table of Markdown, deletes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--last", type=int, default=20)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--only", choices=["condense", "inspect"])
    options = parser.parse_args()
    log, out = options.work / "log", options.work / "small"
    options.work.mkdir(parents=True, exist_ok=True)
    reading = ["--interactions", log, *COLUMNS, "--on-bad", "skip"]
    limit = ["--memory", options.memory]
    condense = ["condense", *reading, *limit, "--out", out, "--last", options.last]
    verbs = {
        f"`condense --last {options.last}`": condense,
        f"the same, `--min-user-events 5 --min-item-events 5 --max-users {options.users // 20}`": [
            *condense,
            *("--min-user-events", "5", "--min-item-events", "5"),
            *("--max-users", options.users // 20),
        ],
    }
    verbs["`inspect`"] = ["inspect", *reading, *limit]
    verbs = {what: words for what, words in verbs.items() if options.only in (None, words[0])}
    try:
        size = write(log, options.rows, options.users, options.items)
        print(f"{options.rows:,} rows, {size / 1e9:.2f} GB of parquet", flush=True)
        good, kept = expected(options.rows, options.users, options.items, options.last)
        print("| what | rows left | seconds | peak memory | on disk meanwhile |", flush=True)
        print("| --- | --- | --- | --- | --- |", flush=True)
        for what, words in verbs.items():
            seconds, memory, disk, said = measure(words, options.work)
            left = ""
            if out.exists():
                files = sorted(out.glob("*.parquet"))
                left = f"{sum(pa.parquet.read_metadata(file).num_rows for file in files):,}"
                if words is condense and left != f"{kept:,}":
                    raise SystemExit(f"{left} rows were kept, {kept:,} are right: {said}")
                shutil.rmtree(out)
            elif f"rows {options.rows} -> {good}" not in said:
                raise SystemExit(f"{good} good rows are right: {said}")
            row = f"| {what} | {left} | {seconds:.0f} | {memory:.2f} GB | {disk:.1f} GB |"
            print(row, flush=True)
    finally:
        shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
