"""Options in sections, their checks, and the presets a user chooses between.

An option is a keyword-only argument whose type is a kind of option (`models.optiontypes`), in the
signature of the function that owns it. Its name, default, bounds and explanation are read there.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from kerasrec.checks import did_you_mean
from kerasrec.fusion.fusion import fit_tables
from kerasrec.models.build import build_model
from kerasrec.models.textpart import text_part
from kerasrec.training.fitting import fit_members, fit_models
from kerasrec.training.generating import fit_generator
from kerasrec.training.optionwords import check_sections, walk, words
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
        Option(section, name, default, words(hint), meaning)
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
    return check_sections(
        options, {section: functools.partial(_hints_of, section) for section in SECTIONS}
    )


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
            if any(typing.get_origin(part) is Annotated for part in walk(hints.get(name))):
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


def _hints_of(section: str) -> dict[str, Any]:
    """Name -> type of the options of a section."""
    return {name: hint for name, (hint, _, _) in _options_of(section).items()}
