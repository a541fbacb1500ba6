"""What is asked of the routes of the feedback store: bodies and parameters, checked.

Every mistake is one `Refusal` that names what was expected.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kerasrec.features.conditions import read_where, shown
from kerasrec.features.usergroups import USER_INPUT
from kerasrec.feedback.intake import MAX_LENGTH, is_id
from kerasrec.serving.admission import Refusal
from kerasrec.serving.items.bodies import read_json
from kerasrec.serving.predictor import Target

_PARAMETERS = ("user", "k", "model", "version", "label", "log", "deny", "where")
#: items that a question of `/v1/recommend` denies, at most
_MOST_DENIED = 1000


class ListQuery(NamedTuple):
    """The question of `/v1/recommend`.

    Attributes:
        target: `Target`.
        user: user id.
        k: list length.
        is_logged: whether the list is stored as impressions.
        deny: ids of items that may not be listed.
        where: the condition that listed items meet, as JSON; "" = none.
        known: input of the signature `recommend_for`, such as `user_age`, -> what is known of the
            user, as a text; empty = nothing but what the user did.
    """

    target: Target
    user: str
    k: int
    is_logged: bool
    deny: Sequence[str] = ()
    where: str = ""
    known: Mapping[str, str] = {}


def read_events(body: bytes) -> list:
    """Reads the events of a body: one event, a list of events, or `{"events": [...]}`.

    >>> read_events(b'{"user_id": "u", "item_id": "i"}')
    [{'user_id': 'u', 'item_id': 'i'}]
    """
    found = read_json(body)
    if isinstance(found, dict) and set(found) == {"events"}:
        found = found["events"]
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise Refusal(
            "INVALID_ARGUMENT",
            'expected an event {"user_id": ..., "item_id": ...}, a list of events, or '
            '{"events": [...]}. Received: something else; nothing was stored.',
        )
    return found


def read_posted(
    body: bytes, models: Sequence[str]
) -> tuple[dict[str, str], Sequence[str], list[str], list[Any]]:
    """Reads the JSON of a POST to `/v1/recommend` as the arguments of `read_query`.

    >>> read_posted(b'{"user": "u", "k": 5, "where": {"price": {"lt": 50}}}', ["shop"])
    ({'user': 'u', 'k': '5'}, ['shop'], [], [{'price': {'lt': 50}}])
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        message = 'expected JSON such as {"user": "u1", "k": 10, "where": {"category": "book"}}.'
        raise Refusal("INVALID_ARGUMENT", message)
    denied, where = found.pop("deny", []), found.pop("where", None)
    denied = denied if isinstance(denied, list) else [denied]
    given = {}
    for name, value in found.items():
        if value is None and name.startswith(USER_INPUT):
            continue  # unknown
        if isinstance(value, list) and name.startswith(USER_INPUT):
            value = json.dumps(value, ensure_ascii=False)  # of a column of lists
        if isinstance(value, bool):  # of a user as a table has it
            value = str(value).lower() if name.startswith(USER_INPUT) else int(value)
        of_user = isinstance(value, float) and name.startswith(USER_INPUT)
        if not (isinstance(value, str | int) or of_user):
            raise wrong(f"a text or a whole number as {name[:40]}", shown(value))
        given[name] = str(value)
    texts = [str(item) if isinstance(item, int) else item for item in denied]
    if not all(isinstance(item, str) for item in texts):
        raise wrong("a list of item ids as deny", shown(denied))
    return given, models, texts, [] if where is None else [where]


def read_query(
    given: Mapping[str, str],
    models: Sequence[str],
    denied: Sequence[str] = (),
    where: Sequence[Any] = (),
) -> ListQuery:
    """Reads the question of `/v1/recommend`.

    Args:
        given: parameter -> text.
        models: names of the models that are served.
        denied: all values of the parameter `deny`, which may be given more than once.
        where: all values of the parameter `where`: JSON, or short forms such as `price<50`, which
            all hold; or one mapping.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    known = {name: text for name, text in given.items() if name.startswith(USER_INPUT)}
    for name in given:
        if name not in _PARAMETERS and name not in known:
            expected = f"a parameter of {', '.join(_PARAMETERS)} (a column: where=COLUMN=VALUE)"
            raise wrong(expected, name[:80])
    user = given.get("user", "")
    if not is_id(user):
        raise wrong(f"user=ID, of at most {MAX_LENGTH} characters", user[:80])
    for name in ("model", "label"):
        if len(given.get(name, "")) > MAX_LENGTH:
            raise wrong(f"{name} of at most {MAX_LENGTH} characters", given[name][:80])
    k = given.get("k", "10")
    if not re.fullmatch("[0-9]{1,6}", k) or int(k) < 1:
        raise wrong("k as a whole number from 1", k[:80])
    if len(denied) > _MOST_DENIED:
        raise wrong(f"at most {_MOST_DENIED} times deny=ITEM", str(len(denied)))
    for item in denied:
        if not is_id(item):
            raise wrong(f"deny=ITEM, of at most {MAX_LENGTH} characters", item[:80])
    logged = given.get("log", "1")
    if logged not in ("0", "1"):
        raise wrong("log=0 or log=1", logged[:80])
    model = given.get("model")
    if model is None and len(models) > 1:
        raise wrong(f"model=NAME, as there are several ({', '.join(models)})", "none")
    version, label = given.get("version"), given.get("label")
    if version is not None and label is not None:
        raise wrong("version or label, not both", "both")
    if version is not None and not re.fullmatch("[0-9]{1,18}", version):
        raise wrong("version as a whole number", version[:80])
    number = None if version is None else int(version)
    target = Target(models[0] if model is None else model, number, label, "recommend")
    return ListQuery(target, user, int(k), logged == "1", denied, _condition(where), known)


def _condition(where: Sequence[Any]) -> str:
    try:
        is_one = len(where) == 1 and not isinstance(where[0], str)
        read = read_where(where[0] if is_one else list(where))
    except (ValueError, TypeError) as error:
        raise Refusal("INVALID_ARGUMENT", str(error)) from None
    return "" if read is None else read.key


def wrong(expected: str, received: str) -> Refusal:
    """The refusal of one parameter."""
    message = f"expected {expected}. Received: {received!r}. Correct the address."
    return Refusal("INVALID_ARGUMENT", message)
