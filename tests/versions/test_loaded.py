"""`LoadedVersion`: what is inside a version, by its names in the graph and in the checkpoint."""

import ast

import numpy as np
import pytest
from places import ROOT

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.versions import folders
from kerasrec.versions.graph import ServingModule
from kerasrec.versions.loaded import LoadedVersion

#: the files that write what `LoadedVersion` reads
WRITERS = ("loaded.py", "graph.py", "plangraph.py", "graphfusion.py", "exporter.py")


@pytest.fixture
def loaded(exported_version):
    return LoadedVersion.load(exported_version)


def test_abilities_are_those_of_the_version(exported_version, planning_version, text_version):
    found = [LoadedVersion.load(v).abilities for v in (exported_version, planning_version)]
    known = {"waits", "withdraws", "text_vectors"}
    assert found == [known, known | {"plans"}]
    of_texts = {"waits", "withdraws", "text_vectors", "tokens", "texts"}
    assert LoadedVersion.load(text_version).abilities == of_texts


def test_a_module_of_another_program_is_refused(tmp_path):
    module = tf.Module()
    module.k = tf.Variable(3)
    with pytest.raises(ArtifactError, match="has no scorer_weight. Train it again."):
        LoadedVersion(module, None)


def test_a_module_in_memory_is_asked_in_the_same_way(text_parts, text_version, toy_items, tmp_path):
    """A `ServingModule` and the version that was exported of it hold and answer the same."""
    model, fusion, _ = text_parts
    saved = LoadedVersion.load(text_version)
    vectors, ids = saved.vectors(), tmp_path / "ids.txt"
    folders.write_item_ids(ids, toy_items.ids)
    module = ServingModule(model, item_vectors=vectors, asset=ids, fusion=fusion, k=7)
    made = LoadedVersion(module, saved.manifest, items=toy_items, recency=fusion.recency)
    assert (made.path, made.k, saved.k, made.dim) == (None, 7, 50, saved.dim)
    assert made.items() is toy_items and made.recency() is fusion.recency
    assert saved.items().ids.tolist() == toy_items.ids.tolist()
    np.testing.assert_array_equal(saved.vectors_at([3, 0]), vectors[[3, 0]])
    for one, other in zip(made.moments(), saved.moments(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in saved.decays:
        for one, other in zip(made.table(name), saved.table(name), strict=True):
            np.testing.assert_array_equal(one, other)
    history = np.array([[0, 4, 9], [0, 0, 0]], np.int32)
    inputs, none = [history, np.zeros_like(history), np.zeros_like(history)], np.zeros(0, np.int32)
    lists = [
        version.recommend(inputs, none, none, *np.zeros((2, 2), np.int64), k=5)
        for version in (made, saved)
    ]
    np.testing.assert_array_equal(lists[0][0], lists[1][0])
    np.testing.assert_allclose(lists[0][1], lists[1][1], atol=1e-5)


def test_what_is_set_is_read(loaded):
    moments = loaded.moments()
    other = moments._replace(prior=moments.prior + 1, popularity=moments.popularity[::-1])
    loaded.set_moments(other)
    np.testing.assert_array_equal(loaded.moments().prior, moments.prior + 1)
    np.testing.assert_array_equal(loaded.moments().popularity, moments.popularity[::-1])
    width = np.ones((83, 2), np.int32)
    loaded.set_table("transitions", NeighbourTable(width, width.astype(np.float32), 0.1))
    found = loaded.table("transitions")
    assert found.neighbours.shape == (83, 2) and found.decay == loaded.decays["transitions"]
    before = loaded.vectors()
    loaded.add_vectors(2 * before[1:3])
    np.testing.assert_array_equal(loaded.vectors(), np.concatenate([before, 2 * before[1:3]]))


@pytest.mark.parametrize("name", ["exported_version", "planning_version", "text_version"])
def test_variables_have_their_names_in_the_checkpoint(request, name):
    """Each name leads to the value of its variable; of the layers the id part alone is left out."""
    version = folders.find_version(request.getfixturevalue(name))
    loaded = LoadedVersion.load(version)
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    known = {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        for name in reader.get_variable_to_shape_map()
    }
    grown, learned = loaded.grown_variables(), loaded.learned_variables()
    for key, variable in (grown | learned).items():
        value = reader.get_tensor(f"{key}/.ATTRIBUTES/VARIABLE_VALUE")
        np.testing.assert_array_equal(value, variable.numpy(), err_msg=key)
    left = known - set(grown) - set(learned)
    layers = {key for key in left if key.startswith("layer_variables")}
    # beside them the lengths of lists, the decoder of plans and the tables of tokenizers
    assert len(layers) <= 1 and any(key.startswith("layer_variables") for key in learned)
    assert ("planner/tokens" in grown) is (name == "planning_version")


def test_no_other_file_knows_the_names():
    """Functions and variables of the graph are named by those who write it and by `loaded`."""
    names = {"interest_rows", "recommend_rows", "among_rows", "score_rows", "similar_rows"}
    names |= {"generate_rows", "place_text", "planner", "prior_trust", "layer_variables"}
    names |= {"half_vectors", "byte_vectors", "byte_scale", "unit_scale", "popularity"}
    inside = [ROOT / "kerasrec" / "generation" / "beamsearch.py"]
    inside += [ROOT / "kerasrec" / "versions" / name for name in WRITERS]
    for path in sorted((ROOT / "kerasrec").rglob("*.py")):
        if path in inside:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & used, path
