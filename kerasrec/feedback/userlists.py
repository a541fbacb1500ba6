"""Makes lists for users: their newest events in the feedback store count in the very next answer.

`Rules` say what such a list may hold. No TensorFlow here.
"""

import time
import uuid
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Users
from kerasrec.data.times.zones import MAX_AHEAD
from kerasrec.features.conditions import Condition
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.writer import Added


class Rules(NamedTuple):
    """Says how the events of a user change the lists of this user.

    Disliked items are never listed again, and the model does not see them in the history.

    Attributes:
        keep_purchased: True may list again what was purchased, such as what is used up.
        keep_seen: True may list again what was clicked, viewed, liked, put into the cart or rated.
        events: how many of the newest events make the history; older purchases and dislikes are
            still known (the newest thousand).
    """

    keep_purchased: bool = False
    keep_seen: bool = False
    events: int = 200

    def check(self) -> "Rules":
        """Raises ValueError unless the rules make sense; returns them."""
        if not 1 <= self.events <= 1000:
            raise ValueError(
                f"The events of a history must be between 1 and 1000. Received: {self.events}."
            )
        return self


_RULES = Rules()


class Question(NamedTuple):
    """Holds what a model is asked for one user.

    history: item ids, oldest first.  timestamps: of these, UTC seconds.  deny: ids that may not be
    listed.  keep_seen: whether ids of the history may be.  now: when it is asked, UTC seconds.
    where: the condition that listed items meet; None = none.  purchased: ids that were bought.
    user: who asks.
    """

    history: list
    timestamps: list
    deny: list
    keep_seen: bool
    now: int
    where: Any = None
    purchased: tuple[str, ...] = ()
    user: str = ""

    def inputs(self) -> dict[str, np.ndarray]:
        """Makes the inputs of the signature `recommend`, one row; `now` stands beside the id ""."""
        return {
            "history": np.array([[*self.history, ""]], object),
            "timestamps": np.array([[*self.timestamps, self.now]], np.int64),
            "allow": np.zeros((1, 0), object),
            "deny": np.array(self.deny, object).reshape(1, -1),
            "keep_seen": np.array([self.keep_seen]),
        }


def make_question(
    store: FeedbackStore, user: str, rules: Rules = _RULES, *, now: int | None = None
) -> Question:
    """Reads what a user did and applies the rules.

    Args:
        store: `FeedbackStore`.
        user: user id; without events the history is empty.
        rules: `Rules`.
        now: UTC seconds; None = the clock.

    Returns:
        `Question`.
    """
    now = int(time.time()) if now is None else now
    events = store.latest(user, rules.events)
    # fewer than asked for are all that there are
    decided = events if len(events) < rules.events else [*store.decisions(user), *events]
    if events and events[-1].timestamp > now + MAX_AHEAD:
        # what a wrong clock has put into the future was decided, but is not what came last
        events = store.latest(user, rules.events, until=now + MAX_AHEAD)
        decided = [*decided, *events]
    disliked = {event.item_id for event in decided if event.event == "dislike"}
    purchased = {event.item_id for event in decided if event.event == "purchase"}
    chosen = [event for event in events if event.item_id not in disliked]
    history = [event.item_id for event in chosen]
    deny = disliked if rules.keep_purchased else disliked | purchased
    keep_seen = rules.keep_seen
    if keep_seen:
        pass
    elif rules.keep_purchased and purchased.intersection(history):
        # keep_seen is for the whole history: what of it stays out is denied one by one
        keep_seen, deny = True, deny | (set(history) - purchased)
    else:
        deny = deny.difference(history)  # left out anyway; an index answers where none is denied
    times = [event.timestamp for event in chosen]
    bought = tuple(sorted(purchased))
    return Question(history, times, sorted(deny), keep_seen, now, purchased=bought, user=user)


class Listed(NamedTuple):
    """Holds a list that was made for a user.

    request_id: what clicks on it give to be attributed.  model, version: what made it.  item_ids,
    scores: best first.  logged: future of `Added` while the impressions are being stored, or None.
    """

    request_id: str
    user: str
    model: str
    version: int | None
    item_ids: list
    scores: list
    logged: Future[Added] | None = None

    def table(self) -> pd.DataFrame:
        """Gives `user_id, item_id, rank, score`; request_id, model and version are in its attrs."""
        ranks, scores = np.arange(1, len(self.item_ids) + 1), np.array(self.scores, np.float32)
        columns = {"user_id": self.user, "item_id": self.item_ids, "rank": ranks, "score": scores}
        table = pd.DataFrame(columns)
        table.attrs.update(request_id=self.request_id, model=self.model, version=self.version)
        return table


class LiveLists:
    """Makes lists for users from what the store knows of them at this moment.

    Args:
        model: `Recommender`; or a function of a `Question` and k that gives `(model name, version
            number, item ids, scores)`.
        store: `FeedbackStore`.
        rules: `Rules`.

    >>> lists = LiveLists(Recommender.load("saved_models/courses"), store)   # doctest: +SKIP
    >>> first = lists.recommend("u1", k=3)                                    # doctest: +SKIP
    >>> store.add([{"user_id": "u1", "item_id": first["item_id"][0],          # doctest: +SKIP
    ...     "request_id": first.attrs["request_id"]}])
    >>> lists.recommend("u1", k=3)                                            # doctest: +SKIP
    """

    def __init__(self, model: Any, store: FeedbackStore, rules: Rules = _RULES) -> None:
        self.store, self.rules = store, rules.check()
        self._ask = _asking(model, store) if hasattr(model, "recommend") else model

    def recommend(
        self, user: str, k: int = 10, *, log: bool = True, where: Condition = None
    ) -> pd.DataFrame:
        """Lists the best items for a user now.

        Args:
            user: user id.
            k: list length; shorter when fewer items may be listed.
            log: True stores the list as impressions, so that clicks are attributed to it.
            where: a condition that listed items meet, as for `Recommender.recommend`.

        Returns:
            DataFrame `user_id, item_id, rank, score`; its `attrs` hold `request_id`, `model` and
            `version`.
        """
        listed = self.listed(user, k, log=log, where=where)
        if listed.logged is not None:
            listed.logged.result()
        return listed.table()

    def listed(
        self, user: str, k: int = 10, *, log: bool = True, where: Condition = None
    ) -> Listed:
        """Lists like `recommend`, but does not wait until the impressions are stored."""
        user = str(user)
        question = make_question(self.store, user, self.rules)._replace(where=where)
        model, version, item_ids, scores = self._ask(question, k)
        listed = Listed(uuid.uuid4().hex, user, model, version, item_ids, scores)
        return self.log(listed) if log else listed

    def log(self, listed: Listed) -> Listed:
        """Stores a list as impressions; returns it with the future of their storing."""
        logged = self.store.add_served(
            listed.user,
            listed.item_ids,
            request_id=listed.request_id,
            model=listed.model,
            version=listed.version,
        )
        return listed._replace(logged=logged)


def _asking(recommender, store):
    """The function that `LiveLists` takes, of a `Recommender`."""
    version = recommender.version and int(recommender.version.name)

    def ask(question, k):
        index = recommender.index_of(question.history)
        known = index > 0
        count = int(known.sum())
        histories = Histories(
            user_ids=np.array([""], object),
            offsets=np.array([0, count]),
            items=index[known],
            timestamps=np.array(question.timestamps, np.int64)[known],
            events=np.zeros(count, np.int16),  # as the signature `recommend`, which takes none
            values=np.ones(count, np.float32),
        )
        deny = np.array(question.deny, object)
        groups = recommender.loaded.user_groups
        values = {} if groups is None else store.user_values(question.user)
        columns = {name: [values.get(name)] for name in groups.columns} if values else {}
        users = Users(pd.DataFrame({"user_id": [""], **columns}, dtype=object))
        found = recommender.recommend(
            histories,
            k=k,
            keep_seen=question.keep_seen,
            deny=deny[recommender.index_of(deny) > 0],
            at=question.now,
            where=question.where,
            users=users if values else None,
        )
        return recommender.about.name, version, list(found["item_id"]), list(found["score"])

    return ask
