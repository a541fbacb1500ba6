"""The command line: each verb is a function of the library under the same name."""

import contextlib
import difflib
import logging
import os
import sys
from pathlib import Path

from kerasrec import arguments, backend, feedbackcli, loopcli, plancli
from kerasrec.arguments import Parser
from kerasrec.artifacts import ArtifactError, find_version, read_manifest
from kerasrec.nearest import nearest
from kerasrec.showing import flat, make_console, print_rows
from kerasrec.userinput import (
    UserError,
    clean_for_training,
    export_options,
    known_only,
    moment,
    read_catalogue,
    read_events,
    read_lines,
    read_users,
    training_options,
)

_DESCRIPTION = """LLM-enhanced sequential recommendation over Chinese item text.

first steps:
  kerasrec demo                                        the whole chain on packaged real data
  kerasrec inspect --interactions log.csv --items items.csv
  kerasrec train --interactions log.csv --items items.csv --name shop
  kerasrec recommend --model saved_models/shop --histories log.csv --k 20 --out recs.csv

F is a csv, csv.gz or parquet file with a header; the usual column names (user, uid, item, iid,
ts, ...) are recognised. M is saved_models/NAME (its stable label, else its largest version) or
saved_models/NAME/VERSION."""

#: errors that are a user's to mend: they become one sentence
_EXPECTED = (
    UserError,
    ArtifactError,
    ValueError,
    TypeError,
    OSError,
    FloatingPointError,
    ImportError,
    MemoryError,
)


def main(arguments=None):
    """Run one verb.

    Args:
        arguments: list of str; None = those of the process.

    Returns:
        Exit code: 0 = success, 1 = an update that was refused or a model that has gone stale, 2 =
        bad input (one sentence on stderr), 130 = interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug, name = "--debug" in words, "kerasrec"
    try:
        options = parse(words)
        if options is None:
            return 0
        name = f"kerasrec {options.verb}"
        with _logging(options):
            VERBS[options.verb][1](options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `kerasrec inspect ... | head`: nobody reads on, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the one place where an error becomes a sentence
        if debug or not isinstance(error, _EXPECTED):
            raise
        print(f"{name}: {_sentence(error)}", file=sys.stderr)
        return 1 if isinstance(error, loopcli.Refused) else 2
    return 0


def parse(words):
    """The options of one call; None when help was shown instead of them."""
    parser, verbs = build_parser()
    if not words:
        parser.print_help()
        return None
    if words[0] in verbs:
        verbs[words[0]].check_names(words[1:])
    elif not words[0].startswith("-"):
        raise UserError(f"unknown verb {words[0]!r}. {nearest(words[0], list(verbs))}")
    return parser.parse_args(words)


def build_parser():
    """The parser of the command line, and the parsers of its verbs by name."""
    from kerasrec import __version__

    parser = Parser("kerasrec", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"kerasrec {__version__}")
    group = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    verbs = {}
    for verb, (add, function) in VERBS.items():
        summary, _, more = function.__doc__.partition("\n")
        text = "\n".join(line.removeprefix("    ") for line in more.splitlines()).strip()
        description = f"{summary}\n\n{text}" if text else summary
        verbs[verb] = sub = group.add_parser(verb, help=summary, description=description)
        add(sub)
        sub.add_argument("--verbose", action="store_true", help="say more")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, verbs


@contextlib.contextmanager
def _logging(options):
    """The library's log on stderr while a verb runs; TensorFlow's only with --verbose.

    Long work says its steps; where no bar can be drawn it says its epochs too.
    """
    verbose = options.verbose or options.debug
    is_long = options.verb in ("demo", "train", "simulate") and not getattr(options, "quiet", False)
    logger, steps = logging.getLogger("kerasrec"), logging.getLogger("kerasrec.pipeline")
    handler = logging.StreamHandler(sys.stderr)
    # a server's log is JSON to the last line, also what uvicorn, asyncio and warnings say
    whose = logging.getLogger() if options.verb == "serve" else logger
    whose.addHandler(handler)
    logging.captureWarnings(whose is not logger)
    level, level_of_steps = logger.level, steps.level
    lines = verbose or (is_long and not sys.stderr.isatty())
    if options.verb == "serve":
        from kerasrec.servingmonitor import JsonFormatter

        handler.setFormatter(JsonFormatter())
        lines = True
    logger.setLevel(logging.INFO if lines else logging.WARNING)
    steps.setLevel(logging.INFO if is_long else logging.NOTSET)
    if not verbose:
        for name in ("absl", "tensorflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        whose.removeHandler(handler)
        logging.captureWarnings(False)
        logger.setLevel(level)
        steps.setLevel(level_of_steps)


def _sentence(error):
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}."
    return " ".join(str(error).split()) or type(error).__name__


def _load_tensorflow(options):
    backend.load(quiet=not (options.verbose or options.debug))


# --- the verbs ---


def demo(options):
    """The main job on the course data that ships with kerasrec.

    Reads, cleans, encodes the titles with a language model, trains, compares with baselines,
    exports a model, recommends. Takes a few minutes.
    """
    _load_tensorflow(options)
    from kerasrec.demo import demo

    demo(Path(options.out), preset=options.preset, console=make_console())


def doctor(options):
    """Versions, imports, encoder: what is wrong and how to mend it."""
    from kerasrec.doctor import examine

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
        manifest = read_manifest(find_version(options.model))
        print_rows(("key", "value"), [(key, str(value)) for key, value in flat(manifest)])
        return
    from kerasrec.datastats import describe, format_value

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
    _load_tensorflow(options)
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
    from kerasrec.pipeline import train

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
    _check_k(options)
    at = moment(options.at)
    find_version(options.model)
    test = read_events(options, options.test)
    past = read_events(options, options.histories)
    fitted = read_events(options, options.train) if options.train else None
    _load_tensorflow(options)
    from kerasrec.evaluation import evaluate, run_baselines
    from kerasrec.recommender import Recommender
    from kerasrec.report import write_report
    from kerasrec.sequences import make_histories

    recommender = Recommender.load(options.model)
    items = recommender.items
    past = known_only(past, items, "--histories")
    fitted = past if fitted is None else known_only(fitted, items, "--train")
    histories = make_histories(past, items)
    wanted = histories.of_users(test.frame["user_id"].astype(str).unique())
    texts = items.texts(recommender.manifest.get("text_template", "{title}"))
    baselines = run_baselines(
        make_histories(fitted, items), wanted, items, k=options.k, texts=texts
    )
    name = recommender.manifest["name"]
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
    from kerasrec.data import check_output, write_table

    _check_k(options)
    at = moment(options.at)
    check_output(options.out)
    find_version(options.model)
    candidates = read_lines(options.candidates, options.encoding)
    interactions = read_events(options, options.histories)
    users = read_users(options, interactions) if options.users else None
    _load_tensorflow(options)
    from kerasrec.recommender import Recommender

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
    _check_k(options)
    find_version(options.model)
    _load_tensorflow(options)
    from kerasrec.recommender import Recommender

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
    _load_tensorflow(options)
    if options.deploy:
        from kerasrec.deployment import check_folder, deploy

        check_folder(options.deploy)  # before a new version is written
    if options.set:
        from kerasrec.derive import export_again

        print(f"exported {export_again(options.model, **values)}")
    if options.deploy:
        host_name = options.host_name or "localhost"
        files = deploy(options.model, options.deploy, host_name=host_name, force=options.force)
        print(f"wrote {len(files)} files for TF Serving; begin with {files[-1]}")


def serve(options):
    """Serve models over REST and gRPC as TF Serving does, and swap in new versions.

    Looks for new versions and labels as it runs. The log is one JSON object per line, on stderr.
    SIGTERM or Ctrl-C stops it when the requests in work have their answers.
    """
    from kerasrec import serving
    from kerasrec.livelists import Rules
    from kerasrec.servinglimits import Limits

    serving.check_packages()
    key = backend.api_key()
    if options.api_key_file:
        key = Path(options.api_key_file).read_text(encoding="utf-8").strip()
        if not key:
            raise UserError(f"--api-key-file {options.api_key_file} is empty; write a key into it.")
    if not 0 < options.max_body_mib < 2048:
        raise UserError(
            f"--max-body-mib must be above 0 and below 2048. Received: {options.max_body_mib}."
        )
    limits = Limits(
        body_bytes=int(options.max_body_mib * (1 << 20)),
        batch=options.max_batch,
        history=options.max_history,
        texts=options.max_texts,
        seconds=options.deadline,
        concurrent=options.max_concurrent,
        workers=options.workers,
    )
    store = options.store or backend.store_url("")
    rules = Rules(options.keep_purchased, options.keep_seen, options.user_events).check()
    _load_tensorflow(options)
    backend.share_cores(limits.check().workers)
    if options.log_requests:
        logging.getLogger("kerasrec.predictcalls").setLevel(logging.DEBUG)
    is_over = serving.serve(
        options.model,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        access=serving.Access(options.host, key, options.tls_cert, options.tls_key),
        limits=limits,
        policy=options.versions,
        poll=options.poll,
        loop=serving.Loop(store, rules, options.observe) if store else None,
        ready=_print_server,
    )
    # the interpreter would wait until a version is loaded that nobody asks any more
    if not is_over:
        sys.stdout.flush()
        os._exit(0)


def _print_server(server):
    from kerasrec.serving import examples

    for name, model in server.models.items():
        print(f"model {name}: versions {', '.join(map(str, model.numbers))}")
    print(f"REST {server.rest_address}")
    print(f"gRPC {server.grpc_address}")
    print("\n".join(examples(server)), flush=True)


def _check_k(options):
    if options.k < 1:
        raise UserError(f"--k must be at least 1. Received: {options.k}.")


#: verb -> (adds its options, runs it); the help text is the function's docstring
VERBS = {
    "demo": (arguments.add_demo, demo),
    "doctor": (arguments.add_doctor, doctor),
    "inspect": (arguments.add_inspect, inspect),
    "train": (arguments.add_train, train),
    "evaluate": (arguments.add_evaluate, evaluate),
    "recommend": (arguments.add_recommend, recommend),
    "generate": (arguments.add_generate, plancli.generate),
    "similar": (arguments.add_similar, similar),
    "export": (arguments.add_export, export),
    "serve": (arguments.add_serve, serve),
    "feedback": (feedbackcli.add_feedback, feedbackcli.feedback),
    "update": (loopcli.add_update, loopcli.update),
    "rollback": (loopcli.add_rollback, loopcli.rollback),
    "drift": (loopcli.add_drift, loopcli.drift),
    "simulate": (loopcli.add_simulate, loopcli.simulate),
}

if __name__ == "__main__":
    sys.exit(main())
