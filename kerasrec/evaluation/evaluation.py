"""Compares models and baselines on one test set: tidy tables, groups, paired comparisons."""

import difflib
import html
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kerasrec.checks import step
from kerasrec.data.events import PASSIVE_EVENTS
from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Interactions, Items
from kerasrec.evaluation.baselines import BASELINES
from kerasrec.evaluation.metrics import mean_and_error, paired_bootstrap, score_recommendations
from kerasrec.evaluation.toplists import recommend_top_k
from kerasrec.fusion.gains import discount

log = logging.getLogger(__name__)

#: lower edges of the groups: events in the user's history, train events of the relevant item
HISTORY_EDGES = (0, 1, 3, 6, 11, 21, 51)
POPULARITY_EDGES = (0, 1, 6, 21, 101, 501)

#: columns of the printed table; where it is too narrow the last ones stay out
SHOWN_METRICS = ("recall", "ndcg", "mrr", "coverage", "diversity", "novelty", "popularity")
_WITH_ERROR = ("recall", "ndcg")
_GAP = 2  # blanks between two columns


@dataclass(frozen=True)
class Evaluation:
    """Holds what `evaluate` found; the first model is compared with each of the others.

    Attributes:
        table: `model, metric, k, value, se`; se is NaN where none exists (coverage, gini).
        comparisons: the first model against each other one: `model, metric, k, difference, low,
            high, p_value` with difference = first - model, a 95 % interval and a two-sided p.
        by_history_length: `model, bucket, count, metric, k, value, se`; count = users.
        by_item_popularity: the same by train events of the relevant item; count = test pairs, and
            ndcg is the gain of the one pair, `1 / log2(place + 1)`.
        per_user: model -> DataFrame of the metrics of every test user.
        per_target: model -> DataFrame `user_id, item_id, place, train_count`.
        lists: model -> its recommendation table.
        counts: model -> users, lists, and what was odd about them.
        k: the list length of the comparisons and groups.
    """

    table: pd.DataFrame
    comparisons: pd.DataFrame
    by_history_length: pd.DataFrame
    by_item_popularity: pd.DataFrame
    per_user: dict
    per_target: dict
    lists: dict
    counts: dict
    k: int

    def __repr__(self):
        return f"Evaluation({self.summary()})"

    def _repr_html_(self) -> str:
        """For notebooks: the summary and the main figures at `k`."""
        table = self.table[self.table["k"] == self.k]
        values = table.pivot(index="model", columns="metric", values="value").loc[self.models]
        shown = values[[name for name in SHOWN_METRICS if name in values]].round(4)
        shown.columns.name, shown.index.name = None, None
        return f"<p>{html.escape(self.summary())}</p>{shown.to_html(na_rep='')}"

    @property
    def models(self) -> list[str]:
        """Names the models, in the order given."""
        return list(self.per_user)

    def value(self, model: str, metric: str, k: int | None = None) -> tuple[float, float]:
        """Gives `(value, standard error)` of one figure; k defaults to the evaluation's own."""
        table, k = self.table, self.k if k is None else k
        row = table[(table["model"] == model) & (table["metric"] == metric) & (table["k"] == k)]
        if row.empty:
            raise KeyError(f"no {metric}@{k} of {model!r}; models: {', '.join(self.models)}")
        return float(row["value"].iloc[0]), float(row["se"].iloc[0])

    def summary(self) -> str:
        """Compares the first model with the best other one, in one or two sentences."""
        first, k = self.models[0], self.k
        ndcg, error = self.value(first, "ndcg")
        users = self.counts[first]["users"]
        text = (
            f"{first}: NDCG@{k} {ndcg:.4f} ± {error:.4f}, Recall@{k} "
            f"{self.value(first, 'recall')[0]:.4f} on {users:,} test users."
        )
        others = self.models[1:]
        if not others:
            return text
        best = max(others, key=lambda name: self.value(name, "ndcg")[0])
        row = self.comparisons
        row = row[(row["model"] == best) & (row["metric"] == "ndcg")].iloc[0]
        clear = "clearly better" if row["low"] > 0 else "no clear difference"
        clear = "clearly worse" if row["high"] < 0 else clear
        return (
            f"{text} Against the best other, {best} ({self.value(best, 'ndcg')[0]:.4f}): "
            f"{row['difference']:+.4f} (95 % interval {row['low']:+.4f} to {row['high']:+.4f}), "
            f"{clear}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Gives everything but lists and per-user values, ready for JSON (NaN becomes None)."""
        figures = {
            name: {
                f"{row.metric}@{row.k}": {"value": _number(row.value), "se": _number(row.se)}
                for row in rows.itertuples()
            }
            for name, rows in self.table.groupby("model", sort=False)
        }
        frames = ("comparisons", "by_history_length", "by_item_popularity")
        return {
            "k": self.k,
            "summary": self.summary(),
            "models": figures,
            "counts": self.counts,
            **{name: _records(getattr(self, name)) for name in frames},
        }

    def to_json(self, path: str | Path) -> Path:
        """Writes `to_dict` to a file and returns its path."""
        path = Path(path)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    def to_rich(self, width: int | None = None) -> Any:
        """Draws the main figures as a `rich.table.Table`, the best of each accuracy column in bold.

        Args:
            width: characters of a line; the last columns stay out where they do not fit (recall
                and ndcg with their errors always stay). None = all columns.
        """
        from rich.cells import cell_len
        from rich.markup import escape
        from rich.table import Table

        table = self.table[self.table["k"] == self.k]
        values = table.pivot(index="model", columns="metric", values="value").loc[self.models]
        errors = table.pivot(index="model", columns="metric", values="se").loc[self.models]
        users = self.counts[self.models[0]]["users"]
        title = f"{users:,} test users, whole catalogue ranked, lists of {self.k}"
        style: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, _GAP, 0, 0)}
        out = Table(title=title, title_justify="left", header_style="bold", **style)
        out.add_column("model", overflow="fold")
        columns = [[escape(name) for name in self.models]]
        used = max(map(cell_len, self.models))
        for metric in SHOWN_METRICS:
            if metric not in values:
                continue
            head = f"{metric}@{self.k}" if metric in ("recall", "ndcg", "mrr") else metric
            cells = _cells(metric, values[metric], errors[metric])
            used += _GAP + max(len(head), *map(len, cells))
            if width is not None and used > width and metric not in _WITH_ERROR:
                break
            out.add_column(head, justify="right", no_wrap=True)
            if metric in ("recall", "ndcg", "mrr"):
                best = values[metric] == values[metric].max()
                cells = [f"[bold]{c}[/bold]" if b else c for c, b in zip(cells, best, strict=True)]
            columns.append(cells)
        for row in zip(*columns, strict=True):
            out.add_row(*row)
        return out


def evaluate(
    models: Mapping[str, pd.DataFrame | Callable[[Histories, int], pd.DataFrame]],
    test: Interactions | pd.DataFrame,
    *,
    histories: Histories,
    train: Interactions | pd.DataFrame,
    items: Items,
    ks: Iterable[int] = (5, 10, 20),
    vectors: np.ndarray | None = None,
) -> Evaluation:
    """Judges models side by side: full ranking, every test user, the rules of `metrics`.

    Args:
        models: name -> recommendation table, or a callable `(histories, k) -> table`; a callable
            gets the histories of the test users (empty ones for unknown users). The first model
            is compared with each of the others.
        test: `Interactions`, of which impressions, dislikes and events of weight 0 or less are left
            out (nobody should be recommended these), or a table `user_id, item_id`, taken as it is.
        histories: `Histories` of the users at the time of the lists.
        train: `Interactions`, or a table `user_id, item_id`: the same events (they are no hits,
            and popularity and novelty count them).
        items: `Items`, the catalogue; a `category` column gives the diversity without vectors.
        ks: list lengths; comparisons and groups use 10, or the largest when 10 is not among them.
        vectors: float, `(num_items, dim)`, for the diversity.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: no model, an empty test, a test of nothing but what `train` holds already, or a
            table that `score_recommendations` refuses; the sentence names the model.
    """
    if not models:
        raise ValueError("evaluate needs at least one model. Received: none. Pass {name: lists}.")
    test = _chosen(test)
    ks = sorted({int(k) for k in ks})
    k = 10 if 10 in ks else ks[-1]
    frame = getattr(test, "frame", test)
    unknown = int((items.index_of(frame["item_id"].astype(str)) == 0).sum())
    if unknown:
        message = "%d of %d test events name items outside the catalogue and count as misses"
        log.warning(message, unknown, len(frame))
    users = pd.Index(pd.unique(frame["user_id"])).astype(str)
    histories = histories.of_users(users.to_numpy(object))
    categories = items.frame.get("category")
    if categories is not None and not (categories != "").any():
        categories = None
    lists, scores = {}, {}
    for name, model in models.items():
        lists[name] = model(histories, ks[-1]) if callable(model) else model
        try:
            scores[name] = score_recommendations(
                lists[name],
                test,
                train=train,
                ks=ks,
                catalogue=items,
                vectors=vectors,
                categories=categories,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    _check_not_known(next(iter(scores.values())).counts)
    per_user = {name: found.per_user for name, found in scores.items()}
    per_target = {name: found.per_target for name, found in scores.items()}
    length = pd.Series(histories.lengths, index=users)
    tables = [found.table().assign(model=name) for name, found in scores.items()]
    return Evaluation(
        table=pd.concat(tables, ignore_index=True)[["model", "metric", "k", "value", "se"]],
        comparisons=_comparisons(per_user, k),
        by_history_length=_by_history_length(per_user, length, k),
        by_item_popularity=_by_item_popularity(per_target, k),
        per_user=per_user,
        per_target=per_target,
        lists=lists,
        counts={name: found.counts for name, found in scores.items()},
        k=k,
    )


def _chosen(test):
    """The test without what users did not choose; a plain table is taken as it is."""
    if not isinstance(test, Interactions) or not len(test):
        return test
    keep = (test.frame["weight"] > 0) & ~test.frame["event"].isin(PASSIVE_EVENTS)
    if not keep.any():
        raise ValueError(
            f"The test needs events that users chose. Received: {len(test):,} impressions, "
            "dislikes or events of weight 0 or less, and no others."
        )
    if not keep.all():
        message = "%d of %d test events were not chosen by the user (shown, disliked): left out"
        log.warning(message, (~keep).sum(), len(test))
    return replace(test, frame=test.frame[keep])


def _check_not_known(counts):
    """Pairs of the test that the users have already are misses whatever is listed."""
    known, pairs = counts["test_events_known"], counts["test_events"]
    mend = "Take the test's events out of the histories, or test on later events."
    if known == pairs:
        raise ValueError(
            "evaluate needs test pairs (user, item) that the histories do not hold, because what "
            f"a user has already is no hit. Received: all {pairs:,} pairs are in the histories. "
            f"{mend}"
        )
    if known > pairs / 2:
        log.warning(
            "%d of %d test pairs are in the histories already and count as misses. %s",
            known,
            pairs,
            mend,
        )


def run_baselines(
    train: Histories,
    histories: Histories,
    items: Items,
    *,
    k: int = 20,
    texts: Sequence[str] | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Fits the baselines and makes their lists.

    Args:
        train: `Histories` of the training events.
        histories: `Histories` of the users who get lists, at the time of the lists.
        items: `Items`.
        k: list length.
        texts: one str per item, e.g. `items.texts()`; None leaves `tfidf_text` out.
        names: which of `BASELINES`; None runs all that the data allows (no recent popularity
            without times).

    Returns:
        dict name -> recommendation table.

    Raises:
        ValueError: an unknown name, or `tfidf_text` asked for without texts.
    """
    chosen = list(BASELINES if names is None else names)
    for name in chosen:
        if name not in BASELINES:
            near = difflib.get_close_matches(name, BASELINES, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Choose among these."
            raise ValueError(f"Baselines are {', '.join(BASELINES)}. Received: {name!r}. {hint}")
    if names is None and not (train.timestamps > 0).any():
        chosen.remove("recent_popularity")
    if names is None and texts is None:
        chosen.remove("tfidf_text")
    if "tfidf_text" in chosen and texts is None:
        raise ValueError("tfidf_text needs texts. Received: None. Pass texts=items.texts().")
    lists = {}
    for name in chosen:
        options = {"texts": texts} if name == "tfidf_text" else {}
        with step(log, "lists of the baseline %s", name):
            score = BASELINES[name](train, len(items), **options)
            lists[name] = recommend_top_k(score, histories, items, k=k)
    return lists


def bucket_of(values: ArrayLike, edges: Sequence[int]) -> pd.Categorical:
    """Groups values by lower edges and labels the groups.

    Args:
        values: int, `(n,)`, none below `edges[0]`.
        edges: ascending lower edges of the groups; the last group is open.

    Returns:
        pandas ordered Categorical of labels such as `"0"`, `"1-2"`, `"51+"`.

    >>> bucket_of([0, 2, 70], (0, 1, 3, 51)).tolist()
    ['0', '1-2', '51+']
    """
    labels = [
        str(low) if high == low + 1 else f"{low}-{high - 1}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ] + [f"{edges[-1]}+"]
    codes = np.searchsorted(edges, np.asarray(values), side="right") - 1
    return pd.Categorical.from_codes(codes, labels, ordered=True)


def _cells(metric, values, errors):
    """Texts of one column of the printed table."""
    digits = 1 if metric in ("popularity", "novelty") else 4
    if metric not in _WITH_ERROR:
        return [f"{value:.{digits}f}" for value in values]
    return [
        f"{value:.{digits}f} ± {error:.4f}" for value, error in zip(values, errors, strict=True)
    ]


def _by_history_length(per_user, length, k):
    groups = {}
    for name, frame in per_user.items():
        bucket = bucket_of(length.reindex(frame.index).to_numpy(), HISTORY_EDGES)
        groups[name] = (bucket, {metric: frame[f"{metric}@{k}"] for metric in ("recall", "ndcg")})
    return _grouped(groups, k)


def _by_item_popularity(per_target, k):
    groups = {}
    for name, frame in per_target.items():
        bucket = bucket_of(frame["train_count"], POPULARITY_EDGES)
        hit = frame["place"] <= k  # False for NaN
        gain = pd.Series(np.where(hit, 1 / discount(frame["place"].fillna(1)), 0.0))
        groups[name] = (bucket, {"recall": hit.astype(float), "ndcg": gain})
    return _grouped(groups, k)


def _grouped(groups, k):
    """Tidy means per group; `groups` is model -> (bucket of each row, metric -> value)."""
    rows = []
    for name, (bucket, metrics) in groups.items():
        for label in bucket.categories:
            inside = np.asarray(bucket == label)
            if not inside.any():
                continue
            for metric, values in metrics.items():
                value, error = mean_and_error(values.to_numpy()[inside])
                rows.append((name, label, int(inside.sum()), metric, k, value, error))
    return pd.DataFrame(rows, columns=["model", "bucket", "count", "metric", "k", "value", "se"])


def _comparisons(per_user, k):
    names = list(per_user)
    rows = []
    for name in names[1:]:
        for metric in ("recall", "ndcg"):
            column = f"{metric}@{k}"
            found = paired_bootstrap(per_user[names[0]][column], per_user[name][column])
            rows.append((name, metric, k, *found))
    columns = ["model", "metric", "k", "difference", "low", "high", "p_value"]
    return pd.DataFrame(rows, columns=columns)


def _number(value):
    value = float(value)
    return value if math.isfinite(value) else None


def _records(frame):
    records = frame.to_dict("records")
    return [
        {name: _number(value) if isinstance(value, float) else value for name, value in row.items()}
        for row in records
    ]
