"""A server of OpenAI's protocol that makes vectors of texts, on a real socket."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np


def vector_of(text, dim=12):
    """A vector of a text: how often characters come, by their code."""
    return np.bincount([ord(one) % dim for one in text] or [0], minlength=dim).astype(float)


@contextlib.contextmanager
def embeddings_server():
    """Its `url`, the requests that `came` `(path, headers, body)`, and its next `answers`.

    An answer is None (as the protocol says) or `(status, headers, text)`; where none is left it is
    None. The vectors come in another order than the texts: their index says whose they are.
    """
    stub = SimpleNamespace(answers=[], came=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.came.append((self.path, headers, body))
            answer = stub.answers.pop(0) if stub.answers else None
            if answer is None:
                texts = body["input"]
                data = [
                    {"object": "embedding", "index": at, "embedding": vector_of(text).tolist()}
                    for at, text in reversed(list(enumerate(texts)))
                ]
                answer = 200, {}, json.dumps({"object": "list", "data": data})
            status, more, text = answer
            content = text.encode()
            self.send_response(status)
            for name, value in {**more, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
