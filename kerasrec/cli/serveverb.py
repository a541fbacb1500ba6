"""`kerasrec serve`: its options, the server, and what it prints when it answers."""

import argparse
import json
import logging
import os
import re
import shlex
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasrec import backend
from kerasrec.cli.parser import add_clock, add_rules
from kerasrec.cli.printing import say
from kerasrec.cli.userinput import UserError, load_tensorflow, period
from kerasrec.versions.folders import read_catalogue

if TYPE_CHECKING:
    from kerasrec.serving.admission import Access, Limits
    from kerasrec.serving.server import FeedbackOptions, Server

_CHINESE = re.compile("[\u4e00-\u9fff]{2}")


def add_serve(sub: argparse.ArgumentParser) -> None:
    """Adds the options of `serve`."""
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
    group.add_argument(
        "--host-name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names that clients use for this server: on loopback others than localhost are "
        "refused; elsewhere any is taken unless some are given",
    )
    group.add_argument(
        "--allow-origin",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="pages of these origins, such as https://shop.example, may use the server from a "
        "browser (default: none may)",
    )
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
    add_rules(group)
    add_clock(group, shown="dates and times of events that name no zone", late="refused")
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
        "--max-events",
        type=int,
        default=20_000,
        metavar="N",
        help="of a request to the feedback store (default 20000)",
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


def serve_verb(options: argparse.Namespace) -> None:
    """Serve models over REST and gRPC as TF Serving does, and swap in new versions.

    Looks for new versions and labels as it runs. The log is one JSON object per line, on stderr.
    SIGTERM or Ctrl-C stops it when the requests in work have their answers.
    """
    from kerasrec.serving.server import ServerOptions, check_packages, serve_until_signal

    check_packages()
    access, limits, feedback = _access(options), _limits(options), _feedback(options)
    load_tensorflow(options)
    backend.share_cores(limits.workers)
    if options.log_requests:
        logging.getLogger("kerasrec.serving.predictor").setLevel(logging.DEBUG)
    chosen = ServerOptions(
        options.rest_port,
        options.grpc_port,
        access,
        limits,
        policy=options.versions,
        poll=options.poll,
        feedback=feedback,
    )
    is_over = serve_until_signal(options.model, chosen, _print_server)
    # the interpreter would wait until a version is loaded that nobody asks any more
    if not is_over:
        sys.stdout.flush()
        os._exit(0)


def _access(options: argparse.Namespace) -> "Access":
    from kerasrec.serving.admission import Access

    key = backend.api_key()
    if options.api_key_file:
        key = Path(options.api_key_file).read_text(encoding="utf-8").strip()
        if not key:
            raise UserError(f"--api-key-file {options.api_key_file} is empty; write a key into it.")
    return Access(
        options.host,
        key,
        options.tls_cert,
        options.tls_key,
        tuple(options.host_name),
        tuple(options.allow_origin),
    )


def _limits(options: argparse.Namespace) -> "Limits":
    from kerasrec.serving.admission import Limits

    if not 0 < options.max_body_mib < 2048:
        raise UserError(
            f"--max-body-mib must be above 0 and below 2048. Received: {options.max_body_mib}."
        )
    return Limits(
        body_bytes=int(options.max_body_mib * (1 << 20)),
        batch=options.max_batch,
        history=options.max_history,
        texts=options.max_texts,
        events=options.max_events,
        seconds=options.deadline,
        concurrent=options.max_concurrent,
        workers=options.workers,
    ).check()


def _feedback(options: argparse.Namespace) -> "FeedbackOptions | None":
    from kerasrec.feedback.userlists import Rules
    from kerasrec.serving.server import FeedbackOptions

    rules = Rules(options.keep_purchased, options.keep_seen, options.user_events).check()
    store = options.store or backend.store_url("")
    if not store:
        if options.rules:
            raise UserError("--rules are for the lists of GET /v1/recommend: give --store too.")
        return None
    max_ahead = period(options.max_ahead, "--max-ahead", least=0)
    observe, zone = options.observe, options.timezone
    return FeedbackOptions(store, rules, observe, zone, max_ahead, options.rules)


def _print_server(server: "Server") -> None:
    for name, model in server.models.items():
        say(f"model {name}: versions {', '.join(map(str, model.numbers))}")
    say(f"REST {server.rest_address}")
    say(f"gRPC {server.grpc_address}")
    say("\n".join(examples(server)), flush=True)


def examples(server: "Server") -> list[str]:
    """Writes curl lines that the first model answers, with an item and a title of its catalogue."""
    access = server.options.access
    name, model = next(iter(server.models.items()))
    with model.use() as version:
        catalogue = read_catalogue(version.path)
        has_texts = "recommend_by_text" in version.signatures
    item = str(catalogue["item_id"].iloc[0])
    requests: list[dict[str, Any]] = [{"instances": [{"history": [item]}]}]
    titles = [title for title in catalogue["title"] if _CHINESE.search(title)]
    if has_texts:
        text = (titles or list(catalogue["title"]))[0]
        rows = [{"history_texts": [text]}]
        requests.append({"signature_name": "recommend_by_text", "instances": rows})
    url = f"{server.rest_address}/v1/models/{urllib.parse.quote(name)}:predict"
    options = ' -H "x-api-key: $KERASREC_API_KEY"' if access.api_key else ""
    if access.tls_cert:
        options += f" --cacert {shlex.quote(str(access.tls_cert))}"
    lines = [
        f"curl{options} {url} -d {shlex.quote(json.dumps(request, ensure_ascii=False))}"
        for request in requests
    ]
    if server.feedback is not None:
        click = shlex.quote(json.dumps({"user_id": "u1", "item_id": item}, ensure_ascii=False))
        lines.append(f"curl{options} {server.rest_address}/v1/feedback -d {click}")
        asked = f"user=u1&model={urllib.parse.quote(name)}"
        lines.append(f"curl{options} '{server.rest_address}/v1/recommend?{asked}'")
    return lines
