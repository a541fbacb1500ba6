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
    publish(served_folder, base, 2, 2)
    model.refresh()
    assert model.numbers == [2] and states(model) == {2: "AVAILABLE", 1: "END"}
    with model.use() as version:
        assert (version.number, width(version)) == (2, 5)
    events = [(r.message, r.version) for r in caplog.records if hasattr(r, "version")]
    assert events == [("version loaded", 1), ("version loaded", 2), ("version unloaded", 1)]


def test_a_version_in_use_stays_until_its_last_request_is_over(served_folder, base):
    model = ModelVersions(base)
    model.refresh()
    with model.use() as version, model.use(version=1):
        publish(served_folder, base, 2, 2)
        model.refresh()
        assert model.numbers == [2] and states(model)[1] == "UNLOADING"
        assert width(version) == 50
    assert states(model)[1] == "END"
    with pytest.raises(Refusal, match=r"Specific\(toy, 1\)"):
        with model.use(version=1):
            pass


def test_a_folder_that_is_gone_for_a_moment_changes_nothing(served_folder, base):
    publish(served_folder, base, 2, 2)
    write_label(base, "stable", 1)
    model = ModelVersions(base)
    model.refresh()
    away = base.rename(base.with_name("away"))
    model.refresh()
    assert model.numbers == [1, 2] and model.default == 1
    away.rename(base)
    model.refresh()
    assert model.numbers == [1, 2] and model.default == 1


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


def test_all_versions(served_folder):
    model = ModelVersions(served_folder, policy="all")
    model.refresh()
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


@pytest.mark.parametrize("how", ["cut", pytest.param("foreign", marks=pytest.mark.slow), "warm-up"])
def test_a_broken_version_leaves_the_old_one_serving(served_folder, base, how, caplog):
    model = ModelVersions(base)
    model.refresh()
    beside = base.parent / "beside"
    shutil.copytree(served_folder / "2", beside)
    broken(beside, how)
    beside.rename(base / "2")
    for _ in range(3):
        model.refresh()
    assert model.numbers == [1] and model.default == 1
    (number, state, code, message), _ = model.status()
    assert (number, state, code) == (2, "END", "FAILED_PRECONDITION") and message
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


@pytest.mark.parametrize("fails", [False, True])
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


def test_a_broken_version_that_is_put_back_is_sound_again(base):
    model = ModelVersions(base)
    model.refresh()
    with model.use() as loaded:
        graph = base / "1" / "saved_model.pb"
        graph.rename(base / "kept")
        graph.write_bytes(b"broken")
        model.refresh()
        assert model.status()[0][:3] == (1, "AVAILABLE", "FAILED_PRECONDITION")
        (base / "kept").rename(graph)
        model.refresh()
        assert model.status() == [(1, "AVAILABLE", "OK", "")] and model.reasons() == {}
        with model.use() as still:
            assert still is loaded


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


def test_a_label_that_moves_to_a_broken_version_stays(served_folder, base, caplog):
    publish(served_folder, base, 2, 2)
    write_label(base, "stable", 1)
    model = ModelVersions(base)
    model.refresh()
    (base / "3").mkdir()
    write_label(base, "stable", 3)
    model.refresh()
    assert model.default == 1 and model.numbers == [1, 2]
    assert any(r.message == "labels name versions that are not loaded" for r in caplog.records)
    (base / "labels.json").write_text("{")
    model.refresh()
    assert model.labels == {"stable": 1}
    assert any(r.message == "labels kept as they were" for r in caplog.records)


def test_a_folder_that_goes_leaves_its_last_version(base):
    model = ModelVersions(base)
    model.refresh()
    shutil.rmtree(base)
    model.refresh()
    assert model.numbers == [1]


HALF = """
import sys, time
from kerasrec.versions.folders import new_version
with new_version(sys.argv[1], None) as (folder, _):
    (folder / "saved_model.pb").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_an_export_that_is_killed_is_never_visible(base):
    model = ModelVersions(base)
    model.refresh()
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(base)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        model.refresh()
        process.kill()
    model.refresh()
    assert states(model) == {1: "AVAILABLE"}


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


def test_labels_do_not_wait_for_a_load(served_folder, base, monkeypatch):
    """A label is moved, and another one written, while version 3 loads: both count at once."""
    shutil.copytree(served_folder / "2", base / "2")
    write_label(base, "stable", 1)
    model = ModelVersions(base)
    model.refresh()
    assert model.numbers == [1, 2] and model.default == 1
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
