"""Rules of a shop for every list: at most n of a brand, boosts and pins in a time window, variety,
pauses after what a user had, and what may be bought again.

A small file says them. They order a longer list anew, and each says what it did:

    look: 200                                # items of the long list
    boost:
      - {where: {brand: 李宁}, weight: 1.5, until: 2026-12-12T00:00+08:00}
    pin:
      - {where: {category: 新书}, place: 1, from: 2026-12-01T00:00+08:00}
    most:
      - {column: brand, number: 2}
    diversity: 0.2
    pause:                                   # no second order of a brand within a week
      - {days: 7, column: brand, events: [purchase]}
    keep_purchased: {category: 日用}          # bought again and again
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kerasrec.checks import did_you_mean
from kerasrec.data.events import EVENT_CODES, SYNONYMS
from kerasrec.data.times.forms import read_moment
from kerasrec.features.conditions import read_where, shown
from kerasrec.features.itemcolumns import ItemColumns

#: seconds since 1970 of no beginning and no end
_ALWAYS = (0.0, float("inf"))
_DAY = 86400


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Window(_Part):
    where: Any
    start: Any = Field(None, alias="from")
    until: Any = None


class _BoostPart(_Window):
    weight: float = Field(gt=0, le=1e6)


class _PinPart(_Window):
    place: int = Field(1, ge=1, le=100)


class _MostPart(_Part):
    column: str
    number: int = Field(ge=1, le=1000)


class _PausePart(_Part):
    days: float = Field(gt=0, le=36500)
    column: str = "item_id"
    events: list[str] | None = None


class _File(_Part):
    look: int = Field(200, ge=1, le=1000)
    boost: list[_BoostPart] = []
    pin: list[_PinPart] = []
    most: list[_MostPart] = []
    diversity: float = Field(0.0, ge=0, lt=1)
    pause: list[_PausePart] = []
    keep_purchased: Any = None


class Boost(NamedTuple):
    """Makes items that meet a condition `weight` times as likely, at a time within `window`."""

    where: Any
    weight: float
    window: tuple[float, float] = _ALWAYS


class Pin(NamedTuple):
    """Puts the best item that meets a condition at a place, from 1, at a time within `window`."""

    where: Any
    place: int = 1
    window: tuple[float, float] = _ALWAYS


class Most(NamedTuple):
    """Lists at most `number` items with the same value of a column; without a value any number."""

    column: str
    number: int


class Pause(NamedTuple):
    """Leaves out what has a value of a column in common with what a user had within `days` days.

    `events` are the kinds of events that count, canonical names; empty = all of them.
    """

    days: float
    column: str = "item_id"
    events: tuple[str, ...] = ()


class Past(NamedTuple):
    """What one user did: item indices, UTC seconds (0 = unknown) and codes of events, each `(n,)`.

    Of an event of an unknown kind, code 0, only rules for all kinds know.
    """

    items: np.ndarray
    times: np.ndarray
    events: np.ndarray


NO_PAST = Past(*(np.zeros(0, np.int64) for _ in range(3)))


class Ordered(NamedTuple):
    """A list after the rules.

    `places` are those of its items in the long list, from 0; `scores` theirs, boosts included;
    `reasons` says for each of them what the rules did, "" = nothing.
    """

    places: np.ndarray
    scores: np.ndarray
    reasons: list[str]


class ShopRules(NamedTuple):
    """The rules of a shop.

    Attributes:
        boost, pin, most: tuples of `Boost`, `Pin` and `Most`.
        diversity: from 0 (none) to below 1, how much an item loses that is like one before it:
            MMR, (1 - diversity) * its score from 0 to 1 among the long list - diversity * the
            largest cosine with an item before it.
        look: length of the long list.
        pause: tuple of `Pause`.
        keep_purchased: condition of the items that may be listed though they were bought; other
            bought items are left out. None = there is no such rule.
    """

    boost: tuple[Boost, ...] = ()
    pin: tuple[Pin, ...] = ()
    most: tuple[Most, ...] = ()
    diversity: float = 0.0
    look: int = 200
    pause: tuple[Pause, ...] = ()
    keep_purchased: Any = None

    def check(self, columns: ItemColumns) -> "ShopRules":
        """Raises ValueError where a rule names a column that a catalogue lacks; returns them."""
        for where in (*(one.where for one in self.boost), *(one.where for one in self.pin)):
            columns.choose(where)
        if self.keep_purchased is not None:
            columns.choose(self.keep_purchased)
        columns.check(rule.column for rule in self.most)
        columns.check(rule.column for rule in self.pause)
        return self

    def remarks(self, columns: ItemColumns, now: float) -> list[str]:
        """Says what of the rules has no effect at a moment, UTC seconds; nothing of it is wrong.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"item_id": ["a", "b"], "brand": ["x", ""]})
        >>> rules = read_shop_rules({"boost": [{"where": {"brand": "y"}, "weight": 2}]})
        >>> rules.remarks(ItemColumns(frame), 0)
        ['boost 1: no item meets its condition']
        """
        parts = [(f"boost {n}", b.where, b.window) for n, b in enumerate(self.boost, 1)]
        parts += [(f"pin {n}", p.where, p.window) for n, p in enumerate(self.pin, 1)]
        found = []
        for name, where, (start, until) in parts:
            if not columns.choose(where).number:
                found.append(f"{name}: no item meets its condition")
            if until <= now:
                found.append(f"{name}: its time is over")
            elif start > now:
                found.append(f"{name}: its time has not begun")
        for number, rule in enumerate(self.most, 1):
            if (kind := columns.type_of(rule.column)) in ("number", "time"):
                what = f"{shown(rule.column)} holds {kind}s, of which hardly two are the same"
                found.append(f"most {number}: {what}; take a column of names")
        kept = self.keep_purchased
        if kept is not None and not columns.choose(kept).number:
            found.append(
                "keep_purchased: no item meets its condition, all bought ones are left out"
            )
        return found

    @property
    def longest_pause(self) -> float:
        """Days of the longest pause; 0 = there is none."""
        return max((pause.days for pause in self.pause), default=0.0)

    def paused(
        self, index: np.ndarray, past: Past, *, columns: ItemColumns, moment: float
    ) -> np.ndarray:
        """Says which items of a list have to wait at a moment, bool `(n,)`.

        Args:
            index: item indices, `(n,)`.
            past: what the user did; events without a time do not count.
            columns: of the catalogue.
            moment: when the list is asked for, UTC seconds.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"item_id": [*"abc"], "brand": ["x", "x", "y"]})
        >>> rules = read_shop_rules({"pause": [{"days": 1, "column": "brand"}]})
        >>> past = Past(np.array([1]), np.array([1_000_000]), np.array([2]))
        >>> index = np.array([1, 2, 3])
        >>> given = dict(columns=ItemColumns(frame), moment=1_080_000)
        >>> rules.paused(index, past, **given).tolist()
        [True, True, False]
        """
        found = np.zeros(len(index), bool)
        for pause in self.pause:
            counts = (past.times > moment - _DAY * pause.days) & (past.times > 0)
            if pause.events:
                counts &= np.isin(past.events, [EVENT_CODES[name] for name in pause.events])
            had = np.unique(past.items[counts])
            if not len(had):
                continue
            taken = {one for values in columns.values_of(pause.column, had - 1) for one in values}
            own = columns.values_of(pause.column, index - 1)
            found |= np.array([any(one in taken for one in values) for values in own], bool)
        return found

    def is_kept(self, index: np.ndarray, columns: ItemColumns) -> np.ndarray:
        """Says which bought items may be listed again, bool `(n,)`: none without such a rule."""
        if self.keep_purchased is None:
            return np.zeros(len(index), bool)
        return columns.choose(self.keep_purchased).mask[np.asarray(index, np.int64) - 1]

    def pinned(self, now: float) -> "list[Pin]":
        """The pins of a moment, UTC seconds, by their places."""
        return sorted((p for p in self.pin if _is_in(now, p.window)), key=lambda pin: pin.place)

    def order(
        self,
        index: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        k: int,
        *,
        columns: ItemColumns,
        now: float,
        vectors: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Ordered:
        """Orders a long list by the rules, and cuts it.

        A boost adds log(weight) to a score, which is a logarithm: the item counts as `weight` times
        as likely. Then places are filled from the first on: with what is pinned there, else with
        the best item of which not too many are in the list. Where `most` leaves nothing, the list
        is shorter.

        Args:
            index: item indices, best first, each once.
            scores: theirs.
            k: length of the list.
            columns: of the catalogue.
            now: UTC seconds.
            vectors: function of item indices that gives item vectors `(n, dim)`; needed for
                `diversity`.
        """
        index = np.asarray(index, np.int64)
        scores = np.array(scores, np.float64)
        notes: list[list[str]] = [[] for _ in index]
        for boost in self.boost:
            if _is_in(now, boost.window):
                for place in np.flatnonzero(columns.choose(boost.where).mask[index - 1]):
                    scores[place] += np.log(boost.weight)
                    notes[place].append(f"boost {boost.weight:g}")
        order = np.argsort(-scores, kind="stable")
        pins = self._places_of_pins(index, order, k, columns, now)
        chosen = self._filled(index, scores, order, pins, k, columns, vectors)
        for place in pins.values():
            notes[place].append("pin")
        moved = {place: rank for rank, place in enumerate(chosen)}
        for place, rank in moved.items():
            if rank != place and not notes[place]:
                notes[place].append(f"was {place + 1}")
        return Ordered(
            np.array(chosen, np.int64),
            scores[chosen] if chosen else scores[:0],
            [", ".join(notes[place]) for place in chosen],
        )

    def _places_of_pins(self, index, order, k, columns, now):
        """Place in the list, from 0 -> place in the long list, of what is pinned."""
        pins: dict[int, int] = {}
        for pin in self.pinned(now):
            mask = columns.choose(pin.where).mask
            free = [p for p in order if mask[index[p] - 1] and p not in pins.values()]
            if free and pin.place <= k and pin.place - 1 not in pins:
                pins[pin.place - 1] = int(free[0])
        return pins

    def _filled(self, index, scores, order, pins, k, columns, vectors):
        counts: list[Counter] = [Counter() for _ in self.most]
        values = [columns.values_of(rule.column, index - 1) for rule in self.most]

        def is_too_many(place):
            return any(
                count[one] >= rule.number
                for rule, count, own in zip(self.most, counts, values, strict=True)
                for one in own[place]
            )

        spread = _Spread(index, scores, vectors, self.diversity) if self.diversity else None
        waiting, chosen = [place for place in order if place not in pins.values()], []
        for place in pins.values():  # they count from the start: nothing takes their room
            for count, own in zip(counts, values, strict=True):
                count.update(own[place])
        for rank in range(k):
            if rank in pins:
                place = pins[rank]
            else:
                may = [place for place in waiting if not is_too_many(place)]
                if not may:
                    rest = [pins[r] for r in sorted(pins) if r > rank]
                    return [*chosen, *rest][:k]
                place = int(spread.best(may)) if spread else int(may[0])
                waiting.remove(place)
                for count, own in zip(counts, values, strict=True):
                    count.update(own[place])
            chosen.append(place)
            if spread:
                spread.take(place)
        return chosen


class _Spread:
    """Maximal marginal relevance over a long list."""

    def __init__(self, index, scores, vectors, diversity):
        if vectors is None:
            raise ValueError("diversity needs item vectors.")
        found = np.asarray(vectors(index), np.float64)
        self._unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
        self._own = (scores - low) / max(high - low, 1e-12)
        self._diversity, self._alike = diversity, np.full(len(index), 0.0)

    def best(self, may):
        values = (1 - self._diversity) * self._own[may] - self._diversity * self._alike[may]
        return may[int(np.argmax(values))]

    def take(self, place):
        self._alike = np.maximum(self._alike, self._unit @ self._unit[place])


def read_shop_rules(source: "str | os.PathLike[str] | Mapping[str, Any] | ShopRules") -> ShopRules:
    """Reads the rules of a shop from a YAML file, or from a mapping of the same form.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML; an unknown word, with the nearest one; a value out of range.

    >>> read_shop_rules({"most": [{"column": "brand", "number": 2}]}).most
    (Most(column='brand', number=2),)
    """
    if isinstance(source, ShopRules):
        return source
    name = "rules"
    if not isinstance(source, Mapping):
        import yaml

        name, path = str(source), Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{name}: expected a file of rules. Received: no such file.")
        try:
            source = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise ValueError(f"{name}: expected YAML. Received: {reason}. Correct it.") from None
    if not isinstance(source, Mapping):
        raise ValueError(f"{name}: expected boost, pin, most, ... Received: {shown(source)}.")
    try:
        found = _File.model_validate(source)
    except ValidationError as error:
        raise ValueError(f"{name}: {_refusal(error)}") from None
    try:
        boosts = tuple(Boost(read_where(b.where), b.weight, _window(b)) for b in found.boost)
        pins = tuple(Pin(read_where(p.where), p.place, _window(p)) for p in found.pin)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    most = tuple(Most(m.column, m.number) for m in found.most)
    try:
        pauses = tuple(Pause(p.days, p.column, _kinds(p.events)) for p in found.pause)
        kept = read_where(found.keep_purchased)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    return ShopRules(boosts, pins, most, found.diversity, found.look, pauses, kept)


def _kinds(names):
    """Canonical names of kinds of events."""
    found = []
    for name in names or ():
        kind = SYNONYMS.get(name.strip().lower(), name)
        if kind not in EVENT_CODES:
            raise ValueError(
                f"pause: unknown event {shown(name)}. {did_you_mean(name, list(EVENT_CODES))}"
            )
        found.append(kind)
    return tuple(found)


def _window(part):
    if read_where(part.where) is None:
        raise ValueError("where: expected a condition in every boost and pin. Received: none.")
    edges = []
    for value, default in zip((part.start, part.until), _ALWAYS, strict=True):
        moment = None if value is None else read_moment(_text_of(value))
        if moment == "now":
            raise ValueError("from and until: expected a time. Received: 'now'.")
        edges.append(default if moment is None else float(moment))
    if edges[0] >= edges[1]:
        raise ValueError("from and until: expected a window that begins before it ends.")
    return edges[0], edges[1]


def _text_of(value):
    """YAML makes dates of texts such as 2026-12-01."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _is_in(now, window):
    return window[0] <= now < window[1]


#: part of the file -> its words
_WORDS = {
    "": ["boost", "pin", "most", "diversity", "look", "pause", "keep_purchased"],
    "boost": ["where", "weight", "from", "until"],
    "pin": ["where", "place", "from", "until"],
    "most": ["column", "number"],
    "pause": ["days", "column", "events"],
}


def _refusal(error):
    """One sentence of what pydantic says."""
    first = error.errors()[0]
    path = [str(one + 1) if isinstance(one, int) else str(one) for one in first["loc"]]
    if first["type"] == "extra_forbidden":
        part = path[0] if len(path) > 1 else ""
        return f"unknown word {shown(path[-1])}. {did_you_mean(path[-1], _WORDS[part])}"
    place = " ".join(path)
    if first["type"] == "missing":
        return f"expected {path[-1]} in {' '.join(path[:-1])}. Received: none."
    return f"{place}: expected {_expected(first)}. Received: {shown(first['input'])}."


#: kind of an error of pydantic, its beginning -> what is expected
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "a text",
    "list": "a list, such as `- {...}` below it",
    "model": "words and values, such as {column: brand, number: 2}",
    "dict": "words and values, such as {column: brand, number: 2}",
}
_EDGES = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _expected(error):
    """What an error of pydantic says that a value must be, in our words."""
    edges = [
        f"{word} {error['ctx'][e]:g}" for e, word in _EDGES.items() if e in error.get("ctx", {})
    ]
    if edges:
        return f"a number {' and '.join(edges)}"
    return _KINDS.get(error["type"].split("_")[0], "another value")
