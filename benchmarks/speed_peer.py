"""RecTools SASRec, trained epoch by epoch on a split: the peer of `speed.py`.

Run by `speed.py` with a Python that has rectools and torch (kerasrec is not needed there):

    PEER_PYTHON benchmarks/speed_peer.py SPLIT --epochs 17 --out peer.json

SPLIT is a folder with train.csv, valid.csv and items.csv. The model has RecTools' own defaults but
for the 50 newest events and the softmax loss, as in the table of peers. Quality is NDCG@10 on
valid.csv, the whole catalogue ranked, seen items left out.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def read(path):
    """A table of the split under the names of RecTools."""
    frame = pd.read_csv(path, dtype={"user": str, "item": str})
    names = {"user": Columns.User, "item": Columns.Item, "timestamp": Columns.Datetime}
    frame = frame.rename(columns=names)
    if Columns.Datetime not in frame:
        frame[Columns.Datetime] = np.arange(len(frame))
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    return frame.assign(**{Columns.Weight: 1.0})


def ndcg(lists, held_out, k=10):
    """Mean NDCG@k over the users of `held_out`, who have one target each."""
    found = lists.merge(held_out, on=[Columns.User, Columns.Item])
    rank = found[Columns.Rank].to_numpy()
    return float((1 / np.log2(1 + rank[rank <= k])).sum() / held_out[Columns.User].nunique())


def peak_gigabytes():
    """Of this process alone."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", type=Path)
    parser.add_argument("--epochs", type=int, default=17)
    parser.add_argument("--max-seconds", type=float, help="no further epoch after so much training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(options.seed)
    train, valid = (read(options.split / f"{name}.csv") for name in ("train", "valid"))
    valid = valid[[Columns.User, Columns.Item]]
    dataset = Dataset.construct(train)
    users = valid[Columns.User].unique()
    users = users[np.isin(users, train[Columns.User].unique())]
    model = SASRecModel(session_max_len=50, loss="softmax", epochs=1, deterministic=False)
    rows, seconds, cpu = [], 0.0, 0.0
    for epoch in range(1, options.epochs + 1):
        wall, processor = time.perf_counter(), time.process_time()
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        seconds += time.perf_counter() - wall  # validation is not the peer's cost here
        cpu += time.process_time() - processor
        lists = model.recommend(users, dataset, k=10, filter_viewed=True)
        row = {"epoch": epoch, "train_s": round(seconds, 1), "train_cpu_s": round(cpu, 1)}
        rows.append({**row, "valid_ndcg@10": round(ndcg(lists, valid), 4)})
        result = {"rows": rows, "events": len(train), "peak_gb": peak_gigabytes()}
        options.out.write_text(json.dumps(result))
        if options.max_seconds is not None and seconds > options.max_seconds:
            break


if __name__ == "__main__":
    main()
