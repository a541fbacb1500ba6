import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from crashes import Disk
from manifests import real_manifest
from places import HELPERS

from kerasrec.checks import ArtifactError
from kerasrec.versions import folders


def publish(base, manifest=None):
    """A version with the files that make one whole, all empty."""
    with folders.new_version(base, manifest or real_manifest(name="toy")) as (folder, result):
        for part in ("saved_model.pb", "variables/variables.index", "assets/item_ids.txt"):
            (folder / part).parent.mkdir(exist_ok=True)
            (folder / part).touch()
        (folder / "assets.extra").mkdir()
        (folder / "assets.extra" / "items.csv.gz").touch()
    return result


# --- writing ---


def test_new_version_counts_from_one(tmp_path):
    base = tmp_path / "models" / "toy"
    assert publish(base) == {"version": 1, "path": base / "1"}
    assert publish(base)["version"] == 2
    (base / "7").mkdir()
    (base / "007").mkdir()
    (base / "draft").mkdir()
    assert publish(base)["version"] == 8
    assert folders.versions(base) == [1, 2, 7, 8]


def test_new_version_writes_the_manifest(tmp_path):
    given = real_manifest(name="玩具", version=0, created="")
    path = publish(tmp_path / "toy", given)["path"]
    manifest = folders.read_manifest(path)
    assert manifest.created.endswith("+00:00")
    assert manifest == given._replace(version=1, created=manifest.created)
    assert "玩具" in (path / "assets.extra" / "manifest.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_new_version_leaves_nothing_when_the_work_fails(tmp_path, error):
    base = tmp_path / "toy"
    with pytest.raises(error):
        with folders.new_version(base, real_manifest()) as (folder, _):
            (folder / "saved_model.pb").touch()
            assert folders.versions(base) == []
            raise error
    assert list(tmp_path.iterdir()) == []


def test_new_version_killed_in_the_middle_shows_nothing(tmp_path):
    base = tmp_path / "toy"
    publish(base)
    code = (
        "import os, signal, sys\n"
        "from kerasrec.versions.folders import new_version\n"
        "with new_version(sys.argv[1], None) as (folder, _):\n"
        "    (folder / 'saved_model.pb').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(base)])
    assert done.returncode == -9
    assert [path.name for path in base.iterdir()] == ["1"]
    assert folders.versions(base) == [1] and publish(base)["version"] == 2


def test_new_version_from_many_processes_at_once(tmp_path):
    base = tmp_path / "toy"
    code = (
        "import sys\n"
        "from kerasrec.versions.folders import new_version, read_manifest\n"
        "first = read_manifest(sys.argv[3])\n"
        "for turn in range(10):\n"
        "    manifest = first._replace(name=f'{sys.argv[2]}-{turn}')\n"
        "    with new_version(sys.argv[1], manifest) as (folder, _):\n"
        "        (folder / 'saved_model.pb').touch()\n"
    )
    first = publish(tmp_path / "first")["path"]
    command = [sys.executable, "-c", code, base]
    started = [subprocess.Popen([*command, str(n), first]) for n in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert folders.versions(base) == list(range(1, 31))
    found = [folders.read_manifest(base / str(version)) for version in range(1, 31)]
    assert [one.version for one in found] == list(range(1, 31))
    assert sorted(one.name for one in found) == sorted(
        f"{n}-{t}" for n in range(3) for t in range(10)
    )


def test_new_version_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        publish(tmp_path / "file" / "toy")


# --- finding ---


def test_find_version_takes_the_largest_or_the_stable_one(tmp_path):
    base = tmp_path / "toy"
    for _ in range(10):
        publish(base)
    assert folders.find_version(base) == base / "10"
    assert folders.find_version(f"{base}/3/") == base / "3"
    folders.write_label(base, "stable", 9)
    assert folders.find_version(base) == base / "9"
    folders.write_label(base, "canary", 10)
    folders.write_label(base, "stable", 2)
    assert folders.read_labels(base) == {"stable": 2, "canary": 10}
    assert folders.find_version(base) == base / "2"
    assert sorted(path.name for path in base.iterdir())[-1] == "labels.json"


def test_find_version_says_what_is_wrong(tmp_path):
    publish(tmp_path / "shop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "saved_model.pb").touch()
    (tmp_path / "other" / "1").mkdir(parents=True)
    for name, message in {
        "missing": r"such as .*missing/1; found no such folder. Train one with .*--name missing",
        "empty": "found no version in it",
        "file": "found a file",
        "": "found a folder of models. Name one of them: .*/other, .*/shop.",
        "foreign": "foreign is not a version that kerasrec exported",
        "other": "other/1 is not a version that kerasrec exported",
        "shop/2": r"shop has no version 2; it has 1. Name one of them, or .*shop for its stable",
    }.items():
        with pytest.raises(ArtifactError, match=message):
            folders.find_version(tmp_path / name)


@pytest.mark.parametrize(
    "part",
    [
        "saved_model.pb",
        "variables/variables.index",
        "assets/item_ids.txt",
        "assets.extra/items.csv.gz",
    ],
)
def test_find_version_refuses_half_a_version(tmp_path, part):
    path = publish(tmp_path / "toy")["path"]
    (path / part).unlink()
    with pytest.raises(ArtifactError, match=f"toy/1 is incomplete \\({part} missing\\)"):
        folders.find_version(tmp_path / "toy")


# --- labels and names ---


def test_a_label_that_has_moved_meanwhile_stays(tmp_path):
    base = tmp_path / "toy"
    for _ in range(3):
        publish(base)
    folders.write_label(base, "stable", 2)
    folders.write_label(base, "stable", 1)  # somebody rolled back while 3 was being made
    with pytest.raises(ArtifactError, match="was moved from 2 to 1 meanwhile and was left there"):
        folders.write_label(base, "stable", 3, instead_of=2)
    assert folders.read_labels(base) == {"stable": 1}
    folders.write_label(base, "stable", 3, instead_of=1)
    assert folders.read_labels(base) == {"stable": 3}


def test_labels_refuse(tmp_path):
    base = tmp_path / "toy"
    publish(base)
    assert folders.read_labels(base) == {}
    with pytest.raises(ValueError, match="label must be one of stable, canary. Received: 'best'"):
        folders.write_label(base, "best", 1)
    with pytest.raises(ArtifactError, match=r"has no version 2; it has \[1\]"):
        folders.write_label(base, "stable", 2)
    (base / "labels.json").write_text(json.dumps({"stable": 4}))
    with pytest.raises(ArtifactError, match="names version 4, which is not there"):
        folders.find_version(base)
    for text, words in {
        "[]": r"it holds \[\]",
        "{": "it is no JSON .line 1, column 2",
        '{"stable": "new"}': 'stable names "new", which is no version',
        '{"stable": null}': "stable names null",
        '{"stable": 1.5}': "stable names 1.5",
        '{"stable": true}': "stable names true",
    }.items():
        (base / "labels.json").write_text(text)
        with pytest.raises(ArtifactError, match=f"must be a JSON object such as .*; {words}"):
            folders.find_version(base)
    (base / "labels.json").write_bytes('{"stable": "新"}'.encode("gb18030"))
    with pytest.raises(ArtifactError, match="it is no UTF-8 text"):
        folders.read_labels(base)
    (base / "labels.json").write_text('{"stable": "1"}')
    assert folders.read_labels(base) == {"stable": 1}


_LABELLING = """
import sys
from kerasrec.versions.folders import read_labels, write_label
base, label = sys.argv[1:]
sys.stdin.readline()
for turn in range(200):
    write_label(base, label, 1 + turn % 2)
    if read_labels(base)[label] != 1 + turn % 2:
        sys.exit(f"{label} was lost in turn {turn}")
"""


def test_two_labels_written_at_once_are_both_kept(tmp_path):
    base = tmp_path / "toy"
    for _ in range(2):
        publish(base)
    writers = [
        subprocess.Popen([sys.executable, "-c", _LABELLING, base, label], stdin=subprocess.PIPE)
        for label in folders.LABELS
    ]
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert folders.read_labels(base) == {"stable": 2, "canary": 2}


def test_a_label_waits_for_a_lock_that_ends_with_its_process(tmp_path):
    base = tmp_path / "toy"
    publish(base)
    code = (
        "import sys\n"
        "from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, base / ".labels.lock"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as holder, ThreadPoolExecutor() as pool:
        holder.stdout.readline()
        written = pool.submit(folders.write_label, base, "stable", 1)
        time.sleep(0.2)
        assert not written.done() and folders.read_labels(base) == {}
        holder.kill()
        written.result(timeout=20)
    assert folders.read_labels(base) == {"stable": 1}


_PUBLISHING = """
import sys
sys.path[:0] = sys.argv[2:]
from test_folders import folders, publish
while True:
    version = publish(sys.argv[1])["version"]
    folders.write_label(sys.argv[1], "stable", version)
    print(version, flush=True)
"""


def test_publishing_killed_at_random_moments(tmp_path, kills=5):
    """A label names a whole version, never an older one than was said; all others are whole too."""
    base, draw = tmp_path / "toy", random.Random(0)
    command = [sys.executable, "-c", _PUBLISHING, base, Path(__file__).parent, HELPERS]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            time.sleep(draw.uniform(0, 0.1))
            child.kill()
            said = child.stdout.read().split()
        known = folders.versions(base)
        for number in known:
            version = folders.find_version(base / str(number))
            assert folders.read_manifest(version).version == number
        labels = folders.read_labels(base)
        assert set(labels.values()) <= set(known) and len(known) - labels["stable"] in (0, 1)
        assert labels["stable"] >= int(said[-1] if said else 1)
        published = publish(base)["version"]
        assert published == len(known) + 1
        folders.write_label(base, "stable", published)
    beside = [path.name for path in tmp_path.iterdir() if path != base]
    assert all(name.startswith(".writing-toy-") for name in beside)


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", ".hidden", "12", "a/", " a", "a\n"])
def test_check_name_refuses(name):
    with pytest.raises(ValueError, match="must be a plain folder name"):
        folders.check_name(name)


@pytest.mark.parametrize("name", ["shop", "新闻-v2", "a b", "v1.0"])
def test_check_name_takes(name):
    folders.check_name(name)


def test_check_writable(tmp_path):
    folders.check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for place in ("file", "file/models"):
        with pytest.raises(NotADirectoryError, match="is a file. Choose another out"):
            folders.check_writable(tmp_path / place)


# --- items ---


def test_write_item_ids(tmp_path):
    ids = ["a,b", " x ", "书", 'say "hi"', "\u2028", "tab\tbed"]
    folders.write_item_ids(tmp_path / "ids.txt", ids)
    assert (tmp_path / "ids.txt").read_bytes().decode() == "".join(f"{i}\n" for i in ids)


@pytest.mark.parametrize("bad", ["", "a\nb", "a\r"])
def test_check_item_ids_refuses(bad):
    with pytest.raises(ValueError, match="no line break.*Received: .* and 1 more. Rename"):
        folders.check_item_ids(["a", bad, bad])


def test_catalogue_keeps_every_character(tmp_path):
    rows = [
        ["1", "a\nb"],
        ["2", "a\rb"],
        ["3", 'x,"y"'],
        ["4", ""],
        ["NA", "nan"],
        ["007", " 书\r\n"],
    ]
    frame = pd.DataFrame(rows, columns=["item_id", "title"])
    (tmp_path / "assets.extra").mkdir()
    folders.write_catalogue(tmp_path, frame)
    assert folders.read_catalogue(tmp_path).to_numpy().tolist() == rows


def test_what_killed_exports_left_goes_after_a_day(tmp_path):
    names = [".writing-toy-0123456789ab", ".writing-toy-ba9876543210", ".writing-shop-0123456789ab"]
    for name in names:
        (tmp_path / name / "variables").mkdir(parents=True)
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (0, time.time() - 2 * 86400))
    publish(tmp_path / "toy")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*names[1:], "toy"])  # a fresh one may be at work; shop is another model


def test_documents_are_made_of_the_whole_manifest(tmp_path):
    documents = {"card.md": lambda manifest: f"{manifest.name} {manifest.version} 课"}
    base = tmp_path / "toy"
    for number in (1, 2):
        with folders.new_version(base, real_manifest(name="toy"), documents=documents):
            pass
        assert (base / str(number) / "card.md").read_text(encoding="utf-8") == f"toy {number} 课"


# --- a power cut ---


def publish_with_bytes(base):
    """A version whose files say its number, so that half of one is seen."""
    number = (folders.versions(base) or [0])[-1] + 1
    with folders.new_version(base, real_manifest(name="toy")) as (folder, _):
        for part in ("saved_model.pb", "variables/variables.index", "assets/item_ids.txt"):
            (folder / part).parent.mkdir(exist_ok=True)
            (folder / part).write_text(f"version {number}")
        (folder / "assets.extra" / "deep").mkdir(parents=True)
        (folder / "assets.extra" / "items.csv.gz").write_text(f"version {number}")
        (folder / "assets.extra" / "deep" / "weights").write_text(f"version {number}")


def check_whole(base, number):
    version = folders.find_version(base / str(number))
    assert folders.read_manifest(version).version == number
    files = [path for path in version.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert len(files) == 5
    assert {path.read_text() for path in files} == {f"version {number}"}


def test_after_a_power_cut_there_is_the_old_or_the_new(tmp_path, monkeypatch):
    """At every step of two versions and a label, whatever the disk has not been asked for."""
    (tmp_path / "models").mkdir()
    (tmp_path / "images").mkdir()
    said = {"published": 0, "label": 0}

    def check(image):
        base = image / "toy"
        known = folders.versions(base)
        # what was said to be there is there; one more may be
        assert known in (
            list(range(1, said["published"] + 1)),
            list(range(1, said["published"] + 2)),
        )
        for number in known:
            check_whole(base, number)
        labels = folders.read_labels(base)
        assert labels.get("stable", 0) in (said["label"], said["label"] + 1)

    disk = Disk(tmp_path / "models", tmp_path / "images", check)
    with monkeypatch.context() as patched:
        disk.watch(patched)
        for number in (1, 2):
            publish_with_bytes(tmp_path / "models" / "toy")
            said["published"] = number
            if number < 2:
                folders.write_label(tmp_path / "models" / "toy", "stable", number)
                said["label"] = number
    assert disk.moments > 25


@pytest.mark.parametrize("left_out", ["sync_tree", "sync_folder"])
def test_the_model_of_a_power_cut_sees_what_is_not_synced(tmp_path, monkeypatch, left_out):
    monkeypatch.setattr(folders, left_out, lambda folder: None)
    with pytest.raises((AssertionError, ArtifactError)):
        test_after_a_power_cut_there_is_the_old_or_the_new(tmp_path, monkeypatch)


def test_names_that_look_like_numbers_are_no_versions(tmp_path):
    for name in ("1", "²", "٣", "007", "+4", "1e3", str(2**63 - 1), str(2**63), "9" * 200):
        (tmp_path / name).mkdir()
    (tmp_path / "5").touch()
    assert folders.versions(tmp_path) == [1, 2**63 - 1]


def test_a_writer_at_work_keeps_its_folder_and_a_killed_one_does_not(tmp_path):
    base = tmp_path / "toy"
    code = (
        "import sys\n"
        "from kerasrec.versions.folders import new_version\n"
        "with new_version(sys.argv[1], None) as (folder, _):\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(base)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        beside = Path(child.stdout.readline().strip())
        os.utime(beside, (0, 0))  # it has been at work for long
        publish(base)
        assert beside.is_dir()
        child.kill()
        child.wait()
    os.utime(beside, (0, 0))
    publish(base)
    assert not beside.exists()
    assert not list((base / "1").glob(".*"))
