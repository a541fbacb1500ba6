"""`kerasrec generate`: plans for the users of some histories, with a short text on each."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kerasrec import backend
from kerasrec.cli.parser import (
    add_at,
    add_files,
    add_list_file,
    add_model,
    add_reading,
    add_where,
)
from kerasrec.cli.printing import say, say_chosen
from kerasrec.cli.userinput import (
    UserError,
    moment,
    read_condition,
    read_questions,
    write_lists,
)
from kerasrec.versions.folders import find_version, read_manifest

if TYPE_CHECKING:
    import pandas as pd

    from kerasrec.client.planwords import LanguageModel
    from kerasrec.data.histories import Histories
    from kerasrec.recommender.recommender import Recommender


def add_generate(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `generate`."""
    sub.usage = "kerasrec generate --model M --histories F... --out F [options]"
    add_model(sub)
    add_files(sub, "--histories", "what users did; their plans leave it out", required=True)
    sub.add_argument(
        "--users",
        metavar="F",
        help="plans for exactly these users (a table with a user column)",
    )
    sub.add_argument("--num-items", type=int, default=5, metavar="N", help="of a plan (default 5)")
    sub.add_argument("--num-lists", type=int, default=1, metavar="N", help="plans per user (1)")
    sub.add_argument(
        "--beams", type=int, default=16, metavar="N", help="of the search (default 16)"
    )
    sub.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="D",
        help="between the plans of a user: an item counts exp(-D) for each plan that has it (0)",
    )
    group = sub.add_argument_group("drawn plans")
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="above 0: drawn, not searched"
    )
    group.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="among the likeliest with this share"
    )
    group.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    group = sub.add_argument_group("what may be listed")
    group.add_argument("--candidates", metavar="TXT", help="only these item ids, one per line")
    add_where(group)
    group.add_argument(
        "--order",
        action="store_true",
        help="an item only after all that must come before it (relation prerequisite of training), "
        "in the history or in the plan; without it, steps that come too early are counted",
    )
    add_at(sub)
    group = sub.add_argument_group("a short text on each plan")
    group.add_argument(
        "--describe",
        metavar="template|URL",
        help="by a template, or by a language model behind an OpenAI-compatible address such as "
        "http://localhost:8000/v1 (its key: $KERASREC_LLM_KEY); where that fails, by the template",
    )
    group.add_argument("--llm", metavar="NAME", help="of the language model, with a URL")
    group.add_argument("--texts", metavar="F", help="csv or parquet to write the texts to")
    add_list_file(sub)
    add_reading(sub)


def generate_verb(options: argparse.Namespace) -> None:
    """Write what each user will want next, as plans: items in order.

    Needs a model that was trained with --generator. A plan holds no item twice and none of the
    history. With --describe a short Chinese text is made for each plan and shown, or written to
    --texts.
    """
    from kerasrec.data.tables import check_output

    describe = _describer(options)
    _check_flags(options)
    at = moment(options.at, options.timezone)
    for path in filter(None, (options.out, options.texts)):
        check_output(path)
    if read_manifest(find_version(options.model)).generator is None:
        raise UserError(
            f"{options.model} generates no plans. Train one that does: kerasrec train --generator."
        )
    where = read_condition(options.where, find_version(options.model))
    interactions, users, candidates = read_questions(options)
    backend.load(quiet=not options.debug)
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model, index="exact")
    histories = recommender.histories(interactions, users=users)
    newer = recommender.observe(interactions)
    if newer:
        say(f"{newer:,} events are newer than the version; they count as recent")
    table = recommender.generate(
        histories,
        options.num_items,
        options.beams,
        num_lists=options.num_lists,
        diversity=options.diversity,
        candidates=candidates,
        where=where,
        at=at,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        order=options.order,
    )
    write_lists(options, table, options.out, interactions.columns)
    lengths = table.groupby(["user_id", "list"]).size()
    say(f"{len(lengths):,} plans for {histories.num_users:,} users in {options.out}")
    say_chosen(table, options.num_items)
    if early := table.attrs.get("violations"):
        say(
            f"{early:,} of {len(table):,} steps come before what they need (column missing); "
            "--order forbids it"
        )
    if popular := len(table.attrs["popular_for"]):
        say(f"{popular:,} of the users have no known item: theirs begin with what is popular")
    if short := int((lengths < options.num_items).sum()):
        say(f"{short:,} of them are shorter: no more items may be listed")
    if empty := histories.num_users * options.num_lists - len(lengths):
        say(f"{empty:,} plans are missing: no item may be listed, or none in another order")
    if options.describe:
        names = interactions.columns
        _write_texts(recommender, histories, table, describe, options, names)


def _check_flags(options: argparse.Namespace) -> None:
    if options.texts and Path(options.texts).resolve() == Path(options.out).resolve():
        raise UserError(f"--out and --texts must be two files. Received: {options.out} for both.")
    if options.diversity and options.num_lists == 1:
        raise UserError("--diversity goes with --num-lists above 1.")
    if not options.temperature and (options.top_p != 1 or options.seed):
        raise UserError("--top-p and --seed go with --temperature above 0: without it, no draws.")


def _describer(options: argparse.Namespace) -> "LanguageModel | None":
    """The language model that describes plans; None for the template."""
    from kerasrec.client.planwords import LanguageModel

    if options.describe is None:
        if options.llm or options.texts:
            raise UserError("--llm and --texts go with --describe template or --describe URL.")
        return None
    if options.describe == "template":
        if options.llm:
            raise UserError("--llm goes with --describe URL; a template asks no language model.")
        return None
    if not options.describe.startswith(("http://", "https://")):
        raise UserError(
            "--describe must be template or the address of a language model that begins with "
            f"http:// or https://. Received: {options.describe!r}."
        )
    if not options.llm:
        raise UserError("--describe URL needs --llm NAME, the language model to ask there.")
    return LanguageModel(
        options.describe, model=options.llm, api_key=backend.language_model_key() or None
    )


def _write_texts(
    recommender: "Recommender",
    histories: "Histories",
    table: "pd.DataFrame",
    describe: "LanguageModel | None",
    options: argparse.Namespace,
    names: Mapping[str, str],
) -> None:
    from kerasrec.client.planwords import Plan, describe_plans

    past = {
        user: recommender.items.ids[part.items - 1]
        for user, part in zip(histories.user_ids, _each(histories), strict=True)
    }
    keys, plans = [], []
    for key, rows in table.groupby(["user_id", "list"], sort=False):
        keys.append(key)
        titles = recommender.titles(rows["item_id"])
        plans.append(Plan(list(recommender.titles(past[key[0]])), list(titles)))
    texts = describe_plans(plans, describe)
    if options.texts:
        frame = table[["user_id", "list"]].drop_duplicates().reset_index(drop=True)
        frame["text"] = [found.text for found in texts]
        frame["source"] = [found.source for found in texts]
        write_lists(options, frame, options.texts, names)
        say(f"{len(frame):,} texts in {options.texts}")
    else:
        for (user, number), found in list(zip(keys, texts, strict=True))[:_SHOWN]:
            say(f"{user}, plan {number}: {found.text}")
        if len(texts) > _SHOWN:
            say(f"... and {len(texts) - _SHOWN:,} more; --texts F writes all")


#: texts that are shown where no file is given
_SHOWN = 5


def _each(histories: "Histories") -> "Iterator[Histories]":
    return (histories.select([row]) for row in range(histories.num_users))
