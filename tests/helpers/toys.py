"""Small made data that many tests share."""

import fcntl
import pickle

import numpy as np
import pandas as pd

from kerasrec.data.histories import Histories


def made_once(folder, name, make):
    """What `make(folder / name)` gives back, made by the first worker that asks for it."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = folder / f"{name}.pickle"
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make(folder / name)))
        return pickle.loads(kept.read_bytes())


def files_of(folder):
    """Path -> time of the last change, of all files below a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def once_for_each_structure(compare):
    """`compare` of exports, but not where a module differs in numbers alone from one before."""
    known = set()

    def compare_once(module, *given):
        variables = sorted((v.name, v.dtype.name, v.shape.rank) for v in module.variables)
        structure = (*module.signatures(), *variables)
        if structure not in known:
            compare(module, *given)
            known.add(structure)

    return compare_once


def tiny_options(encoder, *, members=1, **more):
    """Options of `train` for the smallest model that has all parts; `more` go to the model."""
    return {
        "encoder": {"whitening_dim": 8, "max_tokens": 16, **encoder},
        "model": {"text_units": 4, "id_units": 4, "max_length": 8, "scorer_units": 4, **more},
        "trainer": {"epochs": 1, "batch_size": 64, "learning_rate": "1e-2", "members": members},
    }


def newest_alone(dim, *, max_length, num_blocks, heads, dropout):
    """A sequence model without weights: a state is the vector of its event.

    It is traced in a third of the time that the others take, for tests of what trains them.
    """
    from kerasrec.backend import keras

    vectors, valid = keras.Input((None, dim)), keras.Input((None,), dtype=bool)
    return keras.Model(
        [vectors, valid], keras.layers.Activation("linear")(vectors), name="sequence"
    )


# --- A planted pattern ---


def planted_histories(num_users=90, num_items=30, *, shortest=4, longest=9, seed=0):
    """Histories in which item i is followed by item i + 1 (and the last item by the first)."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, num_users)
    starts = rng.integers(0, num_items, num_users)
    rows = [
        (start + np.arange(n)) % num_items + 1 for start, n in zip(starts, lengths, strict=True)
    ]
    return histories_of(rows)


def histories_of(rows, times=None, events=None):
    """`Histories` of lists of item indices; unknown times and events unless given."""
    lengths = [len(row) for row in rows]
    num_events = sum(lengths)

    def joined(values, dtype):
        if values is None:
            return np.zeros(num_events, dtype)
        return np.concatenate([np.asarray(row, dtype) for row in values])

    return Histories(
        np.array([f"u{number}" for number in range(len(rows))], object),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        joined([*rows, []], np.int32),
        joined(times, np.int64),
        joined(events, np.int16),
        np.ones(num_events, np.float32),
    )


def disappointing_log(base, interactions):
    """`Interactions` whose newest fifth is what version 1 itself lists: no child can do better.

    In the rest of the new events 60 users take items at random.
    """
    from kerasrec.data.histories import make_histories
    from kerasrec.data.sources import read_interactions
    from kerasrec.recommender.recommender import Recommender

    parent, rng = Recommender.load(base / "1"), np.random.default_rng(0)
    old = interactions.frame[["user_id", "item_id", "timestamp"]].astype({"user_id": str})
    users, newest = old["user_id"].unique()[:60], int(old["timestamp"].max())
    taken = old.groupby("user_id")["item_id"].apply(set)
    rows = []
    for number, user in enumerate(users):
        unseen = [item for item in parent.items.ids if item not in taken[user]]
        for place, item in enumerate(rng.choice(unseen, 4, replace=False)):
            rows.append((user, item, newest + 1 + 4 * number + place))
    learned = pd.concat([old, pd.DataFrame(rows, columns=old.columns)], ignore_index=True)
    histories = make_histories(read_interactions(learned), parent.items)
    parent.observe(histories)
    best = parent.recommend(histories.of_users(users), k=1, at="now")
    best = best.assign(timestamp=newest + 1000 + np.arange(len(best)))[list(old.columns)]
    return read_interactions(pd.concat([learned, best], ignore_index=True))


# --- A larger catalogue ---


def clustered(count, dim=16, clusters=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    return (
        centres[rng.integers(clusters, size=count)] + 0.4 * rng.standard_normal((count, dim))
    ).astype(np.float32)
