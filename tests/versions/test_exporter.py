import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toys import planted_histories

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_items
from kerasrec.fusion.fusion import Fusion, fit_tables
from kerasrec.models.build import build_model
from kerasrec.models.validation import Ranker
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders
from kerasrec.versions.exporter import (
    _same,
    compare_here,
    compare_in_a_process,
    compared_by,
    export,
    fresh_process,
)


def test_saved_model_cli_reads_well(exported_version, capsys):
    from tensorflow.python.tools import saved_model_cli

    saved_model_cli._show_all(str(exported_version / "1"))  # what `show --dir ... --all` prints
    shown = capsys.readouterr().out
    parts = shown.partition("Concrete Functions:")[0].split("signature_def['")[2:]
    found = {}
    for part in parts:
        name, _, body = part.partition("']")
        inputs, _, outputs = body.partition("following output(s)")
        found[name] = tuple(
            [line.split("'")[1] for line in text.splitlines() if "tensor_info" in line]
            for text in (inputs, outputs)
        )
    lists = ["item_ids", "scores"]
    assert found == {
        "serving_default": (["history"], lists),
        "recommend": (["allow", "deny", "history", "keep_seen", "timestamps"], lists),
        "interest": (["history"], ["interest"]),
        "score": (["candidates", "history"], ["scores"]),
        "similar": (["item_ids"], lists),
        "item_vectors": (["item_ids"], ["vectors"]),
    }


def test_version_folder_holds_what_the_design_names(exported_version):
    files = {
        str(p.relative_to(exported_version)) for p in exported_version.rglob("*") if p.is_file()
    }
    assert {
        "1/saved_model.pb",
        "1/variables/variables.index",
        "1/assets/item_ids.txt",
        "1/assets.extra/manifest.json",
        "1/assets.extra/items.csv.gz",
        "1/assets.extra/encoder/encoder.json",
        "1/assets.extra/train/state.npz",
        "1/assets.extra/train/options.json",
        "1/assets.extra/train/history.csv",
    } <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]
    assert [path.name for path in exported_version.parent.iterdir()] == ["toy"]


@pytest.fixture(scope="module")
def tiny_model():
    return build_model(4, id_units=4, max_length=4, heads=1, scorer_units=2)


@pytest.fixture
def tiny_items(toy_items):
    return Items(toy_items.frame[:4].reset_index(drop=True))


@pytest.mark.slow
def test_order_is_the_formula_of_the_readme(tmp_path):
    """`Recommender` against the formula in numpy, from the parts before the export."""
    histories, num_items = planted_histories(), 30
    ids = [f"i{number}" for number in range(1, num_items + 1)]
    items = read_items(pd.DataFrame({"item_id": ids, "title": ids}))
    model = build_model(num_items, id_units=8, max_length=20, heads=2, scorer_units=4)
    tables = {name: found[0] for name, found in fit_tables(histories, num_items).items()}
    rng = np.random.default_rng(0)
    fusion = Fusion(
        tables=tables,
        weights={"model": (0.9, 0.3), "transitions": (0.4, 0.0), "mixture": (0.2, -0.1)},
        mixture={"model": 0.5, "transitions": 0.3, "ease": 0.2},
        scorer_weight=0.7,
        fit="likelihood",
        epsilon=1e-3,
        starts=np.array([100_000_000, 200_000_000]),
        first=rng.integers(0, 3, num_items + 1).astype(np.int32),  # 2: never seen
        prior=rng.normal(size=(2, num_items + 1)).astype(np.float32),
        popular=np.arange(num_items + 1, dtype=np.float32),
        recency=Fusion.alone(num_items).recency,
    )
    version = export(
        model,
        tmp_path / "m",
        items=items,
        manifest={},
        fusion=fusion,
    )
    some = histories.select(np.arange(20))
    assert some.lengths.max() <= 20
    probabilities_of, everything = Ranker(model).probabilities(), np.arange(num_items + 1)
    model_part, mlp_of = probabilities_of(some)
    parts = {"model": model_part, **{n: table.scores(some) for n, table in tables.items()}}
    unseen = np.ones_like(model_part, bool)
    unseen[:, 0] = False
    unseen[np.repeat(np.arange(20), some.lengths), some.items] = False
    shares = {n: part * unseen / (part * unseen).sum(1, keepdims=True) for n, part in parts.items()}
    shares["mixture"] = 0.5 * shares["model"] + 0.3 * shares["transitions"] + 0.2 * shares["ease"]
    recommender = Recommender.load(version)
    for at, moment in ((150_000_000, 0), (250_000_000, 1), ("now", 1), (None, 1)):
        new = fusion.first > moment
        score = np.where(unseen, fusion.prior[moment], -np.inf)
        for name, (weight, more) in fusion.weights.items():
            score = score + (weight + more * new) * np.log(shares[name] + 1e-3)
        score = score + 0.7 * mlp_of(np.tile(everything, (20, 1)))
        lists = recommender.recommend(some, k=5, at=at)
        for row, (_, found) in enumerate(lists.groupby("user_id", sort=False)):
            best = np.argsort(-score[row], kind="stable")[:5]
            np.testing.assert_allclose(found["score"], score[row, best], atol=1e-4)
            assert found["item_id"].tolist() == [f"i{item}" for item in best]


#: with the comparison that users have, and with the faster one of other tests
by_comparison = pytest.mark.parametrize(
    "compare", [compare_here, pytest.param(compare_in_a_process, marks=pytest.mark.slow)]
)


@by_comparison
def test_export_of_a_model_alone(tiny_model, tiny_items, tmp_path, compare):
    with compared_by(compare):
        version = export(
            tiny_model,
            tmp_path / "m",
            items=tiny_items,
            manifest={"name": "m"},
            fusion=Fusion.alone(4, popular=np.arange(5, dtype=np.float32)),
        )
    recommender = Recommender.load(version)
    assert recommender.manifest["k"] == 4 and recommender.manifest["encoder"] is None
    assert recommender.training_history() is None
    assert recommender.recommend([[]], k=4)["score"].tolist() == [4, 3, 2, 1]
    assert recommender.recommend([tiny_items.ids[:2]], k=4)["rank"].tolist() == [1, 2]


def test_nothing_is_visible_when_the_work_fails(tiny_model, tiny_items, tmp_path):
    with pytest.raises(AttributeError, match="to_csv"):
        export(
            tiny_model,
            tmp_path / "models" / "m",
            items=tiny_items,
            manifest={},
            history="not a table",
        )
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
def test_nothing_is_visible_when_the_version_answers_differently(tiny_model, tiny_items, tmp_path):
    def other_vectors(module, *given):
        assert not (tmp_path / "models" / "m").exists()  # compared before it has its place
        module.item_vectors.assign(module.item_vectors * 1.01)
        compare_here(module, *given)

    with compared_by(other_vectors), pytest.raises(ArtifactError, match="differently"):
        export(tiny_model, tmp_path / "models" / "m", items=tiny_items, manifest={})
    assert list((tmp_path / "models").iterdir()) == []


@by_comparison
def test_compare_finds_a_version_that_answers_differently(exported_version, toy_items, compare):
    loaded = tf.saved_model.load(str(exported_version / "1"))
    loaded.item_vectors.assign(loaded.item_vectors * 1.01)
    with pytest.raises(ArtifactError, match="answers .* differently after reloading"):
        compare(loaded, exported_version / "1", [[], list(toy_items.ids[:3])], [])


@pytest.mark.slow
def test_compare_says_what_a_version_that_does_not_load_said(exported_version, tmp_path):
    shutil.copytree(exported_version / "1", tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="does not load: .*parse"):
        compare_in_a_process(loaded, tmp_path / "1", [[], []], [])


def test_a_fresh_process_that_nobody_asks_is_gone_at_the_end():
    with pytest.raises(KeyError), fresh_process() as started:
        assert started.process.poll() is None and started.folder.is_dir()
        raise KeyError
    assert started.process.poll() is not None and not started.folder.exists()


@pytest.mark.parametrize(
    "differs", ["encode_items", pytest.param("recommend_by_text", marks=pytest.mark.slow)]
)
def test_compare_looks_at_the_answers_to_texts(text_version, tmp_path, differs):
    shutil.copytree(text_version / "1", tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    right = getattr(loaded, differs)
    names = {"encode_items": ("texts", "vectors"), "recommend_by_text": ("history_texts", "scores")}
    given, wrong = names[differs]

    def other(**inputs):
        answer = right(inputs[given])
        return {**answer, wrong: answer[wrong] + 0.01}

    setattr(loaded, differs, other)
    with pytest.raises(ArtifactError, match=f"answers {differs} differently after reloading"):
        compare_here(loaded, tmp_path / "1", [[], []], ["机器学习", "", "大学物理"])


def test_manifest_lists_the_signatures(text_version, exported_version):
    of_ids = ["interest", "item_vectors", "recommend", "score", "serving_default", "similar"]
    manifest = folders.read_manifest(text_version / "1").as_dict()
    assert manifest["signatures"] == sorted([*of_ids, "encode_items", "recommend_by_text"])
    assert manifest["encodes_texts"]
    # tfidf is fitted and kept outside of the graph: a `Recommender` encodes, a server does not
    manifest = folders.read_manifest(exported_version / "1").as_dict()
    assert manifest["signatures"] == of_ids and manifest["encodes_texts"]


def test_the_graph_holds_core_operations_only(text_version, exported_version):
    """What TensorFlow alone registers: no Python, nothing of tensorflow-text."""
    from tensorflow.core.protobuf import saved_model_pb2

    code = (
        "import sys\nfor name in ('bert4keras', 'tf_keras', 'keras', 'kerasrec'):\n"
        "    sys.modules[name] = None\n"
        "import tensorflow as tf\n"
        "from tensorflow.python.framework import op_def_registry\n"
        "print([n for n in sys.argv[1:] if op_def_registry.get(n) is None])\n"
    )
    everything = set()
    for base in (text_version, exported_version):
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((base / "1" / "saved_model.pb").read_bytes())
        graph = saved.meta_graphs[0].graph_def
        functions = {function.signature.name for function in graph.library.function}
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        names = {node.op for node in nodes} - functions
        assert len(names) > 50 and {"MatMul", "LookupTableFindV2"} <= names
        assert not [name for name in names if "PyFunc" in name or ">" in name]
        everything |= names
    done = subprocess.run([sys.executable, "-c", code, *everything], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_parts_of_several_functions_are_kept_once(exported_version):
    """A version is the larger, and loads the longer, the more functions it has."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported_version / "1" / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    names = [function.signature.name for function in functions]
    for part in ("vector_rows", "cosine_rows", "fused_rows", "graph_top_k"):
        assert len([name for name in names if part in name]) == 1
    loops = [node for function in functions for node in function.node_def if "While" in node.op]
    assert len(loops) == 2 and len(names) < 60  # one loop for each small form of the vectors


def test_the_encoder_is_kept_once(text_version, text_parts):
    """However many functions call it: one variable for each of its weights."""
    weights = text_parts[2].encoder.model.weights
    reader = tf.train.load_checkpoint(str(text_version / "1" / "variables" / "variables"))
    shapes = [tuple(shape) for shape in reader.get_variable_to_shape_map().values()]
    for weight in weights:
        if tuple(weight.shape) not in {tuple(w.shape) for w in weights if w is not weight}:
            assert shapes.count(tuple(weight.shape)) == 1, weight.name
    sizes = [len(weight.numpy().ravel()) for weight in weights]
    assert (text_version / "1" / "assets" / "wordpiece_vocab.txt").is_file()
    assert sum(sizes) > 10_000


def test_same_looks_at_numbers_and_at_clear_winners():
    expected = {
        "item_ids": np.array([[b"a", b"b"], ["乙".encode(), b""]], object),
        "scores": np.array([[2.0, 1.0], [1.0, -np.inf]]),
    }
    good = {"item_ids": np.array([["a", "b"], ["乙", ""]]), "scores": expected["scores"]}
    assert _same(good, dict(expected))
    assert not _same({**good, "scores": expected["scores"] + 0.1}, dict(expected))
    assert not _same({**good, "item_ids": np.array([["a", "b"], ["甲", ""]])}, dict(expected))
    tied = {**expected, "scores": np.array([[2.0, 2.0], [1.0, -np.inf]])}
    swapped = {"item_ids": np.array([["b", "a"], ["乙", ""]]), "scores": tied["scores"]}
    assert _same(swapped, tied)
    assert not _same({"vectors": np.array([np.nan])}, {"vectors": np.array([1.0])})


def test_manifest_of_the_toy_version(exported_version):
    manifest = folders.read_manifest(exported_version / "1").as_dict()
    assert manifest["encoder"]["kind"] == "tfidf" and manifest["k"] == 50
    assert manifest["num_items"] == manifest["data"]["items"] == 82


def test_export_takes_a_whole_model_and_its_own_catalogue(tiny_model, tiny_items, tmp_path):
    with pytest.raises(ValueError, match="export takes the Model that build_model gives.*History"):
        export(tiny_model.training, tmp_path / "m", items=tiny_items)
    fewer = Items(tiny_items.frame[:-1])
    with pytest.raises(ValueError, match=r"the catalogue that the model was built for, .* items"):
        export(tiny_model, tmp_path / "m", items=fewer)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_number_is_a_version(tmp_path):
    model = build_model(30, id_units=8, max_length=4, scorer_units=4)
    items = Items(pd.DataFrame({"item_id": [f"i{n}" for n in range(30)], "title": "书"}))
    with pytest.raises(ValueError, match=f"ends in a number. Give {tmp_path / 'shop'}[.]"):
        export(model, tmp_path / "shop" / "7", items=items)
    assert not (tmp_path / "shop").exists()
    # a table stands for the catalogue that it holds
    with pytest.raises(ValueError, match="Received: 29 items"):
        export(model, tmp_path / "shop", items=items.frame[1:])
    version = export(model, tmp_path / "shop", items=items.frame)
    assert folders.read_catalogue(version)["item_id"].tolist() == items.ids.tolist()
