"""What users get wrong, through the command line: one sentence on stderr, exit code 2."""

import gzip
import json
import re
import shutil

import numpy as np
import pytest

from kerasrec.cli.entry import main
from kerasrec.versions import folders

LOG = "user,item,timestamp\n" + "".join(
    f"u{user},i{item},{1_500_000_000 + 60 * item}\n"
    for user in range(6)
    for item in range(user, user + 4)
)
ITEMS = "item,title\n" + "".join(f"i{item},课程{item}\n" for item in range(10))


@pytest.fixture(scope="module")
def folder(exported_version, tmp_path_factory):
    """Good files, every kind of bad one, and models in every state."""
    folder = tmp_path_factory.mktemp("inputs")
    good = LOG.encode()
    texts = {
        "log.csv": LOG,
        "items.csv": ITEMS,
        "no-item-column.csv": LOG.replace("user,item", "user,thing"),
        "no-header.csv": LOG.partition("\n")[2],
        "header-only.csv": "user,item,timestamp\n",
        "bad-time.csv": LOG + "u1,i3,yesterday\n",
        "old-time.csv": LOG + "u1,i3,1700-01-01\n",
        "no-user.csv": LOG + ",i3,1500000000\n",
        "unknown-item.csv": LOG + "u1,nowhere,1500000000\n",
        "one-user.csv": "user,item,timestamp\nu1,i1,1500000000\nu1,i2,1500000060\n",
        "strangers.csv": LOG.replace("\nu", "\nstranger"),
        "no-events-type.csv": "user,item,event\nu1,i1,looked\nu2,i2,looked\n",
        "ragged.csv": LOG + "u1,i3,1500000000,9,9\n",
        "open-quote.csv": LOG + 'u1,"i3,1500000000\n',
        "repeated-items.csv": ITEMS + "i3,又一个\n",
        "no-title.csv": ITEMS.replace("title", "words"),
        "empty-titles.csv": "item,title\n" + "".join(f"i{n},\n" for n in range(10)),
        "two-titles.csv": "item,name,标题\ni1,a,b\ni2,c,d\n",
        "people.csv": "person,age\nu1,9\n",
        "unknown.txt": "x1\nx2\n",
        "broken.yaml": "model: {dropout: 0.1\n",
        "list.yaml": "- model\n- trainer\n",
        "section.yaml": "modle:\n  dropout: 0.1\n",
        "value.yaml": "trainer:\n  epochs: lots\n",
        "flat.yaml": "dropout: 0.1\n",
        "a-file": "",
        "empty.csv": "",
        "fake.parquet": LOG,
        "log.xlsx": LOG,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "big5.csv").write_bytes(ITEMS.replace("课", "課").encode("big5"))
    (folder / "gbk.txt").write_bytes("课程1\n".encode("gb18030"))
    (folder / "zeros.csv").write_bytes(good + b"\0" * 50)
    (folder / "truncated.csv.gz").write_bytes(gzip.compress(good)[:-30])
    (folder / "not-gzip.csv.gz").write_bytes(good)
    rows = np.eye(3, dtype=np.float32)
    np.savez(folder / "few.npz", ids=np.array(["i0", "i1", "i2"]), vectors=rows)
    (folder / "half-bert").mkdir()
    (folder / "half-bert" / "bert_config.json").write_text("{}")
    _models(folder, exported_version / "1")
    ids = (exported_version / "1" / folders.ITEM_IDS).read_text().split()
    (folder / "known.csv").write_text(f"user,item\nu1,{ids[0]}\nu1,{ids[1]}\n")
    return folder


def _models(folder, version):
    """Copies of the toy version in every bad state."""
    for name in ("toy", "half", "foreign", "damaged", "manifest", "future", "label", "no-encoder"):
        shutil.copytree(version, folder / name / "1")
    shutil.rmtree(folder / "half" / "1" / "variables")
    shutil.rmtree(folder / "foreign" / "1" / "assets.extra")
    graph = folder / "damaged" / "1" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:4000])
    (folder / "manifest" / "1" / folders.MANIFEST).write_text('{"format": 1,')
    (folder / "future" / "1" / folders.MANIFEST).write_text('{"format": 7}')
    (folder / "label" / "labels.json").write_text('{"stable": 4}')
    path = folder / "no-encoder" / "1" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "encoder": None, "encodes_texts": False}))
    (folder / "nothing").mkdir()


def train(log="log.csv", items="items.csv", *more):
    return ["train", "--interactions", log, "--items", items, "--name", "x", "--out", "out", *more]


def recommend(model="toy", log="log.csv", *more, out="recs.csv"):
    return ["recommend", "--model", model, "--histories", log, "--out", out, *more]


INPUTS = {
    # tables of interactions
    "a file that is not there": (
        train("lgo.csv"),
        "lgo.csv: expected a file. Received: a path where there is none",
    ),
    "a folder for a file": (
        train("half-bert"),
        "half-bert: expected a folder with tables. Received: a folder without",
    ),
    "another kind of file": (train("log.xlsx"), "a file of Excel without a password"),
    "an empty file": (train("empty.csv"), "an empty file"),
    "a header and nothing else": (
        train("header-only.csv"),
        "at least one row. Received: a header only",
    ),
    "no header": (train("no-header.csv"), "the first line looks like data: name its columns"),
    "a missing column": (
        train("no-item-column.csv"),
        "expected a column item_id.*--columns item_id=",
    ),
    "a column that is not there": (
        train("log.csv", "items.csv", "--columns", "user_id=usr"),
        "expected the column 'usr'.*Did you mean 'user'",
    ),
    "a mapping without a column": (
        train("log.csv", "items.csv", "--columns", "user_id"),
        "--columns takes NAME=VALUE. Received: 'user_id'",
    ),
    "a role that does not exist": (
        train("log.csv", "items.csv", "--columns", "usr_id=user"),
        "Received: 'usr_id' .did you mean 'user_id'",
    ),
    "a truncated gzip": (train("truncated.csv.gz"), "truncated.csv.gz"),
    "a csv called gz": (train("not-gzip.csv.gz"), "not-gzip.csv.gz: expected a gzip file"),
    "a csv called parquet": (
        train("fake.parquet"),
        "expected a parquet file. Received: one that cannot",
    ),
    "a time that is none": (train("bad-time.csv"), "'yesterday' in data row 25"),
    "a time before computers": (train("old-time.csv"), "between 1973 and 2099"),
    "a row without a user": (train("no-user.csv"), "expected a user_id .column user. in every row"),
    "an unknown event": (train("no-events-type.csv"), "--event-weights looked=1 or looked=click"),
    "a weight that is none": (
        train("no-events-type.csv", "items.csv", "--event-weights", "looked=dear"),
        "event_weights: expected a finite number",
    ),
    "validation on what was trained on": (
        train("log.csv", "items.csv", "--valid", "log.csv"),
        "Validation needs items that the training events.*24 of 24 validation events",
    ),
    "a row with too many cells": (train("ragged.csv"), "ragged.csv"),
    "a quote that never ends": (train("open-quote.csv"), "open-quote.csv"),
    "zero bytes": (train("zeros.csv"), "zeros.csv"),
    "items that the catalogue lacks": (
        train("unknown-item.csv"),
        "1 unknown items in 1 of 25 events, such as 'nowhere'.*--unknown-items skip",
    ),
    "one user only": (train("one-user.csv"), "at least two users and two items.*Received: 1 user"),
    "nothing left after cleaning": (
        train("log.csv", "items.csv", "--min-user-events", "50"),
        "at least one event after cleaning. Received: none of 24",
    ),
    "a limit that is no number": (
        train("log.csv", "items.csv", "--max-user-events", "lots"),
        "max_user_events: expected a number of events, 'auto' or None. Received: 'lots'",
    ),
    "validation of strangers": (
        train("log.csv", "items.csv", "--valid", "strangers.csv"),
        "no validation user has a training event",
    ),
    # tables of items
    "text in another encoding": (train("log.csv", "big5.csv"), "big5.csv.*--encoding"),
    "an encoding that does not exist": (
        train("log.csv", "items.csv", "--encoding", "utf-88"),
        "utf-88",
    ),
    "an item twice": (
        train("log.csv", "repeated-items.csv"),
        "every item_id once. Received: 'i3' in data row 4 and in data row 11",
    ),
    "no titles column": (train("log.csv", "no-title.csv"), "expected a column title"),
    "empty titles": (train("log.csv", "empty-titles.csv"), "10 items without any text"),
    "two columns for the title": (
        train("log.csv", "two-titles.csv"),
        "one column for title. Received: name, 标题.*--columns title=name",
    ),
    # options of training
    "an unknown preset": (train("log.csv", "items.csv", "--preset", "fsat"), "Did you mean 'fast'"),
    "an unknown option": (
        train("log.csv", "items.csv", "--set", "model.dropuot=0.1"),
        "Unknown option model.dropuot. Did you mean 'dropout'",
    ),
    "an unknown section": (
        train("log.csv", "items.csv", "--set", "modle.dropout=0.1"),
        "Unknown section 'modle'. Did you mean 'model'",
    ),
    "an option without its section": (
        train("log.csv", "items.csv", "--set", "dropout=0.1"),
        "--set takes SECTION.OPTION=VALUE such as model.dropout=0.1. Received: 'dropout'",
    ),
    "an option without a value": (
        train("log.csv", "items.csv", "--set", "model.dropout"),
        "--set takes NAME=VALUE. Received: 'model.dropout'",
    ),
    "an option twice": (
        train("log.csv", "items.csv", "--set", "model.dropout=0.1", "--set", "model.dropout=0.2"),
        "--set names model.dropout twice",
    ),
    "a value of another kind": (
        train("log.csv", "items.csv", "--set", "trainer.epochs=lots"),
        "trainer.epochs must be a whole number. Received: 'lots'",
    ),
    "a value out of range": (
        train("log.csv", "items.csv", "--set", "model.dropout=1.5"),
        "model.dropout must be a share from 0 to below 1. Received: 1.5",
    ),
    "an unknown optimizer": (
        train("log.csv", "items.csv", "--encoder", "none", "--set", "trainer.optimizer=adamm"),
        "optimizer must be the name of a Keras optimizer.*Received: 'adamm'",
    ),
    "broken YAML": (
        train("log.csv", "items.csv", "--config", "broken.yaml"),
        "broken.yaml is not YAML",
    ),
    "a list in YAML": (
        train("log.csv", "items.csv", "--config", "list.yaml"),
        "must hold sections with options",
    ),
    "options without sections in YAML": (
        train("log.csv", "items.csv", "--config", "flat.yaml"),
        "must hold sections with options",
    ),
    "a wrong section in YAML": (
        train("log.csv", "items.csv", "--config", "section.yaml"),
        "Unknown section 'modle'",
    ),
    "a wrong value in YAML": (
        train("log.csv", "items.csv", "--config", "value.yaml"),
        "trainer.epochs must be a whole number",
    ),
    "a config that is not there": (
        train("log.csv", "items.csv", "--config", "run.yaml"),
        "run.yaml: no such file or directory",
    ),
    "an encoder with a typing error": (
        train("log.csv", "items.csv", "--encoder", "e5-smal"),
        "The encoder 'e5-smal' is neither a folder nor a known name.*Did you mean 'e5-small'",
    ),
    "half a BERT": (train("log.csv", "items.csv", "--encoder", "half-bert"), "half-bert"),
    "vectors of other items": (
        train("log.csv", "items.csv", "--encoder", "vectors:few.npz"),
        "has no vector for 7 of 10 items: i3, i4",
    ),
    "a template with an unknown column": (
        train("log.csv", "items.csv", "--encoder", "tfidf", "--set", "encoder.template={titel}"),
        "expected column names of the items .item_id, title.. Received: '{titel}'",
    ),
    "a name that is a path": (
        ["train", "--interactions", "log.csv", "--items", "items.csv", "--name", "a/b"],
        "plain folder name that is no number. Received: 'a/b'",
    ),
    "a place where nothing can be written": (
        [
            "train",
            "--interactions",
            "log.csv",
            "--items",
            "items.csv",
            "--name",
            "x",
            "--out",
            "a-file/x",
        ],
        "a-file/x or a part of it is a file. Choose another out",
    ),
    # models
    "a model that is not there": (
        recommend("shop"),
        "shop/1; found no such folder. Train one with",
    ),
    "a folder without a version": (recommend("nothing"), "found no version in it"),
    "a folder of models": (recommend("."), "found a folder of models. Name one of them: damaged, "),
    "a file for a model": (recommend("a-file"), "found a file"),
    "half a version": (
        recommend("half"),
        "half/1 is incomplete .variables/variables.index missing",
    ),
    "a SavedModel of others": (
        recommend("foreign"),
        "foreign/1 is not a version that kerasrec exported",
    ),
    "a damaged graph": (recommend("damaged"), "damaged/1 is damaged and does not load"),
    "a damaged manifest": (["inspect", "--model", "manifest"], "manifest.json is damaged"),
    "a manifest of the future": (
        ["inspect", "--model", "future"],
        "has format 7; this kerasrec reads",
    ),
    "a label of a version that is gone": (
        recommend("label"),
        "label stable of label names version 4",
    ),
    # asking a model
    "no list at all": (
        recommend("toy", "log.csv", "--k", "0"),
        "--k must be at least 1. Received: 0",
    ),
    "a length that is no number": (
        recommend("toy", "log.csv", "--k", "few"),
        "--k: invalid int value: 'few'",
    ),
    "users without a user column": (
        recommend("toy", "log.csv", "--users", "people.csv"),
        "people.csv: expected a column user_id",
    ),
    "candidates that nobody knows": (
        recommend("toy", "known.csv", "--candidates", "unknown.txt"),
        "candidates must name items of the catalogue .82.. Received: 2 ids, none of them known",
    ),
    "candidates that are not there": (
        recommend("toy", "log.csv", "--candidates", "some.txt"),
        "some.txt: no such file",
    ),
    "candidates in another encoding": (
        recommend("toy", "log.csv", "--candidates", "gbk.txt"),
        "gbk.txt is not utf-8 text .byte 0.. Name its encoding",
    ),
    "a table of an unknown kind": (
        recommend(out="recs.xls"),
        "ends in .csv, .csv.gz or .parquet. Received: 'recs.xls'",
    ),
    "a table below a file": (
        recommend(out="a-file/recs.csv"),
        "a-file, which is a file. Choose another place",
    ),
    "a test that the histories hold": (
        ["evaluate", "--model", "toy", "--histories", "known.csv", "--test", "known.csv"],
        "evaluate needs test pairs .* Received: all 2 pairs are in the histories. Take the test's",
    ),
    "an unknown item": (
        ["similar", "--model", "toy", "--item", "C_course-v1:TsinghuaX+80512073X+sq"],
        r"catalogue .82.. Received: --item 'C_cou.*', which is unknown. Nearest ids: "
        r"'C_course-v1:Ts.*', '.*', '.*'. For what is in no catalogue take --text \"...\"",
    ),
    "a text where no encoder is": (
        ["similar", "--model", "no-encoder", "--text", "物理"],
        "cannot encode texts: its items were known by their id alone. Train with --encoder",
    ),
    "an item and a text": (
        ["similar", "--model", "toy", "--item", "i1", "--text", "物理"],
        "not allowed with argument",
    ),
    "longer lists than items": (
        ["export", "--model", "toy", "--set", "k=500"],
        "k must be a whole number from 1 to 82. Received: 500",
    ),
    "a length of lists in words": (
        ["export", "--model", "toy", "--set", "k=ten"],
        "k must be a whole number from 1 to 82. Received: 'ten'",
    ),
    "a version that is not there": (recommend("toy/9"), "toy has no version 9; it has 1. Name one"),
    "an export option that does not exist": (
        ["export", "--model", "toy", "--set", "kk=5"],
        "unknown option kk. Did you mean 'k'",
    ),
    # the words themselves
    "an unknown verb": (["reccomend"], "unknown verb 'reccomend'. Did you mean 'recommend'"),
    "an unknown flag": (
        train("log.csv", "items.csv", "--encodr", "none"),
        "unknown option --encodr. Did you mean '--encod",
    ),
    "a missing flag": (
        ["train", "--items", "items.csv"],
        "required: --interactions, --name. See kerasrec train --help",
    ),
    "a word too many": (["doctor", "please"], "unrecognized arguments: please"),
    "data and a model to inspect": (
        ["inspect", "--data", "log.csv", "--model", "toy"],
        "expected --interactions F... or --model M, one of them",
    ),
    "nothing to inspect": (["inspect"], "one of them"),
}


@pytest.mark.parametrize("what", INPUTS)
def test_one_sentence(what, folder, monkeypatch, capsys):
    words, message = INPUTS[what]
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir() if path.name != "out")
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n"), printed.err
    assert printed.err.startswith("kerasrec")
    assert re.search(message, printed.err), printed.err
    assert "Traceback" not in printed.err and len(printed.err) < 700
    after = sorted(path.name for path in folder.iterdir() if path.name != "out")
    assert after == before
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())
