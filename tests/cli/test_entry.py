"""Every verb on small real files; mistakes are in test_malformed_inputs."""

import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from kerasrec.backend import tf
from kerasrec.checks import LONG, ArtifactError
from kerasrec.cli import entry, modelverbs
from kerasrec.cli.entry import VERBS, _sentence, build_parser, main
from kerasrec.cli.userinput import UserError
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders


@pytest.fixture(scope="module")
def files(toy_interactions, toy_items, tmp_path_factory):
    """log.csv, early.csv, late.csv (each learner's last event), items.csv with unusual names."""
    folder = tmp_path_factory.mktemp("files")
    frame = toy_interactions.frame.sort_values(["user_id", "timestamp"], kind="stable")
    log = pd.DataFrame(
        {"uid": frame["user_id"], "course": frame["item_id"], "ts": frame["timestamp"]}
    )
    last = ~log["uid"].duplicated(keep="last")
    for name, part in (("log", log), ("early", log[~last]), ("late", log[last])):
        part.to_csv(folder / f"{name}.csv", index=False)
    items = toy_items.frame.rename(columns={"item_id": "course", "title": "headline"})
    items.to_csv(folder / "items.csv", index=False)
    return folder


@pytest.fixture
def toy(exported_version, tmp_path):
    """Path of a copy of the toy model."""
    return shutil.copytree(exported_version, tmp_path / "models" / "toy")


@pytest.fixture(scope="module")
def reader(exported_version):
    """The toy model, to compare answers with."""
    return Recommender.load(exported_version)


NAMES = ["--columns", "item_id=course"]


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


# --- help ---


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: kerasrec {verb}")
    assert VERBS[verb][1].__doc__.splitlines()[0] in shown
    for action in build_parser()[1][verb]._actions:
        assert action.help, action.option_strings
        assert all(name in shown for name in action.option_strings)


def test_help_without_a_verb(capsys):
    run()
    shown = capsys.readouterr().out
    assert "first steps:" in shown and all(f"\n    {verb}" in shown for verb in VERBS)


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith("kerasrec 0.")


# --- the verbs ---


@pytest.mark.parametrize("members", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_train(files, tmp_path, capsys, members):
    config = {
        "encoder": {"name": "none"},
        "model": {"id_units": 8, "max_length": 8, "heads": 1, "scorer_units": 4},
        "trainer": {"epochs": 5, "batch_size": 128},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run(
        *("train", "--interactions", files / "early.csv", "--items", files / "items.csv"),
        *("--name", "shop", "--out", tmp_path / "models", "--valid", files / "late.csv"),
        *("--preset", "fast", "--config", tmp_path / "run.yaml", "--encoder", "tfidf", "--seed", 3),
        *("--set", "trainer.epochs=1", f"trainer.members={members}", "encoder.whitening_dim=8"),
        *("--set", "model.text_units=4", "encoder.template={title} {category}"),
        *("--run-folder", tmp_path / "run", "--min-user-events", 2, *NAMES),
        *("--item-columns", "item_id=course", "title=headline"),
    )
    out, err = capsys.readouterr()
    assert "interactions: columns: user_id = uid, item_id = course, timestamp = ts\n" in err
    assert "items: columns: item_id = course, title = headline" in err
    assert "valid_ndcg@10" in out and out.splitlines()[-1].startswith("validation NDCG@10 0.")
    assert f"exported {tmp_path / 'models' / 'shop' / '1'}" in out
    assert "events outside the core" in err and "epoch 1/" not in err
    # no terminal, so no bars: the steps and the epochs as lines
    steps = ["training on", "epoch 1 ", "choosing tables", "exporting", "comparing", "exported"]
    assert [s for s in steps if s in err] == steps
    begun = [line.partition(": done in ")[0] for line in err.splitlines() if ": done in " in line]
    assert len(begun) >= 3 and all(err.splitlines().count(line) == 1 for line in begun)
    manifest = folders.read_manifest(tmp_path / "models" / "shop" / "1").as_dict()
    assert manifest["preset"] == "fast" and manifest["validation"] == "given"
    assert manifest["data"]["columns"] == {"user_id": "uid", "item_id": "course", "timestamp": "ts"}
    wanted = {"epochs": 1, "batch_size": 128, "seed": 3, "run_folder": str(tmp_path / "run")}
    assert manifest["trainer"]["members"] == members
    assert wanted.items() <= manifest["trainer"].items()
    assert {"id_units": 8, "text_units": 4}.items() <= manifest["options"].items()
    assert manifest["encoder_options"]["template"] == "{title} {category}"
    for folder in ("member-1", "member-2") if members == 2 else (".",):
        assert (tmp_path / "run" / folder / "history.csv").exists()


def test_recommend(files, toy, reader, tmp_path, capsys):
    out = tmp_path / "new" / "recs.csv"
    run(
        "recommend",
        "--model",
        toy,
        "--histories",
        files / "log.csv",
        "--k",
        4,
        "--out",
        out,
        *NAMES,
    )
    printed = capsys.readouterr()
    assert printed.out == f"600 rows for 150 users in {out}\n" and printed.err == ""
    table = pd.read_csv(out, dtype={"uid": str})
    assert list(table.columns) == ["uid", "course", "rank", "score"]
    log = pd.read_csv(files / "log.csv", dtype=str)
    for user, history in list(log.groupby("uid")["course"])[:10]:
        mine = table[table["uid"] == user]
        assert mine["rank"].tolist() == [1, 2, 3, 4]
        assert not set(mine["course"]) & set(history)
        assert (np.diff(mine["score"]) <= 1e-6).all()
    from kerasrec.data.sources import read_interactions

    interactions = read_interactions(files / "log.csv", columns={"item_id": "course"})
    expected = reader.recommend(interactions, k=4)
    assert table["course"].tolist() == expected["item_id"].tolist()


def test_recommend_for_given_users_and_candidates(files, toy, reader, tmp_path, capsys):
    ids = reader.items.ids
    log = pd.read_csv(files / "log.csv", dtype=str)
    known = log["uid"].iloc[0]
    (tmp_path / "users.csv").write_text(f"uid\nstranger\n{known}\nstranger\n")
    some = [*ids[:6], "no such item"]
    (tmp_path / "some.txt").write_text("\ufeff" + "\r\n".join(some) + "\r\n\r\n", encoding="utf-8")
    run(
        *(
            "recommend",
            "--model",
            toy / "1",
            "--histories",
            files / "early.csv",
            files / "late.csv",
        ),
        *("--users", tmp_path / "users.csv", "--candidates", tmp_path / "some.txt"),
        *("--keep-seen", "--out", tmp_path / "recs.parquet", *NAMES),
    )
    note = "; 1 of them have no known item and get popular ones\n"
    assert capsys.readouterr().out.endswith(f"for 2 users in {tmp_path / 'recs.parquet'}{note}")
    table = pd.read_parquet(tmp_path / "recs.parquet")
    assert table["uid"].drop_duplicates().tolist() == ["stranger", known]
    for _, mine in table.groupby("uid"):
        assert set(mine["course"]) == set(ids[:6])


def test_similar(toy, reader, capsys):
    ids = reader.items.ids
    run("similar", "--model", toy, "--item", ids[3], "--k", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "item", "title", "cosine"] and len(lines) == 3
    expected = reader.similar(ids[3], k=2)
    assert [line.split()[1] for line in lines[1:]] == expected["item_id"].tolist()
    run("similar", "--model", toy, "--text", "大学物理 [习题]", "--k", 1)
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "1"


def test_export(toy, capsys):
    run("export", "--model", toy, "--set", "k=5", "scorer_weight=0.25")
    assert capsys.readouterr().out == f"exported {toy / '2'}\n"
    manifest = folders.read_manifest(toy / "2").as_dict()
    assert (manifest["k"], manifest["scorer_weight"], manifest["parent"]) == (5, 0.25, 1)


def test_evaluate(files, toy, tmp_path, capsys):
    run(
        *(
            "evaluate",
            "--model",
            toy,
            "--histories",
            files / "early.csv",
            "--test",
            files / "late.csv",
        ),
        *("--k", 10, "--at", "now", "--report", tmp_path / "report", *NAMES),
    )
    out = capsys.readouterr().out
    for name in ("toy", "popularity", "item_knn", "tfidf_text", "ndcg@10"):
        assert name in out
    assert (tmp_path / "report" / "report.html").exists()
    assert (tmp_path / "report" / "metrics.json").exists()


def test_inspect_data(files, capsys):
    run(
        *("inspect", "--data", files / "log.csv", "--items", files / "items.csv", *NAMES),
        *("--item-columns", "item_id=course", "title=headline"),
    )
    out = capsys.readouterr().out
    assert "columns: user_id = uid, item_id = course" in out
    assert [line.split() for line in out.splitlines() if "items without events" in line] == [
        ["catalogue", "items", "without", "events", "2"]
    ]


def test_a_column_of_the_log_that_the_catalogue_lacks_is_not_asked_of_it(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("who,what\n1,a\n1,b\n2,a\n2,b\n")
    (tmp_path / "items.csv").write_text("iid,name\na,甲\nb,乙\n", encoding="utf-8")
    run(
        *("inspect", "--data", tmp_path / "log.csv", "--items", tmp_path / "items.csv"),
        *("--columns", "user_id=who", "item_id=what"),
    )
    assert "items.csv: columns: item_id = iid, title = name" in capsys.readouterr().out


def test_inspect_says_which_columns_were_used(tmp_path, capsys):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("uid,iid,下单时刻,city\n1,a,2024-03-01,x\n2,b,2024-03-02,y\n")
    items.write_text("iid,name,price\na,甲,1\nb,乙,2\n")
    run("inspect", "--interactions", log, "--items", items)
    out = capsys.readouterr().out
    assert "columns: user_id = uid, item_id = iid, timestamp = 下单时刻" in out
    assert "columns not used: city" in out
    assert f"{items}: columns: item_id = iid, title = name\n" in out
    assert f"{items}: columns kept as texts: price\n" in out


def test_inspect_reads_vectors_of_pictures(tmp_path, capsys):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user,item,ts\nu,a,1600000000\nu,b,1600000100\n", encoding="utf-8")
    items.write_text("item,title\na,甲\nb,乙\n", encoding="utf-8")
    np.savez(tmp_path / "v.npz", ids=["a"], vectors=[[1.0, 2.0, 3.0]])
    given = ["inspect", "--interactions", log, "--items", items, "--vectors"]
    run(*given, f"image={tmp_path / 'v.npz'}")
    out = capsys.readouterr().out
    assert "image: vectors of 3 numbers for 1 of 2 items\n" in out
    assert re.search(r"image +vector +50% +1 +3 numbers +vectors of another model", out)
    assert main([*map(str, given), "image="]) == 2
    assert "--vectors takes NAME=FILE" in capsys.readouterr().err


def test_inspect_in_a_zone(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,a,2024-03-01 08:00\n2,b,2024-03-02 08:00\n")
    run("inspect", "--interactions", path, "--timezone", "Asia/Shanghai")
    out = capsys.readouterr().out
    assert "times without a zone: read as Asia/Shanghai" in out
    shown = [line.split() for line in out.splitlines() if "first event" in line]
    assert shown == [["time", "first", "event", "(Asia/Shanghai)", "2024-03-01", "08:00:00"]]
    assert main(["inspect", "--interactions", str(path), "--timezone", "Mars"]) == 2
    assert "timezone: expected the name of a time zone" in capsys.readouterr().err


def test_the_future_of_a_file(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,a,2024-03-01\n1,b,2024-03-02\n2,b,2090-01-01\n")
    words = ["train", "--interactions", str(path), "--name", "x", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "time in the future, time='2090-01-01" in capsys.readouterr().err
    run("inspect", "--interactions", path)
    out = capsys.readouterr().out
    assert "1 of 3 rows (33 %) left out: time in the future (data row 3, '2090-01-01" in out
    assert "last event (UTC)                              2024-03-02 00:00:00" in out
    run("inspect", "--interactions", path, "--max-ahead", "99999d")
    out = capsys.readouterr().out
    assert "last event (UTC)                              2090-01-01 00:00:00" in out


def test_inspect_model(toy, capsys):
    run("inspect", "--model", toy)
    out = capsys.readouterr().out
    shown = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert shown["name"] == ["toy"] and shown["num_items"] == ["82"]
    assert shown["encoder.kind"] == ["tfidf"]


def test_columns_name_items_too_unless_item_columns_do(files, tmp_path, capsys):
    frame = pd.read_csv(files / "items.csv", dtype=str)
    frame.rename(columns={"course": "货"}).to_csv(tmp_path / "items.csv", index=False)
    log = pd.read_csv(files / "log.csv", dtype=str).rename(columns={"course": "货"})
    log.to_csv(tmp_path / "log.csv", index=False)
    names = ["--columns", "item_id=货", "title=headline"]
    run(
        "inspect", "--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv", *names
    )
    assert "items without events" in capsys.readouterr().out


# --- as a process ---


def start(*words, **env):
    command = [sys.executable, "-m", "kerasrec.cli.entry", *map(str, words)]
    given = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL",)}
    return subprocess.run(command, capture_output=True, text=True, env={**given, **env})


@pytest.mark.slow
def test_a_process_says_what_it_has_to_and_nothing_else(files, toy, tmp_path):
    done = start(
        *("recommend", "--model", toy, "--histories", files / "log.csv", "--k", 1),
        *("--out", tmp_path / "recs.csv", *NAMES),
    )
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout == f"150 rows for 150 users in {tmp_path / 'recs.csv'}\n"


@pytest.mark.parametrize("words, shown", [([], "long\nbad\n"), (["--verbose"], None)])
def test_each_line_of_the_log_is_shown_once(toy, words, shown, monkeypatch, capsys):
    from absl import logging as absl_logging

    monkeypatch.setattr(logging.root, "handlers", [])  # as in a new process
    (options, _), log = build_parser(), logging.getLogger("kerasrec.training.run")
    options = options.parse_args(["inspect", "--model", str(toy), *words])
    with entry._logging(options):
        absl_logging.info("Sharding callback duration")  # absl gives a bare root a handler
        log.info("epoch 1")
        log.info("long", extra=LONG)
        log.warning("bad")
    assert logging.root.handlers == []
    error = capsys.readouterr().err
    assert error == shown if shown else error.endswith("epoch 1\nlong\nbad\n")


def test_a_quiet_training_shows_warnings_alone(monkeypatch, capsys):
    words = ["train", "--interactions", "x", "--name", "x", "--quiet"]
    with entry._logging(build_parser()[0].parse_args(words)):
        logging.getLogger("kerasrec.training.stages").info("choosing", extra=LONG)
        logging.getLogger("kerasrec.training.stages").warning("bad")
    assert capsys.readouterr().err == "bad\n"


def test_a_reader_that_stops_early_gets_no_complaint(toy):
    command = [sys.executable, "-m", "kerasrec.cli.entry", "inspect", "--model", str(toy)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_setup_problem_is_one_sentence(toy):
    done = start("similar", "--model", toy, "--text", "x", TF_KERAS="0")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "kerasrec similar: kerasrec needs Keras 2 (tf_keras), so TF_KERAS must be 1; it is '0'. "
        "Run: export TF_KERAS=1\n"
    )


def test_interrupted(monkeypatch, capsys):
    def interrupt(options):
        """Interrupted."""
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "doctor", (VERBS["doctor"][0], interrupt))
    run("doctor", code=130)
    assert capsys.readouterr().err == "kerasrec doctor: interrupted\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(options):
        """Defect."""
        raise KeyError("defect")

    monkeypatch.setitem(VERBS, "doctor", (VERBS["doctor"][0], fail))
    with pytest.raises(KeyError, match="defect"):
        main(["doctor"])


def test_debug_shows_the_traceback_of_a_mistake(tmp_path):
    with pytest.raises(ArtifactError):
        main(["inspect", "--debug", "--model", str(tmp_path)])


TOO_LARGE = (
    "{{function_node __wrapped__RandomStandardNormal_device_/job:localhost/replica:0/task:0/device:"
    "CPU:0}} OOM when allocating tensor with shape[1000000000000,64] and type float on /job:"
    "localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu [Op:RandomStandardNormal] name: "
)


def test_what_needs_more_memory_than_there_is_is_one_sentence():
    assert _sentence(tf.errors.ResourceExhaustedError(None, None, TOO_LARGE)) == (
        "there is not enough memory: OOM when allocating tensor with shape[1000000000000,64] and "
        "type float. Make the numbers of the options smaller."
    )


@pytest.mark.slow  # TensorFlow looks for the memory for ten seconds
def test_tensorflow_says_so():
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.random.normal([10**12, 64])
    assert caught.value.message.partition(" by allocator")[0] == TOO_LARGE.partition(" by ")[0]


# --- what is wrong with tables, all of it at once and before TensorFlow ---


def test_inspect_begins_with_the_problems(files, tmp_path, capsys):
    log = pd.read_csv(files / "log.csv", dtype=str)
    log["course"] = '="' + log["course"] + '"'
    log.loc[:1, "uid"] = ""
    log.to_csv(tmp_path / "log.csv", index=False)
    run(
        *("inspect", "--data", tmp_path / "log.csv", "--items", files / "items.csv", *NAMES),
        *("--item-columns", "item_id=course", "title=headline"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("problems found: ")
    assert lines[1].startswith("  1. the ids of log and catalogue hardly meet: 0 of ")
    assert 'formulas (="...") were left out' in lines[1]
    assert any(f"2 of {len(log):,} rows" in line and "empty user_id" in line for line in lines)
    run(
        *("inspect", "--data", files / "log.csv", "--items", files / "items.csv", *NAMES),
        *("--item-columns", "item_id=course", "title=headline"),
    )
    assert capsys.readouterr().out.startswith("problems found: none\n")


def dirty(folder):
    """A log and a catalogue with four kinds of dirt."""
    (folder / "log.csv").write_text(
        "user,item,timestamp\n,i1,1500000000\na,i1,soon\na,i2,1500000001\n"
        + "".join(f"u{n % 5},i{n % 4},{1500000100 + n}\n" for n in range(40))
        + "a,nowhere,1500000002\n"
    )
    (folder / "items.csv").write_text(
        "item,title\n" + "".join(f"i{n},书{n}\n" for n in [*range(4), 3])
    )
    return ["--interactions", folder / "log.csv", "--items", folder / "items.csv"]


def test_all_dirt_is_told_in_one_pass_without_tensorflow(tmp_path):
    done = start("train", *dirty(tmp_path), "--name", "x", "--out", tmp_path)
    assert done.returncode == 2
    head, *lines = done.stderr.splitlines()
    assert head == "kerasrec train: 3 problems with the tables:"
    assert "empty user_id" not in lines[0] and "expected a user_id" in lines[0]
    assert "1 x unparsable time (data row 2, 'soon')" in lines[0]
    assert "'i3' in data row 4 and in data row 5" in lines[1]
    assert "1 unknown items in 1 of 42 events, such as 'nowhere'" in lines[2]


def test_on_bad_skip_leaves_out_events_of_unknown_items_too(tmp_path):
    options = build_parser()[1]["train"].parse_args(
        [*map(str, dirty(tmp_path)), "--name", "x", "--on-bad", "skip"]
    )
    options.verb = "train"
    interactions, items, valid, _ = modelverbs._read_for_training(options, {})
    assert (len(interactions), len(items), valid) == (41, 4, None)
    # but not most of a log
    text = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(text.replace(",i", ",I").replace("user,Item", "user,item"))
    with pytest.raises(UserError, match="hardly meet: 0 of 42 .*--unknown-items skip"):
        modelverbs._read_for_training(options, {})


@pytest.mark.slow
def test_a_log_alone_trains_a_model_of_ids(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(
        "user,item\n" + "".join(f"u{n // 6},i{(n + n // 6) % 9}\n" for n in range(120))
    )
    words = ("--interactions", tmp_path / "log.csv", "--name", "x", "--out", tmp_path / "models")
    fast = ("--preset", "fast", "--quiet", "--set", "trainer.epochs=1")
    run("train", *words, *fast)
    assert "the model knows the items of the log by their ids alone" in capsys.readouterr().out
    manifest = folders.read_manifest(tmp_path / "models" / "x" / "1")
    assert (manifest.num_items, manifest.encoder) == (9, None)
    out = tmp_path / "recs.csv"
    model = ("--model", tmp_path / "models" / "x")
    run("recommend", *model, "--histories", tmp_path / "log.csv", "--k", 3, "--out", out)
    assert pd.read_csv(out)["item"].str.match(r"i\d").all()
    run(
        "evaluate",
        *model,
        "--test",
        tmp_path / "log.csv",
        "--histories",
        tmp_path / "log.csv",
        code=2,
    )
    run("train", *words, *fast, "--encoder", "tfidf", code=2)
    assert "--encoder tfidf reads the texts of --items" in capsys.readouterr().err


@pytest.mark.slow  # `read_tables` of such files: test_train_refuses
def test_without_an_encoder_titles_are_not_asked_for(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user,item\n" + "".join(f"u{n // 6},i{(n + n // 6) % 9}\n" for n in range(120))
    )
    (tmp_path / "items.csv").write_text("sku\n" + "".join(f"i{n}\n" for n in range(10)))
    run(
        *("train", "--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv"),
        *("--name", "x", "--out", tmp_path / "models", "--preset", "fast", "--quiet"),
        *("--encoder", "none", "--set", "trainer.epochs=1"),
    )
    assert folders.read_manifest(tmp_path / "models" / "x" / "1").num_items == 10


def test_inspect_shows_how_columns_of_users_read(tmp_path, capsys):
    log, users = tmp_path / "log.csv", tmp_path / "users.csv"
    log.write_text("uid,iid,time\n1,a,2024-03-01\n2,b,2024-03-02\n2,a,2024-03-03\n")
    ages = ["20", "25", "30", "35", "60岁", "40"]
    rows = "".join(f"{n},{age},{'京沪'[n % 2]}\n" for n, age in enumerate(ages))
    users.write_text(f"member,age,city\n{rows}", encoding="utf-8")
    words = ["--columns", "users.user_id=member"]
    run("inspect", "--interactions", log, "--users", users, *words)
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "column of users reads as missing distinct example why" in out
    assert "city category 0% 2 京 values that come again" in out
    assert "age: 1 of 6 values is no number and counts as missing: '60岁'" in out
