"""The report: one page that stands alone, with everything escaped, and the tables beside it."""

import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from kerasrec.data.histories import make_histories
from kerasrec.data.sources import read_interactions, read_items
from kerasrec.evaluation.evaluation import evaluate
from kerasrec.evaluation.report import write_report

EVIL = "<script>alert('x')</script> & \"引号\""


@pytest.fixture(scope="module")
def case():
    titles = ["机器学习", EVIL, "中国历史", "宏观经济", ""]
    items = read_items(pd.DataFrame({"item_id": list("abcde"), "title": titles}), on_bad="skip")
    events = [(f"<u{n}>", item) for n in range(30) for item in "abcde"[: 1 + n % 3]]
    known = read_interactions(pd.DataFrame(events, columns=["user_id", "item_id"]))
    test = pd.DataFrame([(f"<u{n}>", "d") for n in range(30)], columns=["user_id", "item_id"])
    test.loc[30] = ("<new>", "d")
    rows = [
        (user, item, place)
        for number, user in enumerate(test["user_id"])
        for place, item in enumerate("dbx" if number % 2 else "bcx", start=1)
    ]
    lists = pd.DataFrame(rows, columns=["user_id", "item_id", "rank"])
    histories = make_histories(known, items)
    models = {"<b>课程</b>": lists, "other": lists[lists["rank"] == 1]}
    return evaluate(models, test, histories=histories, train=known, items=items), items, histories


class Strict(HTMLParser):
    """Checks that tags nest, and collects what the page would load or run."""

    VOID = {"meta", "br", "link", "img", "input"}

    def __init__(self, page):
        super().__init__()
        self.open, self.loads, self.tags = [], [], set()
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)


def test_write_report_writes_a_page_that_stands_alone(case, tmp_path):
    evaluation, items, histories = case
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "valid_ndcg@10": [0.1, 0.2]})
    manifest = {"encoder": {"name": "e5-small", "dims": [64, 128]}, "note": EVIL, "empty": {}}
    path = write_report(
        evaluation, tmp_path / "deep" / "report", training_history=history, items=items,
        histories=histories, manifest=manifest,
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    parsed = Strict(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    assert all(load.startswith("#") for load in parsed.loads)
    assert not re.search(r"url\((?!#)|@import", page)
    assert EVIL not in page and "&lt;script&gt;" in page and "&lt;b&gt;课程&lt;/b&gt;" in page
    for text in (
        "机器学习",
        "best epoch 2",
        "encoder.name",
        "e5-small",
        "[64, 128]",
        "User &lt;u",
    ):
        assert text in page
    assert page.count('<section class="user">') == 12
    assert page.count('<span class="hit">') == 6  # half of the dozen have a hit
    assert "prefers-color-scheme: dark" in page
    assert "31 listed items are not in the catalogue" in page


def test_write_report_writes_the_tables(case, tmp_path):
    evaluation, items, histories = case
    write_report(evaluation, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.json", "per_user.csv.gz", "recommendations.csv.gz", "report.html",
    ]  # fmt: skip
    assert json.loads((tmp_path / "metrics.json").read_text())["k"] == 10
    per_user = pd.read_csv(tmp_path / "per_user.csv.gz")
    assert len(per_user) == 62 and list(per_user.columns[:3]) == ["model", "user_id", "recall@5"]
    own = per_user[per_user["model"] == "other"]["ndcg@10"].mean()
    assert own == pytest.approx(evaluation.value("other", "ndcg")[0], abs=1e-6)
    assert len(pd.read_csv(tmp_path / "recommendations.csv.gz")) == 93
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for section in ("Some users", "Training", "Options and versions"):
        assert f"<h2>{section}</h2>" not in page
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(evaluation, tmp_path)  # again: the same bytes
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_write_report_one_model_one_user_no_list(case, tmp_path):
    _, items, histories = case
    test = pd.DataFrame({"user_id": ["stranger"], "item_id": ["a"]})
    lists = pd.DataFrame({"user_id": [], "item_id": [], "score": []}, dtype=str)
    lists["score"] = np.zeros(0)
    found = evaluate({"m": lists}, test, histories=histories, train=None, items=items)
    page = write_report(found, tmp_path, items=items, histories=histories).read_text("utf-8")
    Strict(page)
    assert "1 test users have no list" in page and "a new user" in page and "no list" in page
    assert "No group is large enough" in page and "Is the difference real?" not in page


def test_write_report_takes_scored_lists(case, tmp_path):
    evaluation, items, histories = case
    scored = evaluation.lists["<b>课程</b>"].assign(score=lambda rows: 1 / rows["rank"])
    options = {"items": items, "histories": histories}
    ranked = write_report(evaluation, tmp_path / "a", **options).read_text("utf-8")
    lists = scored.drop(columns="rank").sample(frac=1, random_state=0)
    other = write_report(evaluation, tmp_path / "b", lists=lists, **options).read_text("utf-8")
    assert ranked == other


def test_write_report_one_epoch_long_texts_histories_of_one_event(tmp_path):
    titles = ["机器学习", "从零开始的课程" * 60, "x" * 400, "历史"]
    items = read_items(pd.DataFrame({"item_id": ["i" * 150, "b", "c", "d"], "title": titles}))
    events = [(f"{'用户' * 40}{n}", items.ids[n % 4]) for n in range(24)]
    known = read_interactions(pd.DataFrame(events, columns=["user_id", "item_id"]))
    test = [(user, items.ids[(n + 1) % 4]) for n, (user, _) in enumerate(events)]
    test = pd.DataFrame(test, columns=["user_id", "item_id"])
    histories = make_histories(known, items)
    models = {"很长的模型名字" * 12: test.assign(rank=1), "a_long_name_" * 12: test.assign(rank=1)}
    found = evaluate(models, test, histories=histories, train=known, items=items)
    history = pd.DataFrame({"epoch": [1], "loss": [2.0], "valid_ndcg@10": [0.1]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib says so when a plot has no room left
        path = write_report(
            found, tmp_path, training_history=history, items=items, histories=histories
        )
    page = path.read_text("utf-8")
    Strict(page)
    assert "best epoch 1" in page and page.count('<section class="user">') == 12
    assert "x" * 99 + "…" in page and "x" * 100 not in page
    assert "很长的模型名字" * 12 in page  # whole in the tables, cut in the plots
    assert ">很长的模型名字很长的模…</text>" in page


def test_write_report_says_what_nothing_can_find(case, tmp_path):
    _, items, histories = case
    known = pd.DataFrame({"user_id": ["<u1>"], "item_id": ["a"]})
    test = pd.DataFrame({"user_id": ["<u1>", "<u1>"], "item_id": ["a", "d"]})
    found = evaluate(
        {"m": test.assign(rank=1)}, test, histories=histories, train=known, items=items
    )
    page = write_report(found, tmp_path).read_text("utf-8")
    assert "1 relevant items were in the user&#39;s history already; nothing can find" in page
