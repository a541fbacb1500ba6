"""Asks an endpoint that speaks OpenAI's protocol: `/chat/completions` and `/embeddings`.

Retries and deadlines are those of `transport`. The key goes into the header only: no error
repeats it, whatever the server says. It uses urllib, not httpx, so that plans can be described
where the extra "serving" is not installed.
"""

import http.client
import json
import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

from kerasrec.client.statuscodes import code_of
from kerasrec.client.transport import Refused, key_header, with_retries, within

_WORDS = 200  # characters of a server's words about an error
_SECRET = 8  # characters from which a key is secret; "EMPTY" and "ollama" are words like others
#: status of an HTTP answer -> what to do
_ADVICE = {
    401: "; check {key}",
    403: "; check {key}",
    404: "; check url and model",
}


class Endpoint:
    """Where questions go; a kind of question says its `path` and how large an answer may be.

    Args:
        url: where the protocol begins, such as `http://localhost:8000/v1`. A user and password in
            it are sent as basic authorization.
        api_key: sent as `Authorization: Bearer ...`.
        timeout: seconds for an answer, with its retries.
        retries: how often a request may be sent again when the server is busy or not there.

    Raises:
        ValueError: an argument is not of this kind.

    >>> ChatEndpoint("http://me:word@localhost:8000/v1").address
    'http://localhost:8000/v1/chat/completions'
    """

    path: ClassVar[str]
    most_bytes: ClassVar[int] = 1 << 20
    key_name: ClassVar[str] = "api_key"

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 20.0, retries: int = 1
    ) -> None:
        if timeout <= 0 or retries < 0:
            raise ValueError(
                "timeout must be above 0, retries at least 0. Received: "
                f"timeout={timeout!r}, retries={retries!r}."
            )
        parts = _parts_of(url)
        path = parts.path.rstrip("/").removesuffix(self.path)
        host = parts.netloc.rpartition("@")[2]
        #: may be shown: it has no user, password or query
        self.address = f"{parts.scheme}://{host}{path}{self.path}"
        self._url = self.address + (f"?{parts.query}" if parts.query else "")
        self._timeout, self._retries = timeout, retries
        self._headers = {"content-type": "application/json", **key_header(api_key)}
        self._secrets = [api_key] if api_key else []
        if parts.username:
            if api_key:
                raise ValueError("Give api_key or a user in url, not both: one header has room.")
            password = unquote(parts.password or "")
            basic = b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
            self._headers["authorization"] = f"Basic {basic}"
            secrets = (basic, password, parts.password)
            self._secrets = [secret for secret in secrets if secret]
        self._opener = urllib.request.build_opener(_AsItIs)

    def ask(self, question: Mapping[str, Any]) -> str:
        """Asks a question, the body of a request as a dict, and returns the text of the answer.

        Raises:
            ValueError: the server refuses the request.
            PermissionError, LookupError, TimeoutError, ConnectionError: as `with_retries` says.
        """
        content = json.dumps(question, ensure_ascii=False).encode()
        return with_retries(
            lambda seconds: self._post(content, seconds),
            self.address,
            timeout=self._timeout,
            retries=self._retries,
        )

    def hidden(self, words: str) -> str:
        """Replaces secrets in words of others."""
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words

    def _post(self, content: bytes, seconds: float) -> str:
        """Text of an answer with a status 2xx; everything else is `Refused`."""
        request = urllib.request.Request(self._url, content, self._headers, method="POST")

        def answered(is_over: Callable[[], bool]) -> tuple[int, Mapping[str, str], str]:
            with self._opener.open(request, timeout=seconds) as answer:
                whole = b""
                while part := answer.read1(1 << 16):
                    whole += part
                    if is_over():
                        raise TimeoutError
                    if len(whole) > self.most_bytes:
                        raise Refused("OUT_OF_RANGE", f"more than {self.most_bytes:,} bytes")
            return answer.status, answer.headers, whole.decode("utf-8", "replace")

        try:
            status, headers, text = within(seconds, answered)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                raise Refused("DEADLINE_EXCEEDED", f"no answer in {seconds:.3g} s") from None
            words = self._line(str(reason) or type(reason).__name__)
            raise Refused("UNAVAILABLE", words) from None
        if 200 <= status < 300:
            return text
        code = code_of(status, "UNAVAILABLE" if status >= 500 else "INVALID_ARGUMENT")
        wait = headers.get("retry-after", "")
        pause = float(wait) if re.fullmatch("[0-9]+", wait) else 0.0
        advice = _ADVICE.get(status, "").format(key=self.key_name)
        words = self._line(_error_of(text)) or http.client.responses.get(status, "nothing")
        raise Refused(code, f"{words} (HTTP {status}{advice})", pause)

    def _line(self, words: str) -> str:
        return " ".join(self.hidden(words).split())[:_WORDS]


class ChatEndpoint(Endpoint):
    """An `Endpoint` that answers with words."""

    path = "/chat/completions"

    def complete(self, question: Mapping[str, Any]) -> tuple[str, bool]:
        """Asks a question and returns the answer.

        Args:
            question: dict, the body of the request: `model`, `messages`, ...

        Returns:
            `(text, is_whole)`; `is_whole` is False when the text was cut off at `max_tokens`.

        Raises:
            ValueError: the server refuses the request, or the answer is of another form.
            PermissionError, LookupError, TimeoutError, ConnectionError: as `with_retries` says.
        """
        answer = self.ask(question)
        try:
            text, is_whole = _content_of(answer)
            if any(secret in text for secret in self._secrets if len(secret) >= _SECRET):
                raise ValueError("one with the key")
        except ValueError as error:
            raise ValueError(
                f"{self.address} must answer with a text in choices[0].message.content. Received: "
                f"{error}."
            ) from None
        return text, is_whole


class EmbeddingEndpoint(Endpoint):
    """An `Endpoint` that answers with vectors of texts."""

    path = "/embeddings"
    most_bytes = 1 << 27
    key_name = "KERASREC_ENDPOINT_KEY"

    def embed(self, texts: Sequence[str], model: str) -> np.ndarray:
        """Gives the vectors of some texts: float32 `(num_texts, width)`.

        Raises:
            ValueError: the server refuses the request, or the answer is of another form.
            PermissionError, LookupError, TimeoutError, ConnectionError: as `with_retries` says.
        """
        answer = self.ask({"model": model, "input": list(texts)})
        try:
            return _vectors_of(answer, len(texts))
        except ValueError as error:
            raise ValueError(
                f"{self.address} must answer with one vector of finite numbers for each of "
                f"{len(texts)} texts in data[i].embedding. Received: {error}."
            ) from None


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Answers of any status are answers; none leads elsewhere, where the key would follow."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def _parts_of(url: str) -> SplitResult:
    """Splits an address.

    Raises:
        ValueError: it is none; the message shows no password.
    """
    try:
        parts = urlsplit(url if re.fullmatch("[!-~]+", url) else "")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except (TypeError, ValueError):  # no text, or a port that is no number
        pass
    shown = re.sub(".*@", "***@", str(url)).partition("?")[0]
    raise ValueError(
        "url must be the address where the protocol begins, such as http://localhost:8000/v1. "
        f"Received: {shown!r}."
    )


def _error_of(text: str) -> str:
    """The words of an answer that is an error."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _content_of(answer: str) -> tuple[str, bool]:
    """`(text, is_whole)` of the JSON of an answer; a ValueError names what it is instead."""
    try:
        choice = json.loads(answer)["choices"][0]
        text = choice["message"]["content"]
        is_whole = choice.get("finish_reason") != "length"
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("JSON of another form") from None
    if text is None:  # all its tokens went into thoughts, or it refused
        text = ""
    if not isinstance(text, str):
        raise ValueError(f"a content that is {type(text).__name__}")
    return text, is_whole


def _vectors_of(answer: str, count: int) -> np.ndarray:
    """Vectors of the JSON of an answer; a ValueError names what it is instead."""
    try:
        data = json.loads(answer)["data"]
        places = [int(one.get("index", place)) for place, one in enumerate(data)]
        rows = [one["embedding"] for one in data]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("JSON of another form") from None
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if sorted(places) != list(range(count)):
        raise ValueError(f"{len(rows)} vectors" if len(rows) != count else "wrong indices")
    try:
        vectors = np.array(rows, np.float32)
    except (ValueError, TypeError):
        raise ValueError("rows of different lengths, or no numbers") from None
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise ValueError("rows that are no finite numbers")
    return vectors[np.argsort(places)]
