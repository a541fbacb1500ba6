"""The question that `train` chooses weights for: what is held out, refused, and said of it."""

import numpy as np
import pandas as pd
import pytest
from toys import tiny_options

from kerasrec.data.histories import before, make_histories
from kerasrec.data.sources import as_interactions, as_items
from kerasrec.fusion.fusion import fit_tables
from kerasrec.models.validation import Validation, ranking_quality
from kerasrec.recommender.recommender import Recommender
from kerasrec.training import catchup, stages
from kerasrec.training.choosing.heldout import FEWEST_TO_WEIGH
from kerasrec.training.options import resolve_preset
from kerasrec.training.pipeline import train
from kerasrec.versions.folders import read_manifest

START, DAY, DAYS = 1_400_000_000, 86400, 24


def log_of_days(days=range(DAYS)):
    """Every day 100 of 300 users take the item of the day and the one that goes with it."""
    rng, rows = np.random.default_rng(0), []
    for day in range(DAYS):
        for user in rng.permutation(300)[:100]:
            moment = START + DAY * day + int(rng.integers(80_000))
            if day in days:
                rows += [(f"u{user}", f"i{2 * day + part}", moment + 60 * part) for part in (0, 1)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


ITEMS = pd.DataFrame({"item_id": [f"i{n}" for n in range(2 * DAYS)]}).assign(title="甲")
OPTIONS = tiny_options({"name": "none"}, text_units=0, id_units=8)


def read(log, ask=None, valid=None):
    valid = None if valid is None else as_interactions(valid)
    return stages.read(as_interactions(log), as_items(ITEMS), valid, ask)


def test_the_newest_tenth_is_held_out_as_requests():
    log = log_of_days()
    held = read(log).held
    assert held.ask == "live"
    cut = held.fitted.timestamps.max()
    later = log[log["timestamp"] > cut]
    assert len(held.fitted.items) == len(log) - len(later)
    assert len(later) == pytest.approx(len(log) / 10, abs=2)
    # every event after the cut, in order of time, with what its user did before it
    known, places, times, validation = held.requests
    assert len(places) == len(later) and (np.diff(times) >= 0).all() and times[0] > cut
    for row in range(0, len(places), 40):
        user = known.user_ids[np.searchsorted(known.offsets, places[row], side="right") - 1]
        mine = log[log["user_id"] == user].sort_values("timestamp", kind="stable")
        past = mine[mine["timestamp"] < times[row]]
        history = validation.histories.select([row])
        assert [f"i{item - 1}" for item in history.items] == past["item_id"].tolist()
        item = mine[mine["timestamp"] == times[row]]["item_id"].item()
        assert f"i{validation.target_items[row] - 1}" == item
        assert held.requests.time_of(history) == times[row]
    # the model is stopped by those of users with a past
    assert held.validation.histories.lengths.min() > 0
    assert len(held.validation.target_items) == (validation.histories.lengths > 0).sum()


def test_one_moment_is_never_parted_and_repeats_are_no_requests():
    log = log_of_days()
    log["timestamp"] -= (log["timestamp"] - START) % DAY  # dates
    held = read(log).held
    assert held.fitted.timestamps.max() < held.requests.times.min()
    assert len(held.fitted.items) % 200 == 0
    whole = len(held.requests.places)
    again = log[log["timestamp"] < START + 3 * DAY].assign(timestamp=START + DAYS * DAY - 1)
    held = read(pd.concat([log, again])).held  # nothing new is taken at the end
    assert held.ask == "newest" and whole >= FEWEST_TO_WEIGH


def test_of_many_requests_the_newest_are_taken(monkeypatch):
    monkeypatch.setattr("kerasrec.training.choosing.heldout.MAX_USERS", 320)
    log = log_of_days()
    requests = read(log).held.requests
    np.testing.assert_array_equal(requests.times, np.sort(log["timestamp"])[-320:])


def test_valid_that_is_later_is_what_is_asked():
    old, new = log_of_days(range(20)), log_of_days(range(20, DAYS))
    held = read(old, valid=new).held
    assert held.ask == "live" and len(held.fitted.items) == len(old)
    assert len(held.requests.places) == len(held.later.items) == len(new)
    assert len(held.requests.known.items) == len(old) + len(new)
    few = new[new["timestamp"] > START + DAY * (DAYS - 1)]
    assert read(old, valid=few).held.ask == "end"
    held = read(old, "end", new).held
    assert held.ask == "end" and held.requests is None
    assert held.validation.histories.num_users < len(held.validation.target_items)
    held = read(old, "newest", new).held
    assert held.ask == "newest" and held.requests is None


def test_end_holds_out_the_newest_tenth():
    log = log_of_days()
    data = read(log, "end")
    assert len(data.held.fitted.items) == pytest.approx(len(log) * 0.9, abs=2)
    assert data.held.later.num_users == 0 and len(data.everything().items) == len(log)
    users = data.validation.histories.user_ids
    assert len(set(users)) == len(users)


def test_questions_that_the_data_cannot_answer():
    log = log_of_days()
    timeless = log[["user_id", "item_id"]]
    assert read(timeless).held.ask == "newest"
    for ask in ("live", "end"):
        with pytest.raises(ValueError, match=f"ask='{ask}' needs the times.*without times. Give"):
            read(timeless, ask)
        with pytest.raises(ValueError, match=f"ask='{ask}' needs events of more than one moment"):
            read(log.assign(timestamp=START), ask)
        with pytest.raises(ValueError, match=f"ask='{ask}' needs events in valid that are later"):
            read(log, ask, log_of_days([3]).assign(item_id="i47"))
    assert read(log.assign(timestamp=START)).held.ask == "newest"
    with pytest.raises(ValueError, match="ask='live' needs at least 300 held-out events.*fewer"):
        read(log_of_days(range(10)), "live")
    assert read(log_of_days(range(10))).held.ask == "newest"
    with pytest.raises(ValueError, match="ask must be one of live, newest, end. Received: 'now'"):
        read(log, "now")


def answered(version, log, day):
    """NDCG@10 of the requests of a day, recent events counted each hour."""
    recommender = Recommender.load(version)
    known = make_histories(as_interactions(log), recommender.items)
    found = []
    for hour in range(24):
        begin = START + DAY * day + 3600 * hour
        inside = (known.timestamps >= begin) & (known.timestamps < begin + 3600)
        if len(places := np.flatnonzero(inside)):
            recommender.observe(known.where(known.timestamps < begin))
            rows = before(known, places)
            lists = recommender.recommend(rows, k=10)
            table = np.zeros((len(places), 10), np.int32)
            order = pd.Index(rows.user_ids).get_indexer(lists["user_id"])
            table[order, lists["rank"] - 1] = recommender.index_of(lists["item_id"])
            validation = Validation(rows, np.arange(len(places)), known.items[places])
            found += [ranking_quality(table, validation)["ndcg@10"]] * len(places)
    return np.mean(found)


@pytest.fixture(scope="module")
def by_ask(tmp_path_factory):
    """ask -> `Trained` on all days but the last."""
    folder = tmp_path_factory.mktemp("asks")
    given = dict(out=folder, options=OPTIONS, progress=False)
    log = log_of_days(range(DAYS - 1))
    asks = {"live": None, "newest": "newest", "end": "end"}
    return {name: train(log, ITEMS, name=name, ask=ask, **given) for name, ask in asks.items()}


@pytest.mark.slow
def test_live_weights_answer_the_next_day_better(by_ask):
    """Items are new every day: tables that held what came later are trusted too much."""
    log = log_of_days()
    quality = {n: answered(by_ask[n].version, log, DAYS - 1) for n in ("live", "newest")}
    assert quality["live"] > quality["newest"] + 0.1


@pytest.mark.slow
def test_manifests_say_which_question(by_ask):
    said = {name: read_manifest(trained.version) for name, trained in by_ask.items()}
    assert [manifest.ask for manifest in said.values()] == ["live", "newest", "end"]
    assert said["live"].asked == said["end"].asked == "end of the log"
    assert said["newest"].asked == "newest event of the user"
    assert said["live"].validation == "each event of the newest tenth, at its moment"
    assert said["newest"].validation == "last event of each user"
    assert said["end"].validation == "newest tenth, lists at its begin"
    assert said["live"].weighed == 460 and said["newest"].weighed == 0
    assert said["live"].fusion.fit == "live"
    assert set(said["live"].tables) == set(said["live"].fusion.decays)
    assert set(by_ask["live"].metrics) == set(by_ask["newest"].metrics)


@pytest.mark.slow
def test_the_version_learns_at_the_end_what_it_was_weighed_by(by_ask, monkeypatch):
    """When weights are chosen, neither model nor tables know a request that is to be predicted."""
    log = log_of_days(range(DAYS - 1))
    items, interactions = as_items(ITEMS), as_interactions(log)
    learned, fit = [], stages.fit_models

    def noting_fit(build, histories, *rest, **options):
        learned.append(histories)
        return fit(build, histories, *rest, **options)

    monkeypatch.setattr(stages, "fit_models", noting_fit)
    # the stages of `train`, one after the other, up to the choice of the weights
    data, wanted = read(log), resolve_preset("balanced", OPTIONS)
    text = stages.encode(data, wanted, progress=False)
    fitted = stages.fit(data, text, wanted, progress=False)
    chosen = stages.choose(fitted.model, data, text, wanted)
    vectors = stages.Ranker(fitted.model).item_vectors().numpy()[1:]
    assert learned[0].timestamps.max() < data.held.requests.times.min()
    assert len(learned[0].items) + len(data.held.requests.places) == len(log)
    first = by_ask["live"]
    version = Recommender.load(first.version)
    found = version.item_vectors(items.ids)
    assert np.abs(found - vectors).max() > 1e-3
    place = first.manifest["tables"]["transitions"]
    expected = fit_tables(data.histories, len(items))["transitions"][place]
    table = version.fusion().tables["transitions"]
    np.testing.assert_allclose(table.weights, expected.weights, atol=1e-6)
    assert version.log_end == interactions.frame["timestamp"].max()
    # the same seed, the same numbers
    assert chosen.metrics == pytest.approx(first.metrics, abs=1e-6)
    fitted, _, _ = catchup.catch_up(fitted, chosen, data, text, wanted, learn=True)
    again = stages.Ranker(fitted.model).item_vectors().numpy()[1:]
    np.testing.assert_allclose(found, again, atol=1e-4)


@pytest.mark.slow
def test_tables_learn_at_the_end_the_newest_event_of_each_user(by_ask):
    """For "end" they learn what is behind the cut where the manifest says that it paid."""
    log = log_of_days(range(DAYS - 1))
    assert by_ask["newest"].manifest["learned"]["tables"]
    for ask in ("newest", "end"):
        data = read(log, ask)
        learned = by_ask[ask].manifest["learned"]["tables"]
        events = data.histories if learned else data.fitted
        assert len(data.fitted.items) < len(data.histories.items) == len(log)
        place = by_ask[ask].manifest["tables"]["transitions"]
        expected = fit_tables(events, len(ITEMS))["transitions"][place]
        table = Recommender.load(by_ask[ask].version).fusion().tables["transitions"]
        np.testing.assert_allclose(table.weights, expected.weights, atol=1e-6)
