"""What each column of the items and of the users is worth to a version: lists without it.

A column is blanked for all items, or for all users: missing everywhere, as the version knows it
from rows without a value. The version is not trained again, so what it would make of the others in
the place of the column is not seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Interactions, Users
from kerasrec.evaluation.evaluation import evaluate
from kerasrec.features.itemfeatures import ItemFeatures
from kerasrec.recommender.questions import ManyHistories, read_histories
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders

COLUMNS = ("table", "column", "type", "without", "difference", "low", "high", "p_value")


def feature_worth(
    recommender: Recommender,
    histories: ManyHistories,
    test: Interactions,
    *,
    train: Interactions,
    users: Users | None = None,
    k: int = 10,
    at: Any = None,
) -> pd.DataFrame:
    """Compares the lists of a version with those that it makes without each column.

    Args:
        recommender: of a version in a folder, which looks at all items (`index="exact"`). Its item
            vectors change meanwhile, and are as before in the end.
        histories: of the test users at the time of the lists, as for `Recommender.recommend`.
        test: what they did next, as for `evaluate`.
        train: as for `evaluate`.
        users: what is known of users; None = columns of users are left out.
        k: list length.
        at: as for `Recommender.recommend`.

    Returns:
        DataFrame, a row for each column that the version reads: `table` ("items" or "users"),
        `column`, `type`, `without`: NDCG@k without it, `difference`: what is lost, the mean over
        users, with its 95 % interval `low` to `high` and `p_value` (paired bootstrap). The largest
        difference first; `attrs["ndcg"]` is NDCG@k of the whole. Without a column it is empty.

    Raises:
        ValueError: a Recommender with an index, or in memory alone.
    """
    if recommender.index is not None:
        raise ValueError('feature_worth looks at all items. Load with index="exact".')
    items, asked = recommender.items, read_histories(histories, recommender.items)

    def lists(known=users):
        given = {} if known is None else {"users": known}
        return recommender.recommend(asked, k=k, at=at, **given)

    kinds, models = {}, {"": lists()}
    for name, kind, remove in _of_items(recommender):
        kinds["items", name] = kind
        with remove():
            models[f"items\x1f{name}"] = lists()
    for name, kind, blank in _of_users(recommender, users):
        kinds["users", name] = kind
        models[f"users\x1f{name}"] = lists(blank)
    judged = evaluate(models, test, histories=asked, train=train, items=items, ks=[k])
    whole, rows = judged.value("", "ndcg")[0], []
    pairs = judged.comparisons[judged.comparisons["metric"] == "ndcg"].set_index("model")
    for (table, name), kind in kinds.items():
        pair = pairs.loc[f"{table}\x1f{name}"]
        found = [float(pair[one]) for one in ("difference", "low", "high", "p_value")]
        rows.append((table, name, kind, whole - found[0], *found))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame = frame.sort_values("difference", ascending=False, kind="stable", ignore_index=True)
    frame.attrs["ndcg"] = whole
    return frame


def _of_items(recommender: Recommender) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yields column, type and a context in which the items lack it.

    The part of the vector that features make is a sum over their columns, so what one of them adds
    can be taken away without reading any text again; where the encoder is in the graph the texts
    are read again for each column.
    """
    loaded, items = recommender.loaded, recommender.items
    features = ItemFeatures.load(loaded.folder / folders.ENCODER)
    if features is None or "text_vectors" not in loaded.abilities:
        return
    encoder = loaded.manifest.encoder
    if encoder is None:
        raise ArtifactError(f"{loaded.folder} has features and no encoder. Train it again.")
    rows, places = features.rows(items.frame), [(0, 0), (encoder.dim - features.width, 0)]
    for name, column in features.columns.items():
        # the others' parts are equal; that of missing vectors is a row of its own
        frame = items.frame.assign(**{name: ""})

        @contextmanager
        def without(frame=frame):
            index = np.arange(1, len(items) + 1)
            before = loaded.vectors_at(index)
            if "tokens" in loaded.abilities:  # a graph that whitens the text beside the features
                now = recommender._texts.with_texts(before, replace(items, frame=frame))
            else:
                alone = np.pad(rows - features.rows(frame), places)
                now = before - loaded.place(alone)
            loaded.set_vectors(index, now)
            try:
                yield
            finally:
                loaded.set_vectors(index, before)

        yield name, column.column.type, without


def _of_users(
    recommender: Recommender, users: Users | None
) -> Iterator[tuple[str, str, Users | None]]:
    """Yields column, type and the table of users without its values."""
    groups = recommender.loaded.user_groups
    if groups is None or users is None:
        return
    for name, column in groups.columns.items():
        if name in users.frame:
            yield name, column.column.type, Users(users.frame.assign(**{name: ""}), users.columns)
