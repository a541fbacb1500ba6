"""The public API and the command line still hold all that they held before the packages.

`files/surface.json` was written by the kerasrec of 119 flat modules: names, members, parameters by
name, place and default; verbs and their options with defaults. It is not written anew: additions
pass, and what is missing or means something else fails.
"""

import argparse
import inspect
import json
import re

import pytest
from places import FILES

import kerasrec
from kerasrec.cli.entry import build_parser

BEFORE = json.loads((FILES / "surface.json").read_text(encoding="utf-8"))
#: "Class.method" or "function" -> old keyword -> new one; tests of their own say that the old word
#: goes on working, with a DeprecationWarning
RENAMED = {}
#: "function: parameter" whose default, a tuple, has more at its end than it had
GROWN = {"simulate: strategies"}
#: "function: parameter" -> its default now: `train` decides what it did not do before
DECIDED = {"train: refit": "None"}


def same_default(old, new):
    """Whether `repr`s of defaults agree; NamedTuples may have grown, classes have moved."""
    old, new = (re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text) for text in (old, new))
    return old == new or ("=" in old and new.startswith(old[:-1] + ", "))


def missing_parameters(place, before, function):
    """What a call of before could give that the function of today does not take in the same way."""
    now = inspect.signature(function).parameters
    names, wrong = list(now), []
    for index, (name, kind, default) in enumerate(before):
        name = RENAMED.get(place, {}).get(name, name)
        if name not in now:
            wrong.append(f"{place}: no parameter {name}")
            continue
        found = now[name]
        if kind == "POSITIONAL_OR_KEYWORD" and (names.index(name), found.kind.name) != (
            index,
            kind,
        ):
            wrong.append(f"{place}: {name} is not the positional argument {index}")
        if kind.startswith("VAR") != found.kind.name.startswith("VAR"):
            wrong.append(f"{place}: {name} is {found.kind.name}, not {kind}")
        if default is None:
            continue
        was = default[:-1] + ", " if f"{place}: {name}" in GROWN else None
        if was and repr(found.default).startswith(was):
            continue
        default = DECIDED.get(f"{place}: {name}", default)
        if found.default is found.empty or not same_default(default, repr(found.default)):
            wrong.append(f"{place}: {name}={found.default!r}, not {default}")
    known = {RENAMED.get(place, {}).get(name, name) for name, _, _ in before}
    wrong += [
        f"{place}: {name} is new and has no default"
        for name, p in now.items()
        if name not in known and p.default is p.empty and not p.kind.name.startswith("VAR")
    ]
    return wrong


@pytest.mark.parametrize("name", BEFORE["names"])
def test_a_public_name_is_what_it_was(name):
    before, now = BEFORE["names"][name], getattr(kerasrec, name)
    if before["kind"] == "table":
        assert isinstance(now, dict) and set(before["keys"]) <= set(now)
    elif before["kind"] == "function":
        assert inspect.isfunction(now)
        assert missing_parameters(name, before["signature"], now) == []
    else:
        assert inspect.isclass(now)
        assert set(before["members"]) <= set(dir(now))
        if before["init"] is not None:
            assert missing_parameters(name, before["init"], now) == []
        for member, parameters in before["members"].items():
            if isinstance(parameters, list):
                place = f"{name}.{member}"
                assert missing_parameters(place, parameters, getattr(now, member)) == []


def options(parser):
    """Option strings (or the name of an argument) -> `repr` of its default; parts -> theirs."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found[action.dest] = {name: options(part) for name, part in action.choices.items()}
        else:
            found[" ".join(sorted(action.option_strings)) or action.dest] = repr(action.default)
    return found


def missing_options(place, before, now):
    """Options of before that are not there, or have another default."""
    wrong = [f"{place}: no {key}" for key in before if key not in now]
    for key in set(before) & set(now):
        if isinstance(before[key], dict):
            wrong += missing_options(f"{place} {key}", before[key], now[key])
        elif not same_default(before[key], now[key]):
            wrong.append(f"{place}: {key} is {now[key]}, was {before[key]}")
    return wrong


@pytest.mark.parametrize("verb", BEFORE["verbs"])
def test_a_verb_of_the_command_line_has_its_options(verb):
    _, verbs = build_parser()
    assert missing_options(verb, BEFORE["verbs"][verb], options(verbs[verb])) == []
