"""Says how the ids of a log and of a catalogue meet, and which rule would make more of them meet.

Two tables of one shop rarely come from one program. A spreadsheet drops the zeros in front, a float
column puts `.0` behind, an export adds a prefix: then no event finds its item.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kerasrec.data.interactions import Interactions, Items

#: below this share of known events the ids of two tables "hardly meet"
HARDLY = 0.5
#: unknown ids that rules are tried on, at most
_MOST_TRIED = 5_000
_MOST_RULES = 3  # one after the other
_NUM_EXAMPLES = 3
_LONGEST_EXAMPLE, _LONGEST_AFFIX = 40, 30
_SAMPLE = 200  # ids that say whether a rule changes anything
#: share of the unknown events that a rule must make known, to be named
LEAST_GAIN = 0.2
#: share of the ids that must meet where digits in front are left out: else it is by chance
_MOST_HITS = 0.9
#: a larger catalogue is searched for single rules only, and only where the ids hardly meet
_LARGE = 100_000
#: numbers that a spreadsheet has cut to 15 digits
_ROUNDED = r"\d{15}0+"
_Rule = Callable[[str], str]


class Match(NamedTuple):
    """Holds how many events name an item of the catalogue.

    events, known_events, ids, known_ids: of the log, and those that the catalogue has.  unknown:
    ids of the log that it lacks, the most frequent first.  examples: of the catalogue.  rule: what
    differs, in words; "" = nothing that would help was found.  known_by_rule: events that would
    name an item if it did not.  advice: what else is seen, or "".
    """

    events: int
    known_events: int
    ids: int
    known_ids: int
    unknown: list[str]
    examples: list[str]
    rule: str = ""
    known_by_rule: int = 0
    advice: str = ""

    @property
    def share(self) -> float:
        """Share of the events that name an item of the catalogue."""
        return self.known_events / max(self.events, 1)

    @property
    def is_poor(self) -> bool:
        """Whether the ids hardly meet: less than half of the events name an item."""
        return self.share < HARDLY

    def hint(self) -> str:
        """What would make the ids meet, as a sentence, or ""."""
        parts = []
        if self.rule:
            share = format_share(self.known_by_rule, self.events)
            parts.append(f"{share} of the events would name an item if {self.rule}.")
        return " ".join([*parts, self.advice] if self.advice else parts)

    def shown_unknown(self) -> str:
        """A few ids that the catalogue lacks."""
        return _shown(self.unknown)

    def shown_known(self) -> str:
        """A few ids of the catalogue."""
        return _shown(self.examples)

    def sentence(self) -> str:
        """All of it on one line: the share, examples of both sides, the rule.

        >>> Match(4, 1, 3, 1, ["sku1", "sku2"], ["SKU1", "SKU2"]).sentence()
        "1 of 4 events (25 %) name an item of the catalogue: the log has 'sku1', 'sku2', the
        catalogue 'SKU1', 'SKU2'."
        """
        share = format_share(self.known_events, self.events)
        start = (
            f"{self.known_events:,} of {self.events:,} events ({share}) name an item of the "
            f"catalogue: the log has {self.shown_unknown()}, the catalogue {self.shown_known()}."
        )
        return f"{start} {self.hint()}".strip()


def match_ids(interactions: Interactions, items: Items) -> Match:
    """Compares the item ids of a log with those of a catalogue.

    Args:
        interactions: `Interactions`.
        items: `Items`.

    Returns:
        `Match`.

    >>> import pandas as pd
    >>> from kerasrec.data import read_interactions, read_items
    >>> log = read_interactions(pd.DataFrame({"user": [1, 1], "item": ["42", "7"]}))
    >>> match = match_ids(log, read_items(pd.DataFrame({"item": ["0042"], "title": ["书"]})))
    >>> match.known_events, match.known_by_rule
    (0, 1)
    >>> match.rule
    "zeros in front of numbers were left out ('42' -> '0042')"
    """
    column = interactions.frame["item_id"].cat
    names, counts = column.categories.to_numpy(dtype=object), np.bincount(column.codes)
    names, counts = names[: len(counts)][counts > 0], counts[counts > 0]

    def known_users():
        users = interactions.frame["user_id"].cat
        hits = items.index_of(users.categories.to_numpy(dtype=object)) > 0
        return float(np.mean(hits[users.codes]))

    return match_counts(names, counts, items, interactions.columns, known_users)


def match_counts(
    names: np.ndarray,
    counts: np.ndarray,
    items: Items,
    columns: Mapping[str, str],
    known_users: Callable[[], float],
) -> Match:
    """Does what `match_ids` does, for a log that is known by its counts.

    Args:
        names: object str, `(num_ids,)`, the item ids of the log.
        counts: int, `(num_ids,)`, events of each.
        items: `Items`.
        columns: as of `Interactions`.
        known_users: gives the share of events whose user is an item of the catalogue.
    """
    is_known = items.index_of(names) > 0
    known, total = int(counts[is_known].sum()), int(counts.sum())
    order = np.argsort(-counts[~is_known], kind="stable")[:_MOST_TRIED]
    unknown = dict(
        zip(names[~is_known][order], counts[~is_known][order].astype(object), strict=True)
    )
    found = Match(
        total,
        known,
        len(names),
        int(is_known.sum()),
        list(unknown),
        [str(one) for one in items.ids[:_NUM_EXAMPLES]],
    )
    if not unknown or not len(items):
        return found
    if advice := _other_column(items, unknown):
        return found._replace(advice=advice)
    if len(items) > _LARGE and not found.is_poor:
        return found
    rule, gained = _best_rules(unknown, [str(one) for one in items.ids])
    tried, left = sum(unknown.values()), total - known
    # of very many unknown ids only the most frequent were tried
    gained = round(gained * left / tried)
    advice = "" if rule else _other_advice(columns, items, unknown, known_users)
    return found._replace(rule=rule, known_by_rule=known + gained if rule else 0, advice=advice)


def format_share(part: int, whole: int) -> str:
    """A share for people; neither 0 % nor 100 % where it is not exact.

    >>> format_share(1, 1000), format_share(0, 5), format_share(999, 1000), format_share(1, 4)
    ('under 1 %', '0 %', 'over 99 %', '25 %')
    """
    share = part / max(whole, 1)
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def _shown(ids):
    return ", ".join(_short(one) for one in ids[:_NUM_EXAMPLES]) or "none"


def _short(one):
    return repr(one if len(one) <= _LONGEST_EXAMPLE else one[: _LONGEST_EXAMPLE - 1] + "…")


# --- rules: each makes one text of what is written in several ways ---


def _without_formula(text):
    found = re.fullmatch(r"""=?"(.*)"|'(.*?)'?|“(.*)”""", text.strip(), flags=re.DOTALL)
    return next((part for part in found.groups() if part), text) if found else text


def _without_spaces(text):
    return "".join(c for c in text if not (c.isspace() or unicodedata.category(c) in ("Cf", "Cc")))


def _half_width(text):
    return unicodedata.normalize("NFKC", text)


def _whole(text):
    """Numbers as whole ones: `12.0` and `1,234`."""
    plain = text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.0+)?", text) else text
    if re.fullmatch(r"-?\d+\.0*", plain):
        return plain.partition(".")[0]
    return plain


def _without_zeros(text):
    """Numbers without zeros in front, also behind letters: `SKU0042` and `SKU42`."""
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def _without_letters(text):
    return re.sub(r"^[^\d]+(?=\d)", "", text)


def _without_marks(text):
    return re.sub(r"[-_./:#|\\]+", "", text)


#: (what it is in words, the rule), the harmless ones first
_RULES: list[tuple[str, _Rule]] = [
    ("spaces and invisible characters were left out", _without_spaces),
    ('quotes and spreadsheet formulas (="...") were left out', _without_formula),
    ("full-width characters were written as plain ones", _half_width),
    ("whole numbers were written without .0 and commas", _whole),
    ("capital and small letters were the same", str.casefold),
    ("zeros in front of numbers were left out", _without_zeros),
    ("- _ . / and the like were left out", _without_marks),
    ("letters in front of numbers were left out", _without_letters),
]


def _best_rules(unknown, ids):
    """Words of the rules that make most unknown events known, and how many; "" and 0 = none.

    A rule that makes one text of two items of the catalogue is of no use for these.
    """
    words: list[str] = []
    best, now = 0, ({one: one for one in unknown}, {one: one for one in ids})
    for _ in range(_MOST_RULES):
        tried = [((name,), *_applied(rules, now, unknown)) for name, *rules in _rules_of(*now)]
        if not any(gained for _, gained, _ in tried) and len(ids) <= _LARGE:
            tried += _pairs(now, unknown)
        names, gained, then = max(tried, key=lambda one: one[1], default=((), 0, now))
        if gained - best < LEAST_GAIN * sum(unknown.values()):
            break
        words, best, now = [*words, *names], gained, then
        if best == sum(unknown.values()):
            break
    if not words:
        return "", 0
    written, by_text = now[0], _unique(now[1])
    one = next(one for one, text in written.items() if text in by_text)
    example = f"{_short(one)} -> {_short(by_text[written[one]])}"
    return f"{', and '.join(words)} ({example})", best


def _pairs(now, unknown):
    """Two rules that help only together: each alone gains nothing."""
    for name, *rules in _rules_of(*now):
        _, then = _applied(rules, now, unknown)
        for second, *others in _rules_of(*then):
            if second != name:
                yield (name, second), *_applied(others, then, unknown)


def _applied(rules, now, unknown):
    """(events known under a rule, the ids of the log and of the catalogue as it writes them)."""
    written, target = (
        {one: rule(text) for one, text in side.items()}
        for rule, side in zip(rules, now, strict=True)
    )
    known = _unique(target)
    gained = sum(unknown[one] for one, text in written.items() if text and text in known)
    return gained, (written, target)


def _unique(target):
    """Text -> id of the catalogue, of the texts that only one id has."""
    counts = Counter(target.values())
    return {text: one for one, text in target.items() if counts[text] == 1}


def _rules_of(written, target):
    """(words, rule of the log, rule of the catalogue) of all that change something."""
    sides = [list(written.values()), list(target.values())]
    sample = [*sides[0][:_SAMPLE], *sides[1][:_SAMPLE]]
    usual = [one for one in _RULES if any(one[1](text) != text for text in sample)]
    yield from ((name, rule, rule) for name, rule in usual if rule is not _without_letters)
    for number, side in enumerate(("the log", "the catalogue")):
        others = set(sides[1 - number])
        for place, cut in (("in front of", str.removeprefix), ("behind", str.removesuffix)):
            for affix in _common(sides[number][:_SAMPLE], place):
                hits = np.mean([cut(text, affix) in others for text in sides[number][:_SAMPLE]])
                if hits > (_MOST_HITS if affix[-1].isdigit() and place == "in front of" else 0):
                    rules: list[_Rule] = [str, str]
                    rules[number] = functools.partial(_cut, cut, affix)
                    yield f"{affix!r} {place} the ids of {side} was left out", *rules
    yield from ((name, rule, rule) for name, rule in usual if rule is _without_letters)


def _cut(cut, affix, text):
    return cut(text, affix)


def _common(sample, place):
    """What most of the texts begin or end with, from the longest to the shortest."""
    step = 1 if place == "in front of" else -1
    found = []
    for length in range(1, _LONGEST_AFFIX + 1):
        counts = Counter(text[::step][:length] for text in sample if len(text) > length)
        affix, count = max(counts.items(), key=lambda one: one[1], default=("", 0))
        if count < len(sample) / 2 or not count:
            break
        found.append(affix[::step])
    return found[::-1]


# --- where no rule helps ---


def _other_column(items, unknown):
    """Says which column of the catalogue holds the ids of the log."""
    for name in items.frame.columns.drop("item_id"):
        hits = sum(unknown.get(value, 0) for value in set(items.frame[name]))
        if hits >= HARDLY * sum(unknown.values()):
            return (
                f"The column {name} of the catalogue holds the ids of the log: --item-columns "
                f"item_id={name}."
            )
    return ""


def _other_advice(columns, items, unknown, known_users):
    """What else may be wrong: another column, or ids that a spreadsheet has rounded."""
    names = {role: columns.get(role, role) for role in ("user_id", "item_id")}
    if known_users() >= HARDLY:
        return (
            "The users of the log are in the catalogue: exchange its columns with --columns "
            f"user_id={names['item_id']} item_id={names['user_id']}."
        )
    for side, ids in (("log", list(unknown)), ("catalogue", [str(one) for one in items.ids])):
        sample = ids[:_SAMPLE]
        rounded = [one for one in sample if re.fullmatch(_ROUNDED, one)]
        if len(rounded) >= HARDLY * len(sample):
            return (
                f"Ids of the {side} such as {_short(rounded[0])} have lost digits, as in a "
                "spreadsheet that rounds long numbers: export that column as text."
            )
    return ""
