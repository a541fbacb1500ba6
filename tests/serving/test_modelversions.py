"""Versions come and go while requests are answered."""

import json
import logging
import shutil
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from kerasrec.serving import modelversions
from kerasrec.serving.admission import Refusal
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.versions.folders import write_label
from kerasrec.versions.warmup import WARMUP


def publish(served_folder, base, source, number):
    """Version `number` appears by a rename, as kerasrec's own do."""
    beside = base.parent / f".writing-toy-{number}"
    shutil.copytree(served_folder / str(source), beside)
    beside.rename(base / str(number))


def width(version):
    history = {"history": tf.constant([["x"]])}
    return version.signature()(history)["item_ids"].shape[1]


def states(model):
    return {number: state for number, state, *_ in model.status()}


def test_the_newest_version_answers_and_the_one_before_goes(served_folder, base, caplog):
    caplog.set_level(logging.INFO, "kerasrec")
    model = ModelVersions(base)
    with pytest.raises(Refusal, match=r"Servable not found for request: Latest\(toy\)"):
        with model.use():
            pass
    with pytest.raises(Refusal, match="Could not find any versions of model toy"):
        model.status()
    model.refresh()
    assert (model.name, model.numbers, model.default) == ("toy", [1], 1)
    with model.use() as version, model.use(version=1):
        publish(served_folder, base, 2, 2)
        model.refresh()
        assert model.numbers == [2] and states(model) == {2: "AVAILABLE", 1: "UNLOADING"}
        assert width(version) == 50  # it stays until its last request is over
    assert states(model) == {2: "AVAILABLE", 1: "END"}
    with model.use() as version:
        assert (version.number, width(version)) == (2, 5)
    with pytest.raises(Refusal, match=r"Specific\(toy, 1\)"):
        with model.use(version=1):
            pass
    events = [(r.message, r.version) for r in caplog.records if hasattr(r, "version")]
    loads = [(words, n) for n in (1, 2) for words in ("loading a version", "version loaded")]
    assert events == [*loads, ("version unloaded", 1)]
    assert all(r.seconds >= 0 for r in caplog.records if r.message == "version loaded")


@pytest.mark.slow
def test_a_version_that_is_replaced_is_loaded_again(served_folder, base):
    """A model that is removed and trained anew takes the same number."""
    model = ModelVersions(base)
    model.refresh()
    with model.use() as old:
        assert width(old) == 50
        shutil.rmtree(base / "1")
        model.refresh()  # the folder is empty for a moment
        publish(served_folder, base, 2, 1)
        model.refresh()
        with model.use() as new:
            assert new is not old and width(new) == 5
        assert width(old) == 50  # it stays until the last request has its answer
    assert not old.signatures and states(model) == {1: "AVAILABLE"}
    (base / "1" / "saved_model.pb").write_bytes(b"broken")
    model.refresh()
    with model.use() as still:
        assert still is new and width(still) == 5
    assert model.status()[0][:3] == (1, "AVAILABLE", "FAILED_PRECONDITION")


def test_labels(served_folder, base):
    publish(served_folder, base, 2, 2)
    publish(served_folder, base, 2, 3)
    write_label(base, "stable", 1)
    write_label(base, "canary", 2)
    model = ModelVersions(base)
    model.refresh()
    assert model.numbers == [1, 2, 3] and model.default == 1
    for label, number in (("stable", 1), ("canary", 2), (None, 1)):
        with model.use(label=label) as version:
            assert version.number == number
    with pytest.raises(Refusal, match="Unrecognized servable version label: blue") as refused:
        with model.use(label="blue"):
            pass
    assert refused.value.code == "INVALID_ARGUMENT"
    assert model.status(label="canary") == [(2, "AVAILABLE", "OK", "")]
    write_label(base, "stable", 3)
    (base / "labels.json").write_text(json.dumps({"stable": 3}))
    model.refresh()
    assert model.numbers == [3] and model.labels == {"stable": 3}


def test_all_versions(served_folder, server):
    model = server.models["toy"]
    assert model.numbers == [1, 2] and model.default == 1  # the label stable
    with pytest.raises(ValueError, match="policy must be one of labelled, all. Received: 'some'"):
        ModelVersions(served_folder, policy="some")


def broken(version, how):
    if how == "cut":
        graph = version / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[:1000])
    elif how == "foreign":
        shutil.rmtree(version / "assets.extra")
    elif how == "warm-up":
        (version / WARMUP).write_bytes(b"no record" * 20)


@pytest.mark.slow
def test_a_broken_version_leaves_the_old_one_serving(served_folder, base, caplog):
    model = ModelVersions(base)
    model.refresh()
    for how in ("cut", "foreign", "warm-up"):
        caplog.clear()
        beside = base.parent / "beside"
        shutil.copytree(served_folder / "2", beside)
        broken(beside, how)
        beside.rename(base / "2")
        for _ in range(3):
            model.refresh()
        assert model.numbers == [1] and model.default == 1, how
        (number, state, code, message), _ = model.status()
        assert (number, state, code) == (2, "END", "FAILED_PRECONDITION") and message, how
        told = [r for r in caplog.records if r.message == "version does not load"]
        assert [(r.model, r.version) for r in told] == [("toy", 2)]  # once, not at every look
        shutil.rmtree(base / "2")
    publish(served_folder, base, 2, 2)  # mended
    model.refresh()
    assert model.numbers == [2]


def test_what_may_pass_is_tried_again_after_growing_pauses(base, monkeypatch):
    load, tries = tf.saved_model.load, []

    def stale(path):
        tries.append(path)
        if len(tries) < 3:
            raise OSError(116, "Stale file handle")
        return load(path)

    monkeypatch.setattr(modelversions.tf.saved_model, "load", stale)
    monkeypatch.setattr(modelversions, "_FIRST_PAUSE", 0.3)
    model = ModelVersions(base)
    for number, pause in ((1, 0.3), (2, 0.6)):
        for _ in range(3):
            model.refresh()
        assert len(tries) == number  # not at every look
        ((_, state, code, message),) = model.status()
        assert (state, code) == ("END", "UNAVAILABLE")
        assert message == f"[Errno 116] Stale file handle. It is tried again in {pause} seconds."
        assert model.reasons() == {1: "[Errno 116] Stale file handle"}
        time.sleep(pause)
    model.refresh()
    assert model.numbers == [1] and model.status() == [(1, "AVAILABLE", "OK", "")]
    assert model.reasons() == {}


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_folder_that_changes_as_it_loads_is_loaded_once_a_look(base, monkeypatch, fails):
    load, loads = tf.saved_model.load, []

    def changing(path):
        loads.append(path)
        if len(loads) > 4:
            raise AssertionError("without an end")
        (base / "1" / "assets.extra" / "note.txt").write_text("x" * len(loads))
        if fails:
            raise ValueError("half of it")
        return load(path)

    monkeypatch.setattr(modelversions.tf.saved_model, "load", changing)
    model = ModelVersions(base)
    for look in (1, 2):
        model.refresh()
        assert len(loads) == look and model.numbers == ([] if fails else [1])


def test_a_version_that_is_being_loaded_is_given_up(served_folder, base, monkeypatch):
    model, load = ModelVersions(base), tf.saved_model.load
    model.refresh()
    publish(served_folder, base, 2, 2)
    monkeypatch.setattr(
        modelversions.tf.saved_model, "load", lambda path: model.close() or load(path)
    )
    model.refresh()
    assert model.numbers == [1] and states(model) == {1: "AVAILABLE", 2: "END"}
    assert model.status(2)[0][2:] == ("CANCELLED", "given up: the server stops.")


@pytest.fixture(scope="module")
def one(served_folder, tmp_path_factory):
    """`ModelVersions` that serves version 1 alone; what tests do to its folder, they undo."""
    base = tmp_path_factory.mktemp("one") / "toy"
    shutil.copytree(served_folder / "1", base / "1")
    model = ModelVersions(base)
    model.refresh()
    return model


def test_a_broken_version_that_is_put_back_is_sound_again(one):
    with one.use() as loaded:
        graph = one.base / "1" / "saved_model.pb"
        graph.rename(one.base / "kept")
        graph.write_bytes(b"broken")
        one.refresh()
        assert one.status()[0][:3] == (1, "AVAILABLE", "FAILED_PRECONDITION")
        (one.base / "kept").rename(graph)
        one.refresh()
        assert one.status() == [(1, "AVAILABLE", "OK", "")] and one.reasons() == {}
        with one.use() as still:
            assert still is loaded


def test_a_folder_that_goes_leaves_its_last_version(one):
    away = one.base.rename(one.base.with_name("away"))
    one.refresh()
    assert one.numbers == [1]
    away.rename(one.base)


HALF = """
import sys, time
from kerasrec.versions.folders import new_version
with new_version(sys.argv[1], None) as (folder, _):
    (folder / "saved_model.pb").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_an_export_that_is_killed_is_never_visible(one):
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(one.base)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        one.refresh()
        process.kill()
    one.refresh()
    assert states(one) == {1: "AVAILABLE"}


@pytest.mark.slow
def test_no_answer_is_mixed_while_versions_are_swapped(served_folder, base):
    """Even versions give lists of 5, odd ones of 50."""
    model = ModelVersions(base)
    model.refresh()
    over, wrong, seen = threading.Event(), [], set()

    def ask():
        while not over.is_set():
            with model.use() as version:
                seen.add(version.number)
                time.sleep(0.02)
                if width(version) != (50, 5)[version.number % 2 == 0]:
                    wrong.append(version.number)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (2, 3, 4):
        publish(served_folder, base, 2 - number % 2, number)
        model.refresh()
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and {1, 2, 3} <= seen
    assert states(model) == {1: "END", 2: "END", 3: "END", 4: "AVAILABLE"}


@pytest.fixture(scope="module")
def two(served_folder, tmp_path_factory):
    """`ModelVersions` that serves versions 1, which is stable, and 2; what tests do, they undo."""
    base = tmp_path_factory.mktemp("two") / "toy"
    shutil.copytree(served_folder, base)
    write_label(base, "stable", 1)
    model = ModelVersions(base)
    model.refresh()
    return model


@pytest.fixture
def labelled(two):
    assert two.numbers == [1, 2] and two.default == 1
    return two


def test_a_folder_that_is_gone_for_a_moment_changes_nothing(labelled):
    base = labelled.base
    away = base.rename(base.with_name("away"))
    labelled.refresh()
    assert labelled.numbers == [1, 2] and labelled.default == 1
    away.rename(base)
    labelled.refresh()
    assert labelled.numbers == [1, 2] and labelled.default == 1


def test_a_label_that_moves_to_a_broken_version_stays(labelled, caplog):
    base = labelled.base
    (base / "3").mkdir()
    write_label(base, "stable", 3)
    labelled.refresh()
    assert labelled.default == 1 and labelled.numbers == [1, 2]
    assert any(r.message == "labels name versions that are not loaded" for r in caplog.records)
    (base / "labels.json").write_text("{")
    labelled.refresh()
    assert labelled.labels == {"stable": 1}
    assert any(r.message == "labels kept as they were" for r in caplog.records)
    (base / "3").rmdir()
    (base / "labels.json").write_text(json.dumps({"stable": 1}))


def test_labels_do_not_wait_for_a_load(served_folder, labelled, monkeypatch):
    """A label is moved, and another one written, while version 3 loads: both count at once."""
    model, base = labelled, labelled.base
    load, begun, go_on = ModelVersions._load, threading.Event(), threading.Event()

    def slow(self, number):
        begun.set()
        go_on.wait(60)
        load(self, number)

    monkeypatch.setattr(ModelVersions, "_load", slow)
    shutil.copytree(served_folder / "2", base / ".3")
    (base / ".3").rename(base / "3")
    thread = threading.Thread(target=model.refresh)
    thread.start()
    try:
        assert begun.wait(30)
        write_label(base, "stable", 2)
        write_label(base, "canary", 1)
        until = time.monotonic() + 20
        while model.labels != {"stable": 2, "canary": 1} and time.monotonic() < until:
            time.sleep(0.05)
        assert model.labels == {"stable": 2, "canary": 1} and 3 not in model.numbers
    finally:
        go_on.set()
        thread.join(60)
    # what got its label during the load stays when the new version has come
    assert model.numbers == [1, 2, 3] and model.labels == {"stable": 2, "canary": 1}
    monkeypatch.undo()
    shutil.rmtree(base / "3")
    (base / "labels.json").write_text(json.dumps({"stable": 1}))
    model.refresh()
    assert model.numbers == [1, 2]
