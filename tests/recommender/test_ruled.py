"""Lists of a real version under the rules of a shop."""

import numpy as np
import pandas as pd
import pytest

from kerasrec.cli.entry import main
from kerasrec.data.sources import read_interactions
from kerasrec.recommender.recommender import Recommender
from kerasrec.recommender.ruled import merged


@pytest.fixture(scope="module")
def recommender(exported_version):
    return Recommender.load(exported_version)


def test_at_most_two_of_a_school(recommender, toy_histories):
    some = toy_histories.select(np.arange(20))
    rules = {"most": [{"column": "category", "number": 2}]}
    found = recommender.recommend(some, k=10, rules=rules)
    schools = recommender.items.frame.set_index("item_id")["category"]
    counts = found.assign(school=schools.loc[found["item_id"]].to_numpy())
    counts = counts[counts["school"] != ""].groupby(["user_id", "school"]).size()
    assert counts.max() == 2
    # a list by hand: from the whole list, whoever is not the third of a school
    whole = recommender.recommend(some, k=len(recommender.items))
    for user, table in whole.groupby("user_id", sort=False):
        taken: dict[str, int] = {}
        expected = []
        for item in table["item_id"]:
            school = schools.loc[item]
            taken[school] = taken.get(school, 0) + 1
            if taken[school] <= 2 or not school:
                expected.append(item)
        assert list(found["item_id"][found["user_id"] == user]) == expected[:10]
    assert len(found.attrs["rules"]) == len(found)


def test_a_pin_from_far_behind_is_found(recommender, toy_histories):
    some = toy_histories.select(np.arange(5))
    last = recommender.recommend(some, k=len(recommender.items)).groupby("user_id").tail(1)
    item = last["item_id"].iloc[0]
    rules = {"look": 3, "pin": [{"where": {"item_id": item}, "place": 2}]}
    found = recommender.recommend(some, k=3, rules=rules)
    seen = [item in set(recommender.items.ids[some.items[a:b] - 1])
            for a, b in zip(some.offsets, some.offsets[1:], strict=False)]  # fmt: skip
    second = found[found["rank"] == 2]["item_id"].to_numpy()
    assert [(one == item) != has for one, has in zip(second, seen, strict=True)] == [True] * 5


def test_rules_go_with_a_condition_and_have_their_time(recommender):
    frame = recommender.items.frame
    school = frame["category"].value_counts().index[0]
    ids = list(frame["item_id"][frame["category"] == school])
    whole = recommender.recommend([[]], k=100, where={"category": school}, at="now")
    last = whole["item_id"].iloc[-1]
    rules = {"boost": [{"where": {"item_id": last}, "weight": 1e6, "until": "2020-01-01"}]}
    given = dict(k=5, where={"category": school})
    found = recommender.recommend([[]], rules=rules, at="2019-06-01", **given)
    assert found["item_id"].iloc[0] == last and set(found["item_id"]) <= set(ids)
    later = recommender.recommend([[]], rules=rules, at="2020-06-01", **given)
    assert list(later["item_id"]) == list(whole["item_id"][:5])
    with pytest.raises(ValueError, match="Did you mean 'category'"):
        recommender.recommend([[]], rules={"most": [{"column": "catgory", "number": 1}]})


def test_variety_costs_likeness(recommender, toy_histories):
    some = toy_histories.select(np.arange(20))

    def likeness(table):
        found = []
        for _, part in table.groupby("user_id"):
            vectors = recommender.item_vectors(part["item_id"])
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
            found.append(np.triu(unit @ unit.T, 1).sum() / (len(part) * (len(part) - 1) / 2))
        return np.mean(found)

    plain = recommender.recommend(some, k=8)
    varied = recommender.recommend(some, k=8, rules={"diversity": 0.6})
    assert likeness(varied) < likeness(plain) - 0.02
    same = recommender.recommend(some, k=8, rules={})
    pd.testing.assert_frame_equal(same, plain)


def test_merged_keeps_the_first_of_each():
    index, scores = merged([([3, 1, 0], [9.0, 8.0, -9.0]), ([1, 2], [8.0, 1.0])])
    assert index.tolist() == [3, 1, 2] and scores.tolist() == [9.0, 8.0, 1.0]


@pytest.mark.slow
def test_rules_on_the_command_line(exported_version, toy_interactions, tmp_path, capsys):
    path, log = tmp_path / "rules.yaml", tmp_path / "log.csv"
    path.write_text("most:\n  - {column: category, number: 1}\n", encoding="utf-8")
    frame = toy_interactions.frame[["user_id", "item_id", "timestamp"]]
    frame.to_csv(log, index=False)
    model = ["--model", str(exported_version)]
    assert main(["rules", "check", *model, "--rules", str(path), "--histories", str(log)]) == 0
    said = capsys.readouterr().out
    assert said.count("out of the list by the rules") == 3 and "was " in said
    assert main(["rules", "check", *model, "--rules", str(path)]) == 0
    assert "a user without a history" in capsys.readouterr().out
    out = tmp_path / "recs.csv"
    given = ["--histories", str(log), "--k", "5", "--out", str(out), "--rules", str(path)]
    assert main(["recommend", *model, *given]) == 0
    lists = pd.read_csv(out, dtype=str)
    schools = Recommender.load(exported_version).items.frame.set_index("item_id")["category"]
    lists["school"] = schools.loc[lists["item_id"]].to_numpy()
    assert not lists[lists["school"] != ""].duplicated(["user_id", "school"]).any()
    path.write_text("pin: [{where: {category: none}, until: 2020-01-01}]\n")
    assert main(["rules", "check", *model, "--rules", str(path)]) == 0
    said = capsys.readouterr().out
    assert "pin 1: no item meets its condition\npin 1: its time is over\n" in said
    path.write_text("mst: []\n")
    assert main(["recommend", *model, *given]) == 2
    assert "Did you mean 'most'" in capsys.readouterr().err
    path.write_text("most: [{column: catgory, number: 1}]\n")
    assert main(["rules", "check", *model, "--rules", str(path)]) == 2
    assert "Did you mean 'category'" in capsys.readouterr().err


@pytest.fixture
def shopper(recommender):
    """A log of one user: items of three schools, the first and the last bought; and the ids."""
    frame = recommender.items.frame
    schools = frame["category"].value_counts().index[:3]
    ids = [frame["item_id"][frame["category"] == school].iloc[0] for school in schools]
    rows = {
        "user": "u",
        "item": ids,
        "event": ["purchase", "click", "purchase"],
        "timestamp": ["2026-01-01", "2026-01-08", "2026-01-09"],
    }
    return read_interactions(pd.DataFrame(rows)), ids


def listed(recommender, log, rules, **options):
    found = recommender.recommend(log, k=len(recommender.items), rules=rules, **options)
    return list(found["item_id"])


def test_nothing_of_a_school_twice_within_some_days(recommender, shopper):
    log, ids = shopper
    schools = recommender.items.frame.set_index("item_id")["category"]
    natural = listed(recommender, log, {})
    for days, events, at, had in (
        (5, ["purchase"], "2026-01-10", ids[2:]),
        (5, None, "2026-01-10", ids[1:]),
        (30, ["buy"], "2026-01-10", [ids[0], ids[2]]),
        (5, None, "2026-02-10", []),
        (5, None, None, ids[1:]),  # at the newest event
    ):
        rules = {"pause": [{"days": days, "column": "category", "events": events}]}
        found = listed(recommender, log, rules, at=at)
        out = set(schools[had])
        whole = natural if at is None else listed(recommender, log, {}, at=at)
        assert found == [item for item in whole if schools[item] not in out]
        assert len(found) < len(whole) or not had
    item = {"pause": [{"days": 3}]}
    assert set(ids[1:]).isdisjoint(listed(recommender, log, item, keep_seen=True))
    assert ids[0] in listed(recommender, log, item, keep_seen=True)


def test_what_was_bought_comes_again_by_condition(recommender, shopper):
    log, ids = shopper
    natural = listed(recommender, log, {})
    assert not set(ids) & set(natural)
    rules = {"keep_purchased": {"item_id": [ids[1], ids[2]]}}
    assert set(listed(recommender, log, rules)) == {*natural, ids[2]}  # 1 was not bought
    assert set(listed(recommender, log, rules, keep_seen=True)) == {*natural, *ids[1:]}
    whole = listed(recommender, log, {}, keep_seen=True)
    assert listed(recommender, log, rules) == [i for i in whole if i not in ids[:2]]
    # without purchases every event counts as one
    plain = listed(recommender, [ids], rules)
    assert set(plain) & set(ids) == {ids[1], ids[2]}
