"""Checks options, and words for them: what a value must be, and what refuses another one.

Loads without TensorFlow, as `models.optiontypes` does.
"""

import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kerasrec.checks import did_you_mean
from kerasrec.models.optiontypes import NameOf, Unfit, UnknownName


def check_sections(
    options: dict[str, Any], known: Mapping[str, Callable[[], Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Checks sections of options: `options.check_options`.

    Args:
        options: dict section -> dict of options, or None.
        known: section -> function that gives the type of each option, None = any value will do.
    """
    sections = tuple(known)
    if not isinstance(options, dict):
        raise ValueError(
            f"options must be a dict of sections ({', '.join(sections)}). Received: {options!r}."
        )
    checked: dict[str, dict[str, Any]] = {}
    for section, values in options.items():
        if section not in sections:
            raise ValueError(f"Unknown section {section!r}. {did_you_mean(section, sections)}")
        if not isinstance(values, dict | None):
            raise ValueError(f"The section {section!r} must hold options. Received: {values!r}.")
        hints, checked[section] = known[section](), {}
        for name, value in (values or {}).items():
            if name not in hints:
                raise ValueError(
                    f"Unknown option {section}.{name}. {did_you_mean(name, list(hints))}"
                )
            checked[section][name] = _checked(section, name, value, hints[name])
    return checked


def _checked(section: str, name: str, value: Any, hint: Any) -> Any:
    """The value as its type has it: `1e-3` as a number, a list as a tuple."""
    if hint is None:
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "none_required"]
        raise ValueError(refusal(section, name, value, hint, found)) from None


def walk(hint: Any) -> Iterator[Any]:
    """A type and all types inside of it."""
    yield hint
    for part in typing.get_args(hint):
        yield from walk(part)


def words(hint: Any) -> str:
    """What a value of a type must be."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(words, parts))
    if origin is tuple:
        return f"a list of some of {words(parts[0])}"
    if origin is not Annotated:
        return _PLAIN.get(hint, str(hint))
    facts, table = _facts(parts[1:]), _table(parts)
    if table is not None:
        return f"{', '.join(table)} or a function"
    bounds = {"ge": "of at least", "gt": "above"}
    least = next((f" {word} {facts[name]}" for name, word in bounds.items() if name in facts), "")
    return facts.get("description") or words(parts[0]) + least


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "none"}


def _facts(metadata: tuple[Any, ...]) -> dict[str, Any]:
    """Bounds and description that stand beside a type."""
    fields = [part for part in metadata if isinstance(part, FieldInfo)]
    found: dict[str, Any] = {"description": next((f.description for f in fields), None)}
    bounds = [bound for field in fields for bound in field.metadata]
    return found | {
        name: getattr(bound, name)
        for bound in bounds
        for name in ("ge", "gt")
        if hasattr(bound, name)
    }


def _table(parts: Iterable[Any]) -> list[str] | None:
    """The names of the `NameOf` among the parts of a type, or None."""
    checks = (getattr(part, "func", None) for part in parts)
    return next((list(check.table) for check in checks if isinstance(check, NameOf)), None)


def refusal(section: str, name: str, value: Any, hint: Any, errors: list[Any]) -> str:
    """The sentence that refuses a value, from what pydantic says of it."""
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnknownName):
        return f"Unknown {section}.{name} {value!r}. {did_you_mean(value, cause.known)}"
    if cause is not None and not isinstance(cause, Unfit):
        return str(cause)  # it says all by itself
    wrong = first["input"]
    if first["type"] == "literal_error" and isinstance(wrong, str) and len(errors) == 1:
        known = [part for part in walk(hint) if isinstance(part, str) and part != "option"]
        if wrong is value:
            return f"Unknown {section}.{name} {value!r}. {did_you_mean(value, known)}"
        part = name.removesuffix("s")
        return f"Unknown {part} {wrong!r} in {section}.{name}. {did_you_mean(wrong, known)}"
    expected = words(hint) if len(errors) > 1 else _expected(first, hint)
    return f"The option {section}.{name} must be {expected}. Received: {value!r}."


def _expected(error: Any, hint: Any) -> str:
    """What one error of pydantic says that a value must be."""
    cause, kind, bounds = error.get("ctx", {}).get("error"), error["type"], error.get("ctx", {})
    if cause is not None:
        return str(cause)
    described = [
        part.description for part in walk(hint) if isinstance(part, FieldInfo) and part.description
    ]
    if kind in ("greater_than", "greater_than_equal", "less_than"):
        least = (
            f"above {bounds['gt']}" if kind == "greater_than" else f"at least {bounds.get('ge')}"
        )
        return described[0] if described else least
    if kind.startswith(("int_", "float_", "finite_")):
        return _PLAIN[int if int in list(walk(hint)) else float]
    return words(hint)
