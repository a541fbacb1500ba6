"""Versions behind REST and gRPC, as TensorFlow Serving speaks them.

`server` starts everything below and stops it again. A request runs in one thread of a pool, from
its bytes to its answer: `restapi` or `grpcapi` reads it, `Predictor` finds the version and waits
for a turn in TensorFlow. What the threads share is replaced as a whole or guarded by a lock.

| thread | owns | may block on |
| --- | --- | --- |
| the caller of `serve` | start and stop | the first versions, then SIGTERM or SIGINT |
| `kerasrec-load` | the version that it loads | disk and TensorFlow, for minutes |
| `kerasrec-poll` | the loaded versions, labels and states | disk, `kerasrec-load` |
| `kerasrec-observe` | what is recent and what follows what | the store; for 2 s all workers |
| `kerasrec-rest` | connections and unread bodies | nothing: one event loop for all |
| `kerasrec-rest_N` | one REST request | a worker of TensorFlow, to the deadline |
| `kerasrec-grpc_N` | one gRPC call | a worker of TensorFlow, to the deadline |
| `kerasrec-feedback_N` | one request to the store | the store, then a worker |
| `kerasrec-feedback` | the connection that writes | disk, locks of the database |
| its checkpoint thread | the merge of SQLite's log | disk, locks of the database |
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.serving.admission import Access as Access
    from kerasrec.serving.admission import Limits as Limits
    from kerasrec.serving.server import Client as Client
    from kerasrec.serving.server import FeedbackOptions as FeedbackOptions
    from kerasrec.serving.server import Loop as Loop
    from kerasrec.serving.server import Server as Server
    from kerasrec.serving.server import ServerOptions as ServerOptions
    from kerasrec.serving.server import running_server as running_server
    from kerasrec.serving.server import serve as serve
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "admission": ["Access", "Limits"],
            "server": [
                "Client",
                "FeedbackOptions",
                "Loop",
                "Server",
                "ServerOptions",
                "running_server",
                "serve",
            ],
        },
    )
