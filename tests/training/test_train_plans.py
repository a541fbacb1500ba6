"""`train` with a generator of plans."""

import numpy as np
import pytest
from toys import tiny_options

from kerasrec.data.interactions import Items
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.pipeline import train
from kerasrec.versions import exporter, folders

# --- Plans ---

TINY_GENERATOR = {
    **{"levels": 1, "max_items": 6, "units": 8, "num_blocks": 1, "heads": 2},
    **{"epochs": 1, "batch_size": 64},
}


def train_plans(interactions, items, out, given):
    return train(
        interactions,
        items,
        name="plans",
        out=out,
        options={**given, "fusion": {"parts": []}, "generator": TINY_GENERATOR},
        generator=True,
        progress=False,
    )


def check_plans(recommender):
    """Plans of what is not in the histories, also far longer ones than the decoder reads."""
    ids = list(recommender.items.ids)
    histories = {"few": ids[:3], "none": [], "long": ids[:26], "longer": ids[2:25] * 9 + ids[:1]}
    found = recommender.generate(histories, 3, 8, num_lists=2)
    for (user, _), plan in found.groupby(["user_id", "list"]):
        assert len(set(plan["item_id"])) == 3 and not set(plan["item_id"]) & set(histories[user])
    assert len(found) == 4 * 2 * 3 and np.isfinite(found["log_probability"]).all()


@pytest.mark.slow
def test_a_generator_for_an_average_of_two_models_without_texts(small, tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrec.training.generating.TRUSTS", ((0.5, 0.5),))
    options = tiny_options({"name": "none"}, members=2, sequence="hstu")
    trained = train_plans(*small, tmp_path, options)
    recommender = Recommender.load(trained.version)
    check_plans(recommender)
    facts = trained.manifest
    assert facts["trainer"]["members"] == 2
    assert facts["generator_options"]["units"] == 8 and facts["generator_options"]["dropout"] == 0.2
    known = facts["generator"]["options"]
    assert (known["max_items"], known["num_items"]) == (6, 30)
    # the vectors of both members, and of neither is anything known of a new item
    assert known["dim"] == 2 * (4 + 1) == len(recommender.plans.ids.known)
    assert not recommender.plans.ids.known.any()


@pytest.mark.slow
def test_items_too_alike_for_codes_give_a_version_without_a_generator(small, tmp_path, caplog):
    """Of 30 courses 26 have one title, and there is no id part to tell them apart."""
    interactions, items = small
    frame = items.frame.assign(title="大学英语")
    frame.loc[:3, "title"] = items.frame["title"][:4]
    given = tiny_options({"name": "tfidf"}, id_units=0)
    trained = train_plans(interactions, Items(frame), tmp_path, given)
    facts = trained.manifest
    assert facts["plans"].keys() == {"refused"} and facts["generator"] is None
    assert facts["plans"]["refused"].startswith("The semantic ids have collapsed: the first level")
    (warning,) = [r.getMessage() for r in caplog.records if "generator of plans." in r.getMessage()]
    assert warning == "the version comes without a generator of plans. " + facts["plans"]["refused"]
    assert "generate" not in facts["signatures"] and "recommend" in facts["signatures"]
    assert not (trained.version / folders.GENERATOR).exists()
    assert facts["generator_options"]["units"] == 8  # the next version tries again
    recommender = Recommender.load(trained.version)
    assert len(recommender.recommend([list(items.ids[:2])], k=5)) == 5
    with pytest.raises(ValueError, match="This version generates no plans"):
        recommender.generate([[]])
    assert "## Plans" not in (trained.version / exporter.CARD).read_text(encoding="utf-8")
