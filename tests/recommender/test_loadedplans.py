"""`Recommender.generate` and what it is made of, on a tiny version with a generator."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.data.interactions import Items
from kerasrec.generation.generator import read_ids
from kerasrec.models.codes import CollapsedCodes
from kerasrec.models.validation import hold_out_last, quality_per_user
from kerasrec.recommender.loadedplans import VersionPlans
from kerasrec.recommender.questions import Questions
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.generating import TRUSTS, choose_trust, simplest_of
from kerasrec.versions import folders

NEW = pd.DataFrame({"item_id": ["new-1", "new-2"], "title": ["深度学习与推荐系统", "唐诗宋词鉴赏"]})


@pytest.fixture(scope="module")
def recommender(planning_version):
    return Recommender.load(planning_version)


@pytest.fixture(scope="module")
def ids(recommender):
    return list(recommender.items.ids)


@pytest.fixture
def changed(planning_version, tmp_path):
    """A Recommender of a copy, free to change."""
    return Recommender.load(shutil.copytree(planning_version, tmp_path / "plans"))


def plans_of(table):
    """`(user, list)` -> item ids in their order."""
    rows = table.groupby(["user_id", "list"], sort=False)
    return {key: part["item_id"].tolist() for key, part in rows}


# --- plans ---


def test_generate_gives_a_long_table(recommender, ids):
    table = recommender.generate({"b": ids[:3], "a": [], "?": ["no such"]}, 3, 8, num_lists=2)
    assert list(table.columns) == ["user_id", "list", "rank", "item_id", "log_probability"]
    assert table["user_id"].tolist() == ["b"] * 6 + ["a"] * 6 + ["?"] * 6
    assert table["list"].tolist() == [1, 1, 1, 2, 2, 2] * 3
    assert table["rank"].tolist() == [1, 2, 3] * 6
    assert (table["log_probability"] < 0).all()
    totals = table.groupby(["user_id", "list"])["log_probability"].sum()
    for user in ("a", "b"):
        assert totals[user, 1] >= totals[user, 2]
    plans = plans_of(table)
    assert plans["a", 1] == plans["?", 1]  # of both nothing is known
    assert plans["b", 1] != plans["b", 2]
    for (user, _), plan in plans.items():
        assert len(set(plan)) == 3 and not (user == "b" and set(plan) & set(ids[:3]))


def test_nobody_gets_no_plan(recommender, ids):
    assert recommender.generate({}).empty
    assert recommender.generate([ids]).empty  # everything seen
    short = recommender.generate([ids[:-2]], 5)
    assert set(short["item_id"]) == set(ids[-2:]) and short["rank"].tolist() == [1, 2]


def test_a_batch_is_its_users_alone(recommender, toy_interactions):
    whole = recommender.generate(toy_interactions, 3, 4)
    cut = recommender.generate(toy_interactions, 3, 4, batch_size=7)
    assert whole["user_id"].tolist() == cut["user_id"].tolist()
    assert (whole["item_id"] == cut["item_id"]).mean() > 0.99  # but for near ties
    assert whole["user_id"].nunique() == toy_interactions.frame["user_id"].nunique()


def test_candidates_and_deny(recommender, ids):
    allowed = ids[20:24]
    found = recommender.generate([ids[:3], [ids[20]]], candidates=allowed, num_lists=2)
    for (user, _), plan in plans_of(found).items():
        assert set(plan) == set(allowed) - ({ids[20]} if user else set())
    best = recommender.generate([ids[:3]], 3)["item_id"].tolist()
    other = recommender.generate([ids[:3]], 3, deny=best[:1])["item_id"].tolist()
    assert best[0] not in other and len(other) == 3
    with pytest.raises(ValueError, match="candidates must name items of the catalogue"):
        recommender.generate([ids[:3]], candidates=["no such"])


def test_diversity_keeps_plans_apart(recommender, ids):
    histories = [ids[:3], ids[30:32]]
    apart = recommender.generate(histories, 3, 8, num_lists=4, diversity=100.0)
    for _, rows in apart.groupby("user_id"):
        assert len(rows) == 12 and not rows["item_id"].duplicated().any()
    plain = recommender.generate(histories, 3, 8, num_lists=4)
    assert plain.groupby("user_id")["item_id"].nunique().max() < 12
    first = apart[apart["list"] == 1].reset_index(drop=True)  # nothing was before it
    pd.testing.assert_frame_equal(first, recommender.generate(histories, 3, 8))


def test_items_run_out_only_where_they_must(recommender, ids):
    """An item of an earlier plan weighs little, never nothing."""
    for diversity in (9.0, 100, 100.0):
        given = dict(candidates=ids[1:4], num_lists=2, diversity=diversity)
        plans = plans_of(recommender.generate([ids[:1]], 2, **given))
        assert len(plans[0, 1]) == len(plans[0, 2]) == 2
        assert set(plans[0, 1]) | set(plans[0, 2]) == set(ids[1:4])
    # also where every item is in many plans before
    given = dict(candidates=ids[1:4], num_lists=16, diversity=100.0)
    plans = plans_of(recommender.generate([ids[:1]], 2, **given))
    assert [len(set(plan)) for plan in plans.values()] == [2] * 16


def test_drawn_plans(recommender, ids):
    rows = {"a": ids[:3], "b": ids[:3], "c": []}
    drawn = dict(temperature=1.0, num_lists=3)
    found = recommender.generate(rows, 3, **drawn)
    pd.testing.assert_frame_equal(recommender.generate(rows, 3, **drawn), found)
    plans = plans_of(found)
    assert plans["a", 1] != plans["b", 1]  # a seed of their own
    alone = plans_of(recommender.generate({"b": ids[:3]}, 3, **drawn))
    assert alone == {key: plan for key, plan in plans.items() if key[0] == "b"}
    assert plans_of(recommender.generate(rows, 3, seed=1, **drawn)) != plans
    more = plans_of(recommender.generate(rows, 3, 3, **drawn))
    assert more == plans  # beams are for the search
    apart = recommender.generate(rows, 3, diversity=100.0, **drawn)
    assert not apart.duplicated(["user_id", "item_id"]).any()
    cold = plans_of(recommender.generate(rows, 3, temperature=1e-6, num_lists=2))
    assert cold["a", 1] == cold["a", 2] == cold["b", 1] != cold["c", 1] == cold["c", 2]


# --- mistakes ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_items": 0}, "num_items must be a whole number from 1 to 6. Received: 0."),
        ({"num_items": 7}, "num_items must be a whole number from 1 to 6. Received: 7."),
        ({"num_items": 2.0}, "num_items must be a whole number from 1 to 6. Received: 2.0."),
        ({"num_items": True}, "num_items must be a whole number from 1 to 6. Received: True."),
        ({"beams": 0}, "beams must be a whole number from 1 to 256. Received: 0."),
        ({"beams": 257}, "beams must be a whole number from 1 to 256. Received: 257."),
        (
            {"beams": 4, "num_lists": 5},
            "num_lists must be a whole number from 1 to 4. Received: 5.",
        ),
        ({"diversity": -1}, "diversity must be a number, from 0 to 100. Received: -1."),
        ({"diversity": np.inf}, "diversity must be a number, from 0 to 100. Received: inf."),
        ({"diversity": 101}, "diversity must be a number, from 0 to 100. Received: 101."),
        ({"diversity": np.nan}, "diversity must be a number, from 0 to 100. Received: nan."),
        ({"temperature": "1"}, "temperature must be a number, 0 or above. Received: '1'."),
        ({"temperature": np.nan}, "temperature must be a number, 0 or above. Received: nan."),
        ({"top_p": 1.5}, "top_p must be a number, from 0 to 1. Received: 1.5."),
        ({"seed": 1.0}, "seed must be a whole number. Received: 1.0."),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1048576. Received: 0."),
        ({"top_p": True}, "top_p must be a number, from 0 to 1. Received: True."),
    ],
)
def test_bad_arguments(recommender, given, message):
    with pytest.raises(ValueError) as raised:
        recommender.generate([[]], **given)
    assert str(raised.value) == message


def test_numbers_of_numpy_are_numbers(recommender, ids):
    found = recommender.generate(
        [ids[:3]], np.int64(2), np.int32(4), diversity=np.float32(0), top_p=np.float64(1)
    )
    assert len(found) == 2


def test_a_version_without_a_generator_says_what_to_do(exported_version):
    toy = Recommender.load(exported_version)
    with pytest.raises(ValueError) as raised:
        toy.generate([[]])
    assert str(raised.value) == (
        "This version generates no plans. Train one that does: kerasrec train --generator, or "
        "train(..., generator=True)."
    )
    assert not toy.plans.can_plan and toy.plans.generator() is None
    assert not [name for name in toy.loaded.grown_variables() if name.startswith("planner")]


@pytest.mark.slow
def test_withdrawn_items_are_in_no_plan(changed, ids):
    """Half of the catalogue is gone: for who has a history, who has none, and TF Serving."""
    gone = set(ids[::2])
    changed.withdraw(gone)
    given = {"b": ids[:3], "a": []}
    plans = plans_of(changed.generate(given, 4, 8, num_lists=2))
    assert len(plans) == 4 and not {item for plan in plans.values() for item in plan} & gone
    assert not set(changed.generate(given, candidates=[ids[0], ids[1]])["item_id"]) & gone
    version = changed.save()
    again = Recommender.load(version)
    assert plans_of(again.generate(given, 4, 8, num_lists=2)) == plans
    served = tf.saved_model.load(str(version))
    answer = served.signatures["generate"](
        history=tf.constant([ids[:3]]),
        timestamps=tf.zeros((1, 3), tf.int64),
        allow=tf.zeros((1, 0), tf.string),
        deny=tf.zeros((1, 0), tf.string),
        temperature=tf.zeros(1),
        top_p=tf.ones(1),
        seed=tf.zeros(1, tf.int32),
    )
    planned = {item.decode() for item in answer["item_ids"].numpy()[0] if item}
    assert planned and not planned & gone
    again.withdraw([])
    assert {item for plan in plans_of(again.generate(given, 4)).values() for item in plan} & gone


@pytest.mark.slow
def test_codes_follow_a_corrected_text(changed, ids):
    """Two items exchange their titles: their codes are those of the other's place."""
    codes = changed.plans.ids.codes.copy()
    first, second = next(
        (a, b) for a in range(5) for b in range(a + 1, 60) if codes[a, 0] != codes[b, 0]
    )
    frame = changed.items.frame.iloc[[first, second]].copy()
    frame["title"] = frame["title"].to_numpy()[::-1]
    assert changed.correct_items(Items(frame.reset_index(drop=True))) == 2
    now = changed.plans.ids.codes
    others = np.delete(np.arange(len(codes)), [first, second])
    np.testing.assert_array_equal(now[others], codes[others])
    assert (now[[first, second]] != codes[[first, second]]).any()
    assert len(np.unique(now, axis=0)) == len(now)
    # plans read the new codes, also those of the version that is saved
    tokens = changed.loaded.plan_tokens()
    np.testing.assert_array_equal(tokens[1:] - tokens[1], now - now[0])
    given = [ids[:3], []]
    again = Recommender.load(changed.save())
    pd.testing.assert_frame_equal(again.generate(given, 4), changed.generate(given, 4))
    np.testing.assert_array_equal(again.plans.ids.codes, now)


# --- new items ---


@pytest.mark.slow
def test_added_items_are_planned_and_saved(changed, planning_version, ids):
    changed.add_items(NEW)
    found = changed.generate([ids[:3]], candidates=["new-2"])
    assert found["item_id"].tolist() == ["new-2"]
    np.testing.assert_allclose(found["log_probability"], 0, atol=1e-5)
    both = changed.generate([["new-1"], []], candidates=["new-1", "new-2", ids[7]])
    assert {user: set(plan) for (user, _), plan in plans_of(both).items()} == {
        0: {"new-2", ids[7]},
        1: {"new-1", "new-2", ids[7]},
    }
    version = changed.save()
    again = Recommender.load(version)
    for given in ([ids[:3], [], ["new-1", ids[5]]], [["new-2"]]):
        pd.testing.assert_frame_equal(again.generate(given, 4), changed.generate(given, 4))
    codes = read_ids(version / folders.GENERATOR).codes
    old = read_ids(planning_version / "1" / folders.GENERATOR).codes
    assert len(codes) == len(old) + 2 and len(np.unique(codes, axis=0)) == len(codes)
    np.testing.assert_array_equal(codes[: len(old)], old)
    np.testing.assert_array_equal(codes, changed.plans.ids.codes)
    # also for who asks the signature, and once more
    served = tf.saved_model.load(str(version))
    none = tf.zeros((1, 0), tf.string)
    answer = served.signatures["generate"](
        history=tf.constant([ids[:3]]),
        timestamps=tf.zeros((1, 3), tf.int64),
        allow=tf.constant([["new-1"]]),
        deny=none,
        temperature=tf.zeros(1),
        top_p=tf.ones(1),
        seed=tf.zeros(1, tf.int32),
    )
    assert answer["item_ids"].numpy()[0].tolist() == [b"new-1", b"", b"", b"", b""]
    again.add_items(pd.DataFrame({"item_id": ["new-3"], "title": ["唐诗宋词鉴赏"]}))
    assert again.generate([[]], candidates=["new-3"])["item_id"].tolist() == ["new-3"]
    assert len(again.plans.ids.codes) == len(codes) + 1


def test_where_no_codes_are_left_nothing_changes(changed, ids):
    before = changed.generate([ids[:3]], 4)
    codes = changed.plans.ids
    count = codes.sizes[-2] * codes.room + 1  # under one first code
    alike = {"item_id": [f"alike-{n}" for n in range(count)], "title": "大学英语"}
    with pytest.raises(CollapsedCodes, match="More new items have the same text than"):
        changed.add_items(pd.DataFrame(alike))
    assert len(changed.items) == len(ids) and changed.index_of(["alike-0"]).tolist() == [0]
    pd.testing.assert_frame_equal(changed.generate([ids[:3]], 4), before)
    changed.add_items(NEW)
    listed = changed.recommend([ids[:3]], k=1, candidates=["new-2"])
    assert listed["item_id"].tolist() == ["new-2"]


# --- trust ---


def test_choose_trust_leaves_what_it_takes(recommender, toy_histories):
    """Plans with the exponents that it leaves are as good as it says; so is the spread."""
    _, validation = hold_out_last(toy_histories)
    module = recommender.loaded.module
    kept = module.planner.trust.numpy(), module.prior_trust.numpy()

    def asked_of(histories):
        return np.zeros(histories.num_users, np.int64)

    try:
        trust, prior, rows = choose_trust(module, validation, asked_of, 3)
        assert (module.planner.trust.numpy(), module.prior_trust.numpy()) == pytest.approx(
            (trust, prior)
        )
        assert [(row["trust"], row["prior"]) for row in rows] == list(TRUSTS)
        taken = simplest_of(rows)
        assert (taken["trust"], taken["prior"]) == (trust, prior)
        quality = []
        for exponents in [(trust, prior), TRUSTS[0], TRUSTS[-1]]:
            module.planner.trust.assign(exponents[0])
            module.prior_trust.assign(exponents[1])
            plans = VersionPlans(recommender.loaded)
            times = asked_of(validation.histories)
            index, _ = plans.index(Questions(validation.histories, times, np.zeros_like(times)), 3)
            quality.append(quality_per_user(index[:, 0], validation, 3)["ndcg"])
        places = [TRUSTS.index((trust, prior)), 0, len(TRUSTS) - 1]
        means = [rows[place]["ndcg"] for place in places]
        assert [values.mean() for values in quality] == pytest.approx(means, abs=1e-6)
        best = max(rows, key=lambda row: row["ndcg"])
        assert best["se"] == 0 and max(row["se"] for row in rows) > 0
        # a plan of more items than the decoder leaves room for is shorter
        assert choose_trust(module, validation, asked_of, 50)[2][0].keys() >= {"ndcg"}
    finally:
        module.planner.trust.assign(kept[0])
        module.prior_trust.assign(kept[1])


def test_the_manifest_says_what_was_chosen(planning_version, recommender):
    facts = folders.read_manifest(planning_version / "1").as_dict()
    tried = facts["plans"]["tried"]
    taken, chosen = simplest_of(tried), facts["generator"]
    assert (chosen["trust"], chosen["prior"]) == (taken["trust"], taken["prior"])
    assert len(facts["plans"]["epochs"]) == 2 and chosen["options"]["max_items"] == 12
    assert recommender.loaded.module.planner.trust.numpy() == pytest.approx(chosen["trust"])
    assert [row["level"] for row in chosen["usage"]] == [1, 2]


def test_without_trust_in_the_decoder_items_come_by_their_scores(changed, ids):
    """Weighed by the recommender alone, one item is what the fused score says of it."""
    module = changed.loaded.module
    module.planner.trust.assign(0.0)
    module.prior_trust.assign(1.0)
    module.scorer_weight.assign(0.0)
    histories = [ids[:3], ids[30:32]]
    found = changed.generate(histories, 1, 100, num_lists=10)
    expected = changed.recommend(histories, k=10)
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    for _, rows in expected.assign(log_p=found["log_probability"]).groupby("user_id"):
        apart = rows["log_p"] - rows["score"]
        np.testing.assert_allclose(apart, apart.iloc[0], atol=1e-3)
