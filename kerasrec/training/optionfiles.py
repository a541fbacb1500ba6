"""Checks options by the source text of their owners: a slip is told before TensorFlow is loaded.

`options` reads the signatures of the functions that own the options, and that loads all of
TensorFlow. Here the same signatures are read from the files, without running them. What cannot be
known in this way, such as the name of an optimizer, is left to `options`.
"""

import ast
import functools
import importlib
import typing
from pathlib import Path
from typing import Annotated, Any

from kerasrec.checks import did_you_mean
from kerasrec.models import optiontypes
from kerasrec.text.vectors import check_encoder_name
from kerasrec.training.optionwords import check_sections, walk

#: section -> (module, function or class) of its owners: those of `options.OWNERS`
OWNERS = {
    "encoder": [("models.textpart", "text_part")],
    "model": [("models.build", "build_model")],
    "trainer": [
        ("training.trainer", "Trainer"),
        ("training.fitting", "fit_members"),
        ("training.fitting", "fit_models"),
    ],
    "fusion": [("fusion.fusion", "fit_tables")],
    "generator": [("training.generating", "fit_generator")],
}
#: modules that may be imported for a name in a signature
_LIGHT = ("typing", "collections.abc", "pathlib", "pydantic")


def check_early(preset: str, options: dict[str, Any]) -> None:
    """Raises on what `options.resolve_preset` would refuse, as far as the source texts tell.

    Args:
        preset, options: as for `options.resolve_preset`.

    Raises:
        ValueError: an unknown preset, section, option or value.
        FileNotFoundError: an encoder that is neither a name nor a folder.
    """
    try:
        presets = ast.literal_eval(_assigned("training.options")["PRESETS"])
        known = {section: functools.partial(hints_of, section) for section in OWNERS}
    except OSError:  # installed without its source text
        return
    if preset not in presets:
        raise ValueError(f"Unknown preset {preset!r}. {did_you_mean(preset, list(presets))}")
    check_sections(options, known)
    encoder = (options.get("encoder") or {}).get("name")
    if encoder is not None:
        check_encoder_name(encoder)


def hints_of(section: str) -> dict[str, Any]:
    """Name -> type of the options of a section; None where the source text does not tell it.

    >>> list(hints_of("fusion"))
    ['parts']
    """
    found: dict[str, Any] = {}
    for module, owner in OWNERS[section]:
        names = _Names(module)
        for argument in _arguments(module, owner):
            if argument.annotation is None:
                continue
            try:
                hint = names.value(argument.annotation)
            except KeyError:  # made of what only the running module has
                if names.mentions(argument.annotation, "Annotated"):
                    found.setdefault(argument.arg, None)
                continue
            if any(typing.get_origin(part) is Annotated for part in walk(hint)):
                found.setdefault(argument.arg, hint)
    return found


class _Names(dict):
    """Names of a module, each evaluated when it is asked for; KeyError where it cannot be."""

    def __init__(self, module: str):
        super().__init__()
        self._module = module

    def value(self, node: ast.expr) -> Any:
        """The value of an expression."""
        code = compile(ast.Expression(node), self._module, "eval")
        try:
            return eval(code, {}, self)
        except NameError as error:
            raise KeyError(error.name) from None

    def mentions(self, node: ast.expr, word: str) -> bool:
        """Whether an expression, or a name in it that is assigned in the module, has a word."""
        assigned, imported = _assigned(self._module), _imported(self._module)
        for one in ast.walk(node):
            name = one.id if isinstance(one, ast.Name) else ""
            home = imported.get(name, "")
            if name == word or (name in assigned and self.mentions(assigned[name], word)):
                return True
            if home.startswith("kerasrec.") and _Names(home.removeprefix("kerasrec.")).mentions(
                ast.Name(name), word
            ):
                return True
        return False

    def __missing__(self, name):
        if hasattr(optiontypes, name):
            return getattr(optiontypes, name)
        node = _assigned(self._module).get(name)
        if isinstance(node, ast.Dict):  # a table of names: who they name is of no account
            return {ast.literal_eval(key): None for key in node.keys if key is not None}
        if node is not None:
            return self.value(node)
        module = _imported(self._module).get(name, "")
        if module.startswith("kerasrec."):
            return _Names(module.removeprefix("kerasrec."))[name]
        if module in _LIGHT:
            return getattr(importlib.import_module(module), name)
        raise KeyError(name)


@functools.cache
def _parsed(module: str) -> ast.Module:
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _arguments(module: str, owner: str) -> list[ast.arg]:
    """Keyword-only arguments of a function, or of the constructor of a class."""
    nodes = {getattr(node, "name", ""): node for node in _parsed(module).body}
    node = nodes[owner]
    if isinstance(node, ast.ClassDef):
        node = next(part for part in node.body if getattr(part, "name", "") == "__init__")
    return node.args.kwonlyargs if isinstance(node, ast.FunctionDef) else []


def _assigned(module: str) -> dict[str, ast.expr]:
    """Name -> expression, of what a module assigns to names at its top."""
    found = {}
    for node in _parsed(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({one.id: node.value for one in targets if isinstance(one, ast.Name)})
    return found


def _imported(module: str) -> dict[str, str]:
    """Name -> dotted module that it is imported from."""
    nodes = [node for node in _parsed(module).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in nodes for alias in node.names}
