"""What a version that yesterday's kerasrec exported is asked, by public functions alone.

`python tests/helpers/yesterday.py FOLDER ANSWERS.npz` writes the answers of the kerasrec that is on
the path. `tests/files/yesterday.tar.xz` and `yesterday_answers.npz` come from kerasrec 0.1.0 at
commit 7047816, the last one before the packages: the file was made with that code.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import kerasrec
from kerasrec.backend import tf
from kerasrec.cli import main

DAY = 86400


def answers(version):
    """Name -> array, what a version folder answers; versions are written beside a copy of it.

    Args:
        version: Path of a version folder, number 1, the only one of its model.
    """
    recommender = kerasrec.Recommender.load(version)
    ids, end = list(recommender.items.ids), int(recommender.log_end)
    found = _lists(recommender, ids, end) | _others(recommender, ids, end)
    found |= _signatures(version, ids, end)
    found |= _grown(recommender, ids, end)
    return {name: np.asarray(value) for name, value in found.items()}


def _histories(ids):
    """Histories of ids: short ones, long ones, an unknown id, none at all."""
    rng = np.random.default_rng(0)
    lengths = (1, 2, 3, 5, 8, 13, 21, 34)
    rows = [rng.choice(ids, length, replace=length > 20).tolist() for length in lengths]
    return [*rows, [ids[4], "unknown", ids[7]], []]


def _log(ids, begin, end, seed=0):
    """Interactions of 30 users between two times."""
    rng = np.random.default_rng(seed)
    count = 240
    columns = {
        "user_id": [f"u{user}" for user in rng.integers(0, 30, count)],
        "item_id": rng.choice(ids, count),
        "timestamp": np.sort(rng.integers(begin, end, count)),
    }
    return kerasrec.read_interactions(pd.DataFrame(columns))


def _table(name, table):
    """Columns of a table of recommendations, ids as texts."""
    columns = {f"{name}/{key}": table[key].to_numpy() for key in table.columns}
    return {key: a.astype(str) if a.dtype == object else a for key, a in columns.items()}


def _lists(recommender, ids, end):
    rows, timed = _histories(ids), _log(ids, end - 90 * DAY, end)
    asked = {
        "plain": (rows, {}),
        "by user": ({"a": rows[3], "b": rows[9]}, {"k": 100}),
        "timed": (timed, {}),
        "a frame": (timed.frame[["user_id", "item_id", "timestamp"]], {"k": 3}),
        "now": (timed, {"at": "now", "k": 20}),
        "earlier": (timed, {"at": end - 30 * DAY}),
        "seen": (rows, {"keep_seen": True, "k": 30}),
        "candidates": (rows, {"candidates": ids[5:25], "k": 30}),
        "denied": (rows, {"deny": [*ids[::3], "unknown"], "batch_size": 3}),
    }
    found = {}
    for name, (given, options) in asked.items():
        table = recommender.recommend(given, **options)
        found |= _table(f"recommend {name}", table)
        found[f"recommend {name}/popular_for"] = [str(u) for u in table.attrs["popular_for"]]
    return found


def _others(recommender, ids, end):
    rows, timed = _histories(ids), _log(ids, end - 90 * DAY, end)
    texts = ["人工智能与机器学习", "中国古代文学史", "Linux系统管理"]
    found = _table("similar", recommender.similar(ids[:5], k=7))
    found |= _table("similar text", recommender.similar(text=texts, k=7))
    found["encode"] = recommender.encode([*texts, ""])
    found["item_vectors"] = recommender.item_vectors([*ids, "unknown"])
    found["interests"] = recommender.interests(rows)
    found["interests timed"] = recommender.interests(timed)
    found["titles"] = recommender.titles(ids[:4]).astype(str)
    found["counts"] = np.concatenate(
        recommender.counts.features()[: len(recommender.recency.weights)]
    )
    plans = recommender.generate(rows, num_items=4, beams=8, num_lists=2)
    found |= _table("generate", plans)
    options = dict(candidates=ids[:40], deny=ids[:7], at=end - 9 * DAY, diversity=1.0, num_lists=3)
    found |= _table("generate diverse", recommender.generate(timed, num_items=3, **options))
    options = dict(temperature=0.8, top_p=0.9, seed=4)
    found |= _table("generate drawn", recommender.generate(rows, num_items=3, **options))
    fusion = recommender.fusion()
    for name in ("starts", "first", "prior", "popular"):
        found[f"fusion/{name}"] = getattr(fusion, name)
    for name, table in fusion.tables.items():
        found |= {f"fusion/{name}/{kind}": v for kind, v in table._asdict().items()}
    return found


def _signatures(version, ids, end):
    """What the signatures of the SavedModel answer."""
    loaded = tf.saved_model.load(str(version))
    rows = _histories(ids)
    width = max(map(len, rows))
    history = [[""] * (width - len(row)) + row for row in rows]
    times = [list(range(end - width * DAY, end, DAY))] * len(rows)
    lists = {"history": history, "timestamps": times}
    lists |= {"allow": [[""]] * len(rows), "deny": [ids[:9]] * len(rows)}
    draws = {"temperature": [0.0] * len(rows), "top_p": [1.0] * len(rows), "seed": [0] * len(rows)}
    asked = {
        "serving_default": {"history": history},
        "recommend": lists | {"keep_seen": [False, True] * (len(rows) // 2)},
        "interest": {"history": history},
        "score": {"history": history, "candidates": [ids[:20]] * len(rows)},
        "similar": {"item_ids": ids[:5]},
        "item_vectors": {"item_ids": ids},
        "generate": lists | draws,
    }
    kinds = {"timestamps": tf.int64, "temperature": tf.float32, "top_p": tf.float32}
    found = {}
    for name, inputs in asked.items():
        tensors = {key: tf.constant(value, kinds.get(key)) for key, value in inputs.items()}
        for key, value in loaded.signatures[name](**tensors).items():
            value = value.numpy()
            if value.dtype == object:
                value = np.array([i.decode() for i in value.flat]).reshape(value.shape)
            found[f"signature {name}/{key}"] = value
    return found


def _grown(recommender, ids, end):
    """The same version with new items and newer events, saved, and in another form."""
    new = pd.DataFrame({"item_id": ["n1", "n2"], "title": ["机器学习基础", "宋词鉴赏"]})
    later = _log([*ids[:30], "n1"], end, end + 3 * DAY, seed=1)
    rows = [["n1"], [*_histories(ids)[3], "n2"], []]
    recommender.add_items(new)
    found = {
        "observed": recommender.observe(later),
        "remembered": recommender.remember(later),
        "log_end": recommender.log_end,
    }
    options = dict(k=30, at="now")
    found |= _table("grown", recommender.recommend(rows, **options))
    found |= _table("grown plans", recommender.generate(rows, num_items=3, beams=8))
    saved = kerasrec.Recommender.load(recommender.save())
    found |= _table("saved", saved.recommend(rows, **options))
    found |= _table("saved plans", saved.generate(rows, num_items=3, beams=8))
    changes = ["k=5", "item_matrix=int8", "scorer_weight=0.5"]
    words = [word for change in changes for word in ("--set", change)]
    assert main(["export", "--model", str(saved.version), *words]) == 0
    small = kerasrec.Recommender.load(saved.version.parent / "3")
    found["int8 vectors"] = small.item_vectors([*ids, "n1", "n2"])
    return found | _table("int8", small.recommend(rows, **options))


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    copy = target.parent / "of_yesterday"
    shutil.copytree(source, copy / "1")
    np.savez_compressed(target, **answers(copy / "1"))
    shutil.rmtree(copy)
