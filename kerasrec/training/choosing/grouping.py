"""Fits groups of users to a table of users, and weighs them by validation.

What a group likes has a say of its own for users with a history and for users without one. The
second kind is judged by the first choices of newcomers; where the end of a log has few of them, by
the users of the validation, asked for once more with their histories hidden.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec.checks import step
from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Users
from kerasrec.evaluation.metrics import mean_and_error
from kerasrec.features.usergroups import GroupWeights, UserGroups, fit_user_groups
from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.recency import newest_times
from kerasrec.models.validation import Validation, quality_per_user, some_of
from kerasrec.recommender.answers import make_lists
from kerasrec.recommender.questions import Questions
from kerasrec.training.choosing.heldout import HeldOut
from kerasrec.versions import folders
from kerasrec.versions.exporter import serving_module
from kerasrec.versions.loaded import LoadedVersion
from kerasrec.versions.usergraph import add_user_groups, input_names

log = logging.getLogger(__name__)
#: weights that are tried, and how many users of each kind judge them
WEIGHTS = (0.0, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0)
JUDGED, CUT = 2000, 10
#: newcomers that judge, at least
FEWEST = 50


class Grouped(NamedTuple):
    """Holds the groups, None where there is no table of users, and what the manifest says."""

    groups: UserGroups | None = None
    facts: dict[str, Any] = {}


def fit_groups(
    model: Any,
    fusion: Fusion,
    held: HeldOut,
    users: Users,
    declaration: str | Mapping[str, str],
    ids: np.ndarray,
    asked_of: Callable[[Histories], np.ndarray],
) -> Grouped:
    """Fits groups to what the model learned from, and chooses how much they count.

    Args:
        model, fusion: as chosen.
        held: `HeldOut`.
        users: `Users`.
        declaration: as for `fit_user_groups`.
        ids: object, of the items.
        asked_of: function of `Histories` that gives when lists are asked for, int64.

    Raises:
        ValueError: as `fit_user_groups`.
    """
    groups = fit_user_groups(users.frame, held.fitted, len(ids), declaration)
    if not len(groups.lifts):
        log.warning("no column of the users' table makes groups: it has no say")
        return Grouped()
    with tempfile.TemporaryDirectory() as folder, step(log, "weighing %r", groups):
        path = Path(folder) / folders.ITEM_IDS.name
        folders.write_item_ids(path, ids)
        module = serving_module(model, asset=path, fusion=fusion, k=1)
        add_user_groups(module, groups)
        loaded = LoadedVersion(module, None)
        known, new = (some_of(part, JUDGED) for part in _both_kinds(held))
        chosen = {
            kind: _weigh(
                loaded,
                part,
                groups.members(users.of(_asking(held, part.histories))),
                asked_of(part.histories),
            )
            for kind, part in (("known", known), ("new", new))
        }
    weights = GroupWeights(**{kind: weight for kind, (weight, _) in chosen.items()})
    said = {kind: facts for kind, (_, facts) in chosen.items()}
    columns = {name: one.column.type for name, one in groups.columns.items()}
    inputs = dict(zip(columns, input_names(columns), strict=True))
    described = {"columns": columns, "inputs": inputs, "groups": len(groups.lifts)}
    facts = {"user_features": {**described, **said}}
    return Grouped(groups.weighed(weights), facts)


def _both_kinds(held):
    """`Validation` of users with a history, and of users without one."""
    known, first = held.validation, held.validation.newcomers
    if held.requests is None and first is not None and first.num_users >= FEWEST:
        rows = np.repeat(np.arange(first.num_users), first.lengths)
        return known, Validation(_emptied(first), rows, first.items)
    return known, known._replace(histories=_emptied(known.histories), newcomers=None)


def _emptied(histories):
    """The same users without their events."""
    return histories.where(np.zeros(len(histories.items), bool))


def _asking(held: HeldOut, histories: Histories) -> np.ndarray:
    """The users who ask: of "live" the histories are named by the place of the request."""
    if held.requests is None:
        return histories.user_ids
    known = held.requests.known
    rows = np.searchsorted(known.offsets, histories.user_ids.astype(np.int64), side="right") - 1
    return known.user_ids[rows]


def _weigh(
    loaded: LoadedVersion, validation: Validation, members: np.ndarray, times: np.ndarray
) -> tuple[float, dict[str, Any]]:
    """The weight that lists best, 0 unless another is better by a standard error; and why."""
    waited = np.where(times > 0, np.maximum(times - newest_times(validation.histories), 0), 0)
    questions = Questions(validation.histories, times, waited, members=members)
    found = []
    for weight in WEIGHTS:
        loaded.weigh_groups(GroupWeights(weight, weight))
        lists, _ = make_lists(loaded, questions, k=CUT)
        found.append(quality_per_user(lists, validation, CUT)["ndcg"])
    best = int(np.argmax([ndcg.mean() for ndcg in found]))
    gain, error = mean_and_error(found[best] - found[0])
    taken = best if gain > error else 0
    facts = {
        "weight": WEIGHTS[taken],
        "ndcg@10": {str(w): round(float(n.mean()), 4) for w, n in zip(WEIGHTS, found, strict=True)},
        "gain": round(gain, 4),
        "se": round(error, 4),
    }
    return WEIGHTS[taken], facts
