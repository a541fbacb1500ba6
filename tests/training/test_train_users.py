"""Models that know groups of users: who has no history gets what users like them choose."""

import shutil

import numpy as np
import pandas as pd
import pytest
from toys import newest_alone

from kerasrec.backend import tf
from kerasrec.cli.entry import main
from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import join_interactions
from kerasrec.data.sources import read_interactions
from kerasrec.features import usergroups
from kerasrec.feedback.store import FeedbackStore
from kerasrec.loop.updating import retrain, update, update_from_store
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.recommender.ablation import feature_worth
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.pipeline import train
from kerasrec.versions.derive import export_again

CITIES = ["北京", "上海", "广州"]


@pytest.fixture(scope="module")
def version(town_version):
    """Its sequence model is known under its name, as that of a user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEQUENCE_MODELS, "newest_alone", newest_alone)
        yield town_version


@pytest.fixture(scope="module")
def recommender(version):
    return Recommender.load(version)


def city_share(table, city):
    """Share of the listed items that are of a city."""
    return np.mean([int(item[1:]) % 3 == city for item in table["item_id"]])


def test_who_has_no_history_gets_what_the_city_likes(recommender, town):
    asked = {f"new{n}": [] for n in range(3)}
    users = pd.DataFrame({"user_id": list(asked), "城市": CITIES})
    table = recommender.recommend(asked, users=users, k=8)
    shares = [city_share(table[table["user_id"] == f"new{n}"], n) for n in range(3)]
    assert shares == [1, 1, 1]
    facts = recommender.manifest["user_features"]
    assert facts["columns"] == {"城市": "category", "age": "number", "tags": "categories"}
    assert facts["new"]["weight"] > 0 and facts["new"]["gain"] > facts["new"]["se"]


def test_unknown_users_and_values_are_as_without(recommender):
    without = recommender.recommend({"x": [], "y": ["i1"]}, k=8)
    users = pd.DataFrame({"user_id": ["x", "other"], "城市": ["拉萨", "北京"], "age": ["", "30"]})
    found = recommender.recommend({"x": [], "y": ["i1"]}, users=users, k=8)
    pd.testing.assert_frame_equal(found, without)


def signature_of(version):
    loaded = tf.saved_model.load(str(version))
    return loaded, loaded.signatures["recommend_for"]


def test_the_signature_answers_as_python(recommender, version, town):
    """Plain TensorFlow: texts and numbers in, the lists of `recommend(users=)` out."""
    _, _, users = town
    loaded, answer = signature_of(version)
    histories = {"u0": ["i3", "i6"], "u1": [], "u2": ["i5"], "new": []}
    frame = users.frame.set_index("user_id").reindex(histories).fillna("")
    count, width = len(histories), 2
    given = [[""] * (width - len(row)) + row for row in histories.values()]
    found = answer(
        history=tf.constant(given),
        timestamps=tf.zeros((count, width), tf.int64),
        allow=tf.fill((count, 0), ""),
        deny=tf.fill((count, 0), ""),
        keep_seen=tf.fill([count], False),
        user_1=tf.constant(frame["城市"].tolist()),
        user_age=tf.constant(pd.to_numeric(frame["age"]).to_numpy(np.float32)),
        user_tags=tf.constant(frame["tags"].tolist()),
    )
    table = recommender.recommend(histories, users=users, k=10, at="now")
    for place, user in enumerate(histories):
        part = table[table["user_id"] == user]
        ids = [one.decode() for one in found["item_ids"][place].numpy()[:10]]
        assert ids == part["item_id"].tolist()
        np.testing.assert_allclose(found["scores"][place][:10], part["score"], atol=1e-4)


def test_the_old_signatures_are_as_they_were(recommender, version):
    loaded = tf.saved_model.load(str(version))
    found = loaded.signatures["serving_default"](history=tf.constant([["", "i4"], ["", ""]]))
    table = recommender.recommend([["i4"], []], k=30, at="now")
    listed = found["scores"].numpy() > -np.inf
    ids = [one.decode() for one in found["item_ids"].numpy()[listed]]
    assert ids == table["item_id"].tolist()


def test_what_groups_like_is_counted_the_same_in_blocks(recommender, town, monkeypatch):
    """`log((n_gi + m p_i) / ((n_g + m) p_i))`, a user once for an item, by hand for one group."""
    interactions, items, users = town
    histories = make_histories(interactions, items)
    whole = usergroups.fit_user_groups(users.frame, histories, len(items), "城市:category")
    monkeypatch.setattr(usergroups, "_BLOCK", 7)
    parts = usergroups.fit_user_groups(users.frame, histories, len(items), "城市:category")
    np.testing.assert_allclose(parts.lifts, whole.lifts, rtol=1e-6)
    pairs = interactions.frame[["user_id", "item_id"]].astype(str).drop_duplicates()
    counts = pairs["item_id"].value_counts()
    of_city = pairs[pairs["user_id"].str[1:].astype(int) % 3 == 0]["item_id"].value_counts()
    share = (counts["i0"] + 1e-3) / (counts.sum() + 1e-3 * (len(items) + 1))
    taste = (of_city["i0"] + 500 * share) / (of_city.sum() + 500)
    place = list(whole.columns["城市"].values).index("北京")
    assert whole.lifts[place, items.index_of(["i0"])[0]] == pytest.approx(
        np.log(taste / share), 1e-5
    )
    assert recommender.loaded.user_groups is recommender.loaded.user_groups  # read once


def test_values_that_do_not_read_are_told(recommender, caplog):
    table = pd.DataFrame({"user_id": ["x"], "城市": ["北京"], "age": ["60岁"], "tags": [""]})
    assert city_share(recommender.recommend({"x": []}, users=table, k=5), 0) == 1
    assert "users: age: 1 of 1 values is no number and counts as missing: '60岁'" in caplog.text


@pytest.mark.slow
def test_derived_and_updated_versions_know_the_groups(version, town, tmp_path):
    interactions, _, users = town
    base = shutil.copytree(version.parent, tmp_path / "town")
    asked, known = {"u0": [], "u4": ["i1"]}, users
    expected = Recommender.load(base).recommend(asked, users=known, k=5)
    derived = Recommender.load(export_again(base, k=7))
    pd.testing.assert_frame_equal(derived.recommend(asked, users=known, k=5), expected)
    rows = [
        (f"u{user}", f"i{3 * ((user + step) % 10) + (user + 1) % 3}", 1_701_000_000 + user + step)
        for user in range(60)
        for step in range(2)
    ]
    later = read_interactions(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))
    found = update(base, join_interactions([interactions, later]), force=True)
    child = Recommender.load(found.version)
    groups, before = child.loaded.user_groups, derived.loaded.user_groups
    assert groups.weights == before.weights
    np.testing.assert_array_equal(groups.lifts, before.lifts)
    assert city_share(child.recommend({"u0": []}, users=known, k=5), 0) == 1


@pytest.mark.slow
def test_a_model_trained_from_nothing_takes_the_table_of_the_store(
    version, town, tmp_path, caplog, monkeypatch
):
    interactions, items, users = town
    base = shutil.copytree(version.parent, tmp_path / "town")
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.add(interactions)
        store.import_users(users)
        store.forget("u0")
        found = update_from_store(base, store)
        child = Recommender.load(found.version)
        assert "trained from nothing" in found.reason
        assert set(child.loaded.user_groups.columns) == {"城市", "age", "tags"}
        known = pd.DataFrame({"user_id": ["neu"], "城市": ["上海"]})
        assert city_share(child.recommend({"neu": []}, users=known, k=5), 1) == 1
        found = retrain(base, store.interactions())
    assert Recommender.load(found.version).loaded.user_groups is None
    assert "no groups of users by 城市, age, tags" in caplog.text


def test_a_version_without_groups_refuses_users(exported_version):
    recommender = Recommender.load(exported_version)
    with pytest.raises(ValueError, match="knows nothing of users but their histories"):
        recommender.recommend([[]], users=pd.DataFrame({"user_id": ["a"], "city": ["x"]}))


def test_columns_that_the_version_does_not_know_are_told(recommender, caplog):
    with pytest.raises(ValueError, match="expected columns that the version knows, 城市, age"):
        recommender.recommend({"x": []}, users=pd.DataFrame({"user_id": ["x"], "city": ["北京"]}))
    some = pd.DataFrame({"user_id": ["x", "y"], "城市": ["北京", "上海"]})
    caplog.set_level("INFO", "kerasrec")
    table = recommender.recommend({"x": []}, users=some, k=5)
    assert city_share(table, 0) == 1 and "no column age" in caplog.text
    assert "1 users of the table are not asked for" in caplog.text


def test_the_command_line_refuses_what_says_nothing(town, tmp_path, capsys):
    from kerasrec.cli.entry import main

    log, users = tmp_path / "log.csv", tmp_path / "users.csv"
    town[0].frame[["user_id", "item_id", "timestamp"]].to_csv(log, index=False)
    pd.DataFrame({"uid": ["z1", "z2"], "age": [3, 4]}).to_csv(users, index=False)
    given = ["train", "--interactions", str(log), "--name", "x", "--out", str(tmp_path)]
    assert main([*given, "--users", str(users)]) == 2
    assert "none of whom it has" in capsys.readouterr().err
    assert main([*given, "--user-features", "age:number"]) == 2
    assert "Received: no --users" in capsys.readouterr().err


def test_wrong_columns_are_refused_before_the_work(town):
    interactions, items, users = town
    with pytest.raises(ValueError, match="aeg.*age"):
        train(interactions, items, name="x", users=users, user_features="aeg:number")
    with pytest.raises(ValueError, match="Received: 'user_id'"):
        train(interactions, items, name="x", users=users, user_features="user_id:category")


def test_the_command_line_lists_for_known_users(town, version, tmp_path):
    """A table with further columns says who they are; a user named twice is taken once."""
    from kerasrec.cli.entry import main

    interactions, _, _ = town
    log, out = tmp_path / "log.csv", tmp_path / "lists.csv"
    interactions.frame[["user_id", "item_id", "timestamp"]].to_csv(log, index=False)
    rows = [("neu", "北京", "30"), ("andere", "上海", ""), ("neu", "广州", "30")]
    pd.DataFrame(rows, columns=["uid", "城市", "age"]).to_csv(tmp_path / "u.csv", index=False)
    given = ["--model", version, "--histories", log, "--users", tmp_path / "u.csv", "--k", 6]
    assert main(["recommend", *map(str, given), "--out", str(out)]) == 0
    table = pd.read_csv(out, dtype=str)
    shares = {
        user: city_share(part, n)
        for n, (user, part) in enumerate(table.groupby("user_id", sort=False))
    }
    assert shares == {"neu": 1, "andere": 1}


def test_the_worth_of_what_is_known_of_users(recommender, town):
    interactions, _, users = town
    asked = {f"u{n}": [] for n in range(30)}
    wanted = pd.DataFrame({"user_id": list(asked), "item_id": [f"i{n}" for n in range(30)]})
    given = dict(train=interactions, users=users, k=10)
    table = feature_worth(recommender, asked, wanted, **given)
    assert set(table["column"]) == {"城市", "age", "tags"} and set(table["table"]) == {"users"}
    assert table["column"].iloc[0] == "城市"  # who is of a city likes a third of the items
    assert table["low"].iloc[0] > 0.05 and table["p_value"].iloc[0] < 0.01
    assert table["difference"].iloc[0] > 2 * abs(table["difference"].iloc[1:]).max()
    none = feature_worth(recommender, asked, wanted, train=interactions)
    assert none.empty and list(none.columns) == list(table.columns)


def test_the_worth_is_in_the_report(version, town, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    interactions, _, users = town
    frame = interactions.frame[["user_id", "item_id", "timestamp"]]
    last = frame.groupby("user_id", observed=True)["timestamp"].transform("max")
    frame[frame["timestamp"] < last].to_csv("known.csv", index=False)
    frame[frame["timestamp"] == last].to_csv("next.csv", index=False)
    users.frame.to_csv("users.csv", index=False)
    words = ["evaluate", "--model", str(version), "--histories", "known.csv", "--test", "next.csv"]
    assert main([*words, "--users", "users.csv", "--worth", "--report", "r"]) == 0
    shown = capsys.readouterr().out
    assert "what is lost without a column" in shown and "城市 (users)" in shown
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "What each column is worth" in page and "城市 (users)" in page
    assert len(pd.read_csv(tmp_path / "r" / "features.csv")) == 3
    assert main([*words, "--worth"]) == 0
    assert "nothing to leave out" in capsys.readouterr().out


def test_columns_that_a_version_without_groups_does_not_use_are_told(
    exported_version, toy_interactions, tmp_path, caplog
):
    log, asked = tmp_path / "log.csv", tmp_path / "u.csv"
    toy_interactions.frame[["user_id", "item_id", "timestamp"]].head(200).to_csv(log, index=False)
    pd.DataFrame({"uid": ["neu"], "city": ["x"], "age": [3]}).to_csv(asked, index=False)
    given = ["--model", exported_version, "--histories", log, "--users", asked]
    assert main(["recommend", *map(str, given), "--out", str(tmp_path / "lists.csv")]) == 0
    assert "--users: city, age say nothing to this version" in caplog.text
