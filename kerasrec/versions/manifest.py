"""`Manifest`: what a version says of itself, read and written here alone. No TensorFlow.

On disk it is the JSON object `assets.extra/manifest.json`. What is promised about versions across
releases of kerasrec:

- A version of format 2 loads and answers equally in every release that reads format 2.
- An older format is refused by one sentence that says to train or export again.
- A newer format is refused by one sentence that says to upgrade kerasrec.
- A key that is not described here, such as one that a newer release of the same format has added,
  or one that the caller of `export` has chosen, is kept in `more`. Versions that are derived from
  the version say it too.

A new key of format 2 must be optional: its class gives it a default, which is what holds for the
versions that lack it. A key that every version must have, or another meaning of a key, needs
another format number.
"""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kerasrec.checks import ArtifactError

MANIFEST = Path("assets.extra") / "manifest.json"
FORMAT = 2


class FusionFacts(NamedTuple):
    """How the parts of the score are weighed. `Fusion.description` gives it.

    Attributes:
        fit: how the weights were chosen, in words.
        weights: name of a part -> its two weights `[a, b]`; b counts for new items.
        mixture: name of a part -> its share of the mixture; a list where the share depends on the
            time since the user's newest event: a share for each bucket of `fusion.weights.WAITS`,
            that of an unknown time first.
        decays: name of a neighbour table -> what one step back in the history keeps of a vote.
        epsilon: what is added to a share before its logarithm.
        prior: feature of an item's recency -> its weight in the prior.
        popular: the same alone: what is popular with who goes on with a visit. With who is back and
            who comes, as a user without a history does, it is in `more`.
        more: keys that are not described here.
    """

    fit: str
    weights: dict[str, list[float]]
    mixture: dict[str, float | list[float]]
    decays: dict[str, float]
    epsilon: float
    prior: dict[str, float]
    popular: dict[str, float]
    more: dict[str, Any] = {}


class EncoderFacts(NamedTuple):
    """The text encoder. The property `description` of the encoder gives it.

    Attributes:
        name: as the user gave it, such as "e5-small" or "tfidf".
        kind: "bert", "tfidf", "vectors", "endpoint", or "features" where items have no text.
        dim: length of the vector of a text.
        architecture, pooling, prefix, max_tokens: how a BERT reads texts; "bert" alone. Of an
            endpoint `architecture` is the name of its model.
        licence: of the weights, in words.
        note: what the encoder cannot do, in words; all but "bert".
        fingerprint: sha256 of all that its vectors depend on.
        features: column of the catalogue that is read beside the text -> its type; None = none.
        more: keys that are not described here.
    """

    name: str
    kind: str
    dim: int
    architecture: str | None = None
    pooling: str | None = None
    prefix: str | None = None
    max_tokens: int | None = None
    licence: str | None = None
    note: str | None = None
    fingerprint: str | None = None
    features: dict[str, str] | None = None
    more: dict[str, Any] = {}


class GeneratorFacts(NamedTuple):
    """The generator of plans. `Generator.description` gives it.

    Attributes:
        trust: exponent of the decoder's probabilities.
        prior: exponent of the recommender's shares.
        usage: one dict for each level of the semantic ids: how its codes are used. `add_items` and
            `update` renew it.
        most_alike: number of items that share all codes but the last, at most.
            It is renewed like `usage`.
        options: of the decoder, see `build_decoder`.
        more: keys that are not described here.
    """

    trust: float
    prior: float
    usage: list[dict[str, Any]]
    most_alike: int
    options: dict[str, Any]
    more: dict[str, Any] = {}


class UpdateFacts(NamedTuple):
    """How `update` or `retrain` made the version out of its parent; every key is optional.

    Attributes:
        events: number of new events that were learned.
        decision: why the version was published, in words.
        forced: whether it was published although it was worse than its parent.
        ndcg: name of a list -> its NDCG@10 on the events that were held back.
        weighed: number of events that the weights of the fusion rest on; None or 0 = they are those
            of the parent.
        store: id of the `FeedbackStore` that the version learned from; None = it knows no store.
        seq: number of the last event of the store that it has learned; None = a child of files.
        erasures: number of the erasures of the store that it knows.
        erased: `{"users", "rows"}`: what was erased, so that it was trained from nothing.
        since: time (Unix seconds) from which on events that come in late count as new; None = any
            time.
        more: further facts of the caller of `update` or `retrain`.
    """

    events: int | None = None
    decision: str | None = None
    forced: bool | None = None
    ndcg: dict[str, float] | None = None
    weighed: int | None = None
    store: str | None = None
    seq: int | None = None
    erasures: int | None = None
    erased: dict[str, int] | None = None
    since: int | None = None
    more: dict[str, Any] = {}


class Manifest(NamedTuple):
    """What a version says of itself. The file has these keys in this order, `signatures` included.

    Attributes that have no default are in every version. The others are None where the file lacks
    the key. `train` writes more than `export` alone does.

    Attributes:
        version: number of the version. `new_version` writes it.
        created: when the folder was published, UTC, as in "2026-11-30T03:28:36+00:00".
            `new_version` writes it.
        k: length of the lists of the signatures. `export` writes it, `export_again` changes it.
        scorer_weight: weight of the MLP in the fused score. Written and changed as `k` is.
        fusion: how the parts of the score are weighed. `export` and `update` write it.
        num_items: size of the catalogue. `export` writes it; `Recommender.save` and `update` raise
            it.
        options: of the model, see `build_model`; `num_items` in it is that of the training, and
            `members` is there where several models are averaged. `export` writes it.
        encoder: the text encoder; None = items are known by their id alone. `export` writes it.
        encodes_texts: whether the version can make an item vector of a new text. `export` writes
            it.
        packages: name of a package -> its version when the graph was written. `export` writes it.
        asked: which moment a list is for that names no time, `recency.AT_NEWEST_EVENT` or
            `AT_THE_END`. `export` writes it; `train` decides it.
        generator: the generator of plans; None = there is none. `export` writes it;
            `Recommender.save` and `update` renew parts of it.
        name: of the model. `train` writes it, `export` takes the name of the folder.
        preset: "fast", "balanced" or "accurate". `train` writes it.
        encoder_options: the section `encoder` of the options of `train`, defaults included.
        trainer: the section `trainer`, in the same way.
        text_template: how the text of an item is made of its columns, as `encoder_options` has it;
            None = `DEFAULT_TEMPLATE`. `train` writes it.
        generator_options: the section `generator`; None = no generator was wanted. `train` writes
            it.
        data: what identifies the training data, see `fingerprint`: counts, columns and a sha256.
            `train` and `update` write it. The caller of `export` may give anything here.
        ask: the question that the weights were chosen for: "live", "newest" or "end". `train`
            writes it.
        validation: what the model was validated on, in words. `train` writes it.
        metrics: name of a metric -> its value on validation. `train` and `update` write it. The
            caller of `export` may give anything here.
        tables: name of a neighbour table -> which of the tables that were fitted was chosen; None =
            unknown. `train` writes it.
        weighed: number of requests that the weights rest on where they were chosen for "live"; 0
            = they were not. `train` writes it; of a child `update` says it.
        parts: the parts that the fusion could choose from. `train` writes it.
        refit: whether the model was fitted anew on all events. `train` writes it.
        learned: what `train` decided on the held-out events, and why: `{"tables", "model",
            "lift", ...}`; None = it did not decide.
        epochs: number of the epochs, of all members. `train` and `update` write it.
        codes: `{"taken", "without", "with", "se"}`: whether codes of the items were worth it;
            None = they were not tried. `train` writes it.
        plans: how the training of the generator went; `{"refused": why}` where the items are too
            alike. `train` writes it where a generator was wanted.
        train_seconds: how long it took to make the version. `train` and `update` write it.
        learned_since: time (Unix seconds) when the training began: the model may have learned from
            users who were erased later. `train` writes it.
        signatures: sorted names of the signatures. `export` writes it; it is in every version.
        item_matrix: in which of `itemmatrix.FORMS` the item vectors are stored; None = "float32".
            `export_again` writes it.
        observed: end of the log that `Recommender.observe` has counted; None = it was not called.
            `Recommender.save` writes it.
        parent: number of the version that this one was made from; None = it was trained from
            nothing. `derive_version`, `update` and `retrain` write it.
        update: how `update` or `retrain` made it; None = neither of them did.
        order: name of the column of the catalogue that lists the items that must come before each
            one; None = there is no order. `export` writes it.
        relations: names of the columns of the catalogue that came from relations; None = there are
            none. `export` writes it.
        more: keys that are not described here.
    """

    version: int
    created: str
    k: int
    scorer_weight: float
    fusion: FusionFacts
    num_items: int
    options: dict[str, Any]
    encoder: EncoderFacts | None
    encodes_texts: bool
    packages: dict[str, str]
    asked: str
    generator: GeneratorFacts | None
    name: str | None = None
    preset: str | None = None
    encoder_options: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    text_template: str | None = None
    generator_options: dict[str, Any] | None = None
    data: Any = None
    ask: str | None = None
    validation: str | None = None
    metrics: Any = None
    tables: dict[str, int] | None = None
    weighed: int | None = None
    parts: list[str] | None = None
    refit: bool | None = None
    learned: dict[str, Any] | None = None
    epochs: int | None = None
    codes: dict[str, Any] | None = None
    plans: dict[str, Any] | None = None
    train_seconds: float | None = None
    learned_since: int | None = None
    signatures: list[str] | None = None
    item_matrix: str | None = None
    observed: int | None = None
    parent: int | None = None
    update: UpdateFacts | None = None
    order: str | None = None
    relations: list[str] | None = None
    more: dict[str, Any] = {}

    def as_dict(self) -> dict[str, Any]:
        """A copy as the plain dict that the file holds, `format` included.

        A key that is None is left out, unless every version has the key or the file had it as null.
        """
        said = _said(self)
        said |= {name: _said(said[name]) for name in _PARTS if isinstance(said.get(name), tuple)}
        return copy.deepcopy({"format": FORMAT, **said})

    @property
    def template(self) -> str:
        """How the text of an item is made of its columns."""
        return DEFAULT_TEMPLATE if self.text_template is None else self.text_template

    def check_trained(self, version: str | Path) -> None:
        """Raises ArtifactError unless the manifest holds all that a further training needs.

        Args:
            version: path of the version, for the message.
        """
        missing = [name for name in _FOR_TRAINING if getattr(self, name) is None]
        if missing:
            raise ArtifactError(
                f"{version} does not say how it was trained (its manifest lacks {missing[0]!r}): "
                "`export` without `train` wrote it, or an earlier kerasrec. Train the model with "
                "`kerasrec train`."
            )


DEFAULT_TEMPLATE = "{title}"
#: keys whose values are objects with a class of their own
_PARTS = {
    "fusion": FusionFacts,
    "encoder": EncoderFacts,
    "generator": GeneratorFacts,
    "update": UpdateFacts,
}
_FOR_TRAINING = ("preset", "encoder_options", "trainer", "parts", "learned_since")
Part = TypeVar("Part", FusionFacts, EncoderFacts, GeneratorFacts, UpdateFacts, Manifest)


def read_manifest(version: str | Path) -> Manifest:
    """Reads the manifest of a version folder.

    Raises:
        ArtifactError: it is missing, damaged, incomplete or of another format.
    """
    path = Path(version) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{version} has no {MANIFEST}. Export the model again.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Export the model again.") from error
    return make_manifest(found, place=str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into a version folder."""
    (folder / MANIFEST.parent).mkdir(exist_ok=True)
    text = json.dumps(manifest.as_dict(), ensure_ascii=False, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def make_manifest(found: Any, *, place: str = "the manifest") -> Manifest:
    """Makes a `Manifest` of the object that a file holds.

    Args:
        found: any JSON value; a valid one is an object with the keys of `Manifest` and `format`.
        place: where it was found, for the messages.

    Raises:
        ArtifactError: it is of another format, or lacks a key that every version has.
    """
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, bool) or not isinstance(number, int):
        raise ArtifactError(
            f"{place} has format {number!r}, which is no number of a format: no kerasrec wrote it. "
            "Copy the whole folder again, or export the model again."
        )
    if number < FORMAT:
        raise ArtifactError(
            f"{place} has format {number}, which is older than this kerasrec reads; this kerasrec "
            f"reads format {FORMAT}. Train or export the model again."
        )
    if number > FORMAT:
        raise ArtifactError(
            f"{place} has format {number}; this kerasrec reads format {FORMAT}. Upgrade kerasrec."
        )
    parts = {
        name: make_part(kind, found[name], place=f"{name} in {place}")
        for name, kind in _PARTS.items()
        if found.get(name) is not None
    }
    rest = {key: value for key, value in found.items() if key != "format"}
    return make_part(Manifest, {**rest, **parts}, place=place)


def make_part(kind: type[Part], found: Any, *, place: str = "the manifest") -> Part:
    """Makes one of the classes here of a dict; keys that the class does not know go to `more`.

    Args:
        kind: the class.
        found: dict of the values; those that have a class of their own are made already.
        place: where it was found, for the messages.

    Raises:
        ArtifactError: it is no dict, or lacks a key that every version has.

    >>> make_part(UpdateFacts, {"seq": 7, "why": "x"}).more
    {'why': 'x'}
    """
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{place} must be a JSON object. Received: {str(found)[:50]!r}. Export the model again."
        )
    always = _always(kind)
    missing = [name for name in kind._fields if name in always and name not in found]
    if missing:
        raise ArtifactError(
            f"{place} lacks the key {missing[0]!r}, which every version has. Copy the whole folder "
            "again, or export the model again."
        )
    # an optional key that is null goes to `more`, so that it is written back
    own = {
        name: found[name]
        for name in kind._fields
        if name != "more" and name in found and (found[name] is not None or name in always)
    }
    return kind(**own, more={key: value for key, value in found.items() if key not in own})


def _always(kind: type[tuple]) -> set[str]:
    """The keys that are in every version."""
    required = set(kind._fields) - set(kind._field_defaults)  # type: ignore[attr-defined]
    return required | ({"signatures"} if kind is Manifest else set())


def _said(part: Any) -> dict[str, Any]:
    """One of the classes as a dict, in the order of its fields; `more` comes last."""
    named, always = part._asdict(), _always(type(part))
    more = named.pop("more")
    said = {name: value for name, value in named.items() if value is not None or name in always}
    said = {**more, **said}
    return {name: said[name] for name in named if name in said} | said
