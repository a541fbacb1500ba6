"""Files are replaced whole or not at all."""

import os

import pytest

from kerasrec.data.files import whole_file


def test_a_whole_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "labels.json", [], os.fsync
    path.write_text("old")

    def record(number):
        synced.append((os.fstat(number).st_ino, os.fstat(number).st_size, path.read_text()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", record)
    with whole_file(path) as beside:
        beside.write_text("newer")
    assert synced == [(path.stat().st_ino, 5, "old")]
    assert path.read_text() == "newer"


def test_a_whole_file_that_failed_leaves_the_old_one_and_nothing_beside(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
