"""Options in sections, their checks, and the presets a user chooses between."""

import inspect
import math
from pathlib import Path

from kerasrec.checks import did_you_mean
from kerasrec.fusion.fusion import PARTS, fit_tables
from kerasrec.models.build import build_model
from kerasrec.models.interest import INTERESTS
from kerasrec.models.losses import LOSSES
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.models.textpart import MODES, text_part
from kerasrec.training.fitting import fit_members, fit_models
from kerasrec.training.generating import fit_generator
from kerasrec.training.trainer import Trainer, named_optimizer

SECTIONS = ("encoder", "model", "trainer", "fusion", "generator")
#: what differs from the defaults of the functions that take the options, see `known_options`
PRESETS = {
    "fast": {"model": {"text_units": 32, "id_units": 32}, "trainer": {"epochs": 15}},
    "balanced": {},
    "accurate": {"model": {"num_blocks": 2}, "trainer": {"epochs": 60, "patience": 8}},
}
#: least values of the numbers among the options; all others may be 0 and no less
_AT_LEAST_1 = {
    *("max_tokens", "whitening_dim", "max_length", "num_blocks", "heads", "num_negatives"),
    *(
        "scorer_units",
        "batch_size",
        "epochs",
        "patience",
        "members",
        "levels",
        "max_items",
        "units",
    ),
}
_CHOICES = {
    "mode": MODES,
    "sequence": SEQUENCE_MODELS,
    "interest": INTERESTS,
    "loss": LOSSES,
}
#: options that hold a text, and those that hold a text or a function; None where it is the default
_TEXTS = {
    "name",
    "model",
    "mode",
    "template",
    "pooling",
    "prefix",
    "interest",
    "precision",
    "run_folder",
}
_TEXTS_OR_FUNCTIONS = {"sequence", "loss", "optimizer"}
_SHARES = {"dropout", "input_dropout", "id_dropout"}
_ABOVE_0 = {"learning_rate", "clip_norm"}


def known_options():
    """Section -> option names with their defaults."""
    fits = (Trainer, fit_members, fit_models)
    takers = ((text_part,), (build_model,), fits, (fit_tables,), (fit_generator,))
    # and what has no default
    given = {"text", "text_vectors", "progress", "stop_after", "code_sizes", "code_units"}
    given |= {"ranker", "known"}
    return {
        section: {
            name: parameter.default
            for function in functions
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in given
            and parameter.default is not inspect.Parameter.empty
            and (name != "codes" or section == "trainer")  # those of `build_model` are an array
        }
        for section, functions in zip(SECTIONS, takers, strict=True)
    }


def check_options(options):
    """Raise on an unknown section or option, naming the nearest known one, and on a bad value.

    Args:
        options: dict section -> dict of options; a section may be None (an empty one in YAML).

    Returns:
        The same with every section a dict and numbers that YAML took for texts (`1e-3`) as numbers.

    Raises:
        ValueError: see above.
    """
    known = known_options()
    checked = {}
    for section, values in options.items():
        if section not in known:
            raise ValueError(f"Unknown section {section!r}. {did_you_mean(section, list(known))}")
        if not isinstance(values, dict | None):
            raise ValueError(f"The section {section!r} must hold options. Received: {values!r}.")
        checked[section] = {}
        for name, value in (values or {}).items():
            if name not in known[section]:
                raise ValueError(
                    f"Unknown option {section}.{name}. {did_you_mean(name, list(known[section]))}"
                )
            checked[section][name] = _checked(section, name, value, known[section][name])
    return checked


def _checked(section, name, value, default):
    """The value, as a number where the default is one."""
    if isinstance(value, str) and value not in _CHOICES.get(name, (value,)):
        raise ValueError(
            f"Unknown {section}.{name} {value!r}. {did_you_mean(value, _CHOICES[name])}"
        )
    if name == "parts":
        return _part_names(value)
    if name in _TEXTS and not isinstance(value, str | Path) and value != default:
        raise _bad(section, name, "a text", value)
    if name in _TEXTS_OR_FUNCTIONS and not (isinstance(value, str) or value == default):
        if not callable(value) and not hasattr(value, "get_config"):
            raise _bad(section, name, "a name or a function", value)
    if name == "optimizer" and isinstance(value, str):
        named_optimizer(value, {})  # raises before the work, not after the texts are encoded
    if name == "strategy" and value is not None and not hasattr(value, "scope"):
        expected = "a tf.distribute strategy, which only Python can give (train(..., options=...))"
        raise _bad(section, name, expected, value)
    is_flag = isinstance(default, bool)
    if is_flag and name != "cache" and not isinstance(value, bool):
        raise _bad(section, name, "true or false", value)
    if is_flag or not isinstance(default, int | float) or (value is None and name == "clip_norm"):
        return value
    number = _number(value)
    if number is None or (isinstance(default, int) and number != int(number)):
        what = "a whole number" if isinstance(default, int) else "a number"
        raise _bad(section, name, what, value)
    if name in _AT_LEAST_1 and number < 1:
        raise _bad(section, name, "at least 1", value)
    if name in _SHARES and not 0 <= number < 1:
        raise _bad(section, name, "a share from 0 to below 1", value)
    if number < 0 or (name in _ABOVE_0 and not number):
        raise _bad(section, name, "above 0" if name in _ABOVE_0 else "at least 0", value)
    return int(number) if isinstance(default, int) else number


def _part_names(value):
    """A tuple of names of `PARTS`."""
    if not isinstance(value, list | tuple):
        raise _bad("fusion", "parts", f"a list of some of {', '.join(PARTS)}", value)
    for name in value:
        if name not in PARTS:
            raise ValueError(f"Unknown part {name!r} in fusion.parts. {did_you_mean(name, PARTS)}")
    return tuple(value)


def _number(value):
    """The value as a finite number, or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _bad(section, name, expected, value):
    return ValueError(f"The option {section}.{name} must be {expected}. Received: {value!r}.")


def resolve_preset(preset, options):
    """The options of a preset with the user's own, checked, over them; all sections present."""
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. {did_you_mean(preset, list(PRESETS))}")
    options, chosen = check_options(options), PRESETS[preset]
    return {s: {**chosen.get(s, {}), **options.get(s, {})} for s in SECTIONS}
