"""`kerasrec generate` on small real files."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from kerasrec.cli.entry import main
from kerasrec.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(planning_version):
    return Recommender.load(planning_version)


@pytest.fixture
def files(toy_interactions, tmp_path, monkeypatch):
    """A folder with log.csv, of three learners and unusual names, and users.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERASREC_CACHE", str(tmp_path / "cache"))
    frame = toy_interactions.frame
    users = frame["user_id"].cat.categories[:3]
    frame = frame[frame["user_id"].isin(users)]
    log = {"uid": frame["user_id"], "course": frame["item_id"], "ts": frame["timestamp"]}
    pd.DataFrame(log).to_csv("log.csv", index=False)
    pd.DataFrame({"uid": ["nobody", users[1]]}).to_csv("users.csv", index=False)
    return tmp_path


@pytest.fixture
def generate(planning_version, recommender, files, capsys, monkeypatch):
    """Function of more words that gives exit code, what was printed, and what was complained of."""

    load = Recommender.load

    def once(model, **options):
        """The same one again: what loading does is tested elsewhere."""
        is_it = str(model) == str(planning_version)
        return recommender if is_it else load(model, **options)

    monkeypatch.setattr(Recommender, "load", once)

    def call(*words, model=planning_version):
        capsys.readouterr()
        code = main(
            [
                *("generate", "--model", str(model), "--histories", "log.csv"),
                *(
                    "--columns",
                    "user_id=uid",
                    "item_id=course",
                    "timestamp=ts",
                    "--out",
                    "plans.csv",
                ),
                *map(str, words),
            ]
        )
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.mark.slow
def test_a_process_of_its_own(planning_version, files):
    words = ["generate", "--model", planning_version, "--histories", "log.csv"]
    words += ["--columns", "user_id=uid", "item_id=course", "timestamp=ts", "--out", "plans.csv"]
    words += ["--describe", "template", "--texts", "texts.csv"]
    command = [sys.executable, "-m", "kerasrec.cli.entry", *map(str, words)]
    # that of this process, which has loaded TensorFlow for tests
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 plans for 3 users in plans.csv\n3 texts in texts.csv\n"
    assert len(pd.read_csv("plans.csv")) == 15 and len(pd.read_csv("texts.csv")) == 3


def test_plans_go_into_a_file_with_the_names_of_the_log(generate, recommender):
    code, shown, _ = generate("--num-items", 3, "--num-lists", 2, "--beams", 8)
    assert (code, shown) == (0, "6 plans for 3 users in plans.csv\n")
    found = pd.read_csv("plans.csv")
    assert list(found.columns) == ["uid", "list", "rank", "course", "log_probability"]
    log = pd.read_csv("log.csv")
    histories = {user: part.sort_values("ts") for user, part in log.groupby("uid", sort=False)}
    for user, part in found.groupby("uid"):
        assert part["list"].tolist() == [1, 1, 1, 2, 2, 2]
        assert part["rank"].tolist() == [1, 2, 3] * 2
        assert not set(part["course"]) & set(histories[user]["course"])
    assert set(found["course"]) <= set(recommender.items.ids)


def test_users_candidates_and_draws(generate, recommender, files):
    ids = list(recommender.items.ids)
    (files / "few.txt").write_text("\n".join(ids[60:66]))
    options = ("--users", "users.csv", "--candidates", "few.txt", "--num-items", 2)
    code, shown, _ = generate(*options)
    assert code == 0 and "2 plans for 2 users" in shown
    found = pd.read_csv("plans.csv")
    assert set(found["course"]) <= set(ids[60:66])
    assert found["uid"].unique().tolist() == pd.read_csv("users.csv")["uid"].astype(str).tolist()
    draws = ("--temperature", 1.5, "--top-p", 0.9, "--num-lists", 3)
    tables = []
    for seed in (1, 1, 2):
        assert generate(*draws, "--seed", seed)[0] == 0
        tables.append(pd.read_csv("plans.csv"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert tables[0]["course"].tolist() != tables[2]["course"].tolist()


# --- texts ---


def test_describe_by_the_template(generate, recommender):
    code, shown, _ = generate("--describe", "template", "--num-items", 2, "--num-lists", 2)
    lines = shown.splitlines()
    assert code == 0 and lines[0] == "6 plans for 3 users in plans.csv"
    assert len(lines) == 1 + 5 + 1 and lines[-1] == "... and 1 more; --texts F writes all"
    found = pd.read_csv("plans.csv", dtype={"uid": str})
    first = found[(found["uid"] == found["uid"][0]) & (found["list"] == 1)]
    assert lines[1].startswith(f"{first['uid'].iloc[0]}, plan 1: 结合您最近的记录“")
    for title in recommender.titles(first["course"]):
        assert f"“{title}”" in lines[1]
    newest = pd.read_csv("log.csv", dtype={"uid": str}).sort_values("ts", kind="stable")
    newest = newest[newest["uid"] == first["uid"].iloc[0]]["course"].iloc[-1:]
    assert f"“{recommender.titles(newest)[0][:50]}" in lines[1].partition("为您")[0]


def test_texts_into_a_file(generate):
    given = ("--describe", "template", "--num-items", 2, "--num-lists", 2, "--texts", "t.csv")
    code, shown, _ = generate(*given)
    assert code == 0
    assert shown.splitlines() == ["6 plans for 3 users in plans.csv", "6 texts in t.csv"]
    texts, plans = pd.read_csv("t.csv"), pd.read_csv("plans.csv")
    assert list(texts.columns) == ["uid", "list", "text", "source"]
    keys = plans[["uid", "list"]].drop_duplicates().to_numpy().tolist()
    assert texts[["uid", "list"]].to_numpy().tolist() == keys
    assert set(texts["source"]) == {"template"} and texts["text"].str.contains("为您").all()


def test_describe_by_a_language_model(generate, recommender, chat, monkeypatch):
    monkeypatch.setenv("KERASREC_LLM_KEY", "secret")
    code, shown, _ = generate("--describe", chat.url, "--llm", "tiny", "--num-items", 2)
    plans = pd.read_csv("plans.csv")
    titles = recommender.titles(plans[plans["rank"] == 1]["course"])
    assert code == 0 and shown.splitlines()[1:] == [
        f"{user}, plan 1: 推荐{title}。"
        for user, title in zip(plans["uid"].unique(), titles, strict=True)
    ]
    assert len(chat.came) == 3
    path, headers, body = chat.came[0]
    assert path == "/v1/chat/completions" and body["model"] == "tiny"
    assert headers["authorization"] == "Bearer secret" and "secret" not in shown


def test_where_the_language_model_fails_the_template_answers(generate, chat):
    chat.answers[:] = [(401, {}, "{}")] * 9
    given = ("--describe", chat.url, "--llm", "tiny", "--num-items", 2, "--texts", "t.csv")
    code, shown, told = generate(*given)
    assert code == 0 and "by the template" not in shown
    assert told.count("3 of 3 plans have the template's text: ") == 1
    texts = pd.read_csv("t.csv")
    assert (
        set(texts["source"]) == {"template"} and texts["text"].str.contains("为您推荐|依次").all()
    )


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--beams", 0], "beams must be a whole number from 1 to 256. Received: 0."),
        (["--num-items", 99], "num_items must be a whole number from 1 to 6. Received: 99."),
        (
            ["--temperature", 1, "--top-p", 2],
            "top_p must be a number, from 0 to 1. Received: 2.0.",
        ),
        (
            ["--num-lists", 2, "--diversity", 101],
            "diversity must be a number, from 0 to 100. Received: 101.0.",
        ),
        (["--diversity", 1], "--diversity goes with --num-lists above 1."),
        (
            ["--top-p", 0.5],
            "--top-p and --seed go with --temperature above 0: without it, no draws.",
        ),
        (
            ["--seed", 1, "--temperature", 0],
            "--top-p and --seed go with --temperature above 0: without it, no draws.",
        ),
        (
            ["--describe", "template", "--texts", "./plans.csv"],
            "--out and --texts must be two files. Received: plans.csv for both.",
        ),
        (
            ["--llm", "tiny"],
            "--llm and --texts go with --describe template or --describe URL.",
        ),
        (
            ["--texts", "t.csv"],
            "--llm and --texts go with --describe template or --describe URL.",
        ),
        (
            ["--describe", "ftp://there", "--llm", "tiny"],
            "--describe must be template or the address of a language model that begins with "
            "http:// or https://. Received: 'ftp://there'.",
        ),
        (
            ["--describe", "http://localhost:1/v1"],
            "--describe URL needs --llm NAME, the language model to ask there.",
        ),
        (
            ["--describe", "template", "--llm", "tiny"],
            "--llm goes with --describe URL; a template asks no language model.",
        ),
    ],
)
def test_mistakes_are_one_sentence(generate, files, words, sentence):
    code, shown, complaint = generate(*words)
    assert (code, shown) == (2, "")
    assert complaint == f"kerasrec generate: {sentence}\n"
    assert not (files / "plans.csv").exists()


def test_a_model_without_a_generator_is_refused_before_the_events_are_read(
    generate, exported_version, files
):
    (files / "log.csv").write_text("no,such\ncolumns,1\n")
    code, shown, complaint = generate(model=exported_version)
    assert (code, shown) == (2, "")
    assert complaint == (
        f"kerasrec generate: {exported_version} generates no plans. Train one that does: "
        "kerasrec train --generator.\n"
    )
    assert not (files / "plans.csv").exists()


def test_a_file_that_cannot_be_written(generate):
    code, _, complaint = generate("--describe", "template", "--texts", "t.doc")
    assert code == 2 and complaint.count("\n") == 1 and "t.doc" in complaint


@pytest.mark.slow
def test_steps_that_come_too_early_are_said_and_forbidden(generate, ordered_version, files):
    ids = list(Recommender.load(ordered_version).items.ids)
    (files / "few.txt").write_text("\n".join([ids[5], ids[6]]))
    pd.DataFrame({"uid": ["nobody"]}).to_csv("nobody.csv", index=False)
    options = ("--users", "nobody.csv", "--candidates", "few.txt", "--num-items", 2)
    code, shown, _ = generate(*options, "--num-lists", 2, model=ordered_version)
    assert code == 0 and "1 of 4 steps come before what they need (column missing)" in shown
    found = pd.read_csv("plans.csv").fillna("").groupby("list")
    missing = {tuple(part["course"]): list(part["missing"]) for _, part in found}
    assert missing == {(ids[5], ids[6]): ["", ""], (ids[6], ids[5]): [ids[5], ""]}
    code, shown, _ = generate(*options, "--order", model=ordered_version)
    assert code == 0 and "need" not in shown
    assert pd.read_csv("plans.csv")["course"].tolist() == [ids[5], ids[6]]
    code, _, error = generate("--order")
    assert code == 2 and "This version knows no order of its items" in error
