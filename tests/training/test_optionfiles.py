"""Options read from source texts are those that the running code knows."""

import subprocess
import sys
import time

import pytest

from kerasrec.training import optionfiles, options
from kerasrec.training.optionfiles import check_early, hints_of
from kerasrec.training.optionwords import words


def test_the_owners_are_the_same():
    owners = {
        section: [(one.__module__.removeprefix("kerasrec."), one.__name__) for one in functions]
        for section, functions in options.OWNERS.items()
    }
    assert owners == optionfiles.OWNERS


@pytest.mark.parametrize("section", options.SECTIONS)
def test_every_option_is_known_with_the_words_of_its_values(section):
    early = hints_of(section)
    known = {one.name: one.values for one in options.option_table() if one.section == section}
    assert set(early) == set(known)
    # only the running module knows what an optimizer may be
    assert [name for name, hint in early.items() if hint is None] == (
        ["optimizer"] if section == "trainer" else []
    )
    for name, hint in early.items():
        assert hint is None or words(hint) == known[name], name


SLIPS = [
    ({"model": {"dropuot": 0.1}}, "Unknown option model.dropuot. Did you mean 'dropout'?"),
    ({"modle": {}}, "Unknown section 'modle'. Did you mean 'model'?"),
    ({"model": {"sequence": "rn"}}, "Unknown model.sequence 'rn'. Did you mean 'rnn'?"),
    ({"trainer": {"epochs": "many"}}, "trainer.epochs must be a whole number. Received: 'many'."),
    ({"encoder": {"mode": "frozn"}}, "Did you mean 'frozen'?"),
    ({"fusion": {"parts": ["tex"]}}, "Unknown part 'tex' in fusion.parts. Did you mean 'text'?"),
    ({"generator": {"dropout": 1}}, "must be a share from 0 to below 1"),
]


@pytest.mark.parametrize(("given", "sentence"), SLIPS)
def test_both_refuse_with_the_same_words(given, sentence):
    with pytest.raises(ValueError) as early:
        check_early("balanced", given)
    with pytest.raises(ValueError) as late:
        options.resolve_preset("balanced", given)
    assert str(early.value) == str(late.value) and sentence in str(early.value)


def test_presets_and_good_options():
    for preset in options.PRESETS:
        check_early(preset, {"model": {"loss": "bpr", "dropout": "1e-1"}, "encoder": None})
    with pytest.raises(ValueError, match="Unknown preset 'fsat'. Did you mean 'fast'"):
        check_early("fsat", {})


def test_a_slip_on_the_command_line_is_told_before_tensorflow(tmp_path):
    words = ("train", "--interactions", "no.csv", "--name", "x", "--set", "model.dropuot=1")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kerasrec.cli", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 2 and "Did you mean 'dropout'" in done.stderr
    assert "tensorflow" not in done.stderr
    assert seconds < 10  # about 1 on an idle machine; TensorFlow alone takes longer than that


def test_a_slip_in_the_name_of_an_encoder_is_told_early(tmp_path):
    for name, near in (("nonee", "none"), ("e5-smal", "e5-small"), ("tf-idf", "tfidf")):
        with pytest.raises(FileNotFoundError, match=f"Did you mean '{near}'"):
            check_early("fast", {"encoder": {"name": name}})
    for name in ("none", "tfidf", "vectors:x.npy", str(tmp_path)):
        check_early("fast", {"encoder": {"name": name}})
