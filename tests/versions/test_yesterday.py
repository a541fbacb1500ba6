"""A version that kerasrec exported before the packages loads, and answers as it did then."""

import tarfile

import numpy as np
import pytest
import yesterday
from places import FILES

#: answers that the old code gave
EXPECTED = FILES / "yesterday_answers.npz"


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Folder of version 1 of the model `yesterday`."""
    folder = tmp_path_factory.mktemp("yesterday")
    with tarfile.open(FILES / "yesterday.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "yesterday" / "1"


@pytest.fixture(scope="module")
def found(version):
    """What today's code answers."""
    return yesterday.answers(version)


@pytest.fixture(scope="module")
def expected():
    """What the old code answered."""
    with np.load(EXPECTED) as saved:
        return {name: saved[name] for name in saved.files}


def test_the_same_is_asked(found, expected):
    assert set(found) == set(expected)
    assert sum(value.size for value in expected.values()) > 10_000


def test_ids_and_counts_are_equal(found, expected):
    exact = [name for name, value in expected.items() if value.dtype.kind in "USbiu"]
    assert len(exact) > 50
    for name in exact:
        assert found[name].tolist() == expected[name].tolist(), name


def test_numbers_are_equal(found, expected):
    numbers = [name for name, value in expected.items() if value.dtype.kind == "f"]
    assert len(numbers) > 30
    for name in numbers:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, rtol=1e-6, err_msg=name)
