"""The model card says what the manifest says, of any version."""

import pytest
from manifests import real_manifest

from kerasrec.versions import folders
from kerasrec.versions.derive import export_again
from kerasrec.versions.modelcard import CARD, model_card
from kerasrec.versions.warmup import read_signatures


@pytest.fixture(scope="module")
def card(exported_version):
    return (exported_version / "1" / CARD).read_text(encoding="utf-8")


def rows_of(card):
    """First two cells of each table row."""
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    return {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines}


def test_card_of_a_version(card, exported_version):
    manifest = folders.read_manifest(exported_version / "1").as_dict()
    assert card.startswith("# toy, version 1\n")
    rows = rows_of(card)
    for row in (
        ("events", str(manifest["data"]["interactions"])),
        ("users", str(manifest["data"]["users"])),
        ("sha256 of the tables", manifest["data"]["sha256"]),
        ("NDCG@10 of the fused score", f"{manifest['metrics']['valid_ndcg@10']:.4f}"),
        ("text_units", "8"),
        ("epochs", "2"),
        ("licence", manifest["encoder"]["licence"]),
    ):
        assert row in rows, row
    for part, (weight, more) in manifest["fusion"]["weights"].items():
        assert f"| {part} | {weight} | {more} |" in card
    for signature, (inputs, outputs) in read_signatures(exported_version / "1").items():
        line = next(line for line in card.splitlines() if line.startswith(f"| `{signature}` |"))
        assert all(f"`{name}` " in line for name in (*inputs, *outputs))
    assert "中文摘要" in card and "82 个物品" in card
    assert "newest 20 known items" in card


def test_each_line_is_whole(card):
    """No table is broken by an empty line, no value spans lines, nothing is left undefined."""
    lines = card.splitlines()
    assert not [line for line in lines if "Undefined" in line or "{{" in line or "{%" in line]
    for number, line in enumerate(lines):
        if line.startswith("| ---"):
            assert lines[number - 1].count("|") == line.count("|")
    assert "\n\n\n\n" not in card


def test_a_derived_version_names_its_parent(exported_version, tmp_path):
    import shutil

    toy = shutil.copytree(exported_version, tmp_path / "toy")
    version = export_again(toy, k=5)
    card = (version / CARD).read_text(encoding="utf-8")
    assert card.startswith("# toy, version 2\n")
    assert "derived from version 1" in card and "k = 5." in card


def test_licence_of_the_encoder():
    def licence(encoder):
        lines = model_card(real_manifest(encoder=encoder), {}).splitlines()
        return next(line for line in lines if line.startswith("| licence |"))

    e5 = {"name": "e5-small", "kind": "bert", "dim": 384, "licence": "MIT"}
    assert licence(e5) == "| licence | MIT |"
    folder = {**e5, "name": "my bert", "licence": "unknown"}
    assert licence(folder) == "| licence | unknown: see the checkpoint |"
    without = real_manifest(encoder=None, encodes_texts=False)
    assert "known by their id alone" in model_card(without, {})


def test_limits_follow_the_manifest():
    at_end, newest = (
        model_card(real_manifest(asked=asked), {})
        for asked in ("end of the log", "newest event of the user")
    )
    assert "It knows one moment" in at_end and "It knows one moment" not in newest
    assert "newest time of the request" in newest
    encodes = model_card(real_manifest(), {})
    assert "needs its text and no training" in encodes


BY_TRAIN = ("preset", "encoder_options", "trainer", "data", "validation", "metrics", "epochs")


@pytest.mark.parametrize("own", [dict.fromkeys(BY_TRAIN, ...), {"data": "mine", "metrics": 0.5}])
def test_a_manifest_of_the_users_own(own):
    """`export` alone writes less than `train`, and takes what its caller gives."""
    card = model_card(real_manifest(name="a|b\nc", **own), {})
    assert card.startswith("# a\\|b c, version 1\n")
