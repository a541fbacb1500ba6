"""The parser of the command line, and the groups of options that several verbs share."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from kerasrec.checks import did_you_mean
from kerasrec.cli.userinput import UNSAID, UserError

SHAPE = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one sentence."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=SHAPE, **options)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` where argparse would print its usage and leave."""
        raise UserError(f"{message[:1].lower()}{message[1:]}. See {self.prog} --help.")

    def check_names(self, words: Sequence[str]) -> None:
        """Raises `UserError` for an option that does not exist, naming the nearest one."""
        parts = next((a.choices for a in self._actions if isinstance(a.choices, dict)), {})
        if words and words[0] in parts:
            parts[words[0]].check_names(words[1:])
            return
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("--") and name != "--" and name not in known:
                raise UserError(f"unknown option {name}. {did_you_mean(name, known)}")


def add_files(
    group: argparse._ActionsContainer, name: str, text: str, *aliases: str, **options: Any
) -> None:
    """Adds an option that takes one file or more, and may be repeated."""
    group.add_argument(
        name, *aliases, nargs="+", action="extend", metavar="F", help=text, **options
    )


def add_reading(sub: argparse.ArgumentParser, *, items: bool = False) -> None:
    """Adds the options of reading tables."""
    group = sub.add_argument_group("reading tables")
    pairs: dict[str, Any] = dict(nargs="+", action="extend", metavar="ROLE=COLUMN")
    group.add_argument(
        "--columns",
        help="name the columns of the interactions where they are not recognised: user_id=buyer "
        "item_id=sku timestamp=time event=action value=stars; event= leaves the events unread, "
        "status= keeps orders that a column says were cancelled; of other tables users.user_id=uid "
        "relations.entity=name items.title=headline. Of a file without a header line: the names of "
        "all columns, as user,item,_,timestamp",
        **pairs,
    )
    group.add_argument(
        "--event-weights",
        nargs="+",
        action="extend",
        metavar="EVENT=WEIGHT",
        help="events of your log: share=2 (its weight), 4=purchase (the same as a known event) or "
        "stars=value (the value of the row)",
    )
    if items:
        group.add_argument(
            "--item-columns", help="the same for --items: item_id=sku title=headline", **pairs
        )
        group.add_argument(
            "--relations",
            metavar="F",
            help="what items share, with the columns item, relation and entity (teacher, brand): "
            "each relation becomes a column of --items",
        )
        group.add_argument(
            "--order-relation",
            default="prerequisite",
            metavar="NAME",
            help="the relation whose entities are items that must come before, an order of plans "
            "and no feature (default prerequisite)",
        )
        group.add_argument(
            "--vectors",
            nargs="+",
            action="extend",
            metavar="NAME=FILE",
            help="vectors that another model made of each item, of its picture or sound: "
            "image=image.npz (npy with ids, npz or parquet); each becomes a column of --items that "
            "the model reads",
        )
    group.add_argument("--encoding", default="utf-8", help="of text files (default utf-8)")
    group.add_argument(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="rows without an id or with a bad time: stop, or leave out and count (default error)",
    )
    add_clock(
        group, shown="dates and times that name no zone, and of what is shown", late="bad rows"
    )


def add_cleaning(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `clean`."""
    group = sub.add_argument_group("cleaning (events are taken as they are unless asked)")
    group.add_argument(
        "--repeats",
        choices=["keep", "exact", "first", "last"],
        default="keep",
        help="same user and item again: keep all, leave out those at the same time (exact), or "
        "keep one (default keep)",
    )
    group.add_argument("--min-user-events", type=int, default=0, metavar="N", help="k-core, users")
    group.add_argument("--min-item-events", type=int, default=0, metavar="N", help="k-core, items")
    group.add_argument(
        "--max-user-events", metavar="N|auto", help="leave out crawler-like users with more"
    )
    group.add_argument(
        "--unknown-items",
        choices=["error", "skip"],
        default=UNSAID,
        help="events of items that --items lacks: stop, or leave out and count (default: as "
        "--on-bad says)",
    )


def add_clock(group: argparse._ActionsContainer, *, shown: str, late: str) -> None:
    """Adds the options of times: the zone of those that name none, and how late they may be."""
    group.add_argument(
        "--timezone",
        metavar="ZONE",
        help=f"of {shown}: such as Asia/Shanghai or +08:00 (default UTC)",
    )
    group.add_argument(
        "--max-ahead",
        metavar="TIME",
        default="1d",
        help="how far ahead of this machine's clock an event may lie (default 1d); later ones are "
        f"{late}",
    )


def add_list_file(sub: argparse.ArgumentParser) -> None:
    """Adds the options of the file that lists are written to."""
    sub.add_argument("--out", required=True, metavar="F", help="csv, csv.gz or parquet to write")
    sub.add_argument(
        "--exact-cells",
        action="store_true",
        help="csv for programs: write texts that a spreadsheet would run as formulas (=1+1) as "
        "they are (default: with a ' before them)",
    )


def add_model(sub: argparse.ArgumentParser) -> None:
    """Adds the option of the model that a verb works with."""
    sub.add_argument(
        "--model", required=True, metavar="M", help="saved_models/NAME or saved_models/NAME/VERSION"
    )


def add_at(sub: argparse.ArgumentParser) -> None:
    """Adds the option of the time that lists are made for."""
    sub.add_argument(
        "--at",
        metavar="TIME",
        help="when the lists are asked for: now (the end of the log) or a time such as "
        "2026-11-24T08:00; default: as the version was validated",
    )


def add_where(sub: argparse._ActionsContainer) -> None:
    """Adds the option of a condition on the items that are listed."""
    sub.add_argument(
        "--where",
        nargs="+",
        action="extend",
        metavar="C",
        help="only items that meet conditions on columns of the catalogue: 'price<50' "
        "category=book (several = of a column: one of them), or JSON such as "
        '\'{"category": ["book", "film"], "price": {"lt": 50}}\'',
    )


def add_rules(sub: argparse._ActionsContainer, *, required: bool = False) -> None:
    """Adds the option of the file with the rules of a shop."""
    sub.add_argument(
        "--rules",
        metavar="YAML",
        required=required,
        help="rules of the shop: at most n of a brand in a list, boosts, pins, variety",
    )


def add_out_and_preset(sub: argparse.ArgumentParser, *, out: bool = True) -> None:
    """Adds the folder of the models, and the choice that most users need."""
    if out:
        sub.add_argument(
            "--out",
            default="saved_models",
            metavar="DIR",
            help="where models go (default saved_models)",
        )
    sub.add_argument(
        "--preset",
        default="balanced",
        help="fast (small, for a first look), balanced (default) or accurate (deeper, slower)",
    )
