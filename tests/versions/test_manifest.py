import json
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import TEXT, real_dict, real_manifest

from kerasrec.checks import ArtifactError
from kerasrec.versions.manifest import (
    MANIFEST,
    EncoderFacts,
    FusionFacts,
    GeneratorFacts,
    Manifest,
    UpdateFacts,
    make_manifest,
    make_part,
    read_manifest,
    write_manifest,
)

CLASSES = (Manifest, FusionFacts, EncoderFacts, GeneratorFacts, UpdateFacts)
BERT = {
    "name": "my bert",
    "kind": "bert",
    "dim": 16,
    "architecture": "bert",
    "pooling": "mean",
    "prefix": None,
    "max_tokens": 64,
    "licence": "unknown",
    "fingerprint": "ab",
}


def version_of(folder, text):
    (folder / MANIFEST.parent).mkdir(parents=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return folder


# --- read and written ---


def test_a_real_manifest_is_written_as_it_was_read(tmp_path):
    manifest = read_manifest(version_of(tmp_path / "1", TEXT))
    assert (manifest.name, manifest.version, manifest.num_items) == ("yesterday", 1, 82)
    assert manifest.encoder.kind == "tfidf" and manifest.encoder.pooling is None
    assert manifest.fusion.decays["ease"] == 0.7 and manifest.generator.most_alike == 4
    assert manifest.update is None and manifest.parent is None and manifest.more == {}
    (tmp_path / "2").mkdir()
    write_manifest(tmp_path / "2", manifest)
    assert (tmp_path / "2" / MANIFEST).read_text(encoding="utf-8") == TEXT


def test_the_manifest_of_a_version_made_now_has_no_undescribed_key(exported_version):
    version = exported_version / "1"
    text = (version / MANIFEST).read_text(encoding="utf-8")
    manifest = read_manifest(version)
    parts = [manifest, manifest.fusion, manifest.encoder]
    assert [part.more for part in parts] == [{}, {}, {}]
    assert json.dumps(manifest.as_dict(), ensure_ascii=False, indent=1) + "\n" == text


def test_a_misspelt_key_is_an_error_not_none():
    manifest = real_manifest()
    with pytest.raises(AttributeError):
        manifest.num_item  # noqa: B018
    with pytest.raises(ValueError, match="num_item"):
        manifest._replace(num_item=3)


def test_a_copy_for_users_is_theirs():
    manifest = real_manifest()
    manifest.as_dict()["options"]["loss"] = "mine"
    manifest.as_dict()["fusion"]["weights"]["model"][0] = 7
    assert manifest.as_dict() == real_dict()


def test_null_and_absent_stay_apart():
    found = real_dict(encoder=BERT, generator=None, preset=None, trainer=...)
    manifest = make_manifest(found)
    assert manifest.encoder.prefix is None and manifest.preset is None and manifest.trainer is None
    assert manifest.as_dict() == found
    assert list(manifest.as_dict()["encoder"]) == list(BERT)
    assert manifest._replace(preset="fast").as_dict()["preset"] == "fast"


def test_keys_of_newer_writers_are_kept_where_they_were():
    found = real_dict(
        weather={"rain": [1, 2]},
        more="of the file",
        fusion={**real_dict()["fusion"], "seasons": 4},
        update={"seq": 7, "why": "x"},
    )
    manifest = make_manifest(found)
    assert manifest.more == {"weather": {"rain": [1, 2]}, "more": "of the file"}
    assert manifest.fusion.more == {"seasons": 4} and manifest.update.more == {"why": "x"}
    assert manifest.as_dict() == found
    assert manifest._replace(k=3).as_dict() == {**found, "k": 3}


PARTS = ("fusion", "encoder", "generator", "update")
NAMES = [*(name for name in Manifest._fields if name not in PARTS), "新", "x"]
VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.just([{"a": 1}])


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8),
    st.dictionaries(st.sampled_from([*UpdateFacts._fields, "why"]), VALUES, max_size=5),
)
def test_any_object_with_the_parts_comes_back(changes, update):
    """Whatever else the file holds: reading and writing loses nothing and invents nothing."""
    found = real_dict(**changes, update=update)
    assert make_manifest(found).as_dict() == found


# --- refused ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged .* Export the model again"),
        ('{"format": 1}', "has format 1, .* older .* Train or export the model again.$"),
        ('{"format": 3, "k": 5}', "format 3; this kerasrec reads format 2. Upgrade kerasrec.$"),
        ("[1]", "has format None, which is no number of a format"),
        ('{"format": true}', "has format True, which is no number of a format"),
        ('{"format": "2"}', "has format '2', which is no number of a format"),
    ],
)
def test_read_manifest_refuses(tmp_path, text, message):
    with pytest.raises(ArtifactError, match=message) as refusal:
        read_manifest(version_of(tmp_path / "1", text))
    assert str(tmp_path / "1") in str(refusal.value)


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ArtifactError, match="has no assets.extra/manifest.json"):
        read_manifest(tmp_path)


REQUIRED = [name for name in Manifest._fields if name not in Manifest._field_defaults]


@pytest.mark.parametrize("name", [*REQUIRED, "signatures"])
def test_a_key_that_every_version_has_is_named_where_it_lacks(tmp_path, name):
    version = version_of(tmp_path / "1", json.dumps(real_dict(**{name: ...})))
    with pytest.raises(ArtifactError, match=f"lacks the key {name!r}, which every version has"):
        read_manifest(version)


def test_a_key_of_a_part_is_named_with_its_part():
    fusion = {k: v for k, v in real_dict()["fusion"].items() if k != "decays"}
    with pytest.raises(ArtifactError, match="^fusion in the manifest lacks the key 'decays'"):
        real_manifest(fusion=fusion)
    with pytest.raises(ArtifactError, match="^encoder in the manifest must be a JSON object"):
        real_manifest(encoder="tfidf")


def test_a_further_training_needs_what_train_writes():
    real_manifest().check_trained("shop/1")
    with pytest.raises(ArtifactError, match="shop/1 does not say how it was trained.*'trainer'"):
        real_manifest(trainer=...).check_trained("shop/1")


# --- described ---


@pytest.mark.parametrize("kind", CLASSES)
def test_every_key_is_described(kind):
    told = kind.__doc__.partition("Attributes:\n")[2]
    entries = [line.strip() for line in told.split("\n") if line.startswith(" " * 8 + line.strip())]
    names = [name for entry in entries for name in entry.partition(":")[0].split(", ")]
    assert [name for name in names if name.isidentifier()] == list(kind._fields)
    assert set(typing.get_type_hints(kind)) == set(kind._fields)


def test_make_part_keeps_what_it_does_not_know():
    part = make_part(UpdateFacts, {"decision": "better", "label": "x"})
    assert part == UpdateFacts(decision="better", more={"label": "x"})


def test_the_template_has_a_default():
    assert real_manifest(text_template="{a} {b}").template == "{a} {b}"
    assert real_manifest(text_template=...).template == "{title}"
