"""The command line: each verb is a function of the library under the same name."""

import argparse
import logging
import sys
from pathlib import Path

_DESCRIPTION = """LLM-enhanced sequential recommendation over Chinese item text.

first steps:
  kerasrec demo                                        the whole chain on packaged real data
  kerasrec inspect --interactions log.csv --items items.csv
  kerasrec train --interactions log.csv --items items.csv --name shop
  kerasrec recommend --model saved_models/shop --histories log.csv --k 20 --out recs.csv

F is a csv, csv.gz or parquet file. M is saved_models/NAME (its stable label, else its largest
version) or saved_models/NAME/VERSION. Usual column names (user, uid, item, iid, ts, ...) are
recognised."""


class UserError(Exception):
    """A mistake in what the user gave; the message is the whole answer."""


def main(arguments=None):
    """Run one verb; returns the exit code (0 = success, 2 = bad input, 130 = interrupted)."""
    options = build_parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        VERBS[options.verb][1](options)
    except KeyboardInterrupt:
        print("interrupted; a run with --run-folder goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # the one place where an error becomes a sentence
        if not isinstance(error, _expected()) or options.debug:
            raise
        print(f"kerasrec {options.verb}: {error}", file=sys.stderr)
        return 2
    return 0


def _expected():
    """Errors that are a user's to mend."""
    from kerasrec.artifacts import ArtifactError

    known = (UserError, ArtifactError, ValueError, TypeError, OSError, FloatingPointError)
    return (*known, ImportError, MemoryError)


# --- the verbs ---


def demo(options):
    """The main job on the course data that ships with kerasrec."""
    from kerasrec.demo import demo

    demo(Path(options.out), preset=options.preset, console=_console())


def doctor(options):
    """Versions, imports, encoder: what is wrong and how to mend it."""
    from kerasrec.doctor import examine

    findings = examine()
    rows = [(f.what, f.found, "ok" if not f.mend else f.mend) for f in findings]
    _print_rows(("what", "found", "mend"), rows)
    wrong = sum(bool(f.mend) for f in findings)
    if wrong:
        raise UserError(f"{wrong} things to mend, see the table.")


def inspect(options):
    """Statistics of a data set (--interactions), or what a version says of itself (--model)."""
    if (options.interactions is None) == (options.model is None):
        raise UserError("inspect needs --interactions F... or --model M, one of them.")
    if options.model:
        from kerasrec.artifacts import find_version, read_manifest

        manifest = read_manifest(find_version(options.model))
        _print_rows(("key", "value"), [(k, str(v)) for k, v in _flat(manifest)])
        return
    from kerasrec.datastats import describe, format_value

    interactions, items = _read(options, options.interactions), None
    if options.items:
        items = _read_items(options)
    _say(interactions.report)
    table = describe(interactions, items)
    rows = [(part, what, format_value(value)) for part, what, value in table.to_numpy()]
    _print_rows(tuple(table.columns), rows)


def train(options):
    """Encode the texts, train, choose the fusion on validation, export a version."""
    interactions, items = _read(options, options.interactions), _read_items(options)
    interactions = _cleaned(options, interactions, items)
    valid = _read(options, options.valid) if options.valid else None
    settings = _settings(options)
    from kerasrec.pipeline import train

    trained = train(
        interactions,
        items,
        name=options.name,
        valid=valid,
        out=options.out,
        preset=options.preset,
        options=settings,
        progress=not options.quiet,
    )
    if not options.quiet:
        _print_frame(trained.history)
    quality = trained.metrics
    print(
        f"validation NDCG@10 {quality['valid_ndcg@10']:.4f}, "
        f"recall@10 {quality['valid_recall@10']:.4f}; exported {trained.version}"
    )


def evaluate(options):
    """Score a version and the baselines on a test set, full ranking."""
    from kerasrec.evaluation import evaluate, run_baselines
    from kerasrec.recommender import Recommender
    from kerasrec.report import write_report
    from kerasrec.sequences import make_histories

    recommender = Recommender.load(options.model)
    items = recommender.items()
    test = _read(options, options.test)
    past = _known(options, _read(options, options.histories), items, "--histories")
    fitted = (
        _known(options, _read(options, options.train), items, "--train") if options.train else past
    )
    histories = make_histories(past, items)
    users = test.frame["user_id"].astype(str).unique()
    wanted = histories.of_users(users)
    lists = {recommender.manifest["name"]: recommender.recommend(wanted, k=options.k)}
    texts = items.texts(recommender.manifest["text_template"])
    lists.update(
        run_baselines(make_histories(fitted, items), wanted, items, k=options.k, texts=texts)
    )
    ks = sorted({k for k in (5, 10, 20) if k <= options.k} | {options.k})
    result = evaluate(lists, test, histories=histories, train=past, items=items, ks=ks)
    _console().print(result.to_rich())
    if options.report:
        history = recommender.training_history()
        extra = dict(items=items, histories=wanted, training_history=history)
        write_report(result, options.report, manifest=recommender.manifest, **extra)
        print(f"report: {Path(options.report) / 'report.html'}")


def recommend(options):
    """Write top-k lists for the users of the histories."""
    from kerasrec.data import write_table
    from kerasrec.recommender import Recommender

    if options.k < 1:
        raise UserError(f"--k must be at least 1. Received: {options.k}.")
    recommender = Recommender.load(options.model)
    interactions = _read(options, options.histories)
    users = _read_users(options, interactions) if options.users else None
    histories = recommender.histories(interactions, users=users)
    table = recommender.recommend(
        histories,
        k=options.k,
        keep_seen=options.keep_seen,
        candidates=_read_ids(options.candidates),
    )
    write_table(table, options.out, interactions.columns)
    popular = len(table.attrs["popular_for"])
    note = f"; {popular} of them have no known item and get popular ones" if popular else ""
    print(f"{len(table)} rows for {histories.num_users} users in {options.out}{note}")


def similar(options):
    """Items nearest to an item or to a text the model never saw."""
    from kerasrec.recommender import Recommender

    recommender = Recommender.load(options.model)
    table = recommender.similar(options.item, text=options.text, k=options.k)
    titles = recommender.titles(table["item_id"])
    rows = zip(table["rank"], table["item_id"], titles, table["score"], strict=True)
    _print_rows(
        ("rank", "item", "title", "cosine"), [(str(r), i, t, f"{s:.3f}") for r, i, t, s in rows]
    )


def export(options):
    """Write a new version of a model with other export options (--set k=100 ...)."""
    from kerasrec.pipeline import export_again

    values = _assignments(options.set)
    version = export_again(options.model, **values)
    print(f"exported {version}")


# --- reading what the user gave ---


def _read(options, paths):
    from kerasrec.data import read_interactions

    mapping = _columns(options.columns) or None
    found = read_interactions(
        list(paths), columns=mapping, encoding=options.encoding, on_bad=options.on_bad
    )
    _warn_of(found.report)
    return found


def _read_items(options):
    from kerasrec.data import read_items

    columns = _columns(options.columns)
    mapping = {
        role: c for role, c in columns.items() if role in ("item_id", "title", "text")
    } or None
    found = read_items(
        options.items, columns=mapping, encoding=options.encoding, on_bad=options.on_bad
    )
    _warn_of(found.report)
    return found


def _cleaned(options, interactions, items):
    from kerasrec.cleaning import check_trainable, clean

    wanted = {
        "repeats": options.repeats,
        "min_user_events": options.min_user_events,
        "min_item_events": options.min_item_events,
        "unknown_items": options.unknown_items,
    }
    if options.max_user_events is not None:
        text = options.max_user_events
        wanted["max_user_events"] = int(text) if text.isdigit() else text
    cleaned = clean(interactions, items, **wanted)
    if len(cleaned) != len(interactions):
        _say(cleaned.report)
    check_trainable(cleaned, items)
    return cleaned


def _known(options, interactions, items, flag):
    from kerasrec.cleaning import clean

    found = clean(interactions, items, unknown_items="skip")
    if len(found) != len(interactions):
        gone = len(interactions) - len(found)
        print(f"{flag}: {gone} events of items the model does not know left out", file=sys.stderr)
    return found


def _read_users(options, interactions):
    import pandas as pd

    from kerasrec.data import read_user_ids

    columns = _columns(options.columns)
    name = columns.get("user_id") or interactions.columns.get("user_id")
    return pd.unique(
        pd.Series(read_user_ids(options.users, column=name, encoding=options.encoding))
    )


def _read_ids(path):
    """Item ids of a text file, one per line; None without a file."""
    if path is None:
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _columns(texts):
    """`["user_id=uid", ...]` -> dict."""
    pairs = {}
    for text in texts or []:
        role, equals, column = text.partition("=")
        if not equals or not role:
            raise UserError(
                f"a column mapping is ROLE=COLUMN such as user_id=uid. Received: {text!r}."
            )
        pairs[role] = column
    return pairs


def _settings(options):
    """Sections of options: --config, then --encoder, --run-folder, --seed, then --set."""
    from kerasrec.options import check_options

    settings = {}
    if options.config:
        settings = _read_yaml(options.config)
        check_options(settings)
    if options.encoder:
        settings.setdefault("encoder", {})["name"] = options.encoder
    if options.run_folder:
        settings.setdefault("trainer", {})["run_folder"] = options.run_folder
    if options.seed is not None:
        settings.setdefault("trainer", {})["seed"] = options.seed
    for key, value in _assignments(options.set).items():
        section, dot, name = key.partition(".")
        if not dot:
            raise UserError(
                f"--set takes SECTION.OPTION=VALUE such as model.dropout=0.1, not {key!r}."
            )
        settings.setdefault(section, {})[name] = value
    check_options(settings)
    return settings


def _read_yaml(path):
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise UserError(f"--config {path} is not YAML: {where}") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"--config {path} must hold sections such as `model:`. Received: {settings!r}."
        )
    return settings


def _assignments(texts):
    import yaml

    values = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE. Received: {text!r}.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text!r}: the value is not YAML.") from error
    return values


# --- showing ---


def _console():
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _print_rows(columns, rows):
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(*(str(value).replace("[", "\\[") for value in row))
    _console().print(table)


def _print_frame(frame):
    shown = frame.round(4).astype(str)
    _print_rows(tuple(shown.columns), [tuple(row) for row in shown.to_numpy()])


def _say(report):
    print(report, file=sys.stderr)


def _warn_of(report):
    """Show a report that left something out."""
    if report.rows_before != report.rows_after:
        _say(report)


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- the parser ---


def build_parser():
    """The argparse parser of all verbs."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kerasrec", description=_DESCRIPTION, formatter_class=shape)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (add, function) in VERBS.items():
        summary = function.__doc__.splitlines()[0]
        sub = verbs.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        sub.add_argument("--verbose", action="store_true", help="say more")
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        add(sub)
    return parser


def _add_reading(sub):
    group = sub.add_argument_group("reading tables")
    group.add_argument(
        "--columns", nargs="+", metavar="ROLE=COLUMN", help="e.g. user_id=buyer timestamp=time"
    )
    group.add_argument(
        "--item-columns", nargs="+", metavar="ROLE=COLUMN", help="of --items, e.g. item_id=sku"
    )
    group.add_argument("--encoding", default="utf-8", help="of text files, e.g. gb18030")
    group.add_argument(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="bad rows: stop, or leave out and count (default: error)",
    )


def _add_model(sub):
    sub.add_argument("--model", required=True, metavar="M", help="saved_models/NAME[/VERSION]")


def _add_demo(sub):
    sub.add_argument("--out", default="saved_models", help="parent folder of the model")
    _add_preset(sub)


def _add_preset(sub):
    sub.add_argument(
        "--preset",
        default="balanced",
        help="fast, balanced or accurate (default: balanced)",
    )


def _add_inspect(sub):
    sub.add_argument("--interactions", "--data", nargs="+", metavar="F", help="what users did")
    sub.add_argument("--items", metavar="F", help="the catalogue")
    sub.add_argument("--model", metavar="M", help="saved_models/NAME[/VERSION]")
    _add_reading(sub)


def _add_train(sub):
    sub.add_argument("--interactions", nargs="+", required=True, metavar="F", help="what users did")
    sub.add_argument("--items", required=True, metavar="F", help="the catalogue with its texts")
    sub.add_argument(
        "--name", required=True, help="of the model: versions go to OUT/NAME/1, 2, ..."
    )
    sub.add_argument(
        "--valid", nargs="+", metavar="F", help="events to stop on (default: each user's last)"
    )
    sub.add_argument("--out", default="saved_models", help="parent folder of models")
    _add_preset(sub)
    sub.add_argument("--encoder", help="e5-small (default), a folder, tfidf, vectors:FILE or none")
    sub.add_argument("--config", metavar="YAML", help="sections encoder, model, trainer")
    sub.add_argument("--set", nargs="+", metavar="S.O=V", help="one option, e.g. model.dropout=0.1")
    sub.add_argument("--run-folder", help="checkpoints and logs; a killed run goes on from here")
    sub.add_argument("--seed", type=int, help="of everything random (default 0)")
    sub.add_argument("--quiet", action="store_true", help="no progress, no table")
    group = sub.add_argument_group("cleaning (default: events are taken as they are)")
    group.add_argument("--repeats", choices=["keep", "exact", "first", "last"], default="keep")
    group.add_argument("--min-user-events", type=int, default=0, metavar="N")
    group.add_argument("--min-item-events", type=int, default=0, metavar="N")
    group.add_argument("--unknown-items", choices=["error", "skip"], default="error")
    group.add_argument("--max-user-events", metavar="N|auto", help="leave out crawler-like users")
    _add_reading(sub)


def _add_evaluate(sub):
    _add_model(sub)
    sub.add_argument("--test", nargs="+", required=True, metavar="F", help="what users did next")
    sub.add_argument(
        "--histories", nargs="+", required=True, metavar="F", help="what is known when they ask"
    )
    sub.add_argument(
        "--train", nargs="+", metavar="F", help="what baselines learn from (default: --histories)"
    )
    sub.add_argument("--k", type=int, default=20, help="list length (default 20)")
    sub.add_argument("--report", metavar="DIR", help="write report.html, metrics.json and tables")
    _add_reading(sub)


def _add_recommend(sub):
    _add_model(sub)
    sub.add_argument("--histories", nargs="+", required=True, metavar="F")
    sub.add_argument("--users", metavar="F", help="lists for exactly these users (column user)")
    sub.add_argument("--k", type=int, default=20, help="list length (default 20)")
    sub.add_argument("--keep-seen", action="store_true", help="list items of the history too")
    sub.add_argument("--candidates", metavar="FILE", help="item ids that alone may be listed")
    sub.add_argument("--out", required=True, help="csv, csv.gz or parquet")
    _add_reading(sub)


def _add_similar(sub):
    _add_model(sub)
    query = sub.add_mutually_exclusive_group(required=True)
    query.add_argument("--item", help="an item id")
    query.add_argument("--text", help="a text the model may never have seen")
    sub.add_argument("--k", type=int, default=10)


def _add_export(sub):
    _add_model(sub)
    sub.add_argument("--set", nargs="+", metavar="O=V", help="k=100, scorer_weight=0.5")


#: verb -> (adds its options, runs it); the help text is the function's first line
VERBS = {
    "demo": (_add_demo, demo),
    "doctor": (lambda sub: None, doctor),
    "inspect": (_add_inspect, inspect),
    "train": (_add_train, train),
    "evaluate": (_add_evaluate, evaluate),
    "recommend": (_add_recommend, recommend),
    "similar": (_add_similar, similar),
    "export": (_add_export, export),
}

if __name__ == "__main__":
    sys.exit(main())
