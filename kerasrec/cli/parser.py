"""The options of every verb of the command line, and how a mistake in them is answered."""

import argparse

from kerasrec.checks import did_you_mean
from kerasrec.cli.userinput import UserError

SHAPE = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one sentence."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=SHAPE, **kwargs)

    def error(self, message):
        """Raise `UserError` where argparse would print its usage and leave."""
        raise UserError(f"{message[:1].lower()}{message[1:]}. See {self.prog} --help.")

    def check_names(self, words):
        """Raise `UserError` for an option that does not exist, naming the nearest one."""
        parts = next((a.choices for a in self._actions if isinstance(a.choices, dict)), {})
        if words and words[0] in parts:
            return parts[words[0]].check_names(words[1:])
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("--") and name != "--" and name not in known:
                raise UserError(f"unknown option {name}. {did_you_mean(name, known)}")


def add_files(group, name, text, *aliases, **options):
    """An option that takes one file or more, and may be repeated."""
    group.add_argument(
        name, *aliases, nargs="+", action="extend", metavar="F", help=text, **options
    )


def add_reading(sub, *, items=False):
    """Options of how tables are read."""
    group = sub.add_argument_group("reading tables")
    pairs = dict(nargs="+", action="extend", metavar="ROLE=COLUMN")
    group.add_argument(
        "--columns",
        help="name the columns of the interactions where they are not recognised: user_id=buyer "
        "item_id=sku timestamp=time event=action value=stars; event= leaves the events unread",
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
    group.add_argument("--encoding", default="utf-8", help="of text files (default utf-8)")
    group.add_argument(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="rows without an id or with a bad time: stop, or leave out and count (default error)",
    )


def _model(sub):
    sub.add_argument(
        "--model", required=True, metavar="M", help="saved_models/NAME or saved_models/NAME/VERSION"
    )


def _at(sub):
    sub.add_argument(
        "--at",
        metavar="TIME",
        help="when the lists are asked for: now (the end of the log) or a time such as "
        "2026-11-24T08:00; default: as the version was validated",
    )


def add_out_and_preset(sub, *, out=True):
    """Where models go, and the choice that most users need."""
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


def add_demo(sub):
    """Options of `demo`."""
    add_out_and_preset(sub)


def add_doctor(sub):
    """`doctor` has none."""


def add_inspect(sub):
    """Options of `inspect`."""
    sub.usage = "kerasrec inspect --interactions F... [--items F] | --model M  [options]"
    add_files(sub, "--interactions", "what users did", "--data")
    sub.add_argument("--items", metavar="F", help="the catalogue")
    sub.add_argument("--model", metavar="M", help="a model instead of data")
    add_reading(sub, items=True)


def add_train(sub):
    """Options of `train`."""
    sub.usage = "kerasrec train --interactions F... --items F --name NAME [options]"
    add_files(sub, "--interactions", "what users did", required=True)
    sub.add_argument("--items", required=True, metavar="F", help="the catalogue with its texts")
    sub.add_argument("--name", required=True, help="of the model: OUT/NAME/1, OUT/NAME/2, ...")
    add_files(sub, "--valid", "events to stop and tune on (default: the last one of each user)")
    add_out_and_preset(sub)
    sub.add_argument(
        "--refit",
        action="store_true",
        help="at the end fit anew on all events, those to validate on too (about twice the time)",
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
        "folder of a BERT of yours, vectors:FILE, tfidf (lexical only) or none",
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
        default="error",
        help="events of items that --items lacks: stop, or leave out and count (default error)",
    )
    add_reading(sub, items=True)


def add_evaluate(sub):
    """Options of `evaluate`."""
    sub.usage = "kerasrec evaluate --model M --test F... --histories F... [options]"
    _model(sub)
    add_files(sub, "--test", "what users did next", required=True)
    add_files(sub, "--histories", "what is known when they ask", required=True)
    add_files(sub, "--train", "what the baselines learn from (default: --histories)")
    sub.add_argument("--k", type=int, default=20, help="list length (default 20)")
    _at(sub)
    sub.add_argument("--report", metavar="DIR", help="write report.html, metrics.json and tables")
    add_reading(sub)


def add_recommend(sub):
    """Options of `recommend`."""
    sub.usage = "kerasrec recommend --model M --histories F... --out F [options]"
    _model(sub)
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
    _at(sub)
    sub.add_argument("--out", required=True, metavar="F", help="csv, csv.gz or parquet to write")
    add_reading(sub)


def add_generate(sub):
    """Options of `generate`."""
    sub.usage = "kerasrec generate --model M --histories F... --out F [options]"
    _model(sub)
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
    _at(sub)
    group = sub.add_argument_group("a short text on each plan")
    group.add_argument(
        "--describe",
        metavar="template|URL",
        help="by a template, or by a language model behind an OpenAI-compatible address such as "
        "http://localhost:8000/v1 (its key: $KERASREC_LLM_KEY); where that fails, by the template",
    )
    group.add_argument("--llm", metavar="NAME", help="of the language model, with a URL")
    group.add_argument("--texts", metavar="F", help="csv or parquet to write the texts to")
    sub.add_argument("--out", required=True, metavar="F", help="csv, csv.gz or parquet to write")
    add_reading(sub)


def add_similar(sub):
    """Options of `similar`."""
    sub.usage = "kerasrec similar --model M --item ID | --text TEXT  [options]"
    _model(sub)
    query = sub.add_mutually_exclusive_group(required=True)
    query.add_argument("--item", metavar="ID", help="an item id")
    query.add_argument("--text", help="a text that the model may never have seen")
    sub.add_argument("--k", type=int, default=10, help="list length (default 10)")


def add_export(sub):
    """Options of `export`."""
    sub.usage = "kerasrec export --model M [--set k=100] [--deploy FOLDER]"
    _model(sub)
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


def add_serve(sub):
    """Options of `serve`."""
    sub.usage = "kerasrec serve --model saved_models/NAME [--model ...] [options]"
    sub.add_argument(
        "--model",
        required=True,
        nargs="+",
        action="extend",
        metavar="M",
        help="saved_models/NAME, one or several",
    )
    sub.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine only)",
    )
    port = "port of the {} API (default {}; 0 = a free one)"
    sub.add_argument("--rest-port", type=int, default=8501, help=port.format("REST", 8501))
    sub.add_argument("--grpc-port", type=int, default=8500, help=port.format("gRPC", 8500))
    sub.add_argument(
        "--versions",
        choices=["labelled", "all"],
        default="labelled",
        help="which to load: the newest and those of labels.json (default), or all",
    )
    sub.add_argument(
        "--poll",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks for new versions and labels (default 2)",
    )
    group = sub.add_argument_group("access")
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="holds the key that requests must give as x-api-key or as a bearer token; "
        "KERASREC_API_KEY in the environment does the same",
    )
    group.add_argument("--tls-cert", metavar="PEM", help="certificate, for both protocols")
    group.add_argument("--tls-key", metavar="PEM", help="its private key")
    group = sub.add_argument_group("feedback")
    group.add_argument(
        "--store",
        metavar="S",
        help="path of a SQLite file or postgresql+psycopg://user:password@host/database (default: "
        "KERASREC_STORE in the environment, else none): adds POST /v1/feedback and "
        "GET /v1/recommend?user=U",
    )
    group.add_argument(
        "--keep-purchased",
        action="store_true",
        help="what a user has purchased may be listed again, such as what is used up",
    )
    group.add_argument(
        "--keep-seen",
        action="store_true",
        help="what a user has clicked or viewed may be listed again",
    )
    group.add_argument(
        "--user-events",
        type=int,
        default=200,
        metavar="N",
        help="newest events of a user that make the history (default 200)",
    )
    group.add_argument(
        "--observe",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two looks at what is recent and what follows what in the whole store "
        "(default 60; 0 = never)",
    )
    group = sub.add_argument_group("limits")
    group.add_argument(
        "--max-body-mib", type=float, default=8.0, metavar="N", help="of a request (default 8)"
    )
    group.add_argument(
        "--max-batch", type=int, default=1024, metavar="N", help="rows of a request (default 1024)"
    )
    group.add_argument(
        "--max-history", type=int, default=1000, metavar="N", help="events of a row (default 1000)"
    )
    group.add_argument(
        "--max-texts", type=int, default=1024, metavar="N", help="of a request (default 1024)"
    )
    group.add_argument(
        "--max-concurrent",
        type=int,
        default=64,
        metavar="N",
        help="requests in work; one more is refused at once: 429, RESOURCE_EXHAUSTED (default 64)",
    )
    group.add_argument(
        "--deadline", type=float, default=30.0, metavar="SECONDS", help="of a request (default 30)"
    )
    group.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="calls into the model at once, which share the cores (default 2)",
    )
    sub.add_argument("--log-requests", action="store_true", help="a line for each request")
