"""The verbs around one model, from data to lists, and the ones that show what is there."""

import difflib
import sys
from pathlib import Path

from kerasrec.cli.printing import flat, make_console, print_rows
from kerasrec.cli.userinput import (
    UserError,
    check_k,
    clean_for_training,
    export_options,
    known_only,
    load_tensorflow,
    moment,
    read_catalogue,
    read_events,
    read_lines,
    read_users,
    training_options,
)
from kerasrec.versions.folders import find_version, read_manifest

# --- the verbs ---


def demo(options):
    """The main job on the course data that ships with kerasrec.

    Reads, cleans, encodes the titles with a language model, trains, compares with baselines,
    exports a model, recommends. Takes a few minutes.
    """
    load_tensorflow(options)
    from kerasrec.cli.demo import demo

    demo(Path(options.out), preset=options.preset, console=make_console())


def doctor(options):
    """Versions, imports, encoder: what is wrong and how to mend it."""
    from kerasrec.cli.doctor import examine

    findings = examine()
    rows = [(f.what, f.found, "ok" if not f.mend else f.mend) for f in findings]
    print_rows(("what", "found", "mend"), rows)
    wrong = sum(bool(f.mend) for f in findings)
    if wrong:
        raise UserError(f"{wrong} {'thing' if wrong == 1 else 'things'} to mend, see the table.")


def inspect(options):
    """Statistics of a data set (--interactions), or what a model says of itself (--model)."""
    if (options.interactions is None) == (options.model is None):
        raise UserError("expected --interactions F... or --model M, one of them.")
    if options.model:
        manifest = read_manifest(find_version(options.model)).as_dict()
        print_rows(("key", "value"), [(key, str(value)) for key, value in flat(manifest)])
        return
    from kerasrec.data.statistics import describe, format_value

    interactions = read_events(options, options.interactions)
    items = read_catalogue(options) if options.items else None
    table = describe(interactions, items)
    rows = [(part, what, format_value(value)) for part, what, value in table.to_numpy()]
    print(interactions.report, end="\n\n")
    print_rows(tuple(table.columns), rows)


def train(options):
    """Encode the texts, train, choose the fusion on validation, export a model.

    Events are taken as they are and the catalogue is all of --items. The sections of --config and
    --set are encoder, model, trainer, fusion and generator; a wrong option is answered with the
    right ones.
    """
    load_tensorflow(options)
    settings = training_options(options)
    if settings.get("generator") and not options.generator:
        print("The options of the section generator count with --generator only.")
    items = read_catalogue(options)
    interactions = read_events(options, options.interactions)
    interactions = clean_for_training(options, interactions, items)
    valid = None
    if options.valid:
        valid = read_events(options, options.valid)
        if options.unknown_items == "skip":
            valid = known_only(valid, items, "--valid")
    from kerasrec.training.pipeline import train

    trained = train(
        interactions,
        items,
        name=options.name,
        valid=valid,
        out=options.out,
        preset=options.preset,
        options=settings,
        refit=options.refit,
        generator=options.generator,
        progress=sys.stderr.isatty() and not options.quiet,
    )
    if not options.quiet:
        shown = trained.history.round(4).astype(str)
        print_rows(tuple(shown.columns), shown.to_numpy().tolist())
    quality = trained.metrics
    print(
        f"validation NDCG@10 {quality['valid_ndcg@10']:.4f}, "
        f"recall@10 {quality['valid_recall@10']:.4f}; exported {trained.version}"
    )


def evaluate(options):
    """Score a model and the baselines on a test set; the whole catalogue is ranked."""
    check_k(options)
    at = moment(options.at)
    find_version(options.model)
    test = read_events(options, options.test)
    past = read_events(options, options.histories)
    fitted = read_events(options, options.train) if options.train else None
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
    texts = items.texts(recommender.about.template)
    baselines = run_baselines(
        make_histories(fitted, items), wanted, items, k=options.k, texts=texts
    )
    name = recommender.about.name
    name = f"{name} (model)" if name in baselines else name
    recommender.observe(histories)
    lists = {name: recommender.recommend(wanted, k=options.k, at=at), **baselines}
    ks = sorted({k for k in (5, 10, 20) if k <= options.k} | {options.k})
    result = evaluate(lists, test, histories=histories, train=past, items=items, ks=ks)
    console = make_console()
    console.print(result.to_rich(console.width))
    if options.report:
        history = recommender.training_history()
        extra = dict(items=items, histories=wanted, training_history=history)
        write_report(result, options.report, manifest=recommender.manifest, **extra)
        print(f"report: {Path(options.report) / 'report.html'}")


def recommend(options):
    """Write a list of recommendations for every user of the histories."""
    from kerasrec.data.interactions import check_output, write_table

    check_k(options)
    at = moment(options.at)
    check_output(options.out)
    find_version(options.model)
    candidates = read_lines(options.candidates, options.encoding)
    interactions = read_events(options, options.histories)
    users = read_users(options, interactions) if options.users else None
    load_tensorflow(options)
    from kerasrec.recommender.recommender import Recommender

    recommender = Recommender.load(options.model)
    histories = recommender.histories(interactions, users=users)
    newer = recommender.observe(interactions)
    if newer:
        print(f"{newer:,} events are newer than the version; they count as recent")
    table = recommender.recommend(
        histories, k=options.k, keep_seen=options.keep_seen, candidates=candidates, at=at
    )
    write_table(table, options.out, interactions.columns)
    popular = len(table.attrs["popular_for"])
    note = f"; {popular} of them have no known item and get popular ones" if popular else ""
    print(f"{len(table)} rows for {histories.num_users} users in {options.out}{note}")


def similar(options):
    """Items nearest to an item or to a text that the model may never have seen."""
    check_k(options)
    find_version(options.model)
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
    table = recommender.similar(options.item, text=options.text, k=options.k)
    titles = recommender.titles(table["item_id"])
    rows = zip(table["rank"], table["item_id"], titles, table["score"], strict=True)
    print_rows(
        ("rank", "item", "title", "cosine"), [(str(r), i, t, f"{s:.3f}") for r, i, t, s in rows]
    )


def export(options):
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

        print(f"exported {export_again(options.model, **values)}")
    if options.deploy:
        host_name = options.host_name or "localhost"
        files = deploy(options.model, options.deploy, host_name=host_name, force=options.force)
        print(f"wrote {len(files)} files for TF Serving; begin with {files[-1]}")
