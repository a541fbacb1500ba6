"""`kerasrec condense`, and what `kerasrec inspect --memory` counts: logs larger than memory."""

import argparse
from typing import TYPE_CHECKING

from kerasrec.cli.parser import add_cleaning, add_files, add_reading
from kerasrec.cli.printing import say
from kerasrec.cli.userinput import (
    Readings,
    cleaning_options,
    read_catalogue,
    reading_options,
    what_of_unknown,
)

if TYPE_CHECKING:
    import pandas as pd

    from kerasrec.data.interactions import Items
    from kerasrec.data.statistics import Figures


def add_condense(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `condense`."""
    sub.usage = "kerasrec condense --interactions F... --out DIR [options]"
    add_files(sub, "--interactions", "what users did", required=True)
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of parquet files to make")
    sub.add_argument(
        "--last",
        type=int,
        default=50,
        metavar="N",
        help="keep the newest N events of each user (default 50; 0 keeps all)",
    )
    sub.add_argument(
        "--max-users",
        type=int,
        metavar="N",
        help="keep N users, drawn by their ids: the same ones next time (default: all)",
    )
    sub.add_argument("--items", metavar="F", help="the catalogue: events of other items are bad")
    sub.add_argument(
        "--memory",
        default="4GB",
        metavar="SIZE",
        help="what it may take (default 4GB, at least 2GB); the rest lies on disk, beside --out",
    )
    add_cleaning(sub)
    add_reading(sub, items=True)


def condense_verb(options: argparse.Namespace) -> None:
    """Make a small, clean log of one that is larger than memory: parquet files.

    The rows are read and cleaned by the rules of the other verbs, and the newest events of each
    user are written in the order of their times. Every verb reads the folder as a log. How often
    items were met in the events that were left out is no longer known.
    """
    from kerasrec.data.large.condensing import condense

    readings = Readings()
    items = readings.take(read_catalogue, options, False) if options.items else None
    readings.end()
    report = condense(
        options.interactions,
        options.out,
        last=options.last or None,
        max_users=options.max_users,
        items=items,
        memory=options.memory,
        reading=reading_options(options),
        cleaning={
            **cleaning_options(options),
            "unknown_items": lambda match: what_of_unknown(options, match),
        },
    )
    say(report)
    say(f"\nlog: {options.out}")


def describe_large(
    options: argparse.Namespace, items: "Items | None"
) -> "tuple[Figures, list[str], pd.DataFrame]":
    """Counts the log of `inspect` on disk: figures, problems and the table of `describe`."""
    from kerasrec.data.large.coded import CodedLog
    from kerasrec.data.large.counting import count_coded
    from kerasrec.data.large.database import open_database
    from kerasrec.data.large.staging import stage
    from kerasrec.data.statistics import describe_figures, problems_of_figures

    with open_database(options.memory) as connection:
        log = stage(connection, options.interactions, **reading_options(options))
        figures = count_coded(CodedLog(log))
        # catalogues are compared while the database is open
        return figures, problems_of_figures(figures, items), describe_figures(figures, items)
