import subprocess
import sys

from kerasrec.data.datasets import MOOCCUBE_FOLDER, load_mooccube


def test_mooccube_has_its_published_size():
    interactions, items = load_mooccube()
    assert (len(interactions), interactions.num_users, interactions.num_items) == (26890, 2000, 633)
    assert len(items) == 633
    assert list(items.frame.columns) == ["item_id", "title", "text", "category"]
    assert interactions.has_time and not interactions.has_events
    assert interactions.columns == {"user_id": "user", "item_id": "item", "timestamp": "timestamp"}
    assert (items.index_of(interactions.frame["item_id"]) > 0).all()
    assert (items.frame["title"] != "").all() and (items.frame["text"] != "").all()


def test_mooccube_keeps_the_order_of_its_file():
    interactions, items = load_mooccube()
    first = interactions.frame.iloc[0]
    assert (first["user_id"], first["timestamp"]) == ("1", 1436358247)
    assert first["item_id"] == "C_course-v1:TsinghuaX+THESIS2015X+2015_T1"
    assert items.texts()[0] == "初级财务会计（2019春）"


def test_mooccube_names_its_licence_and_its_paper():
    text = (MOOCCUBE_FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC0 1.0" in text and "ACL 2020" in text and "Jifan Yu" in text


def test_data_modules_load_without_tensorflow():
    code = (
        "import sys, kerasrec.data.datasets, kerasrec.data.cleaning, kerasrec.data.splits;"
        "sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
