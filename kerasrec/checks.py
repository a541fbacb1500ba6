"""Checks that many modules share, the words of their refusals, and what long work says of itself.

Loads without numpy.
"""

import contextlib
import difflib
import logging
import math
import numbers
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

#: seconds after which work that goes on says so again
SILENCE = 10.0
#: `extra` of log records that the command line shows of any verb: the work takes long
LONG = {"is_long": True}


class ArtifactError(Exception):
    """A version that is missing, foreign or only half written."""


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Proposes what was meant by an unknown name, and lists the known ones.

    Args:
        name: as it was given.
        known: the names that exist.

    >>> did_you_mean("dropuot", ["dropout", "heads"])
    "Did you mean 'dropout'? Known: dropout, heads."
    """
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."


def is_whole(value: object) -> bool:
    """Says whether a value is a whole number, of Python or numpy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(name: str, value: Any, most: float) -> None:
    """Raises ValueError unless a value is a finite number from 0 to `most`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= most and value < math.inf):
        expected = "0 or above" if most == math.inf else f"from 0 to {most:g}"
        raise ValueError(f"{name} must be a number, {expected}. Received: {value!r}.")


@contextlib.contextmanager
def step(log: logging.Logger, what: str, *args: Any, only_long: bool = False) -> Iterator[None]:
    """Says that work begins, every `SILENCE` seconds that it goes on, and how long it took.

    Args:
        log: where it is said, at the level INFO.
        what: the work, as `logging` takes it: a text with places for `args`.
        only_long: whether nothing is said of work that takes less than `SILENCE` seconds.
    """
    text, begin, is_over = what % args, time.monotonic(), threading.Event()

    def go_on():
        while not is_over.wait(SILENCE):
            log.info("%s: goes on after %.0f s", text, time.monotonic() - begin, extra=LONG)

    if not only_long:
        log.info("%s", text)
    thread = threading.Thread(target=go_on, name="kerasrec-step", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    seconds = time.monotonic() - begin
    if seconds >= SILENCE:
        log.info("%s: done in %.0f s", text, seconds, extra=LONG)
    elif not only_long:
        log.info("%s: done in %.1f s", text, seconds)


class Pace:
    """Says how far a loop is, at most every `SILENCE` seconds, for where no bar can be drawn.

    Args:
        log: where it is said, at the level INFO.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._said = log, time.monotonic()

    def say(self, what: str, *args: Any) -> None:
        """Says it where the last time is long ago; `what` and `args` as `logging` takes them."""
        now = time.monotonic()
        if now - self._said >= SILENCE:
            self._said = now
            self._log.info(what, *args, extra=LONG)
