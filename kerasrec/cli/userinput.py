"""Reads and checks the input of the command line: tables, lists and settings."""

import argparse
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kerasrec import backend
from kerasrec.checks import did_you_mean
from kerasrec.data.cleaningreport import DirtyRows

if TYPE_CHECKING:
    import pandas as pd

    from kerasrec.data.interactions import Interactions, Items, Users
    from kerasrec.data.matching import Match
    from kerasrec.features.conditions import Where
    from kerasrec.features.shoprules import ShopRules

log = logging.getLogger(__name__)
Table = TypeVar("Table", "Interactions", "Items")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Unsaid(str):
    """The default of an option that follows another one where it is not given itself."""


#: of --unknown-items; it reads as what it is without --on-bad
UNSAID = _Unsaid("error")
_ITEM_ROLES = ("title", "text", "category")


class UserError(Exception):
    """A mistake in the user's input; the message is the whole answer."""


class ManyErrors(UserError):
    """Several of them, found in one pass; `sentences` has one for each."""

    def __init__(self, sentences: Sequence[str]):
        self.sentences = [" ".join(one.split()) for one in sentences]
        lines = [f"{number}. {one}" for number, one in enumerate(self.sentences, start=1)]
        super().__init__("\n".join([f"{len(lines)} problems with the tables:", *lines]))


def sentence_of(error: BaseException) -> str:
    """The message of an error; of the operating system's in the form of all others."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}."
    return str(error) or type(error).__name__


class Readings:
    """Reads one table after the other and goes on after a refusal: `end` tells all at once."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def take(self, read: Callable[..., Any], *given: Any) -> Any:
        """What `read(*given)` gives; after bad rows the others, after another refusal None."""
        try:
            return read(*given)
        except DirtyRows as error:
            self.refused.append(str(error))
            return error.rest
        except (ValueError, TypeError, ImportError, OSError, UserError) as error:
            self.refused += getattr(error, "sentences", None) or [sentence_of(error)]
            return None

    def end(self) -> None:
        """Raises what was refused, if anything was.

        Raises:
            UserError: see above.
        """
        if self.refused:
            sentences = list(dict.fromkeys(self.refused))
            raise UserError(sentences[0]) if len(sentences) == 1 else ManyErrors(sentences)


# --- conditions ---


def read_condition(words: Sequence[str] | None, version: Path) -> "Where | None":
    """Reads the words of --where, checked against the catalogue of a version before the work."""
    if not words:
        return None
    from kerasrec.features.conditions import read_where
    from kerasrec.features.itemcolumns import ItemColumns
    from kerasrec.versions.folders import read_catalogue

    try:
        where = read_where(words)
        ItemColumns(read_catalogue(version)).choose(where)
    except (ValueError, TypeError) as error:
        raise UserError(f"--{error}") from None
    return where


def read_rules(path: str | None, version: Path) -> "ShopRules | None":
    """Reads the file of --rules, checked against the catalogue of a version before the work."""
    if path is None:
        return None
    from kerasrec.features.itemcolumns import ItemColumns
    from kerasrec.features.shoprules import read_shop_rules
    from kerasrec.versions.folders import read_catalogue

    try:
        return read_shop_rules(path).check(ItemColumns(read_catalogue(version)))
    except (ValueError, TypeError) as error:
        raise UserError(f"--rules: {error}") from None


# --- tables ---


def read_events(options: argparse.Namespace, paths: Sequence[str]) -> "Interactions":
    """Reads the events of one file or more; the report of bad rows goes to the log."""
    from kerasrec.data.sources import read_interactions

    return reported(read_interactions(paths, **reading_options(options)), options.verb)


def reading_options(options: argparse.Namespace) -> dict[str, Any]:
    """How `read_interactions` reads events, by the options that `add_reading` has added."""
    columns = log_columns(options)
    if hasattr(options, "items") and isinstance(columns, dict):
        columns = {role: name for role, name in columns.items() if role not in _ITEM_ROLES}
    return {
        "columns": columns or None,
        "encoding": options.encoding,
        "on_bad": options.on_bad,
        "event_weights": event_weights(options.event_weights),
        "timezone": options.timezone,
        "max_ahead": period(options.max_ahead, "--max-ahead", least=0),
    }


def cleaning_options(options: argparse.Namespace) -> dict[str, Any]:
    """Gives the options of `clean`, but what is done with events of unknown items."""
    limit = options.max_user_events
    return {
        "repeats": options.repeats,
        "min_user_events": options.min_user_events,
        "min_item_events": options.min_item_events,
        "max_user_events": int(limit) if (limit or "").isdigit() else limit,
    }


def event_weights(texts: Iterable[str] | None) -> dict[str, float | str | None]:
    """Reads `["share=2", "4=purchase", "stars=value"]`, as `read_interactions` takes it."""
    weights: dict[str, float | str | None] = {}
    for name, value in pairs_of(texts, "--event-weights").items():
        if value is None:
            raise UserError(f"--event-weights takes EVENT=WEIGHT. Received: '{name}='.")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = None if value == "value" else value
    return weights


def read_catalogue(options: argparse.Namespace, titles: bool = True) -> "Items":
    """Reads the items of --items; its columns are named by --item-columns, then by --columns.

    Without `titles` a catalogue of ids is enough. A column that --columns names for the log, and
    that the catalogue lacks, leaves its own names to it.
    """
    from kerasrec.data.relations.order import ORDER
    from kerasrec.data.sources import read_items, with_relations, with_vectors
    from kerasrec.data.tables import open_table

    columns = naming_of(options.item_columns, "--item-columns")
    if isinstance(columns, dict):
        columns = {**own_columns(options, "items"), **columns}
    given = log_columns(options)
    if isinstance(columns, dict) and isinstance(given, dict):
        both = {role: name for role, name in given.items() if role in ("item_id", *_ITEM_ROLES)}
        if both.get("item_id") and both["item_id"] not in (
            open_table(options.items, options.encoding).columns
        ):
            del both["item_id"]
        columns = {**both, **columns}
    found = read_items(
        options.items,
        columns=columns or None,
        encoding=options.encoding,
        on_bad=options.on_bad,
        titles=titles,
    )
    if getattr(options, "relations", None):
        roles = own_columns(options, "relations") or None
        reading = {"encoding": options.encoding, "on_bad": options.on_bad}
        order = getattr(options, "order_relation", ORDER)
        found = with_relations(found, options.relations, columns=roles, order=order, **reading)
    for name, file in pairs_of(getattr(options, "vectors", None), "--vectors").items():
        if not (name and file):
            raise UserError(f"--vectors takes NAME=FILE. Received: '{name}={file or ''}'.")
        found = with_vectors(found, name, file)
    return reported(found, options.verb)


def reported(found: Table, verb: str) -> Table:
    """Gives the table; the report of what was left out goes to the log, `inspect` shows it."""
    if verb != "inspect" and found.report.rows_before != found.report.rows_after:
        log.warning("%s", found.report)
    return found


def clean_for_training(
    options: argparse.Namespace, interactions: "Interactions", items: "Items"
) -> "Interactions":
    """Cleans interactions as the options say, and checks that they are fit to train on."""
    from kerasrec.data.cleaning import check_trainable, clean

    unknown_items = _unknown_items(options, interactions, items)
    cleaned = clean(interactions, items, **cleaning_options(options), unknown_items=unknown_items)
    if len(cleaned) != len(interactions):
        log.warning("%s", cleaned.report)
    check_trainable(cleaned, items)
    return cleaned


def _unknown_items(
    options: argparse.Namespace, interactions: "Interactions", items: "Items"
) -> str:
    """What is done with events of unknown items: see `what_of_unknown`."""
    from kerasrec.data.matching import match_ids

    return what_of_unknown(options, match_ids(interactions, items))


def what_of_unknown(options: argparse.Namespace, match: "Match") -> str:
    """What is done with events of unknown items: as --unknown-items says, else as --on-bad.

    Where the ids hardly meet, --on-bad alone does not leave out most of a log.
    """
    given = options.unknown_items
    if given == "skip" and match.is_poor:
        log.warning("the ids of log and catalogue hardly meet: %s", match.sentence())
    if given is not UNSAID:
        return str(given)
    return "skip" if options.on_bad == "skip" and not match.is_poor else "error"


def clean_for_validation(
    options: argparse.Namespace, valid: "Interactions", items: "Items"
) -> "Interactions":
    """Leaves out events of unknown items, or refuses them, as for the events to train on."""
    from kerasrec.data.cleaning import clean

    if _unknown_items(options, valid, items) == "skip":
        return known_only(valid, items, "--valid")
    return clean(valid, items)


def say_mismatch(interactions: "Interactions", items: "Items", flag: str) -> None:
    """Warns where the ids of a log and those of a model's catalogue hardly meet."""
    from kerasrec.data.matching import match_ids

    match = match_ids(interactions, items)
    if match.is_poor:
        log.warning(
            "%s: its ids and those of the catalogue hardly meet: %s", flag, match.sentence()
        )


def known_only(interactions: "Interactions", items: "Items", flag: str) -> "Interactions":
    """Leaves out events of items that the model does not know, and logs how many."""
    from kerasrec.data.cleaning import clean

    found = clean(interactions, items, unknown_items="skip")
    gone = len(interactions) - len(found)
    if gone:
        log.warning("%s: %d events of items the model does not know left out", flag, gone)
    return found


def read_questions(
    options: argparse.Namespace,
) -> tuple["Interactions", list[str] | None, list[str] | None]:
    """Reads --histories, --users and --candidates; all that is wrong with them is told at once."""
    readings = Readings()
    interactions = readings.take(read_events, options, options.histories)
    users = readings.take(read_users, options, interactions) if options.users else None
    candidates = readings.take(read_lines, options.candidates, options.encoding)
    readings.end()
    return interactions, users, candidates


def read_users(options: argparse.Namespace, interactions: "Interactions | None") -> list[str]:
    """Reads the user ids of --users, each once, in file order."""
    from kerasrec.data.sources import read_user_ids

    columns = log_columns(options)
    name = own_columns(options, "users").get("user_id")
    if name is None:
        name = columns.get("user_id") if isinstance(columns, dict) else None
    if name is None and interactions is not None:
        name = interactions.columns.get("user_id")
    found = read_user_ids(options.users, column=name, encoding=options.encoding)
    return list(dict.fromkeys(found))


def read_user_table(options: argparse.Namespace, on_bad: str | None = None) -> "Users":
    """Reads what is known of users: all columns of --users; `on_bad` stands for --on-bad."""
    from kerasrec.data.sources import read_users as read_table
    from kerasrec.data.tables import open_table

    columns, roles = log_columns(options), own_columns(options, "users")
    name = columns.get("user_id") if isinstance(columns, dict) else None
    if name and not roles and name in open_table(options.users, options.encoding).columns:
        roles = {"user_id": name}  # both tables call it so
    given = dict(encoding=options.encoding, on_bad=on_bad or options.on_bad)
    return read_table(options.users, columns=roles or None, **given)


def read_lines(path: str | None, encoding: str) -> list[str] | None:
    """Reads the lines of a text file that are not empty, as written; None without a file."""
    from kerasrec.data.formats.csvtable import known_encoding
    from kerasrec.data.formats.encodings import find_encoding

    if path is None:
        return None
    try:
        encoding = known_encoding(encoding)
    except ValueError as error:
        raise UserError(f"--encoding {encoding} is no encoding, e.g. utf-8 or gb18030.") from error
    raw = Path(path).read_bytes()
    if encoding == "utf-8":
        encoding = find_encoding(raw) or encoding
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {encoding} text (byte {error.start}). Name its encoding, "
            "e.g. --encoding gb18030."
        ) from error
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return [line for line in text.split("\n") if line.strip()]


def pairs_of(texts: Iterable[str] | None, flag: str) -> dict[str, Any]:
    """Reads `["user_id=uid", ...]`; no texts give an empty dict, `event=` gives None."""
    pairs: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise UserError(f"{flag} takes NAME=VALUE. Received: {text!r}.")
        if name in pairs:
            raise UserError(f"{flag} names {name} twice: {pairs[name]!r} and {value!r}. Keep one.")
        pairs[name.strip()] = value if value.strip() else None
    return pairs


def naming_of(texts: Sequence[str] | None, flag: str) -> dict[str, Any] | list[str]:
    """Reads roles of columns, or of a file without a header line the names of all columns.

    >>> naming_of(["user_id=uid", "event="], "--columns"), naming_of(["user,item,_"], "--columns")
    ({'user_id': 'uid', 'event': None}, ['user', 'item', '_'])
    """
    texts = list(texts or [])
    if not any("," in text and "=" not in text for text in texts):
        return pairs_of(texts, flag)
    if len(texts) > 1:
        raise UserError(
            f"{flag} takes ROLE=COLUMN pairs, or the names of all columns of a file without a "
            f"header line, such as user,item,timestamp. Received both: {' '.join(texts)!r}."
        )
    return texts[0].split(",")


#: tables beside the log that --columns may name: users.user_id=uid
_TABLES = ("users", "items", "relations")


def log_columns(options: argparse.Namespace) -> dict[str, Any] | list[str]:
    """Reads what --columns says of the log, as `naming_of`."""
    starts = tuple(f"{table}." for table in _TABLES)
    for text in options.columns or []:
        table = text.partition(".")[0]
        if text.startswith(starts) and not getattr(options, table, None):
            raise UserError(
                f"--columns {text} names a column of --{table}. Received: no --{table}."
            )
    texts = [text for text in options.columns or [] if not text.startswith(starts)]
    return naming_of(texts, "--columns")


def own_columns(options: argparse.Namespace, table: str) -> dict[str, Any]:
    """Reads what --columns says of another table: `users.user_id=uid` is `{"user_id": "uid"}`."""
    start = f"{table}."
    texts = [text for text in options.columns or [] if text.startswith(start)]
    return pairs_of([text.removeprefix(start) for text in texts], "--columns")


def write_lists(
    options: argparse.Namespace, frame: "pd.DataFrame", path: str, columns: Mapping[str, str]
) -> None:
    """Writes a table that people open: no formulas in csv, unless --exact-cells asks for them."""
    from kerasrec.data.formats.written import guarded
    from kerasrec.data.tables import PARQUET_SUFFIXES, write_table

    is_exact = options.exact_cells or path.lower().endswith(PARQUET_SUFFIXES)
    write_table(frame, path, columns, for_people=not is_exact)
    if not is_exact and (count := guarded(frame)[1]):
        log.warning(
            "%s: %d cells begin as a formula does (= + - @): written with a ' before them, for "
            "spreadsheets. --exact-cells writes them as they are.",
            path,
            count,
        )


# --- settings ---


def training_options(options: argparse.Namespace) -> dict[str, Any]:
    """Reads sections of options: --config, then --encoder, --run-folder, --seed, then --set.

    They are checked as far as that can be done before TensorFlow is loaded.
    """
    from kerasrec.training.optionfiles import check_early

    settings = read_yaml(options.config) if options.config else {}
    said: dict[tuple[str, str], tuple[str, Any]] = {}
    for flag, section, name, value in (
        ("--encoder", "encoder", "name", options.encoder),
        ("--item-features", "encoder", "features", _joined(options)),
        ("--run-folder", "trainer", "run_folder", options.run_folder),
        ("--seed", "trainer", "seed", options.seed),
    ):
        if value is not None:
            settings[section] = {**(settings.get(section) or {}), name: value}
            said[section, name] = flag, value
    for key, value in assignments(options.set).items():
        section, dot, name = key.partition(".")
        if not (dot and name):
            raise UserError(
                f"--set takes SECTION.OPTION=VALUE such as model.dropout=0.1. Received: {key!r}."
            )
        settings[section] = {**(settings.get(section) or {}), name: value}
        flag, other = said.get((section, name), ("", value))
        if str(other) != str(value):
            log.warning("--set %s=%s counts, not %s %s", key, value, flag, other)
    check_early(options.preset, settings)
    return settings


def _joined(options):
    """The words of --item-features as one text; None without."""
    return " ".join(getattr(options, "item_features", None) or []) or None


def read_yaml(path: str) -> dict[str, Any]:
    """Reads the sections of a YAML file, section -> dict of options."""
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {error}.") from error
    if not isinstance(settings, dict) or not all(
        isinstance(section, dict | None) for section in settings.values()
    ):
        raise UserError(
            f"--config {path} must hold sections with options, such as `model:` and below it "
            f"`  dropout: 0.1`. Received: {settings!r}."
        )
    return settings


def assignments(texts: Iterable[str] | None) -> dict[str, Any]:
    """Reads `["k=5", ...]`; numbers, true, false, null as YAML reads them, the rest as text."""
    import yaml

    values = {}
    for name, text in pairs_of(texts, "--set").items():
        if text is None:
            raise UserError(f"--set takes NAME=VALUE. Received: '{name}='. null stands for none.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        # a template such as {title} would be a mapping in YAML
        values[name] = value if isinstance(value, int | float | list | None) else text
    return values


def export_options(texts: Iterable[str] | None) -> dict[str, Any]:
    """Reads the options of `export_again` from --set."""
    known = ("k", "scorer_weight", "item_matrix")
    values = assignments(texts)
    for name in values:
        if name not in known:
            raise UserError(f"unknown option {name}. {did_you_mean(name, known)}")
    return values


def period(text: str, flag: str, *, least: int = 1) -> int:
    """Reads seconds from a text such as 1d, 6h, 30m or 90s.

    >>> period("6h", "--step")
    21600
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not number.isdecimal() or int(number) < least:
        raise UserError(f"{flag} takes a time such as 1d, 6h, 30m or 90s. Received: {text!r}.")
    return int(number) * _SECONDS[unit]


def moment(text: str | None, timezone: str | None = None) -> int | str | None:
    """Reads the UTC seconds of `--at`; "now" and None stay as they are."""
    from kerasrec.data.times.forms import read_moment

    try:
        return read_moment(text, timezone=timezone)
    except ValueError as error:
        message = str(error)
        raise UserError(message if message.startswith("timezone") else f"--{message}") from None


def load_tensorflow(options: argparse.Namespace) -> None:
    """Loads TensorFlow, without its remarks unless the user wants to see more."""
    backend.load(quiet=not (options.verbose or options.debug))


def check_k(options: argparse.Namespace) -> None:
    """Refuses a --k below 1."""
    if options.k < 1:
        raise UserError(f"--k must be at least 1. Received: {options.k}.")
