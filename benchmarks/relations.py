"""Does a table of items by what they share (school, teacher) add to the tables of the fusion?

    .venv/bin/python benchmarks/relations.py --splits build/accuracy/splits --relations \\
        ../shared/data/mooccube-courses/relations.csv.gz [--only mooccube-courses-temporal]

A probe in numpy, on the validation events alone: sequential kNN, EASE, what is popular lately and
TF-IDF of the texts give shares of all unseen items; their mixture is fitted by EM on one half of
the users and judged on the other, and the halves change places. Then the same with a table more:
of each item the others with the same entities, each entity weighed by log(items / items that have
it), as cosine. Whole catalogue, NDCG@10 over users, with the paired difference and its standard
error; cold = targets with at most three events before the validation. "end": each user asks once,
at the end of train; "next": before each event, with everything before it.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from kerasrec.data.histories import Histories, before, make_histories
from kerasrec.data.interactions import join_interactions
from kerasrec.data.sources import read_interactions, read_items, with_relations
from kerasrec.fusion.neighbours import (
    fit_ease,
    normalise_counts,
    sequential_counts,
    text_neighbours,
    to_table,
)
from kerasrec.fusion.sharing import sharing_table

K, COLD, HALF_LIFE = 10, 3, 30 * 86_400
WIDTH = 100


class Asked(NamedTuple):
    """histories, one for each question; of each target the question and the item index; what
    belongs together, for halves and standard errors: the user of each question.
    """

    histories: Histories
    rows: np.ndarray
    items: np.ndarray
    users: np.ndarray


def tables_of(train, items):
    """name -> `NeighbourTable`, of the training events and of the catalogue."""
    size, counts = len(items), np.bincount(train.items, minlength=len(items) + 1)
    follows = normalise_counts(
        sequential_counts(train, size), counts, source_power=0.5, target_power=0.5
    )
    texts = (items.frame["title"] + " " + items.frame["text"]).tolist()
    found = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
    vectors = found.fit_transform(texts).toarray().astype(np.float32)
    given = dict(width=WIDTH, decay=0.85)
    return {
        "kNN": to_table(follows, **given),
        "EASE": to_table(fit_ease(train, size), **given),
        "text": to_table(text_neighbours(vectors, width=WIDTH), **given),
        "relations": sharing_table(items),
    }


def shares(tables, asked, train, size):
    """name -> shares of all unseen items, `(questions, size + 1)`."""
    now = train.timestamps.max()
    recent = np.bincount(
        train.items, 0.5 ** ((now - train.timestamps) / HALF_LIFE), minlength=size + 1
    )
    raw = {name: np.maximum(table.scores(asked.histories), 0) for name, table in tables.items()}
    raw |= {"recent": np.tile(recent, (asked.histories.num_users, 1))}
    raw |= {"all": np.ones((asked.histories.num_users, size + 1))}
    row = np.repeat(np.arange(asked.histories.num_users), asked.histories.lengths)
    for part in raw.values():
        part[row, asked.histories.items] = 0
        part[:, 0] = 0
        part /= np.maximum(part.sum(axis=1, keepdims=True), 1e-12)
    return raw


def fitted_weights(parts, asked, chosen, steps=300):
    """Weights of the mixture that make the targets likeliest, by EM."""
    of_targets = np.stack([part[asked.rows[chosen], asked.items[chosen]] for part in parts])
    weights = np.full(len(parts), 1 / len(parts))
    for _ in range(steps):
        joint = weights[:, None] * of_targets
        weights = (joint / np.maximum(joint.sum(axis=0), 1e-30)).mean(axis=1)
    return weights


def ndcg(scores, asked, cold):
    """NDCG@10 of each question that has targets; cold: of cold targets alone. NaN = none."""
    found = np.full(len(scores), np.nan)
    discount = 1 / np.log2(np.arange(K) + 2)
    for row in np.unique(asked.rows):
        wanted = asked.items[asked.rows == row]
        wanted = wanted if cold is None else wanted[cold[wanted]]
        if len(wanted):
            best = np.argsort(-scores[row], kind="stable")[:K]
            gain = discount[np.isin(best, wanted)].sum()
            found[row] = gain / discount[: min(K, len(wanted))].sum()
    return found


def per_user(values, users):
    """Mean of each user over the questions that have a value."""
    return pd.Series(values).groupby(users).mean().dropna()


def measure(asked, train, items):
    """Rows of figures of one way to ask."""
    raw = shares(tables_of(train, items), asked, train, len(items))
    names = [name for name in raw if name != "relations"]
    halves = np.unique(asked.users, return_inverse=True)[1] % 2
    lists, weights = {}, {}
    for label, chosen in (("without", names), ("with", [*names, "relations"])):
        parts = [raw[name] for name in chosen]
        scores = np.zeros_like(parts[0])
        for half in (0, 1):
            own = halves == half
            found = fitted_weights(parts, asked, ~own[asked.rows])
            scores[own] = sum(w * part[own] for w, part in zip(found, parts, strict=True))
        lists[label], weights[label] = scores, dict(zip(chosen, found.round(3), strict=True))
    events = np.bincount(train.items, minlength=len(items) + 1)
    rows = []
    for who, cold in (("all", None), ("cold", events <= COLD)):
        values = {
            label: per_user(ndcg(one, asked, cold), asked.users) for label, one in lists.items()
        }
        change = values["with"] - values["without"]
        rows.append(
            {
                "targets": who,
                "users": len(change),
                **{label: round(float(one.mean()), 4) for label, one in values.items()},
                "difference": round(float(change.mean()), 4),
                "se": round(float(change.std() / len(change) ** 0.5), 4),
            }
        )
    return rows, weights


def ways(train, valid, items):
    """name -> `Asked`, of the two ways to ask, and the histories that the tables learn from."""
    known = make_histories(train, items)
    later = make_histories(valid, items).of_users(known.user_ids)
    rows = np.repeat(np.arange(known.num_users), later.lengths)
    new = ~np.isin(rows * 10**6 + later.items, _pairs(known))
    users = np.arange(known.num_users)
    yield "end", Asked(known, rows[new], later.items[new], users), known
    whole = make_histories(join_interactions([train, valid]), items).of_users(known.user_ids)
    owner = np.repeat(np.arange(whole.num_users), whole.lengths)
    places = np.flatnonzero(
        (whole.timestamps > train.frame["timestamp"].max()) & (known.lengths[owner] > 0)
    )
    past = before(whole, places)
    yield "next", Asked(past, np.arange(len(places)), whole.items[places], owner[places]), known


def _pairs(histories):
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    return row * 10**6 + histories.items


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=Path, required=True, help="folder of the splits")
    parser.add_argument("--relations", required=True, help="table item, relation, entity")
    parser.add_argument("--only", nargs="+", default=["mooccube-courses-temporal"])
    options = parser.parse_args()
    for name in options.only:
        folder = options.splits / name
        train, valid = (read_interactions(folder / f"{part}.csv") for part in ("train", "valid"))
        items = with_relations(read_items(folder / "items.csv"), options.relations)
        for label, asked, known in ways(train, valid, items):
            rows, weights = measure(asked, known, items)
            print(f"\n{name}, {label}: weights without {weights['without']}, "
                  f"with {weights['with']}")  # fmt: skip
            print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
