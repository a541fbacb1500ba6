"""Writes one self-contained HTML page about an evaluation, with figures and lists beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Items
from kerasrec.data.tables import write_table
from kerasrec.evaluation import pages, plots
from kerasrec.evaluation.evaluation import Evaluation

NUM_EXAMPLES = 12
SHOWN_HISTORY, SHOWN_LIST = 8, 10
LONGEST_TITLE = 100

#: metric -> (column title, meaning); in the order of the page
METRICS = {
    "ndcg": ("NDCG", "gain of the hits by their place (log2 discount), relative to the best list"),
    "recall": ("Recall", "share of the relevant items that are in the list"),
    "hr": ("Hit rate", "share of users with at least one relevant item in the list"),
    "mrr": ("MRR", "1 / place of the first hit"),
    "map": ("MAP", "precision at each hit, averaged over the relevant items"),
    "coverage": ("Coverage", "share of the catalogue that is in at least one list"),
    "diversity": ("Diversity", "1 - similarity of the items within a list"),
    "novelty": ("Novelty", "-log2 of the share of users an item is known to: high = less known"),
    "popularity": ("Popularity", "mean number of known events of the recommended items"),
    "gini": ("Gini", "how unequally the lists treat the items: 0 all alike, 1 one takes all"),
}
_SHOWN = ("ndcg", "recall", "mrr", "coverage", "diversity", "novelty", "popularity")
_COMPARED = ("ndcg", "recall")
_WITH_ERROR = ("ndcg", "recall", "mrr")


def write_report(
    evaluation: Evaluation,
    folder: str | Path,
    *,
    training_history: pd.DataFrame | None = None,
    items: Items | None = None,
    histories: Histories | None = None,
    lists: pd.DataFrame | None = None,
    manifest: Mapping[str, Any] | None = None,
    worth: pd.DataFrame | None = None,
) -> Path:
    """Writes `report.html`, `metrics.json`, `per_user.csv.gz` and `recommendations.csv.gz`.

    Args:
        evaluation: `Evaluation`.
        folder: made if missing; files of these names are replaced.
        training_history: DataFrame with `epoch`, losses and columns such as `valid_ndcg@10`.
        items: `Items`; with `histories` the page shows some users' histories and lists.
        histories: `Histories`, as they were when the lists were made.
        lists: recommendation table of the first model; None takes the evaluation's.
        manifest: dict of options and versions, shown at the end.
        worth: what each column is worth, as `recommender.ablation.feature_worth` gives it; also
            written to `features.csv`.

    Returns:
        Path of `report.html`. The page fetches nothing: it can be mailed as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first = evaluation.models[0]
    lists = evaluation.lists[first] if lists is None else lists
    examples = []
    if items is not None and histories is not None:
        examples = _examples(evaluation.per_target[first], lists, items, histories)
    curves = None if training_history is None else plots.training_curves(training_history)
    templates = pages.environment("kerasrec.evaluation", html=True)
    page = templates.get_template("report.html.j2").render(
        title=first,
        summary=evaluation.summary(),
        k=evaluation.k,
        models=evaluation.models,
        columns=_columns(evaluation),
        rows=_rows(evaluation),
        comparisons=_comparisons(evaluation),
        compared=[f"{METRICS[metric][0]}@{evaluation.k}" for metric in _COMPARED],
        all_rows=_all_rows(evaluation),
        notes=_notes(evaluation.counts[first]),
        counts=evaluation.counts[first],
        meanings=METRICS,
        bars=Markup(plots.model_bars(evaluation.table, evaluation.models, evaluation.k)),
        curves=curves and Markup(curves),
        by_length=_group_plot(evaluation, "by_history_length", "events in the history (users)"),
        by_popularity=_group_plot(
            evaluation, "by_item_popularity", "train events of the relevant item (test pairs)"
        ),
        examples=examples,
        examples_shown=SHOWN_LIST,
        longest=int(evaluation.table["k"].max()),
        smallest_group=plots.SMALLEST_GROUP,
        worth=[] if worth is None else _worth(worth),
        worth_k=evaluation.k,
        manifest=_flat(manifest or {}),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    evaluation.to_json(folder / "metrics.json")
    if worth is not None:
        worth.round(6).to_csv(folder / "features.csv", index=False)
    frames = [frame.assign(model=name) for name, frame in evaluation.per_user.items()]
    per_user = pd.concat(frames).reset_index()
    per_user = per_user[["model", *per_user.columns.drop("model")]]
    write_table(per_user.round(6), folder / "per_user.csv.gz", for_people=True)
    write_table(lists, folder / "recommendations.csv.gz", for_people=True)
    return folder / "report.html"


def _columns(evaluation):
    known = set(evaluation.table["metric"])
    return [(metric, METRICS[metric][0]) for metric in _SHOWN if metric in known]


def _rows(evaluation):
    """One dict per model: its name, and cells of text, error, and whether it is the best."""
    rows = []
    for name in evaluation.models:
        cells = []
        for metric, _ in _columns(evaluation):
            value, error = evaluation.value(name, metric)
            best = max(evaluation.value(other, metric)[0] for other in evaluation.models)
            cells.append(
                {
                    "text": _figure(metric, value),
                    "error": f"{error:.4f}" if metric in _WITH_ERROR else "",
                    "best": metric in _WITH_ERROR and value == best,
                }
            )
        rows.append({"name": name, "cells": cells})
    return rows


def _comparisons(evaluation):
    """`(name, cells)` of the other models: how far the first one is ahead, metric by metric."""
    pairs = evaluation.comparisons.set_index(["model", "metric"])
    rows = []
    for name in evaluation.models[1:]:
        cells = []
        for metric in _COMPARED:
            pair = pairs.loc[(name, metric)]
            verdict = "better" if pair["low"] > 0 else "worse" if pair["high"] < 0 else ""
            cells.append(
                {
                    "difference": f"{pair['difference']:+.4f}",
                    "interval": f"{pair['low']:+.4f} to {pair['high']:+.4f}",
                    "p_value": f"{pair['p_value']:.3f}",
                    "verdict": verdict,
                }
            )
        rows.append((name, cells))
    return rows


def _worth(table):
    """One dict per column: names, figures as text, and a word where the interval tells."""
    return [
        {
            "name": f"{row.column} ({row.table})",
            "type": row.type,
            "without": f"{row.without:.4f}",
            "difference": f"{row.difference:+.4f}",
            "interval": f"{row.low:+.4f} to {row.high:+.4f}",
            "verdict": "better" if row.low > 0 else "worse" if row.high < 0 else "",
        }
        for row in table.itertuples()
    ]


def _all_rows(evaluation):
    """Every figure at every k: `(model, metric, k, value, error)` as text."""
    return [
        (
            row.model,
            METRICS[row.metric][0],
            row.k,
            _figure(row.metric, row.value),
            "" if np.isnan(row.se) else f"{row.se:.4f}",
        )
        for row in evaluation.table.itertuples()
    ]


def _figure(metric, value):
    digits = {"popularity": 1, "novelty": 2, "diversity": 3, "coverage": 3, "gini": 3}
    return f"{value:,.{digits.get(metric, 4)}f}"


def _notes(counts):
    """Sentences about what was odd with the first model's lists."""
    short = next(name for name in counts if name.startswith("users_with_fewer_than_"))
    sentences = {
        "users_missing": "{:,} test users have no list; they count as misses.",
        "test_events_known": "{:,} relevant items were in the user's history already; nothing "
        "can find them.",
        short: "{:,} lists are shorter than " + short.rsplit("_", 1)[1] + ".",
        "duplicates": "{:,} listed items repeat one further up; they count as no hit.",
        "seen": "{:,} listed items were in the user's history already; they count as no hit.",
        "unknown_items": "{:,} listed items are not in the catalogue.",
    }
    return [text.format(counts[name]) for name, text in sentences.items() if counts[name]]


def _group_plot(evaluation, name, xlabel):
    svg = plots.groups(getattr(evaluation, name), evaluation.models, "ndcg", xlabel)
    return svg and Markup(svg)


def _examples(targets, lists, items, histories):
    """A dozen users: half with a hit in what is shown, half without, drawn with a fixed seed."""
    hit = (targets["place"] <= SHOWN_LIST).groupby(targets["user_id"].to_numpy()).any()
    rng = np.random.default_rng(0)
    half = NUM_EXAMPLES // 2
    groups = [hit.index[hit], hit.index[~hit]]
    want = [max(half, NUM_EXAMPLES - len(group)) for group in groups[::-1]]
    drawn: list[str] = []
    for group, count in zip(groups, want, strict=True):
        drawn += list(rng.choice(group.to_numpy(object), min(count, len(group)), replace=False))
    chosen = rng.permutation(np.array(drawn, object))[:NUM_EXAMPLES]
    titles = dict(zip(items.ids, items.frame["title"], strict=True))
    rows = histories.of_users(chosen)
    listed = lists[lists["user_id"].isin(chosen)]
    listed = listed.sort_values("rank" if "rank" in lists else "score", kind="stable")
    listed = listed if "rank" in lists else listed[::-1]
    listed = listed.astype({"user_id": str, "item_id": str})
    of_user = {name: group["item_id"].tolist() for name, group in listed.groupby("user_id")}
    wanted = targets[targets["user_id"].isin(chosen)]
    examples = []
    for number, user in enumerate(chosen):
        past = rows.items[rows.offsets[number] : rows.offsets[number + 1]]
        relevant = wanted[wanted["user_id"] == user]
        found = set(relevant["item_id"][relevant["place"] <= SHOWN_LIST])
        examples.append(
            {
                "user": user,
                "earlier": max(0, len(past) - SHOWN_HISTORY),
                "history": [_title(titles, items.ids[i - 1]) for i in past[-SHOWN_HISTORY:]],
                "list": [
                    (_title(titles, item), item in found)
                    for item in of_user.get(user, [])[:SHOWN_LIST]
                ],
                "next": [
                    (_title(titles, row.item_id), row.place if row.place > 0 else None)
                    for row in relevant.itertuples()
                ],
            }
        )
    return examples


def _title(titles, item):
    title = titles.get(item) or item
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def _flat(manifest, prefix=""):
    """Nested options as `(dotted name, text)` rows."""
    rows = []
    for name, value in manifest.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False, default=str)
            )
            rows.append((f"{prefix}{name}", text))
    return rows
