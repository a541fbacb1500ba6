"""Works out one score by hand: what each part of the fused score gives an item, and their sum.

    .venv/bin/python benchmarks/one_score.py saved_models/courses --titles TITLE [...] [--items 2]

MODEL is a version (as `make demo` leaves one), TITLE a title of its catalogue: the history, oldest
first. Shares are computed from the tables of the version with numpy alone; the last line compares
their sum with what the exported graph lists. Without times: as for a user who goes on.
"""

import argparse
import math

import numpy as np

import kerasrec
from kerasrec.data.histories import Histories


def history_of(recommender, titles):
    """`Histories` of one user, of titles."""
    ids = recommender.items.frame.set_index("title")["item_id"]
    ids = ids[~ids.index.duplicated()]
    if missing := [title for title in titles if title not in ids.index]:
        raise SystemExit(f"No item of the catalogue has the title {missing[0]!r}.")
    items = recommender.index_of(ids[titles].to_numpy()).astype(np.int32)
    size = len(items)
    rest = np.zeros(size, np.int64), np.zeros(size, np.int16), np.ones(size, np.float32)
    return Histories(np.array(["one"], object), np.array([0, size]), items, *rest)


def shares_of(recommender, fusion, history):
    """Name of each part -> its share of every item, `(num_items + 1,)`, and of the mixture."""
    interest = recommender.interests(history)[0]
    vectors = recommender.item_vectors(recommender.items.ids)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = vectors @ interest / recommender.loaded.module.temperature.numpy()
    given = {"model": np.append(0, np.exp(logits - logits.max()))}
    for name, table in fusion.tables.items():
        given[name] = table.scores(history)[0]
    if fusion.popular_at is not None:
        given["popular"] = np.exp(fusion.popular_at[0, -1])  # who goes on, at the end of the log
    unseen = np.ones(len(given["model"]), bool)
    unseen[np.append(0, history.items)] = False
    shares = {name: part * unseen / max(part[unseen].sum(), 1e-12) for name, part in given.items()}
    row = fusion.mixture_rows()[0]
    shares["mixture"] = sum(shares[n] * w for n, w in zip(fusion.mixture, row, strict=True))
    return shares, dict(zip(fusion.mixture, row, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--titles", nargs="+", required=True)
    parser.add_argument("--items", type=int, default=2)
    options = parser.parse_args()
    recommender = kerasrec.Recommender.load(options.model)
    fusion, history = recommender.fusion(), history_of(recommender, options.titles)
    shares, mixture = shares_of(recommender, fusion, history)
    listed = recommender.recommend(history, k=options.items)
    print(f"epsilon {fusion.epsilon:.3g}, weight of the MLP {fusion.scorer_weight:.3g}")
    for item, score in listed[["item_id", "score"]].itertuples(index=False):
        place, total = int(recommender.index_of([item])[0]), 0.0
        print(f"\n{recommender.items.frame['title'][place - 1]}\n")
        print("| part | of the mixture | share | weight | weight * log(share + epsilon) |")
        print("| --- | --- | --- | --- | --- |")
        for name in [*fusion.weights, *(n for n in mixture if n not in fusion.weights)]:
            weight, _ = fusion.weights.get(name, (0.0, 0.0))
            share = shares[name][place]
            total += (given := weight * math.log(share + fusion.epsilon))
            mixed = f"{mixture[name]:.3f}" if name in mixture else ""
            print(f"| {name} | {mixed} | {share:.4f} | {weight:.4f} | {given:.4f} |")
        prior = float(fusion.prior[-1, place])
        print(f"| prior | | | | {prior:.4f} |")
        print(f"\nsum {total + prior:.4f}; listed with {score:.4f}")


if __name__ == "__main__":
    main()
