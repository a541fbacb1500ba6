"""The verbs around one model, from data to lists: each with its options."""

import argparse
import difflib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from kerasrec.cli.largeverbs import describe_large
from kerasrec.cli.parser import (
    add_at,
    add_cleaning,
    add_files,
    add_list_file,
    add_model,
    add_out_and_preset,
    add_reading,
    add_rules,
    add_where,
)
from kerasrec.cli.printing import flat, make_console, print_rows, say, say_chosen, visible
from kerasrec.cli.userinput import (
    Readings,
    UserError,
    check_k,
    clean_for_training,
    clean_for_validation,
    export_options,
    known_only,
    load_tensorflow,
    moment,
    read_catalogue,
    read_condition,
    read_events,
    read_questions,
    read_rules,
    read_user_table,
    say_mismatch,
    training_options,
    write_lists,
)
from kerasrec.data.interactions import Items
from kerasrec.features.itemcolumns import ItemColumns
from kerasrec.versions.folders import USERS, find_version, read_manifest
from kerasrec.versions.folders import read_catalogue as read_catalogue_of

log = logging.getLogger(__name__)


def add_inspect(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `inspect`."""
    sub.usage = (
        "kerasrec inspect --interactions F... [--items F] [--users F] | --model M  [options]"
    )
    add_files(sub, "--interactions", "what users did", "--data")
    sub.add_argument("--items", metavar="F", help="the catalogue")
    sub.add_argument("--users", metavar="F", help="what is known of users: how its columns read")
    sub.add_argument("--model", metavar="M", help="a model instead of data")
    sub.add_argument(
        "--memory",
        metavar="SIZE",
        help="count a log of any size within so much memory, such as 4GB, on disk (where TMPDIR "
        "says); needs kerasrec[duckdb]",
    )
    add_reading(sub, items=True)


def inspect_verb(options: argparse.Namespace) -> None:
    """Statistics of a data set (--interactions), or what a model says of itself (--model)."""
    if (options.interactions is None) == (options.model is None):
        raise UserError("expected --interactions F... or --model M, one of them.")
    if options.model:
        manifest = read_manifest(find_version(options.model)).as_dict()
        print_rows(("key", "value"), [(key, str(value)) for key, value in flat(manifest)])
        return
    from kerasrec.data.cleaningreport import column_lines
    from kerasrec.data.formats.sqltable import source_name
    from kerasrec.data.statistics import (
        count_figures,
        describe_figures,
        format_value,
        problems_of_figures,
    )

    options.on_bad = "skip"  # bad rows are among the problems
    readings = Readings()
    if options.memory:
        items = readings.take(read_catalogue, options, False) if options.items else None
        users = readings.take(read_user_table, options) if options.users else None
        readings.end()
        figures, problems, table = describe_large(options, items)
    else:
        interactions = readings.take(read_events, options, options.interactions)
        items = readings.take(read_catalogue, options, False) if options.items else None
        users = readings.take(read_user_table, options) if options.users else None
        readings.end()
        figures = count_figures(interactions)
        problems, table = problems_of_figures(figures, items), describe_figures(figures, items)
    say(f"problems found: {len(problems) or 'none'}")
    for number, problem in enumerate(problems, start=1):
        say(f"{number:3}. {problem}")
    rows = [(part, what, format_value(value)) for part, what, value in table.to_numpy()]
    say(f"\n{figures.report}", end="\n\n")
    if items is not None:
        say(*column_lines(items.report, source_name(options.items)), sep="\n", end="\n\n")
        _print_features(items.feature_frame)
        if items.order:
            say(f"{items.order}: an order of plans, no feature", end="\n\n")
    if users is not None:
        say(*column_lines(users.report, source_name(options.users)), sep="\n", end="\n\n")
        _print_features(users.frame, "users")
    print_rows(tuple(table.columns), rows)


def _print_features(frame, of="items"):
    """How each further column of a table reads, and why: what --item-features auto takes."""
    from kerasrec.features.columntypes import propose, unreadable

    found = {
        n: one for n, one in propose(frame).items() if n not in ("item_id", "user_id", "title")
    }
    rows = [
        (name, one.type, f"{one.missing:.0%}", f"{one.distinct:,}", one.example, one.why)
        for name, one in found.items()
    ]
    if rows:
        print_rows((f"column of {of}", "reads as", "missing", "distinct", "example", "why"), rows)
        for text in filter(None, (unreadable(frame[name], one) for name, one in found.items())):
            say(text)
        say()


def add_train(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `train`."""
    sub.usage = "kerasrec train --interactions F... --items F --name NAME [options]"
    add_files(sub, "--interactions", "what users did", required=True)
    sub.add_argument(
        "--items",
        metavar="F",
        help="the catalogue with its texts (left out: the items of the log, known by their ids)",
    )
    sub.add_argument("--name", required=True, help="of the model: OUT/NAME/1, OUT/NAME/2, ...")
    add_files(sub, "--valid", "events to stop and tune on (default: held out as --ask says)")
    sub.add_argument(
        "--ask",
        choices=["live", "newest", "end"],
        help="question that the weights are chosen for: live (each event of the newest tenth or of "
        "--valid, at its moment; default where there are times), newest (the last event of each "
        "user) or end (one list for each user, at a cut in time)",
    )
    add_out_and_preset(sub)
    sub.add_argument(
        "--refit",
        action="store_true",
        help="at the end fit anew on all events, those to validate on too (about twice the time)",
    )
    sub.add_argument(
        "--no-refit",
        action="store_true",
        help="learn nothing of what was held out (default: learn it gently where that pays; with "
        "--ask live it is learned in any case)",
    )
    sub.add_argument(
        "--generator",
        action="store_true",
        help="train a generator of plans too, for `generate` (about twice the time)",
    )
    sub.add_argument(
        "--encoder",
        metavar="E",
        help="what reads the texts: e5-small (default, a small multilingual language model), the "
        "folder of a BERT of yours, vectors:FILE, endpoint:URL (OpenAI's protocol, with --set "
        "encoder.model=NAME; its key: $KERASREC_ENDPOINT_KEY), tfidf (lexical only) or none",
    )
    sub.add_argument(
        "--item-features",
        nargs="+",
        metavar="C:TYPE",
        help="columns of --items that the model reads beside the text: brand:category "
        "tags:categories price:number released:time embedding:vector, or auto (inspect shows what "
        "that finds)",
    )
    sub.add_argument(
        "--users",
        metavar="F",
        help="what is known of users (age, city, ...): who has no history yet gets what users like "
        "them choose",
    )
    sub.add_argument(
        "--user-features",
        nargs="+",
        metavar="C:TYPE",
        help="columns of --users and their types: age:number city:category (default: auto)",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress, no table of epochs")
    group = sub.add_argument_group("more options")
    group.add_argument(
        "--config",
        metavar="YAML",
        help="file with the sections encoder, model, trainer, fusion, generator",
    )
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="S.O=V",
        help="single options, stronger than --config: model.dropout=0.1 trainer.epochs=50",
    )
    group.add_argument(
        "--run-folder", metavar="DIR", help="checkpoints and logs; a killed run goes on from here"
    )
    group.add_argument("--seed", type=int, help="of everything random (default 0)")
    add_cleaning(sub)
    add_reading(sub, items=True)


def train_verb(options: argparse.Namespace) -> None:
    """Encode the texts, train, choose the fusion on validation, export a model.

    Events are taken as they are and the catalogue is all of --items. The sections of --config and
    --set are encoder, model, trainer, fusion and generator; a wrong option is answered with the
    right ones.
    """
    settings = training_options(options)
    if settings.get("generator") and not options.generator:
        say("The options of the section generator count with --generator only.")
    interactions, items, valid, users = _read_for_training(options, settings)
    load_tensorflow(options)
    from kerasrec.data.cleaningreport import column_lines
    from kerasrec.training.pipeline import train

    trained = train(
        interactions,
        items,
        name=options.name,
        valid=valid,
        out=options.out,
        preset=options.preset,
        options=settings,
        refit=True if options.refit else False if options.no_refit else None,
        generator=options.generator,
        ask=options.ask,
        progress=sys.stderr.isatty() and not options.quiet,
        users=users,
        user_features=" ".join(options.user_features or ["auto"]),
    )
    if options.quiet:  # otherwise the log has said it before the training
        for found, name in ((interactions, "interactions"), (items, "items")):
            for line in column_lines(found.report, name):
                say(line)
    else:
        shown = trained.history.round(4).astype(str)
        print_rows(tuple(shown.columns), shown.to_numpy().tolist())
    if groups := trained.manifest.get("user_features"):
        weights = ", ".join(f"{kind} {groups[kind]['weight']}" for kind in ("known", "new"))
        say(f"{groups['groups']} groups of users; how much they count: {weights} (no history)")
    quality = trained.metrics
    say(
        f"validation NDCG@10 {quality['valid_ndcg@10']:.4f}, "
        f"recall@10 {quality['valid_recall@10']:.4f}; exported {trained.version}"
    )


def _read_for_training(options, settings):
    """Events, catalogue and events to validate on; all that is wrong with them is told at once."""
    from kerasrec.data.interactions import items_of

    name = (settings.get("encoder") or {}).get("name")
    readings = Readings()
    interactions = readings.take(read_events, options, options.interactions)
    valid = readings.take(read_events, options, options.valid) if options.valid else None
    users = readings.take(read_user_table, options) if options.users else None
    if options.items:
        items = readings.take(read_catalogue, options, name != "none")
    else:
        if name not in (None, "none"):
            raise UserError(
                f"--encoder {name} reads the texts of --items. Received: no --items. Give the "
                "catalogue, or leave --encoder out for a model of ids alone."
            )
        settings["encoder"] = {**(settings.get("encoder") or {}), "name": "none"}
        logs = [part for part in (interactions, valid) if part is not None]
        items = items_of(logs) if logs else None
        say("No --items: the model knows the items of the log by their ids alone.")
    if items is not None and interactions is not None:
        interactions = readings.take(clean_for_training, options, interactions, items)
    if items is not None and valid is not None:
        valid = readings.take(clean_for_validation, options, valid, items)
    readings.end()
    encoder = settings.get("encoder") or {}
    if items is not None and items.order:
        say(f"{items.order}: an order of plans (kerasrec generate --order), no feature")
    if items is not None and items.relations and not encoder.get("features"):
        listed = " ".join(f"{name}:categories" for name in items.relations)
        settings["encoder"] = {**encoder, "features": listed}
    features = (settings.get("encoder") or {}).get("features")
    if items is not None and (features or options.vectors):
        from kerasrec.features.columntypes import choose_columns
        from kerasrec.features.itemfeatures import declared_features

        frame = items.feature_frame
        chosen = choose_columns(frame, declared_features(frame, features))
        if chosen:
            say(f"--items: the model reads {_typed(chosen)}")
        else:
            say(f"No column of --items reads as a feature: --item-features {features} adds none.")
    if users is not None:
        _check_users(options, users, interactions)
    elif options.user_features:
        raise UserError("--user-features are columns of --users. Received: no --users. Give it.")
    return interactions, items, valid, users


def _check_users(options, users, interactions):
    """Says what is read of --users, and refuses a table of other users."""
    from kerasrec.features.usergroups import choose_user_columns

    chosen = choose_user_columns(users.frame, " ".join(options.user_features or ["auto"]))
    asked = interactions.frame["user_id"].astype(str).unique()
    known = int(users.frame["user_id"].isin(asked).sum())
    if not known:
        raise UserError(
            f"--users: expected users of the log, such as {asked[0]!r}. Received: "
            f"{users.frame['user_id'].iloc[0]!r} and others, none of whom it has. Give both tables "
            "the same ids."
        )
    what = _typed(chosen) or "nothing that reads as a feature"
    say(f"--users: {known:,} of the {len(asked):,} users of the log are known by {what}")


def _typed(columns):
    """`brand (category), price (number)`."""
    return ", ".join(f"{name} ({column.type})" for name, column in columns.items())


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `evaluate`."""
    sub.usage = "kerasrec evaluate --model M --test F... --histories F... [options]"
    add_model(sub)
    add_files(sub, "--test", "what users did next", required=True)
    add_files(sub, "--histories", "what is known when they ask", required=True)
    add_files(sub, "--train", "what the baselines learn from (default: --histories)")
    sub.add_argument("--k", type=int, default=20, help="list length (default 20)")
    add_at(sub)
    sub.add_argument("--users", metavar="F", help="what is known of the users, for their lists")
    sub.add_argument("--report", metavar="DIR", help="write report.html, metrics.json and tables")
    sub.add_argument(
        "--worth",
        action="store_true",
        help="what each column of items and --users is worth: lists without it, one round for each",
    )
    add_reading(sub)


def evaluate_verb(options: argparse.Namespace) -> None:
    """Score a model and the baselines on a test set; the whole catalogue is ranked."""
    check_k(options)
    at = moment(options.at, options.timezone)
    version = find_version(options.model)
    readings = Readings()
    test = readings.take(read_events, options, options.test)
    past = readings.take(read_events, options, options.histories)
    fitted = readings.take(read_events, options, options.train) if options.train else None
    users = readings.take(read_user_table, options, "skip") if options.users else None
    readings.end()
    catalogue = Items(read_catalogue_of(version))
    for events, flag in ((test, "--test"), (past, "--histories"), (fitted, "--train")):
        if events is not None:
            say_mismatch(events, catalogue, flag)
    load_tensorflow(options)
    from kerasrec.data.histories import make_histories
    from kerasrec.evaluation.evaluation import evaluate, run_baselines
    from kerasrec.evaluation.report import write_report
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model)
    items = recommender.items
    past = known_only(past, items, "--histories")
    fitted = past if fitted is None else known_only(fitted, items, "--train")
    histories = make_histories(past, items)
    wanted = histories.of_users(test.frame["user_id"].astype(str).unique())
    # a model of ids needs no titles, and may have none
    is_blank = recommender.about.encoder is None and not items.frame["title"].str.strip().any()
    texts = None if is_blank else items.texts(recommender.about.template)
    baselines = run_baselines(
        make_histories(fitted, items), wanted, items, k=options.k, texts=texts
    )
    name = visible(recommender.about.name, one_line=True)
    name = f"{name} (model)" if name in baselines else name
    recommender.observe(histories)
    own = recommender.recommend(wanted, k=options.k, at=at, users=users)
    lists = {name: own, **baselines}
    ks = sorted({k for k in (5, 10, 20) if k <= options.k} | {options.k})
    result = evaluate(lists, test, histories=histories, train=past, items=items, ks=ks)
    console = make_console()
    console.print(result.to_rich(console.width))
    worth = None
    if options.worth:
        worth = _worth_of(options, recommender, wanted, test, train=past, users=users, at=at)
    if options.report:
        history = recommender.training_history()
        extra = dict(items=items, histories=wanted, training_history=history)
        extra |= dict(manifest=recommender.manifest, worth=worth)
        write_report(result, options.report, **extra)
        say(f"report: {Path(options.report) / 'report.html'}")


def _worth_of(options, recommender, wanted, test, **given):
    """The table of `feature_worth`, shown; None where the version reads no column."""
    from kerasrec.recommender.ablation import feature_worth
    from kerasrec.recommender.recommender import Recommender

    if recommender.index is not None:
        histories = wanted
        recommender = Recommender.load(options.model, index="exact")
        recommender.observe(histories)
    table = feature_worth(recommender, wanted, test, k=min(options.k, 10), **given)
    if table.empty:
        say("no column of items or --users is read by this version: nothing to leave out")
        return None
    say(f"NDCG@{min(options.k, 10)} {table.attrs['ndcg']:.4f}; what is lost without a column:")
    rows = [
        (f"{row.column} ({row.table})", row.type, f"{row.without:.4f}", f"{row.difference:+.4f}",
         f"{row.low:+.4f} to {row.high:+.4f}")
        for row in table.itertuples()
    ]  # fmt: skip
    print_rows(("column", "reads as", "without", "lost", "95 % interval"), rows)
    return table


def add_recommend(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `recommend`."""
    sub.usage = "kerasrec recommend --model M --histories F... --out F [options]"
    add_model(sub)
    add_files(sub, "--histories", "what users did; their lists leave it out", required=True)
    sub.add_argument(
        "--users",
        metavar="F",
        help="lists for exactly these users (a table with a user column); those without a history "
        "get popular items",
    )
    sub.add_argument("--k", type=int, default=20, help="list length (default 20)")
    sub.add_argument("--keep-seen", action="store_true", help="items of the history may be listed")
    sub.add_argument("--candidates", metavar="TXT", help="only these item ids, one per line")
    add_where(sub)
    add_rules(sub)
    add_at(sub)
    add_list_file(sub)
    add_reading(sub)


def recommend_verb(options: argparse.Namespace) -> None:
    """Write a list of recommendations for every user of the histories."""
    from kerasrec.data.tables import check_output

    check_k(options)
    at = moment(options.at, options.timezone)
    check_output(options.out)
    where = read_condition(options.where, find_version(options.model))
    rules = read_rules(options.rules, find_version(options.model))
    interactions, users, candidates = read_questions(options)
    # where the version knows groups of users, further columns of --users say who they are
    has_groups = (find_version(options.model) / USERS).is_dir()
    known = read_user_table(options, on_bad="skip") if users else None
    if known is not None and len(known.frame.columns) == 1:
        known = None  # a list of ids
    if known is not None and not has_groups:
        log.warning(
            "--users: %s say nothing to this version, which was trained without a table of users: "
            "its column of user ids alone counts",
            ", ".join(known.frame.columns.drop("user_id")),
        )
        known = None
    load_tensorflow(options)
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model)
    histories = recommender.histories(interactions, users=users)
    newer = recommender.observe(interactions)
    if newer:
        say(f"{newer:,} events are newer than the version; they count as recent")
    table = recommender.recommend(
        histories,
        k=options.k,
        keep_seen=options.keep_seen,
        candidates=candidates,
        where=where,
        rules=rules,
        at=at,
        users=known,
    )
    write_lists(options, table, options.out, interactions.columns)
    say_chosen(table, options.k)
    popular = len(table.attrs["popular_for"])
    what = "popular ones" if known is None else "what is popular, or what users like them choose"
    note = f"; {popular} of them have no known item and get {what}" if popular else ""
    say(f"{len(table)} rows for {histories.num_users} users in {options.out}{note}")


def add_rules_verb(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `rules`."""
    sub.usage = "kerasrec rules check --model M --rules YAML [--histories F...] [options]"
    sub.add_argument("action", choices=["check"], help="what to do with the rules")
    add_model(sub)
    add_rules(sub, required=True)
    add_files(sub, "--histories", "what users did (default: a user without a history)")
    sub.add_argument(
        "--num-lists", type=int, default=3, metavar="N", help="of how many users (default 3)"
    )
    sub.add_argument("--k", type=int, default=10, help="list length (default 10)")
    add_where(sub)
    add_at(sub)
    add_reading(sub)


def rules_verb(options: argparse.Namespace) -> None:
    """Check the rules of a shop, and show what each of them did to some lists.

    Shows the lists of the users with most events, and what the rules took out of them. Rules that
    have no effect, as no item meets them or their time is over, come first.
    """
    check_k(options)
    at = moment(options.at, options.timezone)
    version = find_version(options.model)
    where, rules = read_condition(options.where, version), read_rules(options.rules, version)
    assert rules is not None  # --rules is required
    now = at if isinstance(at, int) else time.time()
    if remarks := rules.remarks(ItemColumns(read_catalogue_of(version)), now):
        say("\n".join(remarks), end="\n\n")
    interactions = read_events(options, options.histories) if options.histories else None
    load_tensorflow(options)
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model)
    histories: Any = {"": []}
    if interactions is not None:
        users = interactions.frame["user_id"].value_counts().index[: options.num_lists]
        histories = recommender.histories(interactions, users=list(map(str, users)))
        recommender.observe(interactions)
    asked = dict(k=options.k, at=at, where=where)
    before = recommender.recommend(histories, **asked)
    after = recommender.recommend(histories, rules=rules, **asked)
    after = after.assign(rules=after.attrs["rules"], title=recommender.titles(after["item_id"]))
    for user, table in after.groupby("user_id", sort=False):
        say(f"user {user}" if user else "a user without a history")
        columns = ("rank", "item_id", "title", "rules")
        print_rows(columns, table[list(columns)].astype(str).to_numpy().tolist())
        own = before[before["user_id"] == user]
        gone = own["item_id"][~own["item_id"].isin(table["item_id"])]
        say(f"out of the list by the rules: {', '.join(gone) or 'none'}", end="\n\n")


def add_similar(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `similar`."""
    sub.usage = "kerasrec similar --model M --item ID | --text TEXT  [options]"
    add_model(sub)
    query = sub.add_mutually_exclusive_group(required=True)
    query.add_argument("--item", metavar="ID", help="an item id")
    query.add_argument("--text", help="a text that the model may never have seen")
    sub.add_argument("--k", type=int, default=10, help="list length (default 10)")
    add_where(sub)


def similar_verb(options: argparse.Namespace) -> None:
    """Items nearest to an item or to a text that the model may never have seen."""
    check_k(options)
    where = read_condition(options.where, find_version(options.model))
    load_tensorflow(options)
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model)
    if options.item is not None and not recommender.index_of([options.item]).all():
        ids = recommender.items.ids
        close = difflib.get_close_matches(options.item, ids, n=3, cutoff=0.0)
        raise UserError(
            f"expected an item of the model's catalogue ({len(ids)}). Received: --item "
            f"{options.item!r}, which is unknown. Nearest ids: {', '.join(map(repr, close))}. For "
            'what is in no catalogue take --text "...".'
        )
    table = recommender.similar(options.item, text=options.text, k=options.k, where=where)
    titles = recommender.titles(table["item_id"])
    rows = zip(table["rank"], table["item_id"], titles, table["score"], strict=True)
    print_rows(
        ("rank", "item", "title", "cosine"), [(str(r), i, t, f"{s:.3f}") for r, i, t, s in rows]
    )


def add_export(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `export`."""
    sub.usage = "kerasrec export --model M [--set k=100] [--deploy FOLDER]"
    add_model(sub)
    sub.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="O=V",
        help="k=100 (list length of the signatures), scorer_weight=0.5 (of the MLP in the score), "
        "item_matrix=float16 or int8 (item vectors in less memory, rounded)",
    )
    sub.add_argument(
        "--deploy",
        metavar="FOLDER",
        help="write what TF Serving needs: configs with version labels, docker compose, examples "
        "in curl and Python; without --set no new version is written",
    )
    sub.add_argument(
        "--host-name",
        metavar="HOST",
        help="under which clients reach the server (default localhost: this machine only)",
    )
    sub.add_argument("--force", action="store_true", help="replace files of FOLDER that differ")


def export_verb(options: argparse.Namespace) -> None:
    """A new version with other export options (--set), files for TF Serving (--deploy), or both."""
    if not (options.set or options.deploy):
        raise UserError("expected --set O=V (a new version), --deploy FOLDER, or both.")
    if not options.deploy and (options.host_name or options.force):
        raise UserError("--host-name and --force go with --deploy FOLDER.")
    values = export_options(options.set)
    find_version(options.model)
    load_tensorflow(options)
    if options.deploy:
        from kerasrec.versions.deployment import check_folder, deploy

        check_folder(options.deploy)  # before a new version is written
    if options.set:
        from kerasrec.versions.derive import export_again

        say(f"exported {export_again(options.model, **values)}")
    if options.deploy:
        host_name = options.host_name or "localhost"
        files = deploy(options.model, options.deploy, host_name=host_name, force=options.force)
        say(f"wrote {len(files)} files for TF Serving; begin with {files[-1]}")
