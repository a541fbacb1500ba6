import numpy as np
import pandas as pd
import pytest
from toys import histories_of

from kerasrec.data.events import EVENT_CODES
from kerasrec.evaluation.metrics import score_recommendations
from kerasrec.models.build import build_model
from kerasrec.models.validation import (
    Ranker,
    Validation,
    hold_out_last,
    make_validation,
    ranking_quality,
    rows_at_once,
)


def tiny():
    return build_model(30, id_units=16, max_length=8, scorer_units=8)


def test_hold_out_last_parts_the_last_event():
    train, validation = hold_out_last(histories_of([[1, 2, 3], [4], [5, 6]]))
    assert train.items.tolist() == [1, 2, 4, 5]
    assert train.offsets.tolist() == [0, 2, 3, 4]
    assert validation.target_items.tolist() == [3, 6]
    assert validation.histories.items.tolist() == [1, 2, 5]


def test_hold_out_last_takes_the_last_event_that_the_user_chose():
    shown, click, disliked = (EVENT_CODES[name] for name in ("impression", "click", "dislike"))
    rows, events = [[1, 2, 3, 4], [5, 6], [7, 8]], [[click, click, shown, disliked]]
    histories = histories_of(rows, events=[*events, [click, click], [shown, disliked]])
    histories.values[5] = 0  # an event of the user's own without a weight: item 6
    train, validation = hold_out_last(histories)
    assert validation.target_items.tolist() == [2] and validation.histories.items.tolist() == [1]
    assert train.items.tolist() == [1, 5, 6, 7, 8]  # nothing later than the target 2
    held_out = histories_of([[3, 4], [6], [8]], events=[[shown, click], [disliked], [click]])
    validation = make_validation(histories, held_out)
    assert validation.histories.user_ids.tolist() == ["u0", "u2"]
    assert validation.target_items.tolist() == [4, 8] and validation.target_rows.tolist() == [0, 1]


def test_make_validation_leaves_out_users_without_a_past():
    known = histories_of([[1, 2], [3]])
    later = histories_of([[4], [5], [6, 7]])
    validation = make_validation(known, later._replace(user_ids=np.array(["u1", "new", "u0"])))
    assert validation.histories.user_ids.tolist() == ["u1", "u0"]
    assert validation.target_rows.tolist() == [0, 1, 1]
    assert validation.target_items.tolist() == [4, 6, 7]


def test_ranking_quality_equals_score_recommendations():
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(30)[:10] + 1 for _ in range(20)])
    rows = np.repeat(np.arange(20), 2)
    targets = np.concatenate([rng.permutation(30)[:2] + 1 for _ in range(20)]).astype(np.int32)
    validation = Validation(histories_of([[1]] * 20), rows, targets)
    found = ranking_quality(lists, validation)
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(20), 10).astype(str),
            "item_id": lists.ravel().astype(str),
            "rank": np.tile(np.arange(1, 11), 20),
        }
    )
    test = pd.DataFrame({"user_id": rows.astype(str), "item_id": targets.astype(str)})
    expected = score_recommendations(recs, test, ks=(10,)).values
    assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"])
    assert found["recall@10"] == pytest.approx(expected["recall@10"])


def test_ranking_quality_by_hand():
    validation = Validation(histories_of([[1]] * 4), np.array([0, 0, 2, 3]), np.array([5, 7, 9, 2]))
    lists = np.array([[7, 1, 5], [1, 2, 3], [0, 0, 0], [3, 2, 0]])
    # user 0: hits at ranks 1 and 3 of 2 targets; user 1 has no target; user 3: a hit at rank 2
    ndcg = ((1 + 1 / 2) / (1 + 1 / np.log2(3)) + 0 + 1 / np.log2(3)) / 3
    found = ranking_quality(lists, validation)
    assert found["ndcg@10"] == pytest.approx(ndcg)
    assert found["recall@10"] == pytest.approx((1 + 0 + 1) / 3)
    found = ranking_quality(lists, validation, k=1)
    assert found["ndcg@1"] == pytest.approx(1 / 3) and found["recall@1"] == pytest.approx(0.5 / 3)
    nobody = Validation(histories_of([]), np.zeros(0, int), np.zeros(0, np.int32))
    assert ranking_quality(np.zeros((0, 10), int), nobody) == {"ndcg@10": 0, "recall@10": 0}


def test_top_lists_no_seen_item(planted):
    histories = hold_out_last(planted)[1].histories
    lists = Ranker(tiny()).top(histories)
    for row, start, end in zip(lists, histories.offsets, histories.offsets[1:], strict=False):
        assert not set(row) & set(histories.items[start:end])
        assert len(set(row)) == 10


def test_top_equals_numpy():
    model = tiny()
    # a user without a history is answered by popularity, never by the model
    histories = histories_of([[1, 2, 3], [30], list(range(1, 26))])
    lists = Ranker(model).top(histories, k=6, batch_size=2)
    vectors = model.item_vectors(np.arange(31, dtype=np.int32)).numpy()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    for row in range(3):
        seen = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
        recent = seen[-8:] if len(seen) else np.zeros(1, np.int32)
        none = np.zeros((1, len(recent)), np.int32)
        interest = model.interest([vectors[recent][None], recent[None], none, none]).numpy()
        scores = (unit @ interest[0]) / float(model.loss.temperature())
        scores[[0, *seen]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:6]
        assert lists[row].tolist() == [i if scores[i] > -np.inf else 0 for i in best]
    assert Ranker(model).top(histories.select([]), k=6).shape == (0, 6)


def test_fewer_rows_at_once_in_a_large_catalogue():
    assert [rows_at_once(n) for n in (30, 2**17, 2**20, 2**30)] == [512, 512, 64, 1]
