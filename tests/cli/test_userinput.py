import argparse
from types import SimpleNamespace

import pandas as pd
import pytest

from kerasrec.cli import userinput
from kerasrec.cli.entry import build_parser
from kerasrec.cli.userinput import (
    UserError,
    assignments,
    pairs_of,
    read_catalogue,
    read_events,
    read_lines,
    write_lists,
)
from kerasrec.data.sources import read_user_ids


def test_pairs_of():
    assert pairs_of(None, "--columns") == {}
    assert pairs_of(["user_id=uid", "title=a=b"], "--columns") == {"user_id": "uid", "title": "a=b"}
    assert pairs_of(["event="], "--columns") == {"event": None}


def test_event_weights():
    texts = ["share=2.5", "4=purchase", "stars=value"]
    assert userinput.event_weights(texts) == {"share": 2.5, "4": "purchase", "stars": None}
    with pytest.raises(UserError, match="--event-weights takes EVENT=WEIGHT. Received: 'share='"):
        userinput.event_weights(["share="])


@pytest.mark.parametrize("text", ["user_id", "=uid", " =x"])
def test_pairs_of_refuses(text):
    with pytest.raises(UserError, match="--columns takes NAME=VALUE"):
        pairs_of([text], "--columns")


def test_assignments_are_plain_values():
    texts = [
        "a=1",
        "b=1e-3",
        "c=0.5",
        "d=true",
        "e=null",
        "f={title} {x}",
        "g={title}",
        "h=x: y",
        "i=[1",
    ]
    assert assignments(texts) == {
        "a": 1,
        "b": "1e-3",  # check_options makes a number of it where one is due
        "c": 0.5,
        "d": True,
        "e": None,
        "f": "{title} {x}",
        "g": "{title}",
        "h": "x: y",
        "i": "[1",
    }


def test_assignments_refuse_a_name_without_a_value():
    with pytest.raises(UserError, match="--set takes NAME=VALUE. Received: 'trainer.epochs='"):
        assignments(["trainer.epochs="])


def test_read_lines_as_written(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa, b\r\n\r\n  c \na\u2028b\n".encode())
    assert read_lines(path, "utf-8") == ["a, b", "  c ", "a\u2028b"]
    path.write_bytes("书\n".encode("gb18030"))
    assert read_lines(path, "gb18030") == ["书"]
    path.write_bytes("\ufeffa\n".encode())
    assert read_lines(path, "utf8") == read_lines(path, "UTF-8") == ["a"]
    path.write_bytes("活着的人们\n在中国的大地上\n".encode("gbk"))  # found by its bytes
    assert read_lines(path, "utf8") == ["活着的人们", "在中国的大地上"]
    assert read_lines(None, "utf-8") is None


def test_read_lines_refuses(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("书\n".encode("gb18030"))
    with pytest.raises(UserError, match="is not utf-8 text .byte 0.. Name its encoding"):
        read_lines(path, "utf-8")
    with pytest.raises(UserError, match="--encoding klingon is no encoding"):
        read_lines(path, "klingon")


def options(**given):
    names = ("config", "encoder", "run_folder", "seed", "set")
    return SimpleNamespace(**{**dict.fromkeys(names), "preset": "balanced", **given})


def test_training_options_later_ones_win(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "encoder: {name: tfidf, max_tokens: 8}\nmodel:\ntrainer:\n  epochs: 3\n  seed: 1\n"
    )
    found = userinput.training_options(
        options(
            config=tmp_path / "run.yaml",
            encoder="none",
            seed=0,
            run_folder="run",
            set=["trainer.epochs=4", "model.dropout=0.3"],
        )
    )
    assert found == {
        "encoder": {"name": "none", "max_tokens": 8},
        "model": {"dropout": 0.3},
        "trainer": {"epochs": 4, "seed": 0, "run_folder": "run"},
    }
    assert userinput.training_options(options()) == {}


def test_training_options_of_an_empty_file(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing yet\n")
    assert userinput.training_options(options(config=tmp_path / "run.yaml")) == {}


def test_export_options():
    assert userinput.export_options(["k=5", "scorer_weight=0.5"]) == {"k": 5, "scorer_weight": 0.5}
    assert userinput.export_options(["item_matrix=int8"]) == {"item_matrix": "int8"}
    with pytest.raises(
        UserError, match="unknown option scorer_wieght. Did you mean 'scorer_weight'"
    ):
        userinput.export_options(["scorer_wieght=1"])


def test_period():
    assert [userinput.period(text, "--step") for text in ("90s", "30m", "6h", "1d")] == [
        90,
        1800,
        21600,
        86400,
    ]
    assert userinput.period("0d", "--max-ahead", least=0) == 0
    for text in ("1", "d", "-1d", "1w", "", "1.5h", "0d"):
        with pytest.raises(UserError, match="--step takes a time such as 1d, 6h, 30m or 90s"):
            userinput.period(text, "--step")


def test_moment_in_a_zone():
    assert userinput.moment("2014-03-01T08:00", "Asia/Shanghai") == 1393632000
    assert userinput.moment("2014-03-01T08:00Z", "Asia/Shanghai") == 1393660800
    with pytest.raises(UserError, match="^timezone: expected the name .* Received: 'Mars'"):
        userinput.moment("2014-03-01", "Mars")
    with pytest.raises(UserError, match="--at must be .*Asia/Shanghai unless it names a zone"):
        userinput.moment("soon", "Asia/Shanghai")


def test_moment():
    assert userinput.moment(None) is None and userinput.moment("now") == "now"
    assert userinput.moment("2014-03-01") == userinput.moment("1393632000") == 1393632000
    assert userinput.moment("2014-03-01T08:00+08:00") == 1393632000
    for text in ("soon", "", "5", "1960-01-01"):
        with pytest.raises(UserError, match='--at must be "now" or a time'):
            userinput.moment(text)


@pytest.mark.parametrize(
    ("name", "is_exact", "first"),
    [("x.csv", False, "'=1+1"), ("x.csv", True, "=1+1"), ("x.parquet", False, "=1+1")],
)
def test_lists_for_people_hold_no_formulas(tmp_path, caplog, name, is_exact, first):
    frame = pd.DataFrame({"user_id": ["=1+1", "b"], "item_id": ["x", "-1"], "rank": [1, 2]})
    options = argparse.Namespace(exact_cells=is_exact)
    write_lists(options, frame, str(tmp_path / name), {"user_id": "user"})
    assert read_user_ids(tmp_path / name).tolist() == [first, "b"]
    said = "1 cells begin as a formula does" in caplog.text
    assert said == (first != "=1+1") and ("--exact-cells" in caplog.text) == said


def test_names_of_files_without_a_header_line(tmp_path):
    (tmp_path / "log.csv").write_text("u1,a,2024-03-01\nu2,b,2024-03-02\n")
    (tmp_path / "items.csv").write_text("a,围城\nb,活着\n", "utf-8")
    words = ["--interactions", str(tmp_path / "log.csv"), "--items", str(tmp_path / "items.csv")]
    words += ["--columns", "user,item,time", "--item-columns", "sku,title"]
    options = build_parser()[1]["inspect"].parse_args(words)
    options.verb = "inspect"
    assert len(read_events(options, options.interactions)) == 2
    assert read_catalogue(options).frame["title"].tolist() == ["围城", "活着"]
    options.columns = ["user,item,time", "event="]
    with pytest.raises(UserError, match="--columns takes ROLE=COLUMN pairs, or the names"):
        read_events(options, options.interactions)


def test_columns_of_the_tables_beside_the_log(tmp_path):
    write = lambda name, text: (tmp_path / name).write_text(text, encoding="utf-8")  # noqa: E731
    write("users.csv", "member,age\n7,30\n")
    write("items.csv", "sku,headline\na,甲\nb,乙\n")
    write("relations.csv", "sku,kind,name\na,teacher,张\nb,teacher,张\n")
    words = ["user_id=uid", "users.user_id=member", "items.title=headline", "items.item_id=sku"]
    words += ["relations.item_id=sku", "relations.relation=kind", "relations.entity=name"]
    files = {name: str(tmp_path / f"{name}.csv") for name in ("users", "items", "relations")}
    given = argparse.Namespace(
        **files, columns=words, item_columns=None, encoding="utf-8", on_bad="error", verb="train"
    )
    assert userinput.log_columns(given) == {"user_id": "uid"}
    assert userinput.read_user_table(given).frame.to_dict("records") == [
        {"user_id": "7", "age": "30"}
    ]
    assert userinput.read_users(given, None) == ["7"]
    items = userinput.read_catalogue(given)
    assert items.frame["title"].tolist() == ["甲", "乙"] and items.relations == ("teacher",)
    with pytest.raises(
        userinput.UserError, match="names a column of --users. Received: no --users"
    ):
        userinput.log_columns(argparse.Namespace(columns=words))


def test_an_option_and_set_that_disagree_are_told(caplog):
    given = options(item_features=["price:number"], set=["encoder.features=brand:category"])
    assert userinput.training_options(given)["encoder"]["features"] == "brand:category"
    assert (
        "--set encoder.features=brand:category counts, not --item-features price:n" in caplog.text
    )
    caplog.clear()
    userinput.training_options(options(seed=3, set=["trainer.seed=3"]))
    assert caplog.text == ""
