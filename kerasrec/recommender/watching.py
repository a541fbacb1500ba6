"""Asks a version what it would have listed for events, and a `Guard` whether that is good."""

import time

import numpy as np

from kerasrec.data.histories import Histories, before
from kerasrec.fusion.counting import CUT, MOST_AT_A_LOOK, Guard
from kerasrec.fusion.following import Following
from kerasrec.fusion.recency import Counts, newest_times
from kerasrec.recommender.answers import make_lists
from kerasrec.recommender.questions import Questions
from kerasrec.versions.loaded import LoadedVersion


def guard_of(loaded: LoadedVersion) -> Guard | None:
    """Makes the `Guard` of a version; None where its graph cannot rank by counts alone."""
    return Guard(loaded.decays) if loaded.can_count_alone else None


def watch(
    loaded: LoadedVersion,
    guard: Guard,
    histories: Histories,
    places: np.ndarray,
    known: tuple[Following, Counts],
) -> bool:
    """Compares what a version lists with what counting lists, for events that it does not know.

    Args:
        loaded: `LoadedVersion`.
        guard: `Guard`; it learns from the events.
        histories: `Histories` of the users, with the events.
        places: of the events in it, ascending times; of many the newest are looked at.
        known: what counting may know: nothing of these events.

    Items that are in no list are left out, and so is who has a clock that is ahead.

    Returns:
        Whether counting has got ahead, for sure and for the first time.
    """
    withdrawn = loaded.withdrawn()
    places = places[histories.chosen[places]]
    places = places[histories.timestamps[places] <= time.time()]
    places = places[~np.isin(histories.items[places], withdrawn)]
    users = np.searchsorted(histories.offsets, places, side="right") - 1
    # the newest event of each user
    newest = len(places) - 1 - np.unique(users[::-1], return_index=True)[1]
    places = places[np.sort(newest)][-MOST_AT_A_LOOK:]
    if not len(places):
        return False
    users = np.searchsorted(histories.offsets, places, side="right") - 1
    asked, times = before(histories, places), histories.timestamps[places]
    # who asks a server for a user's list names no types of events
    asked = asked._replace(
        events=np.zeros_like(asked.events), values=np.ones_like(asked.values, np.float32)
    )
    listed = None
    if not guard.is_lost:
        newest = newest_times(asked)
        waited = np.where(newest > 0, np.maximum(times - newest, 0), 0)
        # now, as a server is asked: at its own time a late event would get what was recent long ago
        now = np.zeros_like(times)
        listed, _ = make_lists(loaded, Questions(asked, now, waited), k=CUT)
    taken, names = histories.items[places], histories.user_ids[users]
    return guard.compare((asked, times), names, taken, listed, known, withdrawn)
