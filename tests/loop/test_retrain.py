"""The next version of a model trained from nothing, with the options of its parent."""

import shutil

import numpy as np
import pytest

from kerasrec.data.interactions import Items
from kerasrec.loop.updating import retrain
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders


def same_options(child, parent, *, seed):
    """Whether a manifest names the options of another one, but for the seed."""
    for name in ("preset", "encoder_options", "options", "parts", "refit", "text_template"):
        if name == "options":  # the catalogue may have grown
            assert {**child[name], "num_items": 0} == {**parent[name], "num_items": 0}
        else:
            assert child[name] == parent[name], name
    assert child["trainer"] == {**parent["trainer"], "seed": seed}
    assert child.get("generator_options") == parent.get("generator_options")


@pytest.mark.slow
def test_retrain_begins_from_nothing_with_the_options_of_the_parent(
    toy_base, week_log, grown_items, exported_version
):
    gone = list(grown_items.ids[:2])
    left = Items(grown_items.frame.iloc[2:].reset_index(drop=True))
    found = retrain(toy_base, week_log, left, label="canary", facts={"why": "x"}, seed=5)
    assert found.version == toy_base / "2" and found.evaluation is None
    assert (found.reason, found.events) == ("trained from nothing", len(week_log))
    assert folders.read_labels(toy_base) == {"stable": 1, "canary": 2}
    parent, child = (folders.read_manifest(toy_base / name).as_dict() for name in "12")
    same_options(child, parent, seed=5)
    assert child["parent"] == 1 and child["epochs"] == 2 and child["refit"] is False
    assert child["update"]["decision"] == "trained from nothing" and child["update"]["why"] == "x"
    assert (found.withdrawn, found.returned) == (2, 0)
    assert child["data"]["interactions"] == len(week_log)
    assert "generator_options" not in child and "generate" not in child["signatures"]
    # the catalogue is that of an update: old items in their places, new ones behind them
    old, new = Recommender.load(toy_base / "1"), Recommender.load(toy_base / "2")
    assert new.items.ids.tolist() == [*old.items.ids, "new-1", "new-2", "new-3"]
    # nothing of the parent's weights is left
    ids = list(old.items.ids)
    assert np.abs(new.item_vectors(ids) - old.item_vectors(ids)).max(axis=1).min() > 1e-3
    listed = set(new.recommend([ids[:3]], k=len(new.items), keep_seen=True)["item_id"])
    assert "new-1" in listed and not listed & set(gone) and new.item_vectors(gone).any()
    for name in ("saved_model.pb", "assets.extra/train/state.npz"):
        assert (toy_base / "1" / name).read_bytes() == (exported_version / "1" / name).read_bytes()


@pytest.mark.slow
def test_retrain_of_a_version_with_a_generator_trains_one_anew(
    planning_version, toy_interactions, tmp_path
):
    base = shutil.copytree(planning_version, tmp_path / "plans")
    user = toy_interactions.frame["user_id"].iloc[0]
    left = toy_interactions.replace(
        toy_interactions.frame[toy_interactions.frame["user_id"] != user]
    )
    found = retrain(base, left)
    assert found.version == base / "2" == folders.find_version(base)
    parent, child = (folders.read_manifest(base / name).as_dict() for name in "12")
    same_options(child, parent, seed=0)
    wanted = {"levels": 2, "max_items": 12, "units": 16, "num_blocks": 1, "heads": 2, "epochs": 2}
    assert wanted.items() <= child["generator_options"].items()
    assert "run_folder" not in child["generator_options"]
    assert child["generator"]["options"] == parent["generator"]["options"]
    assert len(child["plans"]["epochs"]) == 2 and "generate" in child["signatures"]
    old, new = Recommender.load(base / "1"), Recommender.load(base / "2")
    ids = list(new.items.ids)
    assert len(new.generate([ids[:3], []], 4)) == 8
    weights = [r.plans.generator().decoder.training.get_weights() for r in (old, new)]
    assert any(
        w.shape != v.shape or np.abs(w - v).max() > 1e-3 for w, v in zip(*weights, strict=True)
    )
