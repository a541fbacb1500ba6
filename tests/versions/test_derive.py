import hashlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders
from kerasrec.versions.derive import derive_version, export_again
from kerasrec.versions.warmup import replay_warmup


@pytest.fixture
def base(exported_version, tmp_path):
    shutil.copytree(exported_version, tmp_path / "models" / "toy")
    return tmp_path / "models" / "toy"


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_export_again_changes_what_was_asked_and_nothing_else(base):
    before = digests(base / "1")
    ids = list(Recommender.load(base).items.ids)
    history = tf.constant([ids[:3]])
    old = tf.saved_model.load(str(base / "1")).signatures
    version = export_again(base, k=5, scorer_weight=2)
    assert version == base / "2" and digests(base / "1") == before
    new = tf.saved_model.load(str(version)).signatures
    assert new["serving_default"](history=history)["item_ids"].shape == (1, 5)
    assert new["similar"](item_ids=history[0])["item_ids"].shape == (3, 5)
    for name, inputs in (
        ("interest", {"history": history}),
        ("item_vectors", {"item_ids": history[0]}),
    ):
        for key, value in old[name](**inputs).items():
            np.testing.assert_array_equal(new[name](**inputs)[key], value)

    parent, child = (folders.read_manifest(base / v).as_dict() for v in ("1", "2"))
    assert (child["k"], child["scorer_weight"], child["parent"], child["version"]) == (5, 2.0, 1, 2)
    changed = {"k", "scorer_weight", "parent", "version", "created"}
    assert {k: v for k, v in child.items() if k not in changed} == {
        k: v for k, v in parent.items() if k not in changed
    }


@pytest.mark.parametrize("added", [(1,), pytest.param((1, 3), marks=pytest.mark.slow)])
def test_scorer_weight_adds_the_scorer_to_the_lists(base, added):
    before = folders.read_manifest(base / "1").scorer_weight

    def scores(version):
        recommender = Recommender.load(version)
        table = recommender.recommend([recommender.items.ids[:3]], k=79)  # all
        return table.set_index("item_id")["score"]

    old = scores(base / "1")
    more = [scores(export_again(base / "1", scorer_weight=before + n)) - old for n in added]
    assert more[0].abs().max() > 1e-4
    for number, difference in zip(added, more, strict=True):
        np.testing.assert_allclose(difference, number * more[0], atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs something to change"),
        ({"k": 0}, "k must be a whole number from 1 to 82. Received: 0"),
        ({"k": 83}, "Received: 83"),
        ({"k": "5"}, "Received: '5'"),
        ({"k": True}, "Received: True"),
        ({"scorer_weight": -1}, "scorer_weight must be 0 or above. Received: -1"),
        ({"scorer_weight": "much"}, "Received: 'much'"),
        ({"scorer_weight": float("nan")}, "Received: nan"),
    ],
)
def test_export_again_refuses(base, values, message):
    with pytest.raises(ValueError, match=message):
        export_again(base, **values)
    assert folders.versions(base) == [1]


def test_export_again_of_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        export_again(tmp_path / "shop", k=5)


@pytest.mark.slow
def test_export_again_keeps_added_items(base):
    recommender = Recommender.load(base)
    recommender.add_items(pd.DataFrame({"item_id": ["新"], "title": ["大学物理"]}))
    recommender.save()
    again = Recommender.load(export_again(base, k=83))
    assert again.version == base / "3" and len(again.items) == 83
    table = again.recommend([["新"]], k=5)
    pd.testing.assert_frame_equal(table, recommender.recommend([["新"]], k=5))


@pytest.mark.slow
def test_derive_version_publishes_nothing_that_does_not_answer(base):
    frame = folders.read_catalogue(base / "1")
    with pytest.raises(ArtifactError, match="does not give every item its vector"):
        derive_version(base / "1", {}, variables={}, frame=frame[1:])
    assert folders.versions(base) == [1]
    assert [path.name for path in base.parent.iterdir()] == ["toy"]


_EXPORTING = """
import sys, time
from kerasrec.versions.derive import export_again
k = 1
while True:
    started = time.monotonic()
    export_again(sys.argv[1], k=1 + k % 9)
    print(time.monotonic() - started, flush=True)
    k += 1
"""


@pytest.mark.slow
def test_a_killed_export_leaves_no_half_version(exported_version, tmp_path, kills=3):
    """kill -9 at random moments; raise `kills` for a longer run (issue 4: 30)."""
    toy, rng = shutil.copytree(exported_version, tmp_path / "models" / "toy"), random.Random(0)
    files = {path.relative_to(toy / "1") for path in (toy / "1").rglob("*")}
    before = digests(toy / "1")
    for _ in range(kills):
        command = [sys.executable, "-c", _EXPORTING, str(toy)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            seconds = float(child.stdout.readline())
            time.sleep(rng.uniform(0, 1.5 * seconds))
            child.kill()
        numbers = folders.versions(toy)
        assert sorted(path.name for path in toy.iterdir()) == sorted(map(str, numbers))
        assert digests(toy / "1") == before
        for number in numbers[-2:]:
            if number == 1:
                continue
            version = folders.find_version(toy / str(number))
            assert folders.read_manifest(version).version == number
            assert files <= {path.relative_to(version) for path in version.rglob("*")}
            replay_warmup(version, tf.saved_model.load(str(version)))
        for number in numbers[1:-1]:
            shutil.rmtree(toy / str(number))
    beside = [path.name for path in toy.parent.iterdir() if path != toy]
    assert all(name.startswith(".writing-toy-") for name in beside)


# --- plans ---


@pytest.mark.slow
def test_plans_of_rounded_item_vectors(planning_version, tmp_path):
    base = shutil.copytree(planning_version, tmp_path / "plans")
    version = export_again(base, item_matrix="int8")
    facts = folders.read_manifest(version).as_dict()
    assert facts["item_matrix"] == "int8" and "generate" in facts["signatures"]
    assert facts["generator_options"]["max_items"] == 12  # a later version is trained with them
    before, rounded = Recommender.load(base / "1"), Recommender.load(version)
    ids = list(before.items.ids)
    histories = [ids[:3], [], ids[10:70], [ids[70], "?"]]
    found = rounded.generate(histories, 4, num_lists=2)
    assert len(found) == 4 * 2 * 4
    for user, plan in found.groupby("user_id"):
        assert not set(plan["item_id"]) & set(histories[user])
    first = [r.generate(histories, 1) for r in (before, rounded)]
    assert (first[0]["item_id"] == first[1]["item_id"]).mean() >= 0.75
    np.testing.assert_allclose(*(table["log_probability"] for table in first), atol=0.2)
    # what the signature says is what the Recommender says
    served, none = tf.saved_model.load(str(version)), tf.zeros((1, 0), tf.string)
    answer = served.signatures["generate"](
        history=tf.constant([ids[:3]]),
        timestamps=tf.zeros((1, 3), tf.int64),
        allow=none,
        deny=none,
        temperature=tf.zeros(1),
        top_p=tf.ones(1),
        seed=tf.zeros(1, tf.int32),
    )
    planned = [item.decode() for item in answer["item_ids"].numpy()[0]]
    assert planned == rounded.generate([ids[:3]])["item_id"].tolist()
