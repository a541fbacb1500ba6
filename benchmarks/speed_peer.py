"""RecTools SASRec or HSTU, trained epoch by epoch on a split: the peer of `speed.py`.

Run by `speed.py` with a Python that has rectools and torch (kerasrec is not needed there):

    PEER_PYTHON benchmarks/speed_peer.py SPLIT --epochs 17 --out peer.json

SPLIT is a folder with train.csv, valid.csv and items.csv. The model has RecTools' own defaults but
for the 50 newest events and the softmax loss, as in the table of peers; HSTU reads relative times
and places. Quality is NDCG@10 on valid.csv, the whole catalogue ranked, seen items left out.

With --lists it is the peer of `accuracy.py --peers` too: trained to its best epoch on valid.csv, it
writes lists (user, item, rank) for the users of test_users.csv, history = train + valid:

    PEER_PYTHON benchmarks/speed_peer.py SPLIT --epochs 40 --patience 4 --out peer.json
        --lists PEERS/SPLIT_NAME.csv

Where few users make validation noisy (movielens-small-zh) it needs --epochs 100 --patience 15.
PEER_PYTHON is Python 3.11 with `peers-requirements.txt`, which says how to install it.
Beside other busy processes OMP_NUM_THREADS=1 is faster: two threads wait for each other, which took
three times the processor seconds.
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
from rectools.models import HSTUModel, SASRecModel

MODELS = {
    "sasrec": lambda **options: SASRecModel(**options),
    "hstu": lambda **options: HSTUModel(
        relative_time_attention=True, relative_pos_attention=True, **options
    ),
}


def read(path):
    """A table of the split under the names of RecTools."""
    frame = pd.read_csv(path, dtype={"user": str, "item": str})
    names = {"user": Columns.User, "item": Columns.Item, "timestamp": Columns.Datetime}
    frame = frame.rename(columns=names)
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    return frame.assign(**{Columns.Weight: 1.0})


def ndcg(lists, held_out, k=10):
    """Mean NDCG@k over the users of `held_out`, who have one target each."""
    found = lists.merge(held_out, on=[Columns.User, Columns.Item])
    rank = found[Columns.Rank].to_numpy()
    return float((1 / np.log2(1 + rank[rank <= k])).sum() / held_out[Columns.User].nunique())


def lists_of(model, users, dataset, events, k, **more):
    """Top k of users; a model that reads times is asked at the newest event of each, as kerasrec is
    in leave-one-out."""
    if model.require_recommend_context:
        newest = events.groupby(Columns.User, as_index=False)[Columns.Datetime].max()
        more["context"] = newest[newest[Columns.User].isin(users)].assign(**{Columns.Weight: 1.0})
    return model.recommend(users, dataset, k=k, filter_viewed=True, **more)


def write_lists(model, split, path, k=50):
    """Lists for the test users; the model itself leaves out items that it was not fitted on."""
    known = pd.concat([read(split / f"{name}.csv") for name in ("train", "valid")])
    users = pd.read_csv(split / "test_users.csv", dtype=str)["user"].to_numpy(object)
    dataset = Dataset.construct(known)
    ignore = {"on_unsupported_targets": "ignore"}  # users without an event the model knows
    lists = lists_of(model, users, dataset, known, k, **ignore)
    names = {Columns.User: "user", Columns.Item: "item", Columns.Rank: "rank"}
    path.parent.mkdir(parents=True, exist_ok=True)
    lists.rename(columns=names)[list(names.values())].to_csv(path, index=False)


def peak_gigabytes():
    """Of this process alone."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 2)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", type=Path)
    parser.add_argument("--model", choices=list(MODELS), default="sasrec")
    parser.add_argument("--epochs", type=int, default=17)
    parser.add_argument("--max-seconds", type=float, help="no further epoch after so much training")
    parser.add_argument("--patience", type=int, help="epochs without a better NDCG to stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lists", type=Path, help="the best epoch's top 50 of the test users")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(options.seed)
    train, valid = (read(options.split / f"{name}.csv") for name in ("train", "valid"))
    valid = valid[[Columns.User, Columns.Item]]
    dataset = Dataset.construct(train)
    users = valid[Columns.User].unique()
    users = users[np.isin(users, train[Columns.User].unique())]
    given = dict(session_max_len=50, loss="softmax", epochs=1, deterministic=False)
    model = MODELS[options.model](**given)
    rows, seconds, cpu = [], 0.0, 0.0
    best, best_epoch = -1.0, 0
    for epoch in range(1, options.epochs + 1):
        wall, processor = time.perf_counter(), time.process_time()
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        seconds += time.perf_counter() - wall  # validation is not the peer's cost here
        cpu += time.process_time() - processor
        lists = lists_of(model, users, dataset, train, 10)
        quality = ndcg(lists, valid)
        row = {"epoch": epoch, "train_s": round(seconds, 1), "train_cpu_s": round(cpu, 1)}
        rows.append({**row, "valid_ndcg@10": round(quality, 4)})
        result = {"rows": rows, "events": len(train), "peak_gb": peak_gigabytes()}
        options.out.write_text(json.dumps(result))
        if quality > best:
            best, best_epoch = quality, epoch
            if options.lists:
                write_lists(model, options.split, options.lists)
        if options.patience is not None and epoch - best_epoch >= options.patience:
            break
        if options.max_seconds is not None and seconds > options.max_seconds:
            break


if __name__ == "__main__":
    main()
