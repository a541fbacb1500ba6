"""`Recommender`: reads an exported version and answers; no training code is loaded."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from kerasrec import artifacts, sequences
from kerasrec.backend import tf

log = logging.getLogger(__name__)


class Recommender:
    """Recommendations from an exported version.

    Attributes:
        manifest: dict, what the version says of itself.
        version: Path of its folder.
        frame: DataFrame of the catalogue, `item_id, title, ...`; row r has item index r + 1.

    >>> recommender = Recommender.load("saved_models/courses")            # doctest: +SKIP
    >>> recommender.recommend([["C_1", "C_7"]], k=3)                      # doctest: +SKIP
      user_id item_id  rank     score
    0       0    C_12     1  9.731445
    """

    def __init__(self, version):
        self.version = artifacts.find_version(version)
        self.manifest = artifacts.read_manifest(self.version)
        self._module = tf.saved_model.load(str(self.version))
        path = self.version / "assets.extra" / "items.csv.gz"
        self.frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        self._encoder = None
        self._index_items()

    @classmethod
    def load(cls, model):
        """Load `saved_models/NAME` (its stable label, else the largest version) or one version."""
        return cls(model)

    def _index_items(self):
        self._ids = np.concatenate([[""], self.frame["item_id"].to_numpy(object)])
        self._index = pd.Index(self._ids)

    def index_of(self, item_ids):
        """int32 item index of each id; 0 = unknown."""
        return np.maximum(self._index.get_indexer(np.asarray(item_ids, object)), 0).astype(np.int32)

    def titles(self, item_ids):
        """Title of each item id ("" for an unknown one), object `(n,)`."""
        column = "title" if "title" in self.frame else "item_id"
        titles = np.concatenate([[""], self.frame[column].to_numpy(object)])
        return titles[self.index_of(item_ids)]

    def items(self):
        """The catalogue as `Items`."""
        from kerasrec.data import read_items

        return read_items(self.frame)

    def training_history(self):
        """DataFrame of the training run, one row per epoch; None where the version holds none."""
        path = self.version / "assets.extra" / "train" / "history.csv"
        return pd.read_csv(path) if path.is_file() else None

    # --- recommend ---

    def recommend(
        self, histories, *, k=10, keep_seen=False, candidates=None, deny=None, batch_size=512
    ):
        """Best items for many users at once.

        Args:
            histories: list of histories (lists of item ids, oldest first; the users are then called
                0, 1, ...), a dict user id -> history, `Interactions` or `Histories`. Unknown items
                are skipped. A user without a known item gets popular items;
                `result.attrs["popular_for"]` lists these users.
            k: list length; shorter when fewer items may be listed.
            keep_seen: True may list items of the history.
            candidates: item ids that alone may be listed; None = the whole catalogue.
            deny: item ids that may not be listed.
            batch_size: users per call of the model.

        Returns:
            DataFrame `user_id, item_id, rank, score`, users in the order given, rank from 1.

        Raises:
            ValueError: k below 1, a single history where a list of them is expected, or candidates
                that are all unknown.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1. Received: {k}.")
        histories = self._histories(histories)
        allow = self._rows(candidates, "candidates")
        refuse = self._rows(deny, "deny")
        parts = [
            self._batch(histories, start, batch_size, allow, refuse, keep_seen, k)
            for start in range(0, histories.num_users, batch_size)
        ]
        if not parts:
            columns = {"user_id": object, "item_id": object, "rank": np.int64, "score": np.float32}
            return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})
        index, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        table = self._table(histories.user_ids, index, scores)
        popular = histories.user_ids[histories.lengths == 0]
        if len(popular):
            log.info("%d users without a known item get popular items", len(popular))
        table.attrs["popular_for"] = list(popular)
        return table

    def _batch(self, histories, start, batch_size, allow, deny, keep_seen, k):
        rows = np.arange(start, min(start + batch_size, histories.num_users))
        part = histories.select(rows)
        inputs = sequences.model_inputs(part, int(part.lengths.max(initial=1)))
        size = len(rows)
        index, scores = self._module.recommend_rows(
            *(tf.constant(inputs[name]) for name in ("history", "time_gap", "event")),
            tf.constant(np.repeat(allow, size, axis=0)),
            tf.constant(np.repeat(deny, size, axis=0)),
            tf.fill([size], bool(keep_seen)),
            tf.constant(k),
        )
        return index.numpy(), scores.numpy()

    def _table(self, user_ids, index, scores):
        """Long table of `(num_users, k)` arrays; index 0 = no item."""
        row, column = np.nonzero(index)
        found = index[row, column]
        return pd.DataFrame(
            {
                "user_id": np.asarray(user_ids, object)[row],
                "item_id": self._ids[found],
                "rank": column + 1,
                "score": scores[row, column],
            }
        )

    def _rows(self, item_ids, what):
        if item_ids is None:
            return np.zeros((1, 0), np.int32)
        if isinstance(item_ids, str):
            raise ValueError(f"{what} must be a list of item ids. Received: the text {item_ids!r}.")
        index = self.index_of(list(item_ids))
        if what == "candidates" and not index.any():
            raise ValueError(
                f"candidates must name items of the catalogue ({len(self.frame)}). Received: "
                f"{len(index)} ids, none of them known."
            )
        return index[None]

    def _histories(self, histories):
        if isinstance(histories, sequences.Histories):
            return histories
        if hasattr(histories, "frame"):  # Interactions
            return self.histories(histories)
        if isinstance(histories, dict):
            user_ids, rows = list(histories), list(histories.values())
        else:
            rows = list(histories)
            user_ids = list(range(len(rows)))
        if any(isinstance(row, str) for row in rows):
            raise ValueError(
                "histories must be a list of histories, each a list of item ids. Received: a list "
                "of texts. For one user write recommend([history])."
            )
        rows = [self.index_of(list(row)) if len(row) else np.zeros(0, np.int32) for row in rows]
        rows = [row[row > 0] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        items = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        return sequences.Histories(
            np.array(user_ids, object),
            offsets,
            items,
            np.zeros(len(items), np.int64),
            np.zeros(len(items), np.int16),
            np.ones(len(items), np.float32),
        )

    def histories(self, interactions, *, users=None):
        """`Histories` of the items that the model knows; others are skipped, with a warning.

        Args:
            interactions: `Interactions`.
            users: user ids to give exactly these users, with an empty history where nothing is
                known; None = the users of the interactions.
        """
        if users is None:
            users = interactions.frame["user_id"].cat.remove_unused_categories().cat.categories
        known = np.isin(
            interactions.frame["item_id"].cat.codes,
            np.flatnonzero(self.index_of(interactions.frame["item_id"].cat.categories)),
        )
        skipped = int((~known).sum())
        if skipped:
            log.warning("%d interactions with items the model does not know are skipped", skipped)
        interactions = interactions.replace(interactions.frame[known])
        return sequences.make_histories(interactions, self).of_users(np.asarray(users, object))

    # --- similar items ---

    def similar(self, item=None, *, text=None, k=10):
        """Items nearest by cosine.

        Args:
            item: an item id or a list of them.
            text: instead of `item`: a text or a list of texts the model may never have seen.
            k: list length.

        Returns:
            DataFrame `query, item_id, rank, score`; the item itself is left out.

        Raises:
            ValueError: neither or both given, an unknown item, or a version without an encoder.
        """
        if (item is None) == (text is None):
            raise ValueError("similar needs either an item or text=..., one of them.")
        queries = [item or text] if isinstance(item or text, str) else list(item or text)
        if text is not None:
            vectors, itself = self.encode(queries), np.zeros((len(queries), 0), np.int32)
        else:
            index = self.index_of(queries)
            if not index.all():
                unknown = queries[int(np.flatnonzero(index == 0)[0])]
                raise ValueError(
                    f"similar needs items of the catalogue ({len(self.frame)}). Received: "
                    f"{unknown!r}, which is unknown. For a new text use similar(text=...)."
                )
            vectors, itself = tf.gather(self._module.item_vectors, index), index[:, None]
        found, scores = self._module.similar_rows(vectors, itself, tf.constant(k))
        table = self._table(queries, found.numpy(), scores.numpy())
        return table.rename(columns={"user_id": "query"})

    def item_vectors(self, item_ids):
        """Item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        return tf.gather(self._module.item_vectors, self.index_of(item_ids)).numpy()

    def interests(self, histories):
        """U of each history, float32 `(num_users, dim)`, of unit length."""
        histories = self._histories(histories)
        inputs = sequences.model_inputs(histories, int(histories.lengths.max(initial=1)))
        rows = (tf.constant(inputs[name]) for name in ("history", "time_gap", "event"))
        return self._module.interest_rows(*rows).numpy()

    # --- new items ---

    def encode(self, texts):
        """Item vectors of new texts, float32 `(n, dim)`.

        Raises:
            ValueError: the version cannot encode texts (ready vectors, or ids alone).
        """
        if not self.manifest["encodes_texts"]:
            raise ValueError(
                "This version cannot encode texts: it was trained "
                + ("on ready vectors. " if self.manifest["encoder"] else "without texts. ")
                + "Train with --encoder e5-small, tfidf or a checkpoint folder."
            )
        encoder = self._text_encoder()
        if self.manifest["encoder"]["kind"] == "bert":
            tokens, segments = encoder.tokenizer.encode_batch(list(texts))
            return self._module.encode_tokens(tf.constant(tokens), tf.constant(segments)).numpy()
        return self._module.place_text(tf.constant(encoder.encode(list(texts)))).numpy()

    def _text_encoder(self):
        if self._encoder is None:
            from kerasrec.encoder import load_text_encoder

            self._encoder = load_text_encoder(self.version / "assets.extra" / "encoder")
        return self._encoder

    def add_items(self, items, *, vectors=None):
        """Make new items known to this loaded Recommender, without training.

        They are listed from the next call on, by their text alone; `save()` makes it a version.

        Args:
            items: `Items` or DataFrame with `item_id` and the text columns.
            vectors: float32 `(num_items, dim)` from the same model that made the version's ready
                vectors; only for a version trained on these.

        Returns:
            Number of items added.

        Raises:
            ValueError: an id that is known already or repeated, or vectors that are missing.
        """
        frame = getattr(items, "frame", items).fillna("").astype(str)
        ids = frame["item_id"].to_numpy(object)
        clash = [i for i in ids if i in self._index] or list(
            frame["item_id"][frame["item_id"].duplicated()]
        )
        if clash:
            raise ValueError(
                f"add_items takes new ids only. Received: {clash[0]!r}, known already or repeated."
            )
        if vectors is None:
            template = self.manifest.get("text_template", "{title}")
            added = self.encode([template.format(**row) for row in frame.to_dict("records")])
        else:
            added = self._module.place_text(tf.constant(vectors, tf.float32)).numpy()
        table = tf.concat([self._module.item_vectors, added], axis=0)
        self._module.item_vectors.assign(table)
        self._module.item_matrix.assign(tf.transpose(tf.math.l2_normalize(table, axis=-1)))
        lowest = tf.reduce_min(self._module.popularity[1:])
        self._module.popularity.assign(
            tf.concat([self._module.popularity, tf.fill([len(ids)], lowest)], axis=0)
        )
        self.frame = pd.concat(
            [self.frame, frame.reindex(columns=self.frame.columns, fill_value="")]
        )
        self.frame = self.frame.reset_index(drop=True)
        self._index_items()
        return len(ids)

    def save(self):
        """Write this Recommender, with its added items, as the next version; returns its path.

        The graph is copied; the tables that grew are written anew.
        """
        manifest = {key: v for key, v in self.manifest.items() if key not in ("format", "version")}
        manifest.update(num_items=len(self.frame), parent=self.manifest["version"])
        with artifacts.new_version(self.version.parent, manifest) as (folder, result):
            shutil.copytree(self.version, folder, dirs_exist_ok=True)
            text = "".join(f"{i}\n" for i in self._ids[1:])
            (folder / "assets" / "item_ids.txt").write_text(text, encoding="utf-8", newline="\n")
            self.frame.to_csv(folder / "assets.extra" / "items.csv.gz", index=False)
            _replace_variables(
                folder / "variables" / "variables",
                {
                    name: getattr(self._module, name)
                    for name in ("item_vectors", "item_matrix", "popularity")
                },
            )
        return result["path"]


def _replace_variables(prefix, values):
    """Write a SavedModel's checkpoint again with other values under the same names."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = sorted(reader.get_variable_to_shape_map())
    replaced = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": value for name, value in values.items()}
    tensors = [
        tf.constant(reader.get_tensor(n)) if n not in replaced else replaced[n] for n in names
    ]
    new = Path(f"{prefix}-new")
    tf.raw_ops.SaveV2(
        prefix=str(new), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
    )
    for old in prefix.parent.glob("variables.*"):
        old.unlink()
    for file in prefix.parent.glob("variables-new.*"):
        file.rename(file.with_name(file.name.replace("variables-new", "variables")))
