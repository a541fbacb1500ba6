"""`Client`: asks a server for recommendations, over gRPC or REST; for TF Serving and `serve` alike.

Only the connection is loaded: no TensorFlow for REST, and never a model.
"""

import json
import logging
import time
from functools import partial

import numpy as np
import pandas as pd

from kerasrec.client.inputs import (
    NEWEST,
    batches,
    checked_texts,
    flat,
    histories_of,
    ids_of,
    is_many,
    lengths,
    padded,
    text_histories,
)
from kerasrec.client.transport import TRANSPORTS, with_retries
from kerasrec.recommender.draws import Draws

log = logging.getLogger(__name__)
#: ids of a request, about: far below the size that a server takes
_IDS_AT_ONCE = 1 << 16
#: texts of a request: each costs a pass through the encoder, and all must end before the deadline
_TEXTS_AT_ONCE = 16


class Client:
    """A server's model, with the answers of `Recommender`.

    Ids are texts, and a number stands for its text; unknown ids are ignored by the server. Of a
    history the newest 999 events are sent; older ones are still not listed again. Where the server
    is busy or not there, a request is sent again after a growing random pause, as long as its
    deadline allows.

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
        batch_size: rows of a request at most; larger inputs are sent as several, and so are long
            histories, and more than 16 texts.

    Raises:
        ImportError: the libraries of the protocol are missing.
        ValueError: an unknown protocol, both version and label, a target without a port, a key that
            is no ASCII, a `ca` without certificates.

    Each method raises what the server said: ValueError (a bad request, no such label), LookupError
    (no such model or version), PermissionError (the key), TimeoutError, ConnectionError (busy, not
    there, not trusted), RuntimeError (its own fault).

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
        users, inputs, is_plain = self._listed(
            histories, timestamps, allow, deny, keep_seen=keep_seen
        )
        if is_plain and not keep_seen:
            return self._lists("serving_default", users, {"history": inputs["history"]}, k)
        inputs["keep_seen"] = flat([bool(keep_seen)] * len(users), bool)
        return self._lists("recommend", users, inputs, k)

    def _listed(self, histories, timestamps, allow, deny, *, keep_seen=False):
        """Users, inputs `history, timestamps, allow, deny`, whether the first says it all."""
        if allow is not None and not len(allow):
            raise ValueError("allow must name items. Received: an empty list; None allows all.")
        users, rows, times = histories_of(histories, timestamps)
        allow = None if allow is None else ids_of(allow, "allow")
        # what is older than the newest events is not sent as history, but was seen all the same
        older = [[] if keep_seen else row[:-NEWEST] for row in rows]
        if deny is not None or any(older):
            refused = [] if deny is None else ids_of(deny, "deny")
            deny = [list(dict.fromkeys([*refused, *row])) for row in older]
        rows = [row[-NEWEST:] for row in rows]
        is_plain = times is None and allow is None and deny is None
        if times is None:
            times = [[0] * len(row) for row in rows]
        inputs = {
            "history": padded(rows),
            "timestamps": padded([row[-NEWEST:] for row in times], padding=0),
            "allow": padded([allow or []] * len(rows)),
            "deny": padded(deny or [[]] * len(rows)),
        }
        return users, inputs, is_plain

    def recommend_by_text(self, histories, k=None):
        """Best items for histories of texts (titles) that the model may never have seen.

        Args:
            histories: list of histories, each a list of texts, oldest first; or a dict.
            k: list length at most; None = what the version was exported with.

        Returns:
            DataFrame `user_id, item_id, rank, score`.
        """
        users, rows = text_histories(histories)
        return self._lists("recommend_by_text", users, {"history_texts": padded(rows)}, k)

    def generate(
        self,
        histories,
        *,
        timestamps=None,
        allow=None,
        deny=None,
        temperature=0.0,
        top_p=1.0,
        seed=0,
    ):
        """What users will want next, in order, as `Recommender.generate` gives it: one list each.

        Length and beams are those that the version was exported with.

        Args:
            histories, timestamps, allow, deny: as for `recommend`.
            temperature, top_p, seed: as for `Recommender.generate`; the same seed draws the same.

        Returns:
            DataFrame `user_id, rank, item_id, log_probability`.
        """
        draws = Draws(temperature, top_p, seed).checked()
        users, inputs, _ = self._listed(histories, timestamps, allow, deny)
        count = len(users)
        inputs["temperature"] = flat([float(temperature)] * count, np.float32)
        inputs["top_p"] = flat([float(top_p)] * count, np.float32)
        inputs["seed"] = flat(draws.seeds(users), np.int32)
        parts = self._ask("generate", count, inputs)
        nothing = {"item_ids": np.zeros((0, 0), object), "log_probabilities": np.zeros((0, 0))}
        parts = parts or [nothing]
        ids, logs = (np.concatenate([part[name] for part in parts]) for name in nothing)
        row, column = np.nonzero(ids != "")
        return pd.DataFrame(
            {
                "user_id": np.array([*users, None], object)[:-1][row],
                "rank": column + 1,
                "item_id": ids[row, column],
                "log_probability": logs[row, column].astype(np.float32),
            }
        )

    def similar(self, item_ids, k=None):
        """Items nearest to an item, or to each of a list of items, by cosine.

        Returns:
            DataFrame `query, item_id, rank, score`; an unknown item has no rows, and is logged. For
            a text there is `recommend_by_text([[text]])`.
        """
        queries = ids_of(item_ids if is_many(item_ids) else [item_ids], "item_ids")
        found = self._lists("similar", queries, {"item_ids": flat(queries)}, k)
        missing = sorted(set(queries) - set(found["user_id"]))
        if missing:
            log.warning(
                "%d of %d items are unknown to the server and have no similar ones: %s",
                len(missing),
                len(set(queries)),
                ", ".join(map(repr, missing[:5])),
            )
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
        users, rows, _ = histories_of(histories, None)
        rows = [row[-NEWEST:] for row in rows]
        if isinstance(candidates, str) or not any(map(is_many, candidates)):
            candidates = [candidates] * len(rows)
        candidates = [ids_of(row, "candidates") for row in candidates]
        if len(candidates) != len(rows):
            raise ValueError(
                f"candidates must be one list, or one per history ({len(rows)}). Received: "
                f"{len(candidates)} lists."
            )
        inputs = {"history": padded(rows), "candidates": padded(candidates, first=False)}
        scores = [row for part in self._ask("score", len(rows), inputs) for row in _only(part)]
        return pd.DataFrame(
            {
                "user_id": np.repeat(np.array([*users, None], object)[:-1], lengths(candidates)),
                "item_id": np.array([i for row in candidates for i in row], object),
                "score": np.array(
                    [s for row, c in zip(scores, candidates, strict=True) for s in row[: len(c)]],
                    np.float32,
                ),
            }
        )

    def interest(self, histories):
        """U of each history (given as for `recommend`), `(num_users, dim)`; zeros if empty."""
        _, rows, _ = histories_of(histories, None)
        rows = [row[-NEWEST:] for row in rows]
        return self._vectors("interest", {"history": padded(rows)}, len(rows))

    def item_vectors(self, item_ids):
        """Item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        ids = ids_of(item_ids, "item_ids")
        return self._vectors("item_vectors", {"item_ids": flat(ids)}, len(ids))

    def encode_items(self, texts):
        """Item vectors of new texts, float32 `(n, dim)`; zeros for a blank text."""
        texts = checked_texts(texts, "texts")
        return self._vectors("encode_items", {"texts": flat(texts)}, len(texts))

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
        """Outputs of each batch; `makers`: input -> `padded` or `flat` of its rows."""
        answers = []
        at_once = _TEXTS_AT_ONCE if {"texts", "history_texts"} & set(makers) else _IDS_AT_ONCE
        widths = [make.widths for make in makers.values()]
        for rows in batches(num_rows, widths, self.batch_size, at_once):
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


def _only(outputs):
    (value,) = outputs.values()
    return value
