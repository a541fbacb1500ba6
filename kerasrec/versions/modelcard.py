"""Writes the model card of a version: what its manifest says, for people. Summary in Chinese."""

from pathlib import Path

from kerasrec.evaluation import pages
from kerasrec.versions.manifest import Manifest

CARD = Path("assets.extra") / "model_card.md"
_PARTS = {
    "model": "what the sequence model expects (softmax of cosine(U, e_i) / temperature)",
    "transitions": "what follows what in the training events",
    "follows": "what comes directly after an item in the training events",
    "ease": "a closed-form linear model of the training events",
    "text": "what reads like the history",
    "popular": "what is popular at the moment; in the mixture alone",
    "mixture": "the parts above, mixed by the time since the user's newest event",
}
_DATA = {
    "interactions": "events",
    "items": "items at training",
    "sha256": "sha256 of the tables",
}
_METRICS = {
    "valid_ndcg@10": "NDCG@10 of the fused score",
    "valid_recall@10": "recall@10 of the fused score",
    "valid_ndcg_of_the_model_alone@10": "NDCG@10 of the sequence model alone",
}
_OPTIONS = {"options": "model", "encoder_options": "encoder", "trainer": "trainer"}


def model_card(manifest: Manifest, signatures: dict[str, tuple[dict, dict]]) -> str:
    """Writes the text of `model_card.md`.

    Args:
        manifest: of the version; what it lacks is left out of the card.
        signatures: as `warmup.read_signatures` gives them.

    Returns:
        Markdown.
    """
    templates = pages.environment("kerasrec.versions")
    templates.filters["cell"] = _cell
    sections = {title: getattr(manifest, section) for section, title in _OPTIONS.items()}
    return templates.get_template("model_card.md.j2").render(
        m=manifest,
        name=manifest.name or "model",
        signatures={
            name: tuple(_named(tensors) for tensors in both) for name, both in signatures.items()
        },
        data=[(_DATA.get(k, k), v) for k, v in _rows(manifest.data)],
        metrics=[(_METRICS.get(k, k), _number(v)) for k, v in _rows(manifest.metrics)],
        weights=_weights(manifest.fusion),
        options=[(title, _rows(options)) for title, options in sections.items() if options],
        encoder=manifest.as_dict()["encoder"],
        licence=_licence(manifest.encoder),
        scorer_weight=_number(manifest.scorer_weight),
    )


def _rows(value):
    """Pairs of a part of a manifest, which may be anything: `export` takes a user's own."""
    if isinstance(value, dict):
        return list(value.items())
    return [] if value is None else [("value", value)]


def _weights(fusion):
    """Rows `(part, a, b, share of the mixture, meaning)`."""
    weights, mixture = fusion.weights, fusion.mixture
    names = [name for name in _PARTS if name in weights or name in mixture]
    names += [name for name in weights if name not in _PARTS]
    return [
        (name, *weights.get(name, ("", "")), _share(mixture.get(name, "")), _PARTS.get(name, ""))
        for name in names
    ]


def _share(share):
    """A share of the mixture; where it depends on the wait, from the smallest to the largest."""
    return f"{min(share):.3f} to {max(share):.3f}" if isinstance(share, list) else share


def _licence(encoder):
    if encoder is None:
        return "no encoder"
    licence = str(encoder.licence or "unknown")
    if licence == "unknown" and encoder.kind == "bert":
        return "unknown: see the checkpoint"
    return licence


def _named(tensors):
    """`history` string [b, ?], ... in one cell."""
    rows = []
    for name, (dtype, shape) in tensors.items():
        sizes = ["?" if size is None else str(size) for size in shape or []]
        sizes[:1] = ["b"] if sizes else []
        rows.append(f"`{name}` {dtype} [{', '.join(sizes)}]")
    return ", ".join(rows)


def _number(value):
    return f"{value:.4f}" if isinstance(value, float) else value


def _cell(value):
    """A value in a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
