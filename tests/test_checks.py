import logging
import threading
import time

import pytest

from kerasrec import checks
from kerasrec.checks import LONG, Pace, did_you_mean, step

log = logging.getLogger("kerasrec.tests")


@pytest.fixture
def said(caplog):
    """What was logged: `(message, whether it says that work takes long)`."""
    caplog.set_level("INFO", "kerasrec.tests")
    return lambda: [(r.getMessage(), getattr(r, "is_long", False)) for r in caplog.records]


def test_did_you_mean_without_a_likeness():
    assert did_you_mean("zzz", ["dropout", "heads"]) == "Known: dropout, heads."
    assert did_you_mean(3, ["dropout"]) == "Known: dropout."


def test_did_you_mean_names_the_likeliest():
    assert (
        did_you_mean("epoch", ["epochs", "patience"])
        == "Did you mean 'epochs'? Known: epochs, patience."
    )


def test_a_step_says_that_it_begins_and_how_long_it_took(said):
    with step(log, "loading %s", "shop"):
        assert said() == [("loading shop", False)]
    assert said()[1:] == [("loading shop: done in 0.0 s", False)]


def test_a_step_that_fails_is_not_done(said):
    with pytest.raises(KeyError), step(log, "loading %s", "shop"):
        raise KeyError
    assert said() == [("loading shop", False)]
    assert "kerasrec-step" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("only_long", [False, True])
def test_a_long_step_says_that_it_goes_on(said, monkeypatch, only_long):
    monkeypatch.setattr(checks, "SILENCE", 0.05)
    with step(log, "choosing", only_long=only_long):
        until = time.monotonic() + 5
        while len(said()) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    begun, lines = ([], said()) if only_long else (said()[:1], said()[1:])
    assert begun == ([] if only_long else [("choosing", False)])
    assert set(lines[:-1]) == {("choosing: goes on after 0 s", True)}
    assert lines[-1] == ("choosing: done in 0 s", True)
    assert LONG == {"is_long": True}


def test_nothing_is_said_of_a_short_step_where_only_long_ones_count(said):
    with step(log, "choosing", only_long=True):
        pass
    assert said() == []


def test_a_pace_is_said_at_most_every_ten_seconds(said, monkeypatch):
    assert checks.SILENCE == 10
    monkeypatch.setattr(checks, "SILENCE", 0.2)
    pace = Pace(log)
    pace.say("step %d", 1)
    time.sleep(0.25)
    pace.say("step %d", 2)
    pace.say("step %d", 3)  # right behind it
    time.sleep(0.25)
    pace.say("step %d", 4)
    assert said() == [("step 2", True), ("step 4", True)]
