"""`LoadedVersion`: a version in memory, and the only reader of what lies inside a SavedModel.

A SavedModel comes back as an object with attributes. What these are called, which of them a version
may lack and in which order its checkpoint lists them is known here and in `versions.graph` and
`versions.plangraph`, which write them. All other code asks a `LoadedVersion`.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec.backend import check_process, tf
from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items
from kerasrec.features.usergroups import GroupWeights, UserGroups
from kerasrec.fusion.following import Rows
from kerasrec.fusion.fusion import FOLLOWING, POPULAR
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import KINDS, LastMoment, Recency
from kerasrec.fusion.weights import NUM_WAITS
from kerasrec.models.codes import CodeTrie
from kerasrec.versions import folders, itemmatrix
from kerasrec.versions.manifest import Manifest

#: abilities that versions differ in -> the attribute that a version with the ability has
ABILITIES = {
    "plans": "planner",  # a generator of plans is in the graph
    "text_vectors": "place_text",  # vectors of texts become item vectors
    "tokens": "encode_tokens",  # the text encoder is in the graph
    "texts": "encode_items",  # its tokenizer too
    "waits": "popular_at",  # the mixture knows how long ago the user's newest event was
    "withdraws": "withdrawn",  # items can be in no list
    "groups": "recommend_for_rows",  # groups of users move the scores
    "orders": "order",  # plans can be made in which nothing comes before what it needs
}
_PARTS_OF_TABLE = ("neighbours", "votes")  # each with the name of the table behind it
_WEIGHTS = ("part_weights", "mixture", "epsilon")
#: variables of the model's layers with this in their Keras name hold the id part of item vectors.
#: They come along with the layer of the text part, but the graph reads finished vectors instead
_ID_PART = "id_table"
#: history, time_gap, event: int32 `(batch, time)`, as `data.histories.model_inputs` makes them
Inputs = Sequence[Any]


class MomentTables(NamedTuple):
    """What is new and popular at every moment of a log; see `fusion.recency.Moments`.

    starts: int64 `(num_moments,)`.  first: int32 `(num_items + 1,)`.  prior: float32
    `(num_moments, num_items + 1)`.  popularity: float32 `(num_items + 1,)`, for who has no history.
    popular_at: as in `fusion.Fusion`; None where the score does not look at it.
    """

    starts: np.ndarray
    first: np.ndarray
    prior: np.ndarray
    popularity: np.ndarray
    popular_at: np.ndarray | None = None


#: variables of these names that every version has
_OF_MOMENTS = ("starts", "first", "prior", "popularity")
#: what every version holds; a SavedModel without it comes from another program
_NEEDED: tuple[str, ...] = ("k", "scorer_weight", "temperature", *_OF_MOMENTS)
_NEEDED += (*_WEIGHTS, *itemmatrix.TABLES)


class LoadedVersion:
    """A version in memory: what its graph holds and computes, its manifest, its catalogue.

    Attributes:
        path: Path of its folder; None for a module that is no version (yet).
        module: the SavedModel or `ServingModule` itself, for tests and measurements.
        abilities: frozenset, those of `ABILITIES` that the version has.

    Args:
        module: a loaded SavedModel, or a `ServingModule`.
        manifest: `Manifest`; None for a module that is asked for plans alone.
        path: see above.
        items: `Items` of the catalogue; None = those in the folder.
        recency: `Recency` at the end of its log; None = the one in the folder.
    """

    def __init__(
        self,
        module: Any,
        manifest: Manifest | None,
        path: Path | None = None,
        *,
        items: Items | None = None,
        recency: Recency | None = None,
    ):
        if missing := [name for name in _NEEDED if not hasattr(module, name)]:
            raise ArtifactError(
                f"{path or 'The module'} is not a version that this kerasrec exported: it has no "
                f"{missing[0]}. Train it again."
            )
        self._module, self._manifest, self.path = module, manifest, path
        self.abilities = frozenset(
            name for name, attribute in ABILITIES.items() if hasattr(module, attribute)
        )
        self._items, self._recency = items, recency

    @classmethod
    def load(cls, model: str | Path) -> "LoadedVersion":
        """Loads a version folder, or the one that answers for `saved_models/NAME`.

        Raises:
            ArtifactError: nothing of the kind is there, or it is damaged.
        """
        check_process()
        path = folders.find_version(model)
        manifest = folders.read_manifest(path)
        with _whole(path):
            module = tf.saved_model.load(str(path))
        return cls(module, manifest, path)

    @property
    def module(self) -> Any:
        """See the class.

        Raises:
            RuntimeError: it was loaded before this process was forked (`backend.check_process`).
        """
        check_process()
        return self._module

    def __reduce__(self):
        raise TypeError(
            "A loaded version cannot be sent to another process. Send its path, and load it there: "
            "Recommender.load(path)."
        )

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself.

        Raises:
            ValueError: it was made without one, to plan only.
        """
        if self._manifest is None:
            raise ValueError("This module has no manifest: it can only be asked what needs none.")
        return self._manifest

    @property
    def folder(self) -> Path:
        """Its folder.

        Raises:
            ValueError: it is no version (yet).
        """
        if self.path is None:
            raise ValueError(
                "This model is in memory only and has no folder. Export it first, and load that."
            )
        return self.path

    def items(self) -> Items:
        """The catalogue that it was written with; row r has item index r + 1."""
        if self._items is not None:
            return self._items
        folder = self.folder
        with _whole(folder):
            frame = folders.read_catalogue(folder)
        gone = frozenset(frame["item_id"].iloc[self.withdrawn() - 1])
        about = self._manifest
        if about is None:
            return Items(frame, withdrawn=gone)
        relations = tuple(about.relations or ())
        return Items(frame, withdrawn=gone, relations=relations, order=about.order or "")

    def withdrawn(self) -> np.ndarray:
        """Indices of the items that are in no list, int32 `(n,)`."""
        if "withdraws" not in self.abilities:
            return np.zeros(0, np.int32)
        index = self.module.withdrawn.numpy()
        return index[index > 0]

    def set_withdrawn(self, index: np.ndarray) -> None:
        """Takes other items out of all lists; needs "withdraws".

        Beside calls of the graph it may be called only with as many as `room_for_withdrawn`; 0, the
        padding, fills up what is left.
        """
        self.module.withdrawn.assign(np.asarray(index, np.int32))

    @property
    def room_for_withdrawn(self) -> int:
        """How many indices `set_withdrawn` was last given."""
        return int(tf.size(self.module.withdrawn))

    def recency(self) -> Recency:
        """What is recent at the end of the log that it was written with."""
        if self._recency is not None:
            return self._recency
        folder = self.folder
        with _whole(folder):
            return Recency.load(folder / folders.RECENCY)

    @property
    def signatures(self) -> Mapping[str, Callable]:
        """Signature name -> function, of a loaded SavedModel."""
        return self.module.signatures

    @property
    def k(self) -> int:
        """Length of the lists of its signatures."""
        return int(self.module.k.numpy())

    @property
    def scorer_weight(self) -> float:
        """Weight of the MLP in the fused score."""
        return float(self.module.scorer_weight.numpy())

    # --- item vectors ---

    @property
    def num_items(self) -> int:
        """Items that it knows by now, added ones included."""
        return int(tf.size(self.module.first)) - 1

    @property
    def dim(self) -> int:
        """Length of an item vector."""
        return self.module.item_vectors.shape[1]

    @property
    def form(self) -> str:
        """One of `itemmatrix.FORMS`: how the item vectors are stored."""
        return itemmatrix.form_of(self._item_tables())

    def vectors(self) -> np.ndarray:
        """All item vectors, float32 `(num_items + 1, dim)`, whatever the form."""
        return itemmatrix.read_vectors(self._item_tables())

    def vectors_at(self, index: np.ndarray) -> np.ndarray:
        """Item vectors at item indices, float32 `(n, dim)`; 0 gives zeros."""
        return itemmatrix.look_up(self._item_tables(), index).numpy()

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Puts vectors of new items, float32 `(num_new, dim)`, behind the others."""
        tables = self._item_tables()
        for name, rows in itemmatrix.grown(tables, vectors).items():
            tables[name].assign(rows)

    def set_vectors(self, index: np.ndarray, vectors: np.ndarray) -> None:
        """Takes other vectors, float32 `(n, dim)`, of items at indices."""
        tables, whole = self._item_tables(), self.vectors()
        whole[index] = vectors
        for name, rows in itemmatrix.stored(whole, self.form).items():
            tables[name].assign(rows)

    def _item_tables(self):
        return self._variables(itemmatrix.TABLES)

    # --- what is recent, and what follows what ---

    def moments(self) -> MomentTables:
        """What is new and popular at every moment."""
        variables = self._variables(self._of_moments())
        return MomentTables(**{name: value.numpy() for name, value in variables.items()})

    def _of_moments(self):
        """Names of the variables that a newer event changes."""
        return [*_OF_MOMENTS, "popular_at"] if self._has_popular else list(_OF_MOMENTS)

    @property
    def knows_visits(self) -> bool:
        """Whether what is popular differs by how long ago the user was here; `popular_at`."""
        return "waits" in self.abilities and self.module.popular_at.shape.rank == 3

    @property
    def _has_popular(self):
        """Whether what is popular at a moment is a part of the mixture."""
        return "waits" in self.abilities and int(tf.size(self.module.popular_at)) > 1

    def set_moments(self, moments: MomentTables) -> None:
        """Takes other moments."""
        for name, variable in self._variables(self._of_moments()).items():
            variable.assign(getattr(moments, name))

    def last_moment(self, recency: Recency) -> LastMoment:
        """Computes the end of a longer log, for `set_last_moment`; it changes nothing."""
        return recency.last_moment(self.module.starts.numpy(), self.module.first.numpy())

    def set_last_moment(self, last: LastMoment) -> None:
        """Takes the end of a longer log in the place of the last moment."""
        module = self.module
        starts = module.starts.numpy()
        starts[-1] = last.start
        module.starts.assign(starts)
        module.first.assign(last.first)
        module.popularity.assign(last.popular)
        place = len(starts) - 1
        module.prior.scatter_nd_update([[place]], last.prior[None])
        if self._has_popular:
            if self.knows_visits:
                kinds = int(tf.shape(module.popular_at)[0])
                shape = (kinds, last.popular_at.shape[-1])
                places = [[kind, place] for kind in range(kinds)]
                rows = np.broadcast_to(last.popular_at, shape)
            else:
                places, rows = [[place]], last.popular_at.reshape(1, -1)
            module.popular_at.scatter_nd_update(places, rows)

    @property
    def can_count_alone(self) -> bool:
        """Whether its graph can rank by counts alone, see `count_alone`."""
        facts = self.manifest.fusion
        is_mixed = "mixture" in facts.weights and POPULAR in facts.mixture
        return self.knows_visits and is_mixed and any(name in facts.mixture for name in FOLLOWING)

    def count_alone(self, mixture: Mapping[str, np.ndarray]) -> None:
        """Ranks by what follows what and by what is popular, without the model, until loaded anew.

        The last moment has to be one of `Counting.moment`.

        Args:
            mixture: as `Counting.mixture` gives it; parts that the graph does not mix are left out.
        """
        facts, module = self.manifest.fusion, self.module
        weights = [[float(name == "mixture"), 0.0] for name in facts.weights]
        none = np.zeros(NUM_WAITS)
        rows = np.stack([mixture.get(name, none) for name in facts.mixture], axis=1)
        module.part_weights.assign(np.array(weights, np.float32))
        module.mixture.assign((rows / rows.sum(axis=1, keepdims=True)).astype(np.float32))
        module.scorer_weight.assign(0.0)
        module.prior.assign(tf.zeros_like(module.prior))
        if int(tf.shape(module.popular_at)[0]) == 1:  # the same for all kinds until now
            module.popular_at.assign(np.repeat(module.popular_at.numpy(), KINDS, axis=0))

    @property
    def decays(self) -> dict[str, float]:
        """Name of a neighbour table -> its decay."""
        return self.manifest.fusion.decays

    def table(self, name: str) -> NeighbourTable:
        """A neighbour table; its weights are 0 where there is no neighbour."""
        neighbours, votes = self._variables(_names_of_table(name)).values()
        return NeighbourTable(neighbours.numpy(), votes.numpy(), self.decays[name])

    def set_table(self, name: str, table: NeighbourTable) -> None:
        """Takes another neighbour table, with the decay that the old one has."""
        neighbours, votes = self._variables(_names_of_table(name)).values()
        neighbours.assign(table.neighbours)
        votes.assign(table.weights)

    def set_rows(self, name: str, rows: Rows) -> None:
        """Takes other rows of a neighbour table, of its width."""
        if not len(rows.items):
            return
        neighbours, votes = self._variables(_names_of_table(name)).values()
        places = rows.items[:, None]
        neighbours.scatter_nd_update(places, rows.neighbours)
        votes.scatter_nd_update(places, rows.weights)

    def shape_of_table(self, name: str) -> tuple[int, int]:
        """Rows and width of a neighbour table."""
        rows, width = tf.shape(self._variables(_names_of_table(name))[f"neighbours_{name}"]).numpy()
        return int(rows), int(width)

    # --- functions: item indices in, item indices out ---

    def interests(self, inputs: Inputs) -> np.ndarray:
        """U of histories, float32 `(batch, dim)`; see `ServingModule.interest_rows`."""
        return self.module.interest_rows(*inputs).numpy()

    def recommend(
        self,
        inputs: Inputs,
        allow: np.ndarray,
        deny: np.ndarray,
        asked: np.ndarray,
        waited: np.ndarray,
        *,
        k: int,
        keep_seen: bool = False,
        members: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best items: index int32 and score float32, `(batch, k)`.

        Args:
            inputs: see `Inputs`.
            allow, deny: int32 `(n,)`, item indices that alone, or that never, are listed for the
                whole batch, or `(batch, n)` for each row; an empty `allow` allows all.
            asked: int64 `(batch,)`, when each list is asked for, UTC seconds, 0 = now.
            waited: int64 `(batch,)`, how many seconds after the user's newest event, 0 = unknown.
            members: float32 `(batch, num_groups)`, see `UserGroups.members`; needs "groups".
        """
        size = len(asked)
        given = (
            *inputs,
            *_for_all(size, allow, deny),
            tf.fill([size], bool(keep_seen)),
            *self._when(asked, waited),
            tf.constant(k),
        )
        if members is not None:
            return _arrays(self.module.recommend_for_rows(*given, tf.constant(members, tf.float32)))
        return _arrays(self.module.recommend_rows(*given))

    @cached_property
    def user_groups(self) -> UserGroups | None:
        """`UserGroups` with what they like; None where the version knows none."""
        if "groups" not in self.abilities or self.path is None:
            return None
        return UserGroups.load(self.path / folders.USERS, self.module.group_lifts.numpy())

    def weigh_groups(self, weights: GroupWeights) -> None:
        """Lets the groups count otherwise; needs "groups"."""
        self.module.group_weights.assign(weights)

    def among(
        self,
        history: Any,
        interest: np.ndarray,
        candidates: np.ndarray,
        votes: np.ndarray,
        totals: np.ndarray,
        sample: np.ndarray,
        asked: np.ndarray,
        waited: np.ndarray,
        k: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best of a few candidates; see `ServingModule.among_rows`."""
        given = map(tf.constant, (interest, candidates, votes, totals, sample))
        when = self._when(asked, waited)
        return _arrays(self.module.among_rows(history, *given, *when, tf.constant(k)))

    def _when(self, *times):
        """`asked` and, where the version looks at it, `waited`."""
        return [tf.constant(part) for part in (times if "waits" in self.abilities else times[:1])]

    def similar(
        self, vectors: np.ndarray, deny: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items nearest by cosine to vectors, index and cosine `(batch, k)`.

        Args:
            vectors: float32 `(batch, dim)`.
            deny: int32 `(batch, n)`, item indices that are not listed in each row.
            k: length of the lists.
        """
        return _arrays(self.module.similar_rows(vectors, deny, tf.constant(k)))

    # --- texts ---

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Item vectors of texts, float32 `(n, dim)`, by the graph alone; needs "texts"."""
        given = [text.encode("utf-8", "surrogatepass") for text in texts]
        return self.module.encode_items(tf.constant(given, tf.string))["vectors"].numpy()

    def encode_tokens(self, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Item vectors of texts cut into tokens, int32 `(n, length)` each; needs "tokens"."""
        return self.module.encode_tokens(tf.constant(tokens), tf.constant(segments)).numpy()

    def read_tokens(self, token_ids: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
        """Vectors of texts as `place` takes them before the features; in versions with "tokens"
        and features of items.
        """
        given = (tf.constant(part, tf.int32) for part in (token_ids, segment_ids))
        return self.module.read_tokens(*given).numpy()

    def place(self, text_vectors: np.ndarray) -> np.ndarray:
        """Item vectors of vectors of texts, `(n, text_dim)`; needs "text_vectors"."""
        return self.module.place_text(tf.constant(text_vectors, tf.float32)).numpy()

    # --- plans; all need "plans" ---

    @property
    def longest_plan(self) -> int:
        """Items of a plan at most."""
        return int(self.module.planner.longest.numpy())

    def plan_tokens(self) -> np.ndarray:
        """Tokens of each item, int32 `(num_items + 1, num_levels)`."""
        return self.module.planner.tokens.numpy()

    def set_plan_codes(self, tokens: np.ndarray, trie: CodeTrie) -> None:
        """Takes the codes of a catalogue that has grown."""
        planner = self.module.planner
        planner.tokens.assign(tokens)
        for name, values in trie._asdict().items():
            getattr(planner, f"trie_{name}").assign(values)

    def set_trust(self, trust: float, prior: float) -> None:
        """Sets the exponents of the decoder and of what the recommender expects."""
        self.module.planner.trust.assign(trust)
        self.module.prior_trust.assign(prior)

    def plans(
        self,
        inputs: Inputs,
        allow: np.ndarray,
        deny: np.ndarray,
        asked: np.ndarray,
        waited: np.ndarray,
        *,
        earlier: np.ndarray,
        diversity: float,
        num_items: int,
        beams: int,
        temperature: float,
        top_p: float,
        seeds: np.ndarray,
        in_order: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Plans, the likeliest first: index and log p `(batch, beams, num_items)`.

        Args:
            inputs, allow, deny, asked, waited: as for `recommend`.
            in_order: whether nothing comes before what it needs; needs "orders".
            others: see `PlanningModule.generate_rows`.
        """
        size, module = len(asked), self.module
        find = module.generate_in_order_rows if in_order else module.generate_rows
        found = find(
            *inputs,
            *_for_all(size, allow, deny),
            *self._when(asked, waited),
            tf.constant(earlier),
            tf.constant(diversity, tf.float32),
            tf.constant(num_items, tf.int32),
            tf.constant(beams, tf.int32),
            tf.fill([size], float(temperature)),
            tf.fill([size], float(top_p)),
            tf.constant(seeds),
        )
        return _arrays(found)

    # --- its checkpoint ---
    #
    # A version derived from another one has the same graph and another checkpoint. A variable has
    # the name there of the attribute that holds it. Those of layers have none: they are listed in
    # `ServingModule.layer_variables` in the order in which the module was made, and are called
    # `layer_variables/0`, `layer_variables/1`, ... Equal options make equal orders.

    def grown_variables(self) -> dict[str, Any]:
        """Name in the checkpoint -> variable, of what new items and newer events change."""
        found = self._variables([*self._of_moments(), *self._of_lists(), *itemmatrix.TABLES])
        return found | (self.plan_variables() if "plans" in self.abilities else {})

    def _of_lists(self):
        """Names of the variables that say what may be listed."""
        return ["withdrawn"] if "withdraws" in self.abilities else []

    def plan_variables(self) -> dict[str, Any]:
        """Name in the checkpoint -> variable, of the codes of the catalogue."""
        planner = self.module.planner
        names = ["tokens", *(f"trie_{name}" for name in CodeTrie._fields)]
        found = {f"planner/{name}": getattr(planner, name) for name in names}
        return found | ({"order": self.module.order} if "orders" in self.abilities else {})

    def set_order(self, table: np.ndarray) -> None:
        """Takes another `Order.table`; needs "orders"."""
        self.module.order.assign(table)

    def learned_variables(self) -> dict[str, Any]:
        """Name in the checkpoint -> variable, of all that learning changes, except the vectors.

        That is what is recent, the neighbour tables, the weights of the parts and the weights of
        the layers.
        """
        tables = self._variables([n for table in self.decays for n in _names_of_table(table)])
        names = [*self._of_moments(), *self._of_lists(), "temperature", "scorer_weight", *_WEIGHTS]
        if "groups" in self.abilities:
            names += ["group_lifts", "group_weights"]
        named = self._variables(names)
        places: dict[Any, str] = {}  # one that is listed twice is stored under its first place
        for place, variable in enumerate(self.module.layer_variables):
            places.setdefault(variable.ref(), f"layer_variables/{place}")
        # the neighbour tables are in the list too, but stored under names of their own
        own = {variable.ref() for variable in tables.values()}
        layers = {
            name: ref.deref()
            for ref, name in places.items()
            if ref not in own and _ID_PART not in ref.deref().name
        }
        return named | tables | layers

    def _variables(self, names):
        """Name -> variable."""
        return {name: getattr(self.module, name) for name in names}


def read_withdrawn(version: Path) -> frozenset[str]:
    """Reads the ids of the items that are in no list from the files of a version alone."""
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    name = "withdrawn/.ATTRIBUTES/VARIABLE_VALUE"
    if name not in reader.get_variable_to_shape_map():
        return frozenset()
    ids = folders.read_catalogue(version)["item_id"]
    return frozenset(ids.iloc[reader.get_tensor(name) - 1])


def _names_of_table(name):
    return [f"{part}_{name}" for part in _PARTS_OF_TABLE]


def _for_all(size, *rules):
    """Item indices `(n,)` for each of `size` rows, as tensors `(size, n)`; others as they are."""
    arrays = [np.asarray(rule, np.int32) for rule in rules]
    return [tf.constant(rule if rule.ndim == 2 else np.tile(rule, (size, 1))) for rule in arrays]


def _arrays(found):
    """The two tensors of a call as arrays."""
    first, second = found
    return first.numpy(), second.numpy()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of a folder that it is damaged where a part of it cannot be read."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, KeyError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{path} is damaged and does not load ({reason}). Copy the whole folder "
            "again, or export the model again."
        ) from error
