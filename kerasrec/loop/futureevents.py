"""Leaves out events that a wrong clock has put into the future: they are no end of a log."""

import logging

import numpy as np

from kerasrec.data.interactions import Interactions
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment, read_zone, show_time

log = logging.getLogger(__name__)


def is_ahead(interactions: Interactions, *, max_ahead: float | None = MAX_AHEAD) -> np.ndarray:
    """Says which events lie too far ahead of this machine's clock, bool `(num_events,)`.

    Args:
        interactions: `Interactions`.
        max_ahead: seconds that an event may; None = any.
    """
    return interactions.frame["timestamp"].to_numpy() > latest_moment(max_ahead)


def without_future(interactions: Interactions, *, max_ahead: float | None = MAX_AHEAD) -> tuple:
    """Leaves out the events of the future; the log says how many, and of when.

    Args:
        interactions, max_ahead: as for `is_ahead`.

    Returns:
        `(Interactions, kept, sentence)`: bool `(num_events,)` of those that are kept, and what was
        left out, None = nothing.
    """
    ahead = is_ahead(interactions, max_ahead=max_ahead)
    if not ahead.any():
        return interactions, ~ahead, None
    times = interactions.frame["timestamp"].to_numpy()[ahead]
    zone = read_zone(interactions.timezone)
    first, last = (show_time(int(edge), zone)[:10] for edge in (times.min(), times.max()))
    dates = first if first == last else f"{first} to {last}"
    count = f"{len(times):,} {'event lies' if len(times) == 1 else 'events lie'}"
    sentence = (
        f"{count} more than {max_ahead:g} seconds ahead of this machine's clock ({dates}) and "
        f"{'is' if len(times) == 1 else 'are'} left out: a clock was wrong."
    )
    log.warning("%s", sentence)
    return interactions.replace(interactions.frame[~ahead]), ~ahead, sentence
