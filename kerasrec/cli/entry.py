"""The command line: each verb is a function of the library under the same name."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from kerasrec.checks import ArtifactError, did_you_mean
from kerasrec.cli import (
    demo,
    doctor,
    feedbackverbs,
    largeverbs,
    loopverbs,
    modelverbs,
    planverbs,
    serveverb,
)
from kerasrec.cli.parser import Parser
from kerasrec.cli.printing import VisibleFormatter, any_encoding, say
from kerasrec.cli.userinput import ManyErrors, UserError, sentence_of

_DESCRIPTION = """LLM-enhanced sequential recommendation over Chinese item text.

first steps:
  kerasrec demo                                        the whole chain on packaged real data
  kerasrec inspect --interactions log.csv --items items.csv
  kerasrec train --interactions log.csv --items items.csv --name shop
  kerasrec recommend --model saved_models/shop --histories log.csv --k 20 --out recs.csv

F is a file with a header (csv, tsv or jsonl, also with .gz or .zst; parquet, xlsx), a folder or a
quoted pattern of such files, or a query: "sqlite:///shop.db?query=SELECT ...". The usual column
names (user, uid, item, iid, ts, ...) are recognised. M is saved_models/NAME (its stable label,
else its largest version) or saved_models/NAME/VERSION."""
#: errors that are a user's to mend: they become one sentence
_EXPECTED = (
    UserError,
    ArtifactError,
    ValueError,
    TypeError,
    OSError,
    FloatingPointError,
    OverflowError,
    ImportError,
    MemoryError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: list of str; None = those of the process.

    Returns:
        Exit code: 0 = success, 1 = an update that was refused or a model that has gone stale, 2 =
        bad input (one sentence on stderr), 130 = interrupted.
    """
    with any_encoding():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(words):
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
        say(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `kerasrec inspect ... | head`: nobody reads on, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the one place where an error becomes a sentence
        if debug or not (isinstance(error, _EXPECTED) or _is_too_large(error)):
            raise
        say(f"{name}: {_sentence(error)}", file=sys.stderr)
        return 1 if isinstance(error, loopverbs.NotGoodEnough) else 2
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace | None:
    """Reads the options of one call; None when help was shown instead of them."""
    parser, verbs = build_parser()
    if not words:
        parser.print_help()
        return None
    if words[0] in verbs:
        verbs[words[0]].check_names(words[1:])
    elif not words[0].startswith("-"):
        raise UserError(f"unknown verb {words[0]!r}. {did_you_mean(words[0], list(verbs))}")
    return parser.parse_args(words)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Builds the parser of the command line, and the parsers of its verbs by name."""
    from kerasrec import __version__

    parser = Parser("kerasrec", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"kerasrec {__version__}")
    group = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    verbs: dict[str, Parser] = {}
    for verb, (add, function) in VERBS.items():
        summary, _, more = (function.__doc__ or "").partition("\n")
        text = "\n".join(line.removeprefix("    ") for line in more.splitlines()).strip()
        description = f"{summary}\n\n{text}" if text else summary
        verbs[verb] = sub = group.add_parser(verb, help=summary, description=description)
        add(sub)
        sub.add_argument("--verbose", action="store_true", help="say more")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, verbs


#: loggers whose lines say what a verb does: of the verbs that work long, and of `replay`
_STEPS = tuple(
    f"kerasrec.{name}"
    for name in ("training.stages", "training.catchup", "training.fitting", "versions.exporter")
)
_UPDATES = ("kerasrec.loop.replaying",)  # each takes long and is one line


@contextlib.contextmanager
def _logging(options: argparse.Namespace) -> Iterator[None]:
    """Shows the library's log on stderr while a verb runs; TensorFlow's only with --verbose.

    Long work says its steps; where no bar can be drawn it says its epochs too. Of all verbs it is
    shown that a step goes on, where it takes long.
    """
    verbose, is_quiet = options.verbose or options.debug, getattr(options, "quiet", False)
    is_long = options.verb in ("demo", "train", "simulate") and not is_quiet
    is_server = options.verb == "serve"
    says_all = verbose or is_server or (is_long and not sys.stderr.isatty())
    names = (_STEPS if is_long else ()) + (_UPDATES if options.verb == "replay" else ())

    def is_shown(record):
        if record.levelno >= logging.WARNING or says_all or record.name in names:
            return True
        return not is_quiet and getattr(record, "is_long", False)

    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter())
    handler.addFilter(is_shown)
    logger, root = logging.getLogger("kerasrec"), logging.getLogger()
    # at the root: absl gives a root without a handler one, and each line would come twice. A
    # server's log is JSON to the last line, also what uvicorn, asyncio and warnings say
    root.addHandler(handler)
    logging.captureWarnings(is_server)
    level = logger.level
    logger.setLevel(logging.INFO)
    if is_server:
        from kerasrec.serving.monitor import JsonFormatter

        handler.setFormatter(JsonFormatter())
    if not verbose:
        for name in ("absl", "tensorflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)
        logger.setLevel(level)


def _is_too_large(error: BaseException) -> bool:
    """Whether TensorFlow got no memory; its class is known by name, for it may not be loaded."""
    return type(error).__name__ == "ResourceExhaustedError"


def _sentence(error: BaseException) -> str:
    """The message of an error on one line; of several errors, a line for each."""
    if _is_too_large(error):
        what = getattr(error, "message", "").partition("}} ")[2].partition(" on /")[0]
        return f"there is not enough memory: {what}. Make the numbers of the options smaller."
    text = sentence_of(error)
    return text if isinstance(error, ManyErrors) else " ".join(text.split())


#: verb -> (adds its options, runs it); the help text is the docstring of the second
VERBS: dict[
    str,
    tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]],
] = {
    "demo": (demo.add_demo, demo.demo_verb),
    "doctor": (doctor.add_doctor, doctor.doctor_verb),
    "inspect": (modelverbs.add_inspect, modelverbs.inspect_verb),
    "condense": (largeverbs.add_condense, largeverbs.condense_verb),
    "train": (modelverbs.add_train, modelverbs.train_verb),
    "evaluate": (modelverbs.add_evaluate, modelverbs.evaluate_verb),
    "recommend": (modelverbs.add_recommend, modelverbs.recommend_verb),
    "generate": (planverbs.add_generate, planverbs.generate_verb),
    "similar": (modelverbs.add_similar, modelverbs.similar_verb),
    "rules": (modelverbs.add_rules_verb, modelverbs.rules_verb),
    "export": (modelverbs.add_export, modelverbs.export_verb),
    "serve": (serveverb.add_serve, serveverb.serve_verb),
    "feedback": (feedbackverbs.add_feedback, feedbackverbs.feedback_verb),
    "update": (loopverbs.add_update, loopverbs.update_verb),
    "rollback": (loopverbs.add_rollback, loopverbs.rollback_verb),
    "drift": (loopverbs.add_drift, loopverbs.drift_verb),
    "replay": (loopverbs.add_replay, loopverbs.replay_verb),
    "simulate": (loopverbs.add_simulate, loopverbs.simulate_verb),
}
if __name__ == "__main__":
    sys.exit(main())
