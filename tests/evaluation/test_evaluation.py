"""Models side by side: the tidy table, groups, comparisons, baselines."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from kerasrec.data.histories import make_histories
from kerasrec.data.sources import read_interactions, read_items
from kerasrec.evaluation.evaluation import bucket_of, evaluate, run_baselines
from kerasrec.evaluation.metrics import score_recommendations

NUM_USERS, NUM_ITEMS = 40, 12


@pytest.fixture(scope="module")
def case():
    """Users walk round a ring of items; their next item is the test."""
    items = read_items(
        pd.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(NUM_ITEMS)],
                "title": [
                    f"第{item}课 {'数学' if item % 2 else '历史'}" for item in range(NUM_ITEMS)
                ],
                "category": ["数学" if item % 2 else "历史" for item in range(NUM_ITEMS)],
            }
        )
    )
    events, test = [], []
    for user in range(NUM_USERS):
        length = 1 + user % 7
        walk = [(user + step) % NUM_ITEMS for step in range(length + 1)]
        stamps = 1_600_000_000 + user * 100 + np.arange(length)
        events += [(f"u{user}", f"i{item}", t) for item, t in zip(walk, stamps, strict=False)]
        test.append((f"u{user}", f"i{walk[-1]}", stamps[-1] + 1))
    columns = ["user_id", "item_id", "timestamp"]
    known = read_interactions(pd.DataFrame(events, columns=columns))
    test = read_interactions(pd.DataFrame([*test, ("new", "i3", stamps[-1])], columns=columns))
    return items, known, test, make_histories(known, items)


@pytest.fixture(scope="module")
def evaluation(case):
    items, known, test, histories = case
    asked = histories.of_users(pd.unique(test.frame["user_id"]).astype(object))
    lists = run_baselines(histories, asked, items, texts=items.texts(), k=8)
    models = {name: lists[name] for name in ("item_knn", "popularity", "tfidf_text")}
    return evaluate(models, test, histories=histories, train=known, items=items, ks=(1, 5, 10))


def test_run_baselines_runs_all_that_the_data_allows(case):
    items, known, _, histories = case
    lists = run_baselines(histories, histories, items, texts=items.texts(), k=3)
    assert list(lists) == ["popularity", "recent_popularity", "item_knn", "tfidf_text"]
    for table in lists.values():
        assert table.groupby("user_id", observed=True).size().eq(3).all()
    timeless = histories._replace(timestamps=np.zeros_like(histories.timestamps))
    assert list(run_baselines(timeless, histories, items)) == ["popularity", "item_knn"]
    assert list(run_baselines(histories, histories, items, names=["item_knn"])) == ["item_knn"]


def test_run_baselines_errors(case):
    items, _, _, histories = case
    with pytest.raises(ValueError, match="Did you mean 'item_knn'"):
        run_baselines(histories, histories, items, names=["item_kn"])
    with pytest.raises(ValueError, match="tfidf_text needs texts"):
        run_baselines(histories, histories, items, names=["tfidf_text"])


def test_evaluate_tables(case, evaluation):
    items, known, test, _ = case
    assert evaluation.models == ["item_knn", "popularity", "tfidf_text"] and evaluation.k == 10
    table = evaluation.table
    assert list(table.columns) == ["model", "metric", "k", "value", "se"]
    assert not table.duplicated(["model", "metric", "k"]).any()
    alone = score_recommendations(
        evaluation.lists["item_knn"], test, train=known, ks=[1, 5, 10], catalogue=items
    )
    assert evaluation.value("item_knn", "ndcg", 5) == (
        alone.values["ndcg@5"],
        alone.errors["ndcg@5"],
    )
    assert evaluation.value("item_knn", "recall", 1)[0] > 0.9  # the ring is easy for it
    assert 0 < evaluation.value("popularity", "diversity")[0] < 1  # of the categories
    with pytest.raises(KeyError, match="no recall@7 of 'item_knn'"):
        evaluation.value("item_knn", "recall", 7)


def test_evaluate_groups(evaluation):
    for name, bucket_count in (("by_history_length", 41), ("by_item_popularity", 41)):
        rows = getattr(evaluation, name)
        for model in evaluation.models:
            own = rows[(rows["model"] == model) & (rows["metric"] == "recall")]
            assert own["count"].sum() == bucket_count
            mean = (own["value"] * own["count"]).sum() / own["count"].sum()
            assert mean == pytest.approx(evaluation.value(model, "recall")[0])
    rows = evaluation.by_history_length
    assert rows["bucket"].unique().tolist() == ["0", "1-2", "3-5", "6-10"]
    new = rows[(rows["bucket"] == "0") & (rows["model"] == "popularity")]
    assert new["count"].tolist() == [1, 1] and new["se"].tolist() == [0, 0]


def test_evaluate_comparisons(evaluation):
    rows = evaluation.comparisons
    assert rows["model"].unique().tolist() == ["popularity", "tfidf_text"]
    row = rows[(rows["model"] == "popularity") & (rows["metric"] == "ndcg")].iloc[0]
    ahead = evaluation.value("item_knn", "ndcg")[0] - evaluation.value("popularity", "ndcg")[0]
    assert row["difference"] == pytest.approx(ahead)
    assert row["low"] < row["difference"] < row["high"]
    assert "item_knn: NDCG@10" in evaluation.summary() and "clearly better" in evaluation.summary()
    assert repr(evaluation) == f"Evaluation({evaluation.summary()})"
    shown = evaluation._repr_html_()
    assert all(f"<th>{name}</th>" in shown for name in ("recall", "ndcg", *evaluation.models))


def test_evaluate_calls_a_model_with_the_test_users(case):
    items, known, test, histories = case
    asked = []

    def model(rows, k):
        asked.append((rows.user_ids.tolist(), rows.lengths.tolist(), k))
        return pd.DataFrame({"user_id": rows.user_ids, "item_id": "i3", "rank": 1})

    found = evaluate({"模型": model}, test, histories=histories, train=known, items=items)
    users, lengths, k = asked[0]
    assert len(users) == 41 and users[-1] == "new" and lengths[-1] == 0 and k == 20
    assert found.per_user["模型"].loc["new", "recall@5"] == 1
    assert found.comparisons.empty and found.summary().startswith("模型: NDCG@10")


def test_evaluate_takes_plain_tables_and_other_ks(case):
    items, known, test, histories = case
    frame = test.frame.head(1)[["user_id", "item_id"]].astype(str)
    lists = frame.assign(rank=1)
    found = evaluate(
        {"m": lists}, frame, histories=histories, train=None, items=items, ks=[3, 1],
        vectors=np.eye(NUM_ITEMS),
    )  # fmt: skip
    assert found.k == 3 and found.value("m", "ndcg") == (1, 0)


def test_evaluate_errors(case):
    items, known, test, histories = case
    options = {"histories": histories, "train": known, "items": items}
    with pytest.raises(ValueError, match="at least one model"):
        evaluate({}, test, **options)
    broken = pd.DataFrame({"user_id": ["u1"], "item_id": ["i1"], "score": [np.nan]})
    with pytest.raises(ValueError, match="^mine: Every row of recs needs a score"):
        evaluate({"mine": broken}, test, **options)


def test_evaluate_says_when_the_histories_hold_the_test(case, caplog):
    items, known, test, histories = case
    options = {"histories": histories, "train": known, "items": items}
    lists = {"m": run_baselines(histories, histories, items, names=["popularity"])["popularity"]}
    pairs = known.frame[["user_id", "item_id"]].astype(str).drop_duplicates()
    with pytest.raises(ValueError, match="all 12 pairs are in the histories. Take the test's"):
        evaluate(lists, pairs[:12], **options)
    new = pd.DataFrame({"user_id": "u1", "item_id": ["i8", "i9", "i10"]})
    half = evaluate(lists, pd.concat([pairs[:3], new]), **options)
    assert not caplog.records and half.counts["m"]["test_events_known"] == 3
    more = evaluate(lists, pd.concat([pairs[:4], new]), **options)
    assert "4 of 7 test pairs are in the histories already" in caplog.text
    assert more.to_dict()["counts"]["m"]["test_events_known"] == 4


def test_evaluate_leaves_out_what_users_did_not_choose(caplog):
    items = read_items(pd.DataFrame({"item_id": list("abc"), "title": list("abc")}))
    columns = ["user_id", "item_id", "timestamp", "event"]
    past = read_interactions(pd.DataFrame([["u", "a", 1.5e9, "click"]], columns=columns))
    rows = [["u", "b", 1.6e9, "dislike"], ["u", "c", 1.7e9, "click"], ["v", "b", 1.6e9, "show"]]
    test = read_interactions(pd.DataFrame(rows, columns=columns))
    lists = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["b", "c"], "rank": [1, 2]})
    histories = make_histories(past, items)
    with caplog.at_level("WARNING"):
        result = evaluate({"m": lists}, test, histories=histories, train=past, items=items)
    assert "2 of 3 test events were not chosen by the user" in caplog.text
    assert result.counts["m"]["users"] == 1
    assert result.value("m", "ndcg")[0] == pytest.approx(1 / np.log2(3))
    gone = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["c", "gone"]})
    evaluate({"m": lists}, gone, histories=histories, train=past, items=items)
    assert "1 of 2 test events name items outside the catalogue" in caplog.text
    disliked = read_interactions(pd.DataFrame(rows[:1], columns=columns))
    with pytest.raises(ValueError, match="needs events that users chose. Received: 1 impressions"):
        evaluate({"m": lists}, disliked, histories=histories, train=past, items=items)


def test_evaluation_to_json(evaluation, tmp_path):
    path = evaluation.to_json(tmp_path / "metrics.json")
    read = json.loads(path.read_text(encoding="utf-8"))
    value, error = evaluation.value("item_knn", "ndcg")
    assert read["models"]["item_knn"]["ndcg@10"] == {"value": value, "se": error}
    assert read["models"]["item_knn"]["coverage@10"]["se"] is None
    assert read["k"] == 10 and len(read["comparisons"]) == 4
    assert read["by_history_length"][0]["count"] == 1
    assert read["counts"]["item_knn"]["users"] == 41


def test_evaluation_to_rich(evaluation):
    text = printed(evaluation, None, 200)
    assert "item_knn" in text and "ndcg@10" in text and "41 test users" in text
    assert f"{evaluation.value('item_knn', 'recall')[0]:.4f} ±" in text
    assert text.splitlines()[1].split()[4:] == ["coverage", "diversity", "novelty", "popularity"]


def printed(evaluation, width, console_width):
    console = Console(width=console_width, file=io.StringIO())
    console.print(evaluation.to_rich(width))
    return console.file.getvalue()


@pytest.mark.parametrize(
    "width, last", [(120, "popularity"), (100, "novelty"), (80, "diversity"), (60, "mrr@10")]
)
def test_evaluation_to_rich_does_not_wrap(case, width, last):
    items, known, test, histories = case
    lists = run_baselines(histories, histories, items, texts=items.texts(), k=10)
    models = {"courses": lists["item_knn"], **lists}
    found = evaluate(models, test, histories=histories, train=known, items=items)
    lines = printed(found, width, width).splitlines()
    assert len(lines) == 2 + len(models) and max(map(len, lines)) <= width
    assert lines[1].split()[-1] == last
    for name, line in zip(models, lines[2:], strict=True):
        for metric in ("recall", "ndcg"):
            value, error = found.value(name, metric)
            assert f"{value:.4f} ± {error:.4f}" in line


def test_evaluation_to_rich_folds_a_long_name_only(case):
    items, known, test, histories = case
    lists = run_baselines(histories, histories, items, names=["popularity"], k=10)["popularity"]
    name = "推荐" * 20 + "[v2]"
    found = evaluate({name: lists}, test, histories=histories, train=known, items=items)
    lines = printed(found, 60, 60).splitlines()[1:]
    assert "".join(line.split()[0] for line in lines if line.strip())[5:] == name
    value, error = found.value(name, "ndcg")
    assert lines[1].endswith(f"{value:.4f} ± {error:.4f}") and "mrr" not in lines[0]


def test_bucket_of_covers_every_edge():
    labels = bucket_of([0, 1, 2, 3, 5, 6, 10, 99], (0, 1, 3, 6, 11))
    assert labels.tolist() == ["0", "1-2", "1-2", "3-5", "3-5", "6-10", "6-10", "11+"]
