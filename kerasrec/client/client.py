"""`Client`: asks a server for recommendations, over gRPC or REST; TF Serving or `kerasrec serve`.

Only the connection is loaded: no TensorFlow for REST, and never a model.
"""

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from kerasrec.client.draws import Draws
from kerasrec.client.inputs import (
    NEWEST,
    Histories,
    Maker,
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
from kerasrec.client.transport import TRANSPORTS, Grpc, Rest, with_retries
from kerasrec.features.conditions import Condition, read_where
from kerasrec.features.usergroups import USER_INPUT

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
#: for each user, or for all of them, ids
Ids = Iterable[Any]
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
        target: str,
        *,
        model: str,
        protocol: str = "grpc",
        version: int | None = None,
        label: str | None = None,
        api_key: str | None = None,
        ca: str | Path | bool | None = None,
        timeout: float = 10.0,
        retries: int = 3,
        batch_size: int = 256,
    ) -> None:
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
        self._transport: Grpc | Rest = TRANSPORTS[protocol](
            target, model=model, version=version, label=label, api_key=api_key, ca=ca
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    # --- lists ---

    def recommend(
        self,
        histories: Histories,
        k: int | None = None,
        *,
        timestamps: Any = None,
        candidates: Ids | None = None,
        deny: Ids | None = None,
        keep_seen: bool = False,
        where: Condition = None,
        allow: Ids | None = None,
    ) -> pd.DataFrame:
        """Lists the best items for many users, as `Recommender.recommend` does.

        Args:
            histories: list of histories (lists of item ids, oldest first; the users are then called
                0, 1, ...), a dict user id -> history, or `Interactions` or a DataFrame
                as `read_interactions` takes it, whose times are sent too.
            k: list length at most; None = what the version was exported with.
            timestamps: UTC seconds of the events, in the form of `histories`; the newest of a user
                is the moment of the question.
            candidates: item ids; only these may be listed, for all users. None = all items.
            deny: item ids that may not be listed.
            keep_seen: True may list items of the history.
            where: a condition on columns of the catalogue that listed items meet, as for
                `Recommender.recommend`; for `kerasrec serve`, as TF Serving has no such input.
            allow: the old name of `candidates`.

        Returns:
            DataFrame `user_id, item_id, rank, score`.
        """
        candidates = _one_name(candidates, allow, "recommend")
        users, inputs, is_plain = self._listed(
            histories, timestamps, candidates, deny, keep_seen=keep_seen
        )
        read = read_where(where)
        if read is not None:
            inputs["where"] = flat([read.key] * len(users))
        elif is_plain and not keep_seen:
            return self._lists("serving_default", users, {"history": inputs["history"]}, k)
        inputs["keep_seen"] = flat([bool(keep_seen)] * len(users), bool)
        return self._lists("recommend", users, inputs, k)

    def _listed(
        self,
        histories: Histories,
        timestamps: Any,
        candidates: Ids | None,
        deny: Ids | None,
        *,
        keep_seen: bool = False,
    ) -> tuple[list, dict[str, Maker], bool]:
        """Users, inputs `history, timestamps, allow, deny`, whether the first says it all."""
        allow = None if candidates is None else ids_of(candidates, "candidates")
        if allow == []:
            raise ValueError(
                "candidates must name items. Received: an empty list; None allows all."
            )
        users, rows, times = histories_of(histories, timestamps)
        # older events are not sent as history; without keep_seen their items must stay out too
        denied = [[] if keep_seen else row[:-NEWEST] for row in rows]
        is_plain = times is None and allow is None and deny is None and not any(denied)
        if deny is not None:
            refused = ids_of(deny, "deny")
            denied = [[*refused, *row] for row in denied]
        rows = [row[-NEWEST:] for row in rows]
        if times is None:
            times = [[0] * len(row) for row in rows]
        inputs = {
            "history": padded(rows),
            "timestamps": padded([row[-NEWEST:] for row in times], padding=0),
            "allow": padded([allow or []] * len(rows)),
            "deny": padded([list(dict.fromkeys(row)) for row in denied]),
        }
        return users, inputs, is_plain

    def recommend_by_text(self, histories: Any, k: int | None = None) -> pd.DataFrame:
        """Lists the best items for histories of texts (titles), new ones included.

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
        histories: Histories,
        *,
        timestamps: Any = None,
        candidates: Ids | None = None,
        deny: Ids | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        order: bool = False,
        where: Condition = None,
        allow: Ids | None = None,
    ) -> pd.DataFrame:
        """Plans the next items of users in order, as `Recommender.generate` does: one list each.

        Length and number of beams were fixed when the version was exported.

        Args:
            histories, timestamps, candidates, deny, where, allow: as for `recommend`.
            temperature, top_p, seed: as for `Recommender.generate`; the same seed draws the same.
            order: True asks the signature `generate_in_order`, which a version has that was trained
                with a relation `prerequisite`: nothing comes before what it needs.

        Returns:
            DataFrame `user_id, rank, item_id, log_probability`.
        """
        draws = Draws(temperature, top_p, seed).checked()
        candidates = _one_name(candidates, allow, "generate")
        users, inputs, _ = self._listed(histories, timestamps, candidates, deny)
        count = len(users)
        inputs["temperature"] = flat([float(temperature)] * count, np.float32)
        inputs["top_p"] = flat([float(top_p)] * count, np.float32)
        inputs["seed"] = flat(list(draws.seeds(users)), np.int32)
        read = read_where(where)
        if read is not None:
            inputs["where"] = flat([read.key] * count)
        parts = self._ask("generate_in_order" if order else "generate", count, inputs)
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

    def similar(self, item_ids: Any, k: int | None = None) -> pd.DataFrame:
        """Lists the items nearest to an item, or to each of a list of items, by cosine.

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

    def _lists(
        self, signature: str, users: list, inputs: Mapping[str, Maker], k: int | None
    ) -> pd.DataFrame:
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

    def score(self, histories: Histories, candidates: Sequence[Any]) -> pd.DataFrame:
        """Scores candidates; -inf for an unknown item.

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

    def interest(self, histories: Histories) -> np.ndarray:
        """Computes U of each history (as for `recommend`), `(num_users, dim)`; zeros if empty."""
        _, rows, _ = histories_of(histories, None)
        rows = [row[-NEWEST:] for row in rows]
        return self._vectors("interest", {"history": padded(rows)}, len(rows))

    def item_vectors(self, item_ids: Ids) -> np.ndarray:
        """Reads item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        ids = ids_of(item_ids, "item_ids")
        return self._vectors("item_vectors", {"item_ids": flat(ids)}, len(ids))

    def encode_items(self, texts: Iterable[str]) -> np.ndarray:
        """Computes item vectors of new texts, float32 `(n, dim)`; zeros for a blank text."""
        rows = checked_texts(texts, "texts")
        return self._vectors("encode_items", {"texts": flat(rows)}, len(rows))

    def _vectors(self, signature: str, inputs: Mapping[str, Maker], num_rows: int) -> np.ndarray:
        parts = [_only(part) for part in self._ask(signature, num_rows, inputs)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)

    def status(self) -> pd.DataFrame:
        """Tells `version, state, error` of the versions on the server, or of the client's one."""
        found = self._call(self._transport.status)
        frame = pd.DataFrame(found, columns=["version", "state", "error"])
        return frame.sort_values("version", ignore_index=True)

    # --- the loop: `kerasrec serve --store` only ---

    def feedback(self, events: Any) -> dict[str, Any]:
        """Stores events; they are durable when this returns, and sending them again is harmless.

        Args:
            events: a dict or a list of dicts with `user_id`, `item_id` and, where they are known,
                `event` (default click), `value`, `timestamp` (default now), `request_id` (of the
                list that was clicked on), `event_id`: as for `FeedbackStore.add`.

        Returns:
            dict `stored, repeated, erased`: how many are new, known before, of forgotten users;
            `unknown_items`: how many are on items that no loaded version has (they are stored too);
            `events`: the numbers, from 1, of those that were not simply stored, by the same names.
        """
        events = [events] if isinstance(events, dict) else events
        if not isinstance(events, list | tuple):
            kind = type(events).__name__
            raise ValueError(f"events must be a dict or a list of dicts. Received: {kind}.")
        now = int(time.time())  # a retry must be the same event
        dated = [{"timestamp": now, **_given(e)} if isinstance(e, dict) else e for e in events]
        content = json.dumps({"events": dated}, ensure_ascii=False, default=_plain)
        return self._call(partial(self._rest_only("feedback"), content.encode()))

    def set_items(self, changes: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
        """Sends newer values of items, such as `{"i1": {"stock": 0}}`, to a server with a store.

        The next list knows them; see `FeedbackStore.set_items`.

        Args:
            changes: item id -> column -> text, number, boolean, list or None (no value).

        Returns:
            `items`, `values` and `unknown_items`: how many; `unknown`: ids that the server lacks.
        """
        rows = [{**values, "item_id": str(item)} for item, values in changes.items()]
        content = json.dumps({"items": rows}, ensure_ascii=False, default=_plain)
        return self._call(partial(self._rest_only("set_items"), content.encode()))

    def set_users(self, changes: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
        """Sends what is known of users, such as `{"u1": {"age": 30}}`, to a server with a store.

        The next list of each of them uses it; see `FeedbackStore.set_users`.

        Args:
            changes: user id -> column -> text, number, boolean or list; None takes a value back.

        Returns:
            `users` and `values`: how many; `unused`: columns that no loaded version uses.
        """
        rows = [{**values, "user_id": str(user)} for user, values in changes.items()]
        content = json.dumps({"users": rows}, ensure_ascii=False, default=_plain)
        return self._call(partial(self._rest_only("set_users"), content.encode()))

    def user_values(self, user: Any) -> dict[str, Any]:
        """Asks a server with a store what is known of a user: column -> value."""
        return self._call(partial(self._rest_only("user_values"), str(user)))["values"]

    def recommend_for(
        self,
        user: Any,
        k: int = 10,
        *,
        log: bool = True,
        where: Condition = None,
        known: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Lists the best items for a user, by the events that the server's store holds now.

        Args:
            user: user id.
            k: list length at most.
            log: True lets the server store the list as shown.
            where: as for `recommend`.
            known: what is known of the user now, `{"age": 30, "channel": "app"}`: columns of the
                table of users that the version was trained with. It counts in the place of what the
                store has in these columns.

        Returns:
            DataFrame `user_id, item_id, rank, score`; its `attrs` hold `request_id` (to be given
            with clicks on the list), `model` and `version`; and `unknown_values` where there are
            values that the version has never seen: of these it knows nothing.
        """
        read = read_where(where)
        said = {f"{USER_INPUT}{name}": _said(value) for name, value in (known or {}).items()}
        given = (str(user), k, log, "" if read is None else read.key, said)
        answer = self._call(partial(self._rest_only("recommend_for"), *given))
        rows = [{"user_id": answer["user"], **row} for row in answer["items"]]
        table = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score"])
        told = ("request_id", "model", "version", "unknown_values")
        table.attrs.update({name: answer[name] for name in told if name in answer})
        return table.astype({"rank": np.int64, "score": np.float32})

    def _rest_only(self, name: str) -> Callable[..., Any]:
        if not hasattr(self._transport, name):
            raise ValueError(
                f'{name} needs kerasrec serve --store and Client(..., protocol="rest"). Received: '
                'protocol="grpc".'
            )
        return getattr(self._transport, name)

    def _ask(
        self, signature: str, num_rows: int, makers: Mapping[str, Maker]
    ) -> list[dict[str, np.ndarray]]:
        """Outputs of each batch; `makers`: input -> `padded` or `flat` of its rows."""
        answers = []
        at_once = _TEXTS_AT_ONCE if {"texts", "history_texts"} & set(makers) else _IDS_AT_ONCE
        widths = [make.widths for make in makers.values()]
        for rows in batches(num_rows, widths, self.batch_size, at_once):
            given = {name: make(rows) for name, make in makers.items()}
            answers.append(self._call(partial(self._transport.predict, signature, given)))
        return answers

    def _call(self, call: Callable[[float], Answer]) -> Answer:
        return with_retries(call, self.target, timeout=self.timeout, retries=self.retries)


def _one_name(candidates: Ids | None, allow: Ids | None, method: str) -> Ids | None:
    """The candidates, under their name or under the old one."""
    if allow is None:
        return candidates
    if candidates is not None:
        raise ValueError("Give candidates; allow is its old name. Received: both.")
    warnings.warn(
        f"Client.{method}(allow=...) is now called candidates, as in Recommender.{method}. Write "
        "candidates=... instead.",
        DeprecationWarning,
        stacklevel=3,
    )
    return allow


def _given(event: dict) -> dict:
    """An event without NaN, which is a missing value in Python and none in JSON."""
    return {k: v for k, v in event.items() if not (isinstance(v, float) and math.isnan(v))}


def _said(value: Any) -> str:
    """What is known of a user, as a text of an address; "" = unknown."""
    if isinstance(value, list | tuple):
        return json.dumps(list(value), ensure_ascii=False, default=_plain)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value != value else str(value)


def _plain(value: Any) -> Any:
    """A number of numpy or a time, for JSON."""
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise ValueError(f"events must hold texts, numbers and times. Received: {value!r}.")


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (value,) = outputs.values()
    return value
