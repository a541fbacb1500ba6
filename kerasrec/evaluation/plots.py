"""Draws the plots of a report as inline SVG in the page's colours, font and width."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.cells import cell_len, set_cell_size

#: the first model, then the others; each is readable on white and on near-black
COLOURS = ("#3b82f6", "#e08a1e", "#22a06b", "#b05cc6", "#d9534f", "#7b8794", "#13a3b5", "#a3803b")
MARKERS = "osD^vPX*"
SMALLEST_GROUP = 10
LONGEST_NAME = 24  # of a model, in half-width characters
_TEXT, _LINE = "#010101", "#020202"  # replaced by the page's own colours
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kerasrec",  # the same figures give the same bytes
    "font.size": 10,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "legend.frameon": False,
}


def model_bars(table: pd.DataFrame, models: Sequence[str], k: int) -> str:
    """Draws horizontal bars with error bars, one panel each for NDCG and recall.

    Args:
        table: `Evaluation.table`.
        models: names, the one to stress first.
        k: list length.

    Returns:
        str, an `<svg>` element.
    """
    place = np.arange(len(models))

    def draw(figure):
        panels = figure.subplots(1, 2, sharey=True)
        for axes, metric in zip(panels, ("ndcg", "recall"), strict=True):
            rows = table[(table["metric"] == metric) & (table["k"] == k)].set_index("model")
            rows = rows.loc[models]
            colours = [COLOURS[0]] + [COLOURS[5]] * (len(models) - 1)
            style = {"ecolor": _TEXT, "capsize": 3, "error_kw": {"elinewidth": 1.1}}
            bars = axes.barh(place, rows["value"], 0.62, xerr=rows["se"], color=colours, **style)
            labels = [f"{value:.4f}" for value in rows["value"]]
            axes.bar_label(bars, labels, padding=5, fontsize=9, color=_TEXT)
            axes.set_yticks(place, [_plain(name) for name in models])
            axes.set_title(f"{_spelled(metric)}@{k}")
            axes.margins(x=0.18)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()

    return _svg(draw, 9.2, 0.7 + 0.42 * max(len(models), 2))


def training_curves(history: pd.DataFrame) -> str | None:
    """Draws loss and validation quality by epoch, with the best epoch marked.

    Args:
        history: DataFrame with `epoch`, columns ending in `loss` and columns such as
            `valid_ndcg@10`; others are left out. At least one row. A column `member` tells runs
            apart; each is a line of its own.

    Returns:
        str, an `<svg>` element; None when there is nothing to draw.
    """
    losses = [name for name in history if str(name).endswith("loss")]
    qualities = [name for name in history if "@" in str(name)]
    panels = [(names, title) for names, title in ((losses, "Loss"), (qualities, "Validation"))]
    panels = [panel for panel in panels if panel[0]]
    if "epoch" not in history or history.empty or not panels:
        return None
    epochs = history["epoch"].to_numpy()
    runs = [run for _, run in history.groupby("member")] if "member" in history else [history]

    def draw(figure):
        all_axes = np.ravel(figure.subplots(1, len(panels)))
        for axes, (names, title) in zip(all_axes, panels, strict=True):
            for number, name in enumerate(names):
                for run in runs:
                    label = name if run is runs[0] else None
                    style = {"color": COLOURS[number], "ms": 3.5, "label": label}
                    axes.plot(run["epoch"], run[name], "o-", **style)
            if title == "Validation" and history[names[0]].notna().any():
                best = int(history[names[0]].argmax())
                axes.axvline(epochs[best], color=_TEXT, lw=1, ls=":")
                axes.plot(epochs[best], history[names[0]].iloc[best], "o", color=COLOURS[0], ms=8)
                title += f" (best epoch {epochs[best]})"
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.legend(loc="best", fontsize=9)

    return _svg(draw, 9.2, 3.0)


def strategy_curves(steps: pd.DataFrame) -> str:
    """Draws the quality of a replay step by step, one line per strategy.

    Args:
        steps: DataFrame, `Simulation.steps`: strategy, begin (ISO time), events and ndcg@10.

    Returns:
        str, a whole SVG file with a white background.
    """
    names = list(dict.fromkeys(steps["strategy"]))
    days = sorted(set(steps["begin"]))

    def draw(figure):
        axes = figure.subplots()
        for number, name in enumerate(names):
            part = steps[(steps["strategy"] == name) & (steps["events"] > 0)]
            place = [days.index(begin) for begin in part["begin"]]
            style = "o" if name == "retrained" else f"{MARKERS[number]}-"
            colour = COLOURS[number]
            axes.plot(place, part["ndcg@10"], style, color=colour, ms=4, lw=1.4, label=name)
        shown = days[:: max(len(days) // 9, 1)]
        axes.set_xticks([days.index(day) for day in shown], [day[5:10] for day in shown])
        axes.set_title("NDCG@10 of each step, predicted before it is learned")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return _alone(_svg(draw, 9.2, 3.4))


def drift_curves(table: pd.DataFrame) -> str:
    """Draws what `drift` found, period by period: accuracy, new things, distances, calibration.

    Args:
        table: DataFrame, `Drift.table`.

    Returns:
        str, a whole SVG file with a white background.
    """
    table = table[(table["period"] > 0) & (table["events"] > 0)]
    panels = {
        "NDCG@10": {"ndcg@10": "model", "recent_popularity": "recent popularity"},
        "Share of events or users": {
            "cold": "never learned from",
            "outside": "cannot be listed",
            "new_users": "new users",
        },
        "Distance of items": {
            "item_distance": "from the end of its log",
            "item_distance_before": "most between neighbours before",
        },
        "First of lists that hold the item": {"confidence": "confidence", "right": "right"},
    }

    def draw(figure):
        for axes, (title, lines) in zip(
            np.ravel(figure.subplots(2, 2, sharex=True)), panels.items(), strict=True
        ):
            for number, (name, label) in enumerate(lines.items()):
                errors = table["ndcg_se"] if name == "ndcg@10" else None
                style = {"color": COLOURS[number], "ms": 4, "lw": 1.4, "label": label}
                axes.errorbar(
                    table["period"], table[name], errors, fmt=f"{MARKERS[number]}-", **style
                )
            axes.set_title(title)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8.5)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        for axes in figure.axes[2:]:
            axes.set_xlabel("period after the version's log")

    return _alone(_svg(draw, 9.2, 5.4))


def groups(table: pd.DataFrame, models: Sequence[str], metric: str, xlabel: str) -> str | None:
    """Draws one metric by group, a line per model; groups below `SMALLEST_GROUP` are left out.

    Args:
        table: `Evaluation.by_history_length` or `.by_item_popularity`.
        models: names, the one to stress first.
        metric: `"ndcg"` or `"recall"`.
        xlabel: what the groups are.

    Returns:
        str, an `<svg>` element; None when no group is large enough.
    """
    rows = table[(table["metric"] == metric) & (table["count"] >= SMALLEST_GROUP)]
    if rows.empty:
        return None
    counts = rows[rows["model"] == models[0]].set_index("bucket")["count"]
    place = np.arange(len(counts))
    step = 0.5 / len(models)

    def draw(figure):
        axes = figure.subplots()
        for number, name in reversed(list(enumerate(models))):
            own = rows[rows["model"] == name].set_index("bucket").loc[counts.index]
            shift = (number - (len(models) - 1) / 2) * step
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(
                place + shift,
                own["value"],
                own["se"],
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                ms=6 if number == 0 else 4.5,
                lw=2 if number == 0 else 1.1,
                elinewidth=1.1,
                capsize=2.5,
                label=_plain(name),
            )
        axes.set_xticks(place, [f"{label}\n({count:,})" for label, count in counts.items()])
        axes.set_xlim(-0.5, len(place) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.set_title(f"{_spelled(metric)}@{rows['k'].iloc[0]}")
        axes.grid(axis="x", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        style = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "fontsize": 9}
        axes.legend(handles[::-1], labels[::-1], **style)

    return _svg(draw, 9.2, 3.1)


def _spelled(metric):
    return {"ndcg": "NDCG", "mrr": "MRR", "hr": "HR", "map": "MAP"}.get(metric, metric.capitalize())


def _plain(name):
    """A name that leaves room for the plot, as text, not as mathematics."""
    text = str(name)
    if cell_len(text) > LONGEST_NAME:
        text = set_cell_size(text, LONGEST_NAME - 1).rstrip() + "…"
    return text.replace("$", r"\$")


def _alone(svg):
    """The text of an SVG file that stands in no page: colours of its own, a white background."""
    svg = svg.replace("currentColor", "#222").replace("var(--line)", "#999")
    svg = svg.replace("font-family: inherit", "font-family: sans-serif")
    return svg.replace("<svg", '<svg style="background: white"', 1) + "\n"


def _svg(draw, width, height):
    """Draw a figure of this many inches and return it as an `<svg>` element for a page."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'font-family: [^;"]*', "font-family: inherit", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # would repeat from plot to plot
    return text.replace(_TEXT, "currentColor").replace(_LINE, "var(--line)").strip()
