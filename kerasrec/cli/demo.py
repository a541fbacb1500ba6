"""`kerasrec demo`: the main job on the course data that ships with the package."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasrec.cli.parser import add_out_and_preset
from kerasrec.cli.printing import make_console
from kerasrec.cli.userinput import load_tensorflow

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from kerasrec.data.histories import Histories
    from kerasrec.evaluation.evaluation import Evaluation
    from kerasrec.recommender.recommender import Recommender

NAME = "courses"


def add_demo(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `demo`."""
    add_out_and_preset(sub)


def demo_verb(options: argparse.Namespace) -> None:
    """The main job on the course data that ships with kerasrec.

    Reads, cleans, encodes the titles with a language model, trains, compares with baselines,
    exports a model, recommends. Takes a few minutes.
    """
    load_tensorflow(options)
    demo(Path(options.out), preset=options.preset, console=make_console())


def demo(
    out: Path,
    *,
    preset: str = "balanced",
    options: dict[str, Any] | None = None,
    console: "Console",
) -> "Evaluation":
    """Reads, cleans, encodes, trains, evaluates, exports, recommends; shows each step.

    Args:
        out: parent folder of the exported model.
        preset, options: of `train`.
        console: `rich.console.Console`.

    Returns:
        `Evaluation` of the exported version and the baselines on the test events.
    """
    from kerasrec.data import datasets
    from kerasrec.data.cleaning import clean
    from kerasrec.data.histories import make_histories
    from kerasrec.data.interactions import join_interactions
    from kerasrec.data.splits import check_leakage, split_leave_one_out
    from kerasrec.evaluation.evaluation import evaluate, run_baselines
    from kerasrec.evaluation.report import write_report
    from kerasrec.recommender.recommender import Recommender
    from kerasrec.training.pipeline import train

    started = time.perf_counter()

    def step(text: str) -> None:
        console.print(f"[bold]{time.perf_counter() - started:5.0f} s[/bold]  {text}")

    interactions, items = datasets.load_mooccube()
    size = f"{len(interactions)} enrolments of {interactions.num_users} learners"
    step(f"read {size}, {len(items)} courses")
    interactions = clean(interactions, items, repeats="first", min_user_events=5, min_item_events=5)
    console.print(str(interactions.report), markup=False, highlight=False)
    split = split_leave_one_out(interactions)
    check_leakage(split)
    train_valid = f"{len(split.train)} to train, {len(split.valid)} to validate"
    step(f"split: {train_valid}, {len(split.test)} to test")
    step("encode the titles with a pretrained language model, train, export (a few minutes)")
    trained = train(
        split.train,
        items,
        name=NAME,
        valid=split.valid,
        out=out,
        preset=preset,
        options=options,
        progress=console.is_terminal,
    )
    step(f"exported {trained.version} after {len(trained.history)} epochs")

    recommender = Recommender.load(trained.version)
    known = join_interactions([split.train, split.valid])
    histories = make_histories(known, items)
    lists = {NAME: recommender.recommend(histories, k=20)}
    # fitted to what was held out too, as the tables of the version are at the end
    lists.update(run_baselines(histories, histories, items, k=20, texts=items.texts()))
    result = evaluate(lists, split.test, histories=histories, train=known, items=items)
    step(f"judged on {len(split.test)} held-out enrolments, whole catalogue ranked")
    console.print(result.to_rich(console.width))
    folder = trained.version.parent / f"report-{trained.version.name}"
    write_report(
        result,
        folder,
        items=items,
        histories=histories,
        training_history=trained.history,
        manifest=recommender.manifest,
    )
    _show_learners(console, recommender, histories, lists[NAME])
    _show_text(console, recommender)
    step(f"report: {folder / 'report.html'}   model: {trained.version}")
    return result


def _show_learners(
    console: "Console", recommender: "Recommender", histories: "Histories", table: "pd.DataFrame"
) -> None:
    """Shows histories and recommendations of two learners, as titles."""
    from rich.table import Table

    for user in histories.user_ids[[0, histories.num_users // 2]]:
        past = histories.of_users([user])
        ids = recommender.items.ids[past.items - 1]
        shown = Table("", "course", title=f"learner {user}", title_justify="left", box=None)
        for title in recommender.titles(ids[-5:]):
            shown.add_row("took", title)
        mine = table[table["user_id"] == user].head(5)
        for rank, title in zip(mine["rank"], recommender.titles(mine["item_id"]), strict=True):
            shown.add_row(f"[bold]{rank}[/bold]", f"[bold]{title}[/bold]")
        console.print(shown)


def _show_text(
    console: "Console", recommender: "Recommender", text: str = "面向初学者的机器学习与深度学习"
) -> None:
    """Shows courses near a text that is in no catalogue."""
    from rich.table import Table

    if not recommender.about.encodes_texts:
        return
    found = recommender.similar(text=text, k=5)
    shown = Table(
        "cosine", "course", title=f"similar to 「{text}」", title_justify="left", box=None
    )
    for score, title in zip(found["score"], recommender.titles(found["item_id"]), strict=True):
        shown.add_row(f"{score:.2f}", title)
    console.print(shown)
