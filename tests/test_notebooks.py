"""Each notebook runs from a clean kernel, small, and is committed as a reader should get it."""

import ast
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

import kerasrec
from kerasrec.data.datasets import MOOCCUBE_FOLDER

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(path, folder, monkeypatch, num_cells=None):
    """Execute in `folder/notebooks` with the kernel of this Python; what the last cell printed."""
    monkeypatch.setenv("KERASREC_FAST", "1")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    place = folder / "notebooks"
    place.mkdir()
    notebook = read(path)
    where = nbformat.v4.new_code_cell("import sys; print(sys.prefix)")
    notebook.cells = [*code_cells(notebook)[:num_cells], where]
    resources = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    *_, result, prefix = (
        "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells
    )
    assert prefix.strip() == sys.prefix
    return result.strip()


def test_notebooks_are_found():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@pytest.mark.slow
@by_notebook
def test_notebook_runs_from_a_clean_kernel(path, tmp_path, monkeypatch):
    monkeypatch.delenv("KERASREC_DATA", raising=False)
    result = run(path, tmp_path, monkeypatch)
    assert "\n" not in result
    expected = {
        "01": "kerasrec: NDCG@10 ",
        "02": "mooccube (packaged), leave_one_out. kerasrec: NDCG@10 ",
        "03": "tiny_L-2_H-32_A-2, finetune: weights changed by training: True; exported version 1 ",
        "04": "REST and gRPC answer as Recommender does: True; the server stopped with code 0",
        "05": "a click changed the next list: True; versions 1, 2",
        "06": "a path of 5 courses, all real and new to the learner: True; ",
        "07": "1 epochs of Keras' fit; version 1 of courses_keras lists 5 courses",
        "08": "newcomers get lists of their own: True; at most 2 of a brand; what is sold out left "
        "the list: True",
    }
    assert result.startswith(expected[path.name[:2]])
    assert list((tmp_path / "saved_models").glob("*/1/saved_model.pb"))


def test_the_news_notebook_takes_the_folder_it_is_told(tmp_path, monkeypatch):
    news = tmp_path / "data" / "caixin-news"
    news.mkdir(parents=True)
    for name in ("interactions.csv.gz", "items.csv.gz"):
        (news / name).symlink_to(MOOCCUBE_FOLDER / name)
    monkeypatch.setenv("KERASREC_DATA", str(news.parent))
    result = run(FOLDER / "02_news.ipynb", tmp_path, monkeypatch, num_cells=2)
    assert result == "data: caixin-news | 26890 events of 2000 users"


@by_notebook
def test_notebook_is_short_and_without_outputs(path):
    cells = code_cells(read(path))
    assert len(cells) < 15
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert "KERASREC_FAST" in cells[0].source and "SEED" in cells[0].source.upper()
    assert cells[-1].source.startswith("print(")


@by_notebook
def test_notebook_uses_the_public_api_only(path):
    tree = ast.parse("\n".join(cell.source for cell in code_cells(read(path))))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith(("kerasrec", "bert4keras")), node.module
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert not [n for n in names if n.startswith(("kerasrec.", "bert4keras"))]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "kerasrec":
                assert node.attr in kerasrec.__all__
            assert not node.attr.startswith("_")
