"""Item vectors in less memory: what is stored, what comes back, and how far it may be wrong."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders, itemmatrix
from kerasrec.versions.derive import export_again

SMALL = ("float16", "int8")


def random_vectors(count, dim=24, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count + 1, dim)).astype(np.float32)
    vectors[0] = 0
    return vectors


def in_form(vectors, form):
    """Variables that hold the vectors in a form."""
    variables = itemmatrix.make_variables(vectors)
    for name, value in itemmatrix.stored(vectors, form).items():
        variables[name].assign(value)
    return variables


def test_int8_by_hand():
    vectors = np.array([[0, 0, 0], [2, -1, 0.5], [0, 0, 1e-3]], np.float32)
    tables = itemmatrix.stored(vectors, "int8")
    # 127 / 2 = 63.5 per unit: 2 -> 127, -1 -> -63.5 (to the even -64), 0.5 -> 31.75 -> 32
    assert tables["byte_vectors"].tolist() == [[0, 0, 0], [127, -64, 32], [0, 0, 127]]
    np.testing.assert_allclose(tables["byte_scale"], [0, 2 / 127, 1e-3 / 127], rtol=1e-6)
    length = (127**2 + 64**2 + 32**2) ** 0.5
    np.testing.assert_allclose(tables["unit_scale"][1:], [1 / length, 1 / 127], rtol=1e-6)
    found = itemmatrix.look_up(in_form(vectors, "int8"), tf.constant([1]))
    np.testing.assert_allclose(found, [[2, -64 * 2 / 127, 32 * 2 / 127]], rtol=1e-6)


def test_float16_by_hand():
    # 11 bits: 1 + 1/2048 lies in the middle of two numbers, and the even one is 1
    vectors = np.array([[0, 0], [1 + 1 / 2048, 0.75], [1e6, -1e6]], np.float32)
    tables = itemmatrix.stored(vectors, "float16")
    assert tables["half_vectors"].tolist() == [[0, 0], [1, 0.75], [65504, -65504]]
    np.testing.assert_allclose(tables["unit_scale"][1], 0.8)
    assert tables["byte_scale"].shape == (0,)


@pytest.mark.parametrize(("form", "bytes_of_item"), [("float16", 24 * 2 + 4), ("int8", 24 + 8)])
def test_smaller_forms_take_less(form, bytes_of_item):
    vectors = random_vectors(100)
    sizes = {
        f: sum(t.nbytes for t in itemmatrix.stored(vectors, f).values()) for f in (form, "float32")
    }
    assert sizes == {form: 101 * bytes_of_item, "float32": 101 * 24 * 4 * 2}


@pytest.mark.parametrize("form", itemmatrix.FORMS)
@pytest.mark.parametrize("count", [0, 5, 4095, 4096, 9000])  # blocks of 4096
def test_cosines_and_look_up(form, count):
    vectors = random_vectors(count)
    variables = in_form(vectors, form)
    queries = np.random.default_rng(1).standard_normal((3, 24)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    found = itemmatrix.cosines(variables, queries).numpy()
    assert found.shape == (3, count + 1)
    # an entry is wrong by half a step at most, and a product by the root of dim times that
    largest = np.abs(unit).max() if count else 0
    step = {"float32": 1e-6, "float16": 2**-11 * largest + 1e-6, "int8": largest / 254}[form]
    assert np.abs(found - queries @ unit.T).max() <= 2 * step * 24**0.5 + 1e-6
    rows = itemmatrix.look_up(variables, tf.range(count + 1)).numpy()
    limit = {"float32": 0, "float16": 2**-11 * np.abs(vectors) + 2**-25, "int8": None}[form]
    if form == "int8":
        limit = np.abs(vectors).max(axis=1, keepdims=True) / 254 * 1.001
    assert (np.abs(rows - vectors) <= limit).all()
    assert (rows[0] == 0).all()


def test_unknown_form():
    with pytest.raises(ValueError, match="one of float32, float16, int8. Received: 'int4'"):
        itemmatrix.stored(random_vectors(3), "int4")


# --- a version in another form ---


@pytest.fixture
def base(exported_version, tmp_path):
    shutil.copytree(exported_version, tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture(scope="module")
def whole(exported_version):
    return Recommender.load(exported_version)


@pytest.fixture(scope="module")
def in_forms(exported_version, tmp_path_factory):
    """Form -> a version in it, all in one folder. Tests must not change it."""
    base = shutil.copytree(exported_version, tmp_path_factory.mktemp("forms") / "toy")
    return {form: export_again(base / "1", item_matrix=form) for form in SMALL}


@pytest.mark.parametrize("form", SMALL)
def test_export_again_in_a_smaller_form(whole, in_forms, form):
    version, ids = in_forms[form], list(whole.items.ids)
    small = Recommender.load(version)
    assert folders.read_manifest(version).item_matrix == form
    assert (whole.loaded.form, small.loaded.form) == (
        "float32",
        form,
    )
    histories = [ids[:3], ids[20:26], [], ids[5:6]]
    one, other = (r.recommend(histories, k=10) for r in (whole, small))
    lists = [t.groupby("user_id")["item_id"].apply(set) for t in (one, other)]
    shared = [len(a & b) / 10 for a, b in zip(*lists, strict=True)]
    assert np.mean(shared) >= (0.97 if form == "float16" else 0.9)
    limit = {"float16": 0.01, "int8": 0.1}[form]
    np.testing.assert_allclose(one["score"], other["score"], atol=limit, rtol=limit)
    np.testing.assert_allclose(whole.interests(histories), small.interests(histories), atol=0.05)
    vectors = whole.item_vectors(ids)
    step = np.abs(vectors).max(axis=1, keepdims=True) * (2**-11 if form == "float16" else 1 / 254)
    assert (np.abs(small.item_vectors(ids) - vectors) <= step * 1.001).all()
    near, other_near = (r.similar(ids[4], k=3)["score"] for r in (whole, small))
    np.testing.assert_allclose(near, other_near, atol=0.02)


@pytest.mark.parametrize("form", ["float16", pytest.param("int8", marks=pytest.mark.slow)])
def test_back_to_float32(in_forms, tmp_path, form):
    """What was rounded stays rounded, nothing else changes."""
    base = tmp_path / "toy"
    small = Recommender.load(shutil.copytree(in_forms[form], base / in_forms[form].name))
    ids = list(small.items.ids)
    histories = [ids[:3], ids[20:26], [], ids[5:6]]
    back = Recommender.load(export_again(base, item_matrix="float32"))
    np.testing.assert_array_equal(back.item_vectors(ids), small.item_vectors(ids))
    one, other = (r.recommend(histories, k=10) for r in (back, small))
    np.testing.assert_allclose(one["score"], other["score"], atol=1e-4)


@pytest.mark.parametrize("form", ["int8", pytest.param("float16", marks=pytest.mark.slow)])
def test_added_items_in_a_smaller_form(in_forms, tmp_path, form):
    version = shutil.copytree(in_forms[form], tmp_path / "toy" / in_forms[form].name)
    small = Recommender.load(version)
    small.add_items(pd.DataFrame({"item_id": ["新"], "title": ["大学物理"]}))
    expected = small.encode(["大学物理"])
    step = np.abs(expected).max() * (2**-11 if form == "float16" else 1 / 254) * 1.001
    np.testing.assert_allclose(small.item_vectors(["新"]), expected, atol=step)
    saved = Recommender.load(small.save())
    assert saved.loaded.form == form and len(saved.items) == 83
    table = small.recommend([["新"], list(small.items.ids[:3])], k=82)
    assert "新" in set(table[table["user_id"] == 1]["item_id"])
    pd.testing.assert_frame_equal(saved.recommend([["新"], list(small.items.ids[:3])], k=82), table)


def test_export_again_refuses_an_unknown_form(base):
    with pytest.raises(ValueError, match="one of float32, float16, int8. Received: 'int4'"):
        export_again(base, item_matrix="int4")
    assert folders.versions(base) == [1]
