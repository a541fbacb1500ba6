"""The REST routes of the feedback store: events in, lists of a user out, statistics.

They have places and threads of their own, so that a store that does not answer leaves predict
alone.
"""

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent import futures
from datetime import tzinfo
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.times.zones import MAX_AHEAD
from kerasrec.features.shoprules import ShopRules
from kerasrec.features.usergroups import USER_INPUT
from kerasrec.feedback.database import sa
from kerasrec.feedback.intake import MAX_LENGTH, check_json, is_id
from kerasrec.feedback.itemvalues import TAKEN_BACK
from kerasrec.feedback.recentlog import hashed
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import Listed, LiveLists, Question, Rules
from kerasrec.feedback.writer import Outcomes
from kerasrec.serving.admission import Gate, Limits, Refusal
from kerasrec.serving.items.bodies import check_value, key_of, read_items, read_values
from kerasrec.serving.items.filters import MEMBERS, WHERE
from kerasrec.serving.items.shop import PastEvents, ServedRules
from kerasrec.serving.items.users import check_users, read_user, read_users
from kerasrec.serving.listquery import ListQuery, read_events, read_posted, read_query, wrong
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.serving.monitor import Call
from kerasrec.serving.predictor import Predictor
from kerasrec.serving.servedversion import ServedVersion
from kerasrec.versions import folders

log = logging.getLogger(__name__)
_THREADS = 8  # that may wait for the store at once; fewer than the connections of its pool
_MOST_UNLOGGED = 1000  # lists whose impressions wait to be stored; further ones are not logged
#: errors of a store that are not the caller's mistake
_FAILURES = (OSError, ArtifactError, sa.exc.SQLAlchemyError)
#: where one item lies
_ITEM = "/v1/items/"
#: where one user lies
_USER = "/v1/users/"
_MOST_UNKNOWN = 100  # items that an answer names
#: reads the body of a request
ReadBody = Callable[[Request], Awaitable[bytes]]


class KnownItems:
    """The items of all loaded versions, kept as hashes: 8 bytes an item of each.

    Args:
        models: name -> `ModelVersions`.
    """

    def __init__(self, models: Mapping[str, ModelVersions]) -> None:
        self._models = models
        self._hashes: weakref.WeakKeyDictionary[ServedVersion, np.ndarray] = (
            weakref.WeakKeyDictionary()
        )

    def unknown(self, item_ids: Iterable[str]) -> np.ndarray:
        """Says for each item whether it is in no catalogue of a loaded version, bool `(n,)`.

        None is, where no version is loaded or a catalogue cannot be read.
        """
        asked = hashed(np.array(list(item_ids), object))
        unknown, has_any = np.ones(len(asked), bool), False
        for model in self._models.values():
            for number in model.numbers:
                try:
                    with model.use(version=number) as version:
                        known = self._of(version)
                except (Refusal, OSError, ValueError):  # it is being let go, or its files are
                    return np.zeros(len(asked), bool)
                has_any = True
                places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
                unknown &= known[places] != asked
        return unknown & has_any

    def ids(self) -> set[str]:
        """Reads the ids of all items of the loaded versions."""
        found: set[str] = set()
        for model in self._models.values():
            for number in model.numbers:
                with contextlib.suppress(Refusal), model.use(version=number) as version:
                    found.update(folders.read_catalogue(version.path)["item_id"])
        return found

    def _of(self, version: ServedVersion) -> np.ndarray:
        found = self._hashes.get(version)
        if found is None:
            ids = folders.read_catalogue(version.path)["item_id"].to_numpy(object)
            found = self._hashes[version] = np.sort(hashed(ids))
        return found


class FeedbackRoutes:
    """The routes of one server that has a store.

    Args:
        predictor: `Predictor`.
        store: `FeedbackStore`.
        rules: `Rules`.
        timezone, max_ahead: of events that come in, as for `FeedbackStore.add`.
        shop_rules: `ServedRules` of the lists of `/v1/recommend`; None = none.
    """

    def __init__(
        self,
        predictor: Predictor,
        store: FeedbackStore,
        rules: Rules,
        *,
        timezone: str | tzinfo | None = None,
        max_ahead: float = MAX_AHEAD,
        shop_rules: ServedRules | None = None,
    ) -> None:
        self.shop_rules = shop_rules
        self.predictor, self.store, self.rules = predictor, store, rules.check()
        self.timezone, self.max_ahead = timezone, max_ahead
        self._known = KnownItems(predictor.models)
        self._gate = Gate(predictor.limits.concurrent)
        self._pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="kerasrec-feedback")
        self._counting = threading.Lock()
        self._unlogged = 0  # lists whose impressions are not stored yet
        self._lock = threading.Lock()
        self._routes = {
            ("POST", "/v1/feedback"): self._add,
            ("GET", "/v1/recommend"): self._recommend,
            ("POST", "/v1/recommend"): self._recommend,
            ("GET", "/v1/feedback/stats"): self._stats,
            ("PUT", "/v1/items"): self._put_items,
            ("PUT", "/v1/users"): self._put_users,
        }

    def close(self) -> None:
        """Finishes the requests in work."""
        self._pool.shutdown()

    def route(
        self, method: str, path: str
    ) -> Callable[[Request, ReadBody], Awaitable[dict[str, Any]]] | None:
        """Finds the async function of `(request, read_body)` that answers with plain data."""
        if path.startswith(_ITEM) and method in ("GET", "PUT", "DELETE"):
            return partial(self._item, path[len(_ITEM) :])
        if path.startswith(_USER) and method in ("GET", "PUT", "DELETE"):
            return partial(self._user, path[len(_USER) :])
        return self._routes.get((method, path))

    async def _run(self, work: Callable[[], Any], deadline: float) -> Any:
        """The result of `work` in a thread; of a future, where `work` returns one.

        Raises:
            TimeoutError: nothing by the deadline.
        """
        self._gate.enter()
        job = self._pool.submit(work)
        job.add_done_callback(self._leave)
        async with asyncio.timeout(deadline - time.perf_counter()):
            result = await asyncio.wrap_future(job)
            return await asyncio.wrap_future(result) if _is_future(result) else result

    def _leave(self, job: futures.Future) -> None:
        """Frees the place of a job when its work is over, also if nobody waits for it."""
        if not job.cancelled() and job.exception() is None and _is_future(job.result()):
            job.result().add_done_callback(lambda _: self._gate.leave())
        else:
            self._gate.leave()

    # --- events in ---

    async def _add(self, request: Request, read_body: ReadBody) -> dict[str, Any]:
        limits = self.predictor.limits
        with self.predictor.counted("rest") as call:
            call.signature = "feedback"
            deadline = time.perf_counter() + limits.seconds
            unknown: list[int] = []
            try:
                async with asyncio.timeout(limits.seconds):
                    body = await read_body(request)
            except TimeoutError:
                raise _too_late("whole request", limits) from None
            try:
                work = partial(self._submit, call, body, unknown)
                outcomes = await self._run(work, deadline)
            except TimeoutError:
                what = f"the events were not stored within {limits.seconds:g} seconds"
                raise _unavailable(what) from None
            except _FAILURES as error:
                log.error("feedback not stored", extra={"error": str(error)})
                raise _unavailable("the events were not stored") from error
        return self._told(outcomes, unknown)

    def _submit(self, call: Call, body: bytes, unknown: list[int]) -> futures.Future[Outcomes]:
        """Begins to store; numbers of events on items that are unknown go into `unknown`."""
        limits = self.predictor.limits
        # each event is an object: a body of many more is refused before it takes its memory
        limits.check_events(body.count(b"{") // 2)
        events = read_events(body)
        limits.check_events(len(events))
        call.rows = len(events)
        metrics = self.predictor.metrics
        try:
            check_json(events)
            stored = self.store.submit_each(
                events, timezone=self.timezone, max_ahead=self.max_ahead
            )
        except (ValueError, TypeError) as error:
            metrics.count_events("refused", len(events))
            raise Refusal("INVALID_ARGUMENT", str(error)) from error
        of_events = self._known.unknown([str(event["item_id"]) for event in events])
        unknown += (np.flatnonzero(of_events) + 1).tolist()
        return stored

    def _told(self, outcomes: Outcomes, unknown: list[int]) -> dict[str, Any]:
        """The answer: how many, and the numbers of the events that were not simply stored."""
        lists = {"repeated": outcomes.repeated, "erased": outcomes.erased, "unknown_items": unknown}
        is_new = set(unknown).difference(outcomes.repeated, outcomes.erased)
        for outcome, number in (*outcomes.added._asdict().items(), ("unknown_item", len(is_new))):
            self.predictor.metrics.count_events(outcome, number)
        return {
            **outcomes.added._asdict(),
            "unknown_items": len(unknown),
            "events": {name: numbers for name, numbers in lists.items() if numbers},
        }

    # --- lists out ---

    async def _recommend(self, request: Request, read_body: ReadBody) -> dict[str, Any]:
        limits = self.predictor.limits
        with self.predictor.counted("rest") as call:
            call.signature = "recommend"
            deadline = time.perf_counter() + limits.seconds
            query = await self._query(request, read_body)
            strange: dict[str, Any] = {}
            work = partial(self._list, call, query, deadline, strange)
            try:
                listed = await self._run(work, deadline)
            except TimeoutError:
                raise _too_late("answer", limits) from None
        ranked = zip(listed.item_ids, listed.scores, strict=True)
        return {
            "request_id": listed.request_id,
            "user": listed.user,
            "model": listed.model,
            "version": listed.version,
            "items": [
                {"item_id": item, "score": score, "rank": rank}
                for rank, (item, score) in enumerate(ranked, 1)
            ],
            **({"unknown_values": strange} if strange else {}),
        }

    async def _query(self, request: Request, read_body: ReadBody) -> ListQuery:
        """The question, in the address, or of a POST as JSON."""
        models, limits = list(self.predictor.models), self.predictor.limits
        if request.method == "POST":
            try:
                async with asyncio.timeout(limits.seconds):
                    return read_query(*read_posted(await read_body(request), models))
            except TimeoutError:
                raise _too_late("whole request", limits) from None
        given = request.query_params
        for name in given:
            if name.startswith(USER_INPUT) and len(values := given.getlist(name)) > 1:
                raise wrong(f"{name[:40]} once", ", ".join(values)[:80])
        return read_query(given, models, given.getlist("deny"), given.getlist("where"))

    def _list(
        self, call: Call, query: ListQuery, deadline: float, strange: dict[str, Any]
    ) -> Listed:
        ask = partial(self._ask, call, query, deadline, strange)
        rules = self.rules
        if self.shop_rules is not None and self.shop_rules.now().keep_purchased is not None:
            rules = rules._replace(keep_purchased=True)  # `_ask` takes out what is not kept
        lists = LiveLists(ask, self.store, rules)
        try:
            listed = lists.listed(query.user, query.k, log=False)
        except _FAILURES as error:
            log.error("feedback not read", extra={"error": str(error)})
            raise _unavailable("what the user did cannot be read") from error
        if query.is_logged and time.perf_counter() < deadline:  # else nobody sees the list
            self._store_shown(lists, listed)
        return listed

    def _ask(
        self,
        call: Call,
        query: ListQuery,
        deadline: float,
        strange: dict[str, Any],
        question: Question,
        k: int,
    ) -> tuple[str, int, list[str], list[float]]:
        """Answers the question of `LiveLists` by the served version; see `_of_user`."""
        target = query.target
        if query.deny:
            question = question._replace(deny=sorted({*question.deny, *query.deny}))
        with self.predictor.resolved(target, call) as resolved:
            shop = self.shop_rules
            if shop is not None and (
                not self.rules.keep_purchased or shop.now().keep_purchased is not None
            ):
                out = set(shop.bought(resolved.version, question.purchased))
                if not question.keep_seen:
                    out -= set(question.history)  # left out anyway
                question = question._replace(deny=sorted(out.union(question.deny)))
            types = {name: dtype for name, (dtype, _) in resolved.signature.inputs.items()}
            tensors = {
                name: tf.constant(array, types[name]) for name, array in question.inputs().items()
            }
            tensors |= self._of_user(resolved.version, query, strange)

            def make(where: str) -> tuple[list[str], list[float]]:
                given = tensors
                if where or MEMBERS in tensors:
                    given = {**tensors, WHERE: tf.constant(where)}
                answer = self.predictor.run(resolved, given, deadline)
                ids, scores = (answer[name].numpy()[0] for name in ("item_ids", "scores"))
                if k > len(ids):
                    raise Refusal(
                        "INVALID_ARGUMENT",
                        f"k must be at most {len(ids)}, the length of the lists that this version "
                        f"was exported with. Received: k={k}.",
                    )
                found = [(i.decode(), float(s)) for i, s in zip(ids, scores, strict=True) if i]
                return [item for item, _ in found], [score for _, score in found]

            if shop is None:
                item_ids, scores = make(query.where)
            else:
                past = partial(self._past, query.user, question.now)
                given = (resolved.version, make, k, query.where, past)
                item_ids, scores = shop.ordered(*given)
        return target.model, resolved.version.number, item_ids[:k], scores[:k]

    def _past(self, user: str, now: int, rules: ShopRules) -> PastEvents:
        """What a user did, impressions too, within the pauses of the rules."""
        since = max(int(now - 86400 * rules.longest_pause), 0)
        kinds = {kind for pause in rules.pause for kind in pause.events}
        events = sorted(kinds) if all(pause.events for pause in rules.pause) else None
        found = self.store.read(since=since, users=[user], events=events, attribute=False)
        return tuple(found[name].tolist() for name in ("item_id", "timestamp", "event"))

    def _of_user(
        self, version: ServedVersion, query: ListQuery, strange: dict[str, Any]
    ) -> dict[str, Any]:
        """What is known of the user who asks, as an input of `Filters.recommend`; {} = nothing.

        Values that no group has go into `strange`: of them nothing is known.
        """
        if version.users is None:
            if query.known:
                expected = "no user_..., as this version was trained without a table of users"
                raise wrong(expected, next(iter(query.known))[:80])
            return {}
        values = self.store.user_values(query.user) | version.users.asked(query.known)
        if not values:
            return {}
        members, unknown = version.users.members(values)
        strange.update({name: values[name] for name in unknown})
        return {MEMBERS: tf.constant(members)}

    def _store_shown(self, lists: LiveLists, listed: Listed) -> None:
        """Begins to store the impressions; a failure is logged and costs nobody an answer."""
        with self._lock:
            if self._unlogged >= _MOST_UNLOGGED:
                log.warning("list not logged: too many wait for the store")
                return
            self._unlogged += 1

        def done(future: futures.Future) -> None:
            with self._lock:
                self._unlogged -= 1
            if error := future.exception():
                log.error("impressions not stored", extra={"error": str(error)})

        logged = lists.log(listed).logged
        if logged is not None:
            logged.add_done_callback(done)

    # --- values of items ---

    async def _item(self, item_id: str, request: Request, read_body: ReadBody) -> dict[str, Any]:
        """Tells, sets or takes back the values of one item that are not its catalogue's."""
        if not is_id(item_id):
            raise wrong(f"{_ITEM}ID, of at most {MAX_LENGTH} characters", item_id[:80])
        if request.method == "GET":
            with self.predictor.counted("rest") as call:
                call.signature = "items"
                assert self.predictor.live is not None
                return {"item_id": item_id, "values": self.predictor.live.of_item(item_id)}
        read = partial(self._values_of, item_id, method=request.method)
        work = lambda call, body: self._store_items(call, {item_id: read(body)})  # noqa: E731
        return await self._change(request, read_body, "items", work)

    def _values_of(self, item_id: str, body: bytes, *, method: str) -> dict[str, Any]:
        if method == "PUT":
            return read_values(body, item_id)
        assert self.predictor.live is not None
        return dict.fromkeys(self.predictor.live.of_item(item_id), TAKEN_BACK)

    async def _put_items(self, request: Request, read_body: ReadBody) -> dict[str, Any]:
        work = lambda call, body: self._store_items(call, read_items(body))  # noqa: E731
        return await self._change(request, read_body, "items", work)

    async def _change(
        self,
        request: Request,
        read_body: ReadBody,
        what: str,
        store: Callable[[Call, bytes], dict[str, Any]],
    ) -> dict[str, Any]:
        """Reads a body and stores the values of it; `what` is "items" or "users"."""
        limits = self.predictor.limits
        with self.predictor.counted("rest") as call:
            call.signature = what
            deadline = time.perf_counter() + limits.seconds
            try:
                async with asyncio.timeout(limits.seconds):
                    body = await read_body(request)
            except TimeoutError:
                raise _too_late("whole request", limits) from None
            try:
                return await self._run(lambda: store(call, body), deadline)
            except TimeoutError:
                late = f"the values were not stored within {limits.seconds:g} seconds"
                raise _unavailable(late) from None
            except _FAILURES as error:
                log.error(f"values of {what} not stored", extra={"error": str(error)})
                raise _unavailable("the values were not stored") from error

    def _store_items(self, call: Call, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Checks values against the catalogues of the loaded versions, and stores them."""
        call.rows = len(changes)
        wanted = {(name, key_of(v)): v for values in changes.values() for name, v in values.items()}
        # what a version knows of its items outlives it: it may be unloaded meanwhile
        versions = [version.items for version in self.predictor.loaded()]
        for (name, _), value in wanted.items():
            if value is not TAKEN_BACK:
                check_value(versions, name, value)
        assert self.predictor.live is not None
        try:
            self.predictor.live.put(changes)
        except ValueError as error:
            raise Refusal("INVALID_ARGUMENT", str(error)) from error
        ids = np.array(list(changes), object)
        unknown = ids[self._known.unknown(ids)].tolist()
        return {
            "items": len(changes),
            "values": sum(map(len, changes.values())),
            "unknown_items": len(unknown),
            **({"unknown": unknown[:_MOST_UNKNOWN]} if unknown else {}),
        }

    # --- what is known of users ---

    async def _user(self, user_id: str, request: Request, read_body: ReadBody) -> dict[str, Any]:
        """Tells, sets or takes back what is known of one user beside the events."""
        if not is_id(user_id):
            raise wrong(f"{_USER}ID, of at most {MAX_LENGTH} characters", user_id[:80])

        def work(call: Call, body: bytes) -> dict[str, Any]:
            if request.method == "PUT":
                return self._store_users(call, {user_id: read_user(body, user_id)})
            values = self.store.user_values(user_id)
            if request.method == "GET":
                return {"user_id": user_id, "values": values}
            self.store.set_users({user_id: dict.fromkeys(values)})
            return {"users": 1, "values": len(values)}

        return await self._change(request, read_body, "users", work)

    async def _put_users(self, request: Request, read_body: ReadBody) -> dict[str, Any]:
        work = lambda call, body: self._store_users(call, read_users(body))  # noqa: E731
        return await self._change(request, read_body, "users", work)

    def _store_users(self, call: Call, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Checks values against the groups of the loaded versions, and stores them."""
        call.rows = len(changes)
        known = [version.users for version in self.predictor.loaded() if version.users is not None]
        unused = check_users(known, changes)
        try:
            count = self.store.set_users(changes)
        except ValueError as error:
            raise Refusal("INVALID_ARGUMENT", str(error)) from error
        return {"users": len(changes), "values": count, **({"unused": unused} if unused else {})}

    # --- statistics ---

    async def _stats(self, request: Request, read_body: ReadBody) -> dict[str, Any]:
        limits = self.predictor.limits
        with self.predictor.counted("rest") as call:
            call.signature = "feedback_stats"
            try:
                return await self._run(self._count, time.perf_counter() + limits.seconds)
            except TimeoutError:
                raise _too_late("answer", limits) from None

    def _count(self) -> dict[str, Any]:
        if not self._counting.acquire(blocking=False):  # it reads the whole store
            message = "statistics are being counted for somebody else; try again later."
            raise Refusal("RESOURCE_EXHAUSTED", message)
        try:
            items = self._known.ids()
            found = self.store.stats(items, max_ahead=self.max_ahead)._asdict()
        except _FAILURES as error:
            log.error("feedback not counted", extra={"error": str(error)})
            raise _unavailable("the events cannot be counted") from error
        finally:
            self._counting.release()
        for name in ("versions", "positions"):
            table = found[name].astype(object)
            found[name] = table.where(table.notna(), None).to_dict("records")
        return found


def _is_future(value: object) -> bool:
    return isinstance(value, futures.Future)


def _too_late(what: str, limits: Limits) -> Refusal:
    message = f"no {what} within {limits.seconds:g} seconds, the server's limit."
    return Refusal("DEADLINE_EXCEEDED", message)


def _unavailable(what: str) -> Refusal:
    message = f"the feedback store is out of reach: {what}; the server's log says why. Try again."
    return Refusal("UNAVAILABLE", message)
