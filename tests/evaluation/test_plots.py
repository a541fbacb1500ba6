"""The plots are valid SVG that takes its colours and font from the page."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from kerasrec.evaluation import plots

MODELS = ["模型 $1", "a_b", "<c>"]


def texts(svg):
    return "".join(ElementTree.fromstring(svg).itertext())


@pytest.fixture
def table():
    rows = [
        (m, metric, 10, 0.1 * n, 0.01)
        for n, m in enumerate(MODELS)
        for metric in ("ndcg", "recall")
    ]
    return pd.DataFrame(rows, columns=["model", "metric", "k", "value", "se"])


@pytest.mark.filterwarnings("error")
def test_model_bars(table):
    svg = plots.model_bars(table, MODELS, 10)
    shown = texts(svg)
    assert all(name in shown for name in [*MODELS, "NDCG@10", "Recall@10", "0.2000"])
    assert "currentColor" in svg and "var(--line)" in svg
    assert not any(mark in svg for mark in ("#010101", "#020202", "DejaVu", "<metadata"))
    assert svg == plots.model_bars(table, MODELS, 10)  # nothing random, no date
    assert plots.model_bars(table, MODELS[:1], 10).startswith("<svg")


def test_groups(table):
    rows = pd.concat([table.assign(bucket=b, count=c) for b, c in (("1-2", 30), ("3+", 2))])
    shown = texts(plots.groups(rows, MODELS, "ndcg", "events"))
    assert "1-2" in shown and "(30)" in shown and "3+" not in shown  # too small a group
    assert plots.groups(rows[rows["count"] < 10], MODELS, "ndcg", "events") is None


def test_training_curves():
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3, 2, 1.0], "seconds": 1})
    history["valid_ndcg@10"] = [np.nan, 0.3, 0.2]
    shown = texts(plots.training_curves(history))
    assert "best epoch 2" in shown and "valid_ndcg@10" in shown and "seconds" not in shown
    assert "Validation" not in texts(plots.training_curves(history[["epoch", "loss"]]))
    assert plots.training_curves(history[:0]) is None
    assert plots.training_curves(history[["seconds", "epoch"]]) is None


def test_training_curves_of_members():
    history = pd.DataFrame({"epoch": [1, 2, 3, 1, 2], "loss": [3, 2, 1.0, 3, 1]})
    history["valid_ndcg@10"] = [0.1, 0.2, 0.2, 0.1, 0.3]
    plain = plots.training_curves(history[:3])
    svg = plots.training_curves(history.assign(member=[1, 1, 1, 2, 2]))
    assert "best epoch 2" in texts(svg) and texts(svg).count("valid_ndcg@10") == 1
    assert svg.count("<path") > plain.count("<path")


def test_one_epoch_has_one_tick():
    history = pd.DataFrame({"epoch": [1], "loss": [2.0], "valid_ndcg@10": [0.1]})
    svg = plots.training_curves(history)
    assert svg.count(">1</text>") == 2 and ">0.96</text>" not in svg and "best epoch 1" in svg


@pytest.mark.filterwarnings("error")
def test_drift_curves():
    names = ["ndcg@10", "ndcg_se", "recent_popularity", "cold", "outside", "new_users"]
    names += ["item_distance", "item_distance_before", "confidence", "right"]
    table = pd.DataFrame(
        {"period": [0, 1, 2, 3], "events": [9, 5, 0, 7]} | dict.fromkeys(names, 0.1)
    )
    table.loc[table["period"] == 2, names] = np.nan
    svg = plots.drift_curves(table)
    shown = texts(svg)
    assert all(name in shown for name in ["NDCG@10", "recent popularity", "never learned from"])
    assert "background: white" in svg and "currentColor" not in svg
    assert svg == plots.drift_curves(table)
    assert plots.drift_curves(table[:1]).startswith("<svg")  # nothing has happened yet
