"""The whole demo on a slice of the packaged data, with a tiny model and the lexical encoder."""

import io

import pytest
from rich.console import Console

from kerasrec.cli.demo import _show_text, demo
from kerasrec.data import datasets
from kerasrec.recommender.recommender import Recommender

SMALL = {
    "encoder": {"name": "tfidf", "whitening_dim": 16},
    "model": {"text_units": 8, "id_units": 8, "max_length": 20, "scorer_units": 4},
    "trainer": {"epochs": 1, "batch_size": 512},
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory, toy_interactions, toy_items):
    """Folder of the models, result, and what was printed."""
    out = tmp_path_factory.mktemp("demo")
    console = Console(file=io.StringIO(), width=140)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_mooccube", lambda: (toy_interactions, toy_items))
        result = demo(out, options=SMALL, console=console)
    return out, result, console.file.getvalue()


def test_demo_tells_its_steps(shown):
    _, result, text = shown
    steps = (
        "enrolments of 150 learners, 82 courses",
        " to train, 1",
        "exported",
        "held-out enrolments",
        "report:",
    )
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert result.models == ["courses", "popularity", "recent_popularity", "item_knn", "tfidf_text"]
    assert all(model in text for model in result.models)
    assert "learner 1" in text and text.count("took") == 10 and "similar to" in text
    assert "（自主模式）" in text


def test_demo_leaves_a_model_and_a_report(shown):
    out, _, _ = shown
    recommender = Recommender.load(out / "courses")
    assert len(recommender.items) == 82
    assert (out / "courses" / "report-1" / "report.html").stat().st_size > 10_000


def test_show_text_is_silent_without_an_encoder(shown):
    recommender = Recommender.load(shown[0] / "courses")
    recommender.about = recommender.about._replace(encodes_texts=False)
    console = Console(file=io.StringIO())
    _show_text(console, recommender)
    assert console.file.getvalue() == ""
