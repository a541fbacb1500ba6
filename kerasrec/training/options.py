"""Options in sections, their checks, and the presets a user chooses between.

An option is a keyword-only argument whose type is a kind of option (`models.optiontypes`), in the
signature of the function that owns it. Its name, default, bounds and explanation are read there.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kerasrec.checks import did_you_mean
from kerasrec.fusion.fusion import fit_tables
from kerasrec.models.build import build_model
from kerasrec.models.optiontypes import NameOf, Unfit, UnknownName
from kerasrec.models.textpart import text_part
from kerasrec.training.fitting import fit_members, fit_models
from kerasrec.training.generating import fit_generator
from kerasrec.training.trainer import Trainer

#: section -> the functions that own its options
OWNERS: dict[str, tuple[Callable, ...]] = {
    "encoder": (text_part,),
    "model": (build_model,),
    "trainer": (Trainer, fit_members, fit_models),
    "fusion": (fit_tables,),
    "generator": (fit_generator,),
}
SECTIONS = tuple(OWNERS)
#: what differs from the defaults of the functions that take the options, see `known_options`
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "fast": {"model": {"text_units": 32, "id_units": 32}, "trainer": {"epochs": 15}},
    "balanced": {},
    "accurate": {"model": {"num_blocks": 2}, "trainer": {"epochs": 60, "patience": 8}},
}


class Option(NamedTuple):
    """One option.

    section, name: as in `options={section: {name: value}}`.  default: of the function that owns it.
    values: what it may be, in words.  meaning: one line from the docstring of that function.
    """

    section: str
    name: str
    default: Any
    values: str
    meaning: str


def option_table() -> list[Option]:
    """Lists every option with its default, its values and one line of explanation.

    >>> next(option for option in option_table() if option.name == "id_dropout")[:4]
    ('model', 'id_dropout', 0.05, 'a share from 0 to below 1')
    """
    return [
        Option(section, name, default, _words(hint), meaning)
        for section in SECTIONS
        for name, (hint, default, meaning) in _options_of(section).items()
    ]


def known_options() -> dict[str, dict[str, Any]]:
    """Maps each section to the names and defaults of its options."""
    return {
        section: {name: default for name, (_, default, _) in _options_of(section).items()}
        for section in SECTIONS
    }


def check_options(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Raises on an unknown section or option, naming the nearest known one, and on a bad value.

    Args:
        options: dict section -> dict of options; a section may be None (an empty one in YAML).

    Returns:
        The same with every section a dict and numbers that YAML took for texts (`1e-3`) as numbers.

    Raises:
        ValueError: see above.
    """
    if not isinstance(options, dict):
        sections = ", ".join(SECTIONS)
        raise ValueError(f"options must be a dict of sections ({sections}). Received: {options!r}.")
    checked: dict[str, dict[str, Any]] = {}
    for section, values in options.items():
        if section not in SECTIONS:
            raise ValueError(f"Unknown section {section!r}. {did_you_mean(section, SECTIONS)}")
        if not isinstance(values, dict | None):
            raise ValueError(f"The section {section!r} must hold options. Received: {values!r}.")
        known, checked[section] = _options_of(section), {}
        for name, value in (values or {}).items():
            if name not in known:
                raise ValueError(
                    f"Unknown option {section}.{name}. {did_you_mean(name, list(known))}"
                )
            checked[section][name] = _checked(section, name, value)
    return checked


def resolve_preset(preset: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Puts the user's own options, checked, over those of a preset; all sections are there."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. {did_you_mean(preset, list(PRESETS))}")
    options, chosen = check_options(options), PRESETS[preset]
    return {s: {**chosen.get(s, {}), **options.get(s, {})} for s in SECTIONS}


# --- reading signatures ---


@functools.cache
def _options_of(section: str) -> dict[str, tuple[Any, Any, str]]:
    """Name -> type, default and meaning of the options of a section."""
    found: dict[str, tuple[Any, Any, str]] = {}
    for owner in OWNERS[section]:
        # of a class the constructor has the types, and the class the docstring
        function = vars(owner)["__init__"] if inspect.isclass(owner) else owner
        hints = typing.get_type_hints(function, include_extras=True)
        meanings = _meanings(inspect.getdoc(owner) or "")
        for name, parameter in inspect.signature(function).parameters.items():
            if any(typing.get_origin(part) is Annotated for part in _walk(hints.get(name))):
                found.setdefault(name, (hints[name], parameter.default, meanings[name]))
    return found


def _meanings(docstring: str) -> dict[str, str]:
    """Name -> explanation, on one line, from the part `Args:` of a docstring."""
    _, _, rest = docstring.partition("Args:\n")
    entries = re.split(
        r"^ {4}(?=\w)", re.split(r"^(?=\w)", rest, flags=re.MULTILINE)[0], flags=re.M
    )
    pairs = (entry.partition(":") for entry in entries if entry.strip())
    return {
        name.strip(): " ".join(text.split())
        for names, _, text in pairs
        for name in names.split(",")
    }


def _walk(hint: Any) -> Iterator[Any]:
    """A type and all types inside of it."""
    yield hint
    for part in typing.get_args(hint):
        yield from _walk(part)


def _words(hint: Any) -> str:
    """What a value of a type must be."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, parts))
    if origin is tuple:
        return f"a list of some of {_words(parts[0])}"
    if origin is not Annotated:
        return _PLAIN.get(hint, str(hint))
    facts, table = _facts(parts[1:]), _table(parts)
    if table is not None:
        return f"{', '.join(table)} or a function"
    bounds = {"ge": "of at least", "gt": "above"}
    least = next((f" {word} {facts[name]}" for name, word in bounds.items() if name in facts), "")
    return facts.get("description") or _words(parts[0]) + least


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


# --- checking values ---


@functools.cache
def _adapter(section: str, name: str) -> TypeAdapter:
    return TypeAdapter(_options_of(section)[name][0])


def _checked(section: str, name: str, value: Any) -> Any:
    """The value as its type has it: `1e-3` as a number, a list as a tuple."""
    try:
        return _adapter(section, name).validate_python(value)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "none_required"]
        hint = _options_of(section)[name][0]
        raise ValueError(_refusal(section, name, value, hint, found)) from None


def _refusal(section: str, name: str, value: Any, hint: Any, errors: list[Any]) -> str:
    """The sentence that refuses a value, from what pydantic says of it."""
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnknownName):
        return f"Unknown {section}.{name} {value!r}. {did_you_mean(value, cause.known)}"
    if cause is not None and not isinstance(cause, Unfit):
        return str(cause)  # it says all by itself
    wrong = first["input"]
    if first["type"] == "literal_error" and isinstance(wrong, str) and len(errors) == 1:
        known = [part for part in _walk(hint) if isinstance(part, str) and part != "option"]
        if wrong is value:
            return f"Unknown {section}.{name} {value!r}. {did_you_mean(value, known)}"
        part = name.removesuffix("s")
        return f"Unknown {part} {wrong!r} in {section}.{name}. {did_you_mean(wrong, known)}"
    expected = _words(hint) if len(errors) > 1 else _expected(first, hint)
    return f"The option {section}.{name} must be {expected}. Received: {value!r}."


def _expected(error: Any, hint: Any) -> str:
    """What one error of pydantic says that a value must be."""
    cause, kind, bounds = error.get("ctx", {}).get("error"), error["type"], error.get("ctx", {})
    if cause is not None:
        return str(cause)
    described = [
        part.description for part in _walk(hint) if isinstance(part, FieldInfo) and part.description
    ]
    if kind in ("greater_than", "greater_than_equal", "less_than"):
        least = (
            f"above {bounds['gt']}" if kind == "greater_than" else f"at least {bounds.get('ge')}"
        )
        return described[0] if described else least
    if kind.startswith(("int_", "float_", "finite_")):
        return _PLAIN[int if int in list(_walk(hint)) else float]
    return _words(hint)
