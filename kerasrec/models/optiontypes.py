"""Kinds of options: which values an option may have.

They stand in the signatures of the functions that own the options (`build_model`, `Trainer`, ...).
There a reader sees them beside the default, and `training.options` has pydantic check by them.
"""

import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, PlainValidator

Owner = TypeVar("Owner", bound=Callable[..., Any])


def shown_plainly(owner: Owner) -> Owner:
    """Shows the plain types of a function's options to `help` and notebooks, without their checks.

    The checks stay in the annotations, where `training.options` reads them.

    >>> import inspect
    >>> def train(*, epochs: Annotated[int, Field(ge=1)] = 3): ...
    >>> str(inspect.signature(shown_plainly(train)))
    '(*, epochs: int = 3)'
    """
    given = inspect.signature(owner)
    plain = [one.replace(annotation=_plain(one.annotation)) for one in given.parameters.values()]
    owner.__signature__ = given.replace(parameters=plain)  # type: ignore[attr-defined]
    return owner


def _plain(hint):
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_plain, typing.get_args(hint)))
    return hint


class UnknownName(ValueError):
    """A name that is not in a table of names."""

    def __init__(self, known: list[str]):
        super().__init__(f"Known: {', '.join(known)}.")
        self.known = known


class Unfit(ValueError):
    """A value of the wrong kind; the text says what was expected."""


class NameOf:
    """Checks a name against a table, at the time of the check, or takes a function instead.

    Args:
        table: of the known names; a user may have added to it.
    """

    def __init__(self, table: Mapping[str, Any]):
        self.table = table

    def __call__(self, value: Any) -> Any:
        """The value, where it is in the table or no name; else raises `UnknownName` or `Unfit`."""
        if isinstance(value, str) and value not in self.table:
            raise UnknownName(list(self.table))
        return check_function(value)


def check_function(value: Any) -> Any:
    """The value, where it is a name, or something to call or to configure.

    Raises:
        Unfit: it is none of these.
    """
    if isinstance(value, str) or callable(value) or hasattr(value, "get_config"):
        return value
    raise Unfit("a name or a function")


def check_text(value: Any) -> Any:
    """The value, where it is a text or a path.

    Raises:
        Unfit: it is not.
    """
    if isinstance(value, str | Path):
        return value
    raise Unfit("a text")


def check_strategy(value: Any) -> Any:
    """The value, where it is a `tf.distribute` strategy.

    Raises:
        Unfit: it is not.
    """
    if hasattr(value, "scope"):
        return value
    raise Unfit("a tf.distribute strategy, which only Python can give (train(..., options=...))")


def as_number(value: Any) -> Any:
    """A plain number from what YAML takes for a text (`1e-3`) or from numpy.

    True, False, infinity and NaN are no numbers here: None.

    >>> as_number("1e-3"), as_number("many"), as_number(True)
    (0.001, 'many', None)
    """
    if isinstance(value, bool | np.bool_):
        return None
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, str):
        try:
            number = float(number)
        except ValueError:
            return value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def as_flag(value: Any) -> bool:
    """True or False, also from the text that a command line gives.

    Raises:
        Unfit: it is neither.
    """
    flag = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise Unfit("true or false")
    return flag


_NUMBER = BeforeValidator(as_number)

#: a whole number from 0
Whole = Annotated[int, _NUMBER, Field(ge=0)]
#: a whole number from 1
Count = Annotated[int, _NUMBER, Field(ge=1)]
#: a number above 0
Positive = Annotated[float, _NUMBER, Field(gt=0)]
#: a share of something that may be none of it, and never all
Share = Annotated[
    float,
    _NUMBER,
    Field(ge=0, lt=1, description="a share from 0 to below 1"),
]
#: yes or no
Flag = Annotated[bool, BeforeValidator(as_flag)]
#: a text
Text = Annotated[str, PlainValidator(check_text), Field(description="a text")]
#: a text or a path
TextOrPath = Annotated[str | Path, PlainValidator(check_text), Field(description="a text")]
#: a strategy of `tf.distribute`
Strategy = Annotated[
    Any, PlainValidator(check_strategy), Field(description="a tf.distribute strategy")
]
