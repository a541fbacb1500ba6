"""Options in sections, their checks, and the presets a user chooses between."""

import difflib
import inspect

SECTIONS = ("encoder", "model", "trainer")
#: what differs from the defaults of `text_part`, `build_model` and `Trainer`
PRESETS = {
    "fast": {"model": {"text_units": 32, "id_units": 32}, "trainer": {"epochs": 15}},
    "balanced": {},
    "accurate": {"model": {"num_blocks": 2}, "trainer": {"epochs": 60, "patience": 8}},
}


def nearest(name, known):
    """Text that proposes what was meant.

    >>> nearest("dropuot", ["dropout", "heads"])
    "Did you mean 'dropout'? Known: dropout, heads."
    """
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."


def known_options():
    """Section -> option names with their defaults."""
    from kerasrec.models import build_model
    from kerasrec.pipeline import text_part
    from kerasrec.trainer import Trainer

    functions = {"encoder": text_part, "model": build_model, "trainer": Trainer}
    given = {"items", "text", "num_items", "model", "self", "progress"}
    return {
        section: {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in given
        }
        for section, function in functions.items()
    }


def check_options(options):
    """Raise on an unknown section or option, naming the nearest known one.

    Raises:
        ValueError: see above.
    """
    known = known_options()
    for section, values in options.items():
        if section not in known:
            raise ValueError(f"Unknown section {section!r}. {nearest(section, list(known))}")
        if not isinstance(values, dict):
            raise ValueError(f"The section {section!r} must hold options. Received: {values!r}.")
        for name in values:
            if name not in known[section]:
                raise ValueError(
                    f"Unknown option {section}.{name}. {nearest(name, list(known[section]))}"
                )


def resolve_preset(preset, options):
    """The options of a preset with the user's own over them; all sections present."""
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. {nearest(preset, list(PRESETS))}")
    check_options(options)
    chosen = PRESETS[preset]
    return {s: {**chosen.get(s, {}), **(options.get(s) or {})} for s in SECTIONS}
