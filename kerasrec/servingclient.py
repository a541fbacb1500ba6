"""`Client`: asks a server for recommendations, over gRPC or REST; for TF Serving and `serve` alike.

Only the connection is loaded: no TensorFlow for REST, and never a model.
"""

import json
import time
from functools import partial

import numpy as np
import pandas as pd

from kerasrec.data import read_interactions
from kerasrec.sequences import history_rows
from kerasrec.servingtransport import TRANSPORTS, with_retries


class Client:
    """A server's model, with the answers of `Recommender`.

    Ids are texts; unknown ids are ignored by the server. Where it is busy or not there, a request
    is sent again after a growing random pause, as long as its deadline allows.

    Args:
        target: `HOST:PORT` of the gRPC port (TF Serving: 8500), or of the REST port (8501), for
            which `http://...` and `https://...` do as well.
        model: name of the model on the server.
        protocol: "grpc" or "rest".
        version: number of the version to ask; None = what the server takes.
        label: "stable" or "canary" instead of a number.
        api_key: sent as `authorization: Bearer ...` with each request.
        ca: PEM file of the authority that the server's certificate is checked with; True = those of
            this machine; None = no TLS, unless `target` says https.
        timeout: seconds for a request, with its retries.
        retries: how often a request may be sent again.
        batch_size: rows of a request; larger inputs are sent as several.

    Raises:
        ImportError: the libraries of the protocol are missing.
        ValueError: an unknown protocol, or both version and label.

    Each method raises what the server said: ValueError (a bad request), LookupError (no such model,
    version or label), PermissionError (the key), TimeoutError, ConnectionError (busy or not there),
    RuntimeError (its own fault).

    >>> client = Client("localhost:8500", model="courses")                 # doctest: +SKIP
    >>> client.recommend([["C_1", "C_7"]], k=3)                            # doctest: +SKIP
      user_id item_id  rank     score
    0       0    C_12     1  9.731445
    """

    def __init__(
        self,
        target,
        *,
        model,
        protocol="grpc",
        version=None,
        label=None,
        api_key=None,
        ca=None,
        timeout=10.0,
        retries=3,
        batch_size=256,
    ):
        if protocol not in TRANSPORTS:
            known = " or ".join(map(repr, TRANSPORTS))
            raise ValueError(f"protocol must be {known}. Received: {protocol!r}.")
        if version is not None and label is not None:
            raise ValueError(f"Give version or label, not both: {version!r} and {label!r}.")
        if timeout <= 0 or retries < 0 or batch_size < 1:
            raise ValueError(
                "timeout must be above 0, retries at least 0, batch_size at least 1. Received: "
                f"timeout={timeout!r}, retries={retries!r}, batch_size={batch_size!r}."
            )
        self.target, self.model, self.timeout = target, model, timeout
        self.retries, self.batch_size = retries, batch_size
        self._transport = TRANSPORTS[protocol](
            target, model=model, version=version, label=label, api_key=api_key, ca=ca
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the connection."""
        self._transport.close()

    # --- lists ---

    def recommend(
        self, histories, k=None, *, timestamps=None, allow=None, deny=None, keep_seen=False
    ):
        """Best items for many users, as `Recommender.recommend` gives them.

        Args:
            histories: list of histories (lists of item ids, oldest first; the users are then called
                0, 1, ...), a dict user id -> history, or `Interactions` or a DataFrame
                as `read_interactions` takes it, whose times are sent too.
            k: list length at most; None = what the version was exported with.
            timestamps: UTC seconds of the events, in the form of `histories`; the newest of a user
                is when the list is asked for.
            allow: item ids that alone may be listed, for all users.
            deny: item ids that may not be listed.
            keep_seen: True may list items of the history.

        Returns:
            DataFrame `user_id, item_id, rank, score`.
        """
        if allow is not None and not len(allow):
            raise ValueError("allow must name items. Received: an empty list; None allows all.")
        users, rows, times = _histories(histories, timestamps)
        if times is None and allow is None and deny is None and not keep_seen:
            return self._lists("serving_default", users, {"history": _padded(rows)}, k)
        if times is None:
            times = [[0] * len(row) for row in rows]
        inputs = {
            "history": _padded(rows),
            "timestamps": _padded(times, padding=0),
            "allow": _padded([_ids(allow, "allow")] * len(rows)),
            "deny": _padded([_ids(deny, "deny")] * len(rows)),
            "keep_seen": _flat([bool(keep_seen)] * len(rows), bool),
        }
        return self._lists("recommend", users, inputs, k)

    def recommend_by_text(self, histories, k=None):
        """Best items for histories of texts (titles) that the model may never have seen.

        Args:
            histories: list of histories, each a list of texts, oldest first; or a dict.
            k: list length at most; None = what the version was exported with.

        Returns:
            DataFrame `user_id, item_id, rank, score`.
        """
        users, rows, _ = _histories(histories, None)
        return self._lists("recommend_by_text", users, {"history_texts": _padded(rows)}, k)

    def similar(self, item_ids, k=None):
        """Items nearest to each item by cosine: DataFrame `query, item_id, rank, score`."""
        queries = [item_ids] if isinstance(item_ids, str) else _ids(item_ids, "item_ids")
        found = self._lists("similar", queries, {"item_ids": _flat(queries)}, k)
        return found.rename(columns={"user_id": "query"})

    def _lists(self, signature, users, inputs, k):
        if k is not None and (isinstance(k, bool) or k != int(k) or k < 1):
            raise ValueError(f"k must be a whole number of at least 1. Received: {k!r}.")
        parts = self._ask(signature, len(users), inputs)
        if not parts:
            parts = [{"item_ids": np.zeros((0, k or 0), object), "scores": np.zeros((0, k or 0))}]
        width = parts[0]["item_ids"].shape[1]
        if k is not None and k > width:
            raise ValueError(
                f"k must be at most {width}, the length of the lists that this version was "
                f"exported with. Received: k={k}. Lower k, or kerasrec export --set k={k}."
            )
        ids = np.concatenate([part["item_ids"] for part in parts])[:, :k]
        scores = np.concatenate([part["scores"] for part in parts])[:, :k]
        row, column = np.nonzero(ids != "")
        return pd.DataFrame(
            {
                "user_id": np.array([*users, None], object)[:-1][row],
                "item_id": ids[row, column],
                "rank": column + 1,
                "score": scores[row, column].astype(np.float32),
            }
        )

    # --- numbers ---

    def score(self, histories, candidates):
        """Score of candidates; -inf for an unknown item.

        Args:
            histories: as for `recommend`.
            candidates: list of item ids for all users, or a list of such lists, one per user.

        Returns:
            DataFrame `user_id, item_id, score`, candidates in the order given.
        """
        users, rows, _ = _histories(histories, None)
        if all(isinstance(candidate, str) for candidate in candidates):
            candidates = [candidates] * len(rows)
        candidates = [_ids(row, "candidates") for row in candidates]
        if len(candidates) != len(rows):
            raise ValueError(
                f"candidates must be one list, or one per history ({len(rows)}). Received: "
                f"{len(candidates)} lists."
            )
        inputs = {"history": _padded(rows), "candidates": _padded(candidates, first=False)}
        scores = [row for part in self._ask("score", len(rows), inputs) for row in _only(part)]
        return pd.DataFrame(
            {
                "user_id": np.repeat(np.array([*users, None], object)[:-1], _lengths(candidates)),
                "item_id": np.array([i for row in candidates for i in row], object),
                "score": np.array(
                    [s for row, c in zip(scores, candidates, strict=True) for s in row[: len(c)]],
                    np.float32,
                ),
            }
        )

    def interest(self, histories):
        """U of each history (given as for `recommend`), `(num_users, dim)`; zeros if empty."""
        _, rows, _ = _histories(histories, None)
        return self._vectors("interest", {"history": _padded(rows)}, len(rows))

    def item_vectors(self, item_ids):
        """Item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        ids = _ids(item_ids, "item_ids")
        return self._vectors("item_vectors", {"item_ids": _flat(ids)}, len(ids))

    def encode_items(self, texts):
        """Item vectors of new texts, float32 `(n, dim)`."""
        texts = _ids(texts, "texts")
        return self._vectors("encode_items", {"texts": _flat(texts)}, len(texts))

    def _vectors(self, signature, inputs, num_rows):
        parts = [_only(part) for part in self._ask(signature, num_rows, inputs)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)

    def status(self):
        """DataFrame `version, state, error` of the model on the server; one version if asked."""
        found = self._call(self._transport.status)
        frame = pd.DataFrame(found, columns=["version", "state", "error"])
        return frame.sort_values("version", ignore_index=True)

    # --- the loop: `kerasrec serve --store` only ---

    def feedback(self, events):
        """Store what users did; it is durable when this returns, and sending it again is harmless.

        Args:
            events: a dict or a list of dicts with `user_id`, `item_id` and, where they are known,
                `event` (default click), `value`, `timestamp` (default now), `request_id` (of the
                list that was clicked on), `event_id`: as for `FeedbackStore.add`.

        Returns:
            dict `stored, repeated, erased`: how many are new, known before, of forgotten users.
        """
        events = [events] if isinstance(events, dict) else events
        if not isinstance(events, list | tuple):
            kind = type(events).__name__
            raise ValueError(f"events must be a dict or a list of dicts. Received: {kind}.")
        now = int(time.time())  # a retry must be the same event
        dated = [{"timestamp": now, **e} if isinstance(e, dict) else e for e in events]
        content = json.dumps({"events": dated}, ensure_ascii=False, default=_plain)
        return self._call(partial(self._rest_only("feedback"), content.encode()))

    def recommend_for(self, user, k=10, *, log=True):
        """Best items for a user, by what the server's store knows of the user at this moment.

        Args:
            user: user id.
            k: list length at most.
            log: True lets the server store the list as shown.

        Returns:
            DataFrame `user_id, item_id, rank, score`; its `attrs` hold `request_id` (to be given
            with clicks on the list), `model` and `version`.
        """
        answer = self._call(partial(self._rest_only("recommend_for"), str(user), k, log))
        rows = [{"user_id": answer["user"], **row} for row in answer["items"]]
        table = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score"])
        table.attrs.update({name: answer[name] for name in ("request_id", "model", "version")})
        return table.astype({"rank": np.int64, "score": np.float32})

    def _rest_only(self, name):
        if not hasattr(self._transport, name):
            raise ValueError(
                f'{name} needs kerasrec serve --store and Client(..., protocol="rest"). Received: '
                'protocol="grpc".'
            )
        return getattr(self._transport, name)

    def _ask(self, signature, num_rows, makers):
        """Outputs of each batch; `makers`: input -> function of a slice of rows."""
        answers = []
        for start in range(0, num_rows, self.batch_size):
            rows = slice(start, start + self.batch_size)
            given = {name: make(rows) for name, make in makers.items()}
            answers.append(self._call(partial(self._transport.predict, signature, given)))
        return answers

    def _call(self, call):
        return with_retries(call, self.target, timeout=self.timeout, retries=self.retries)


def _plain(value):
    """A number of numpy or a time, for JSON."""
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise ValueError(f"events must hold texts, numbers and times. Received: {value!r}.")


def _lengths(rows):
    """Number of values in each row."""
    return [len(row) for row in rows]


def _only(outputs):
    (value,) = outputs.values()
    return value


def _ids(values, what):
    """Ids as texts; None = none."""
    if isinstance(values, str):
        raise ValueError(f"{what} must be a list. Received: the text {values!r}.")
    return [] if values is None else [str(value) for value in values]


def _histories(histories, timestamps):
    """`(users, rows of ids, rows of times or None)` of whatever `recommend` takes."""
    if isinstance(histories, pd.DataFrame):
        histories = read_interactions(histories)
    if hasattr(histories, "report"):  # Interactions
        return _of_interactions(histories, timestamps)
    if isinstance(histories, dict) and isinstance(timestamps, dict):
        timestamps = [timestamps[user] for user in histories]
    users, rows = history_rows(histories)
    rows = [_ids(row, "a history") for row in rows]
    if timestamps is None:
        return users, rows, None
    times = [[int(moment) for moment in row] for row in timestamps]
    if _lengths(times) != _lengths(rows):
        raise ValueError("timestamps must hold one time for each item of each history.")
    return users, rows, times


def _of_interactions(interactions, timestamps):
    """The histories of a log, and its times where it has some and none are given."""
    frame = interactions.frame
    if interactions.has_time:
        frame = frame.sort_values("timestamp", kind="stable")
    groups = frame.groupby("user_id", observed=True, sort=True)
    rows = {str(user): [str(item) for item in part["item_id"]] for user, part in groups}
    times = timestamps
    if timestamps is None and interactions.has_time:
        times = {str(user): part["timestamp"].tolist() for user, part in groups}
    return _histories(rows, times)


def _padded(rows, *, padding="", first=True):
    """Function from a slice of ragged rows to an array.

    The first column is padding, and so is what a shorter row lacks on the left: where TF Serving
    batches requests of unlike widths it repeats the first value of each behind it, and an item
    that is repeated there would look like the newest. Without `first`, padding is on the right.
    """
    kind = np.int64 if padding == 0 else object

    def make(chosen):
        part = rows[chosen]
        width = max([1, *(len(row) + first for row in part)])
        array = np.full((len(part), width), padding, kind)
        for line, row in zip(array, part, strict=True):
            start = width - len(row) if first else 0
            line[start : start + len(row)] = row
        return array

    return make


def _flat(values, kind=object):
    """Function from a slice of values to an array of them."""
    return lambda chosen: np.array(values[chosen], kind)
