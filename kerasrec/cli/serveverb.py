"""The verb serve."""

import logging
import os
import sys
from pathlib import Path

from kerasrec import backend
from kerasrec.cli.userinput import UserError, load_tensorflow


def serve(options):
    """Serve models over REST and gRPC as TF Serving does, and swap in new versions.

    Looks for new versions and labels as it runs. The log is one JSON object per line, on stderr.
    SIGTERM or Ctrl-C stops it when the requests in work have their answers.
    """
    from kerasrec.feedback.userlists import Rules
    from kerasrec.serving import server as serving
    from kerasrec.serving.limits import Limits

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
    load_tensorflow(options)
    backend.share_cores(limits.check().workers)
    if options.log_requests:
        logging.getLogger("kerasrec.serving.predictor").setLevel(logging.DEBUG)
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
    from kerasrec.serving.server import examples

    for name, model in server.models.items():
        print(f"model {name}: versions {', '.join(map(str, model.numbers))}")
    print(f"REST {server.rest_address}")
    print(f"gRPC {server.grpc_address}")
    print("\n".join(examples(server)), flush=True)
