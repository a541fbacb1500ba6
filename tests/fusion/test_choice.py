"""Weights chosen on validation, and as a live server predicts."""

import numpy as np
import pytest
from toys import histories_of, planted_histories

from kerasrec.data.histories import before
from kerasrec.fusion import choice
from kerasrec.fusion.choice import (
    choose_fusion,
    choose_live,
    quality_by_lift,
    quality_of_tables,
)
from kerasrec.fusion.fusion import Fusion, fit_tables
from kerasrec.fusion.recency import KINDS, fit_moments
from kerasrec.models.validation import Validation, hold_out_last, make_validation, ranking_quality


class FixedRanker:
    """A ranker with given probabilities for every history and a given MLP."""

    def __init__(self, probabilities, scorer=0.0):
        self.given, self.scorer = np.asarray(probabilities, np.float32), scorer

    def probabilities(self):
        def of(histories):
            rows = np.tile(self.given, (histories.num_users, 1))
            return rows, lambda index: np.full(index.shape, self.scorer, np.float32)

        return of


def test_choose_fusion_leans_on_the_part_that_knows():
    train, validation = hold_out_last(planted_histories())
    uniform = np.full(31, 1 / 30)
    chosen, quality = choose_fusion(
        FixedRanker(uniform), validation, fit_tables(train, 30), fit_moments(train, 30)
    )
    leading = max(chosen.weights, key=lambda name: chosen.weights[name][0])
    assert leading in ("transitions", "follows", "ease", "mixture")
    assert sum(chosen.mixture[name] for name in ("transitions", "follows", "ease")) > 0.5
    assert quality["valid_ndcg@10"] > 0.9 > quality["valid_ndcg_of_the_model_alone@10"]


def test_choose_fusion_leaves_a_perfect_model_alone():
    rows = [[1, 2, 5], [3, 4, 5], [2, 1, 5]] * 5
    train, validation = hold_out_last(histories_of(rows))
    perfect = np.full(7, 1e-3)
    perfect[5] = 1
    chosen, quality = choose_fusion(
        FixedRanker(perfect), validation, fit_tables(train, 6), fit_moments(train, 6)
    )
    assert chosen.weights == {"model": (1.0, 0.0)} and not chosen.tables
    assert not chosen.prior.any() and chosen.popular_at is None and not chosen.mixture
    assert quality["valid_ndcg@10"] == pytest.approx(1)


def test_quality_of_the_model_alone_equals_ranking_quality():
    rng = np.random.default_rng(3)
    probabilities = rng.random(41)
    probabilities[0] = 0
    histories = histories_of([rng.permutation(40)[:5] + 1 for _ in range(30)])
    rows = np.repeat(np.arange(30), 2)
    targets = rng.integers(1, 41, 60).astype(np.int32)
    validation = Validation(histories, rows, targets)
    lists = []
    for user in range(30):
        scores = probabilities.copy()
        scores[histories.items[histories.offsets[user] : histories.offsets[user + 1]]] = -1
        lists.append(np.argsort(-scores[1:])[:10] + 1)
    expected = ranking_quality(np.array(lists, np.int32), validation)["ndcg@10"]
    _, quality = choose_fusion(
        FixedRanker(probabilities / probabilities.sum()),
        validation,
        {},
        fit_moments(histories, 40),
    )
    assert quality["valid_ndcg_of_the_model_alone@10"] == pytest.approx(expected, abs=1e-6)


def test_items_seen_before_fill_no_place():
    train = histories_of([[1, 2, 3, 4, 5, 6, 7]] * 3)
    validation = Validation(train, np.arange(3), np.array([1, 2, 3], np.int32))  # seen already
    uniform = np.full(9, 1 / 8)
    _, quality = choose_fusion(FixedRanker(uniform), validation, {}, fit_moments(train, 8))
    assert quality["valid_ndcg@10"] == 0


def test_recency_wins_where_it_alone_knows():
    """Everybody takes the item of the hour; model and tables know nothing of time."""
    hour, rows, times = 3600, [], []
    for user in range(200):
        start = 1_400_000_000 + user * hour
        now = user // 10 + 1  # ten users in turn take the same item
        rows.append([25 + user % 5, now])
        times.append([start, start + 60])
    train, validation = hold_out_last(histories_of(rows, times))
    # the tables of a model that has not seen time: none
    uniform = np.full(31, 1 / 30)
    log = histories_of(rows, times)  # the item of the hour is there in others' events
    chosen, quality = choose_fusion(FixedRanker(uniform), validation, {}, fit_moments(log, 30))
    assert quality["valid_ndcg@10"] > 0.6 > quality["valid_ndcg_of_the_model_alone@10"]
    moment = np.searchsorted(chosen.starts, 1_400_000_000 + 195 * hour, side="right") - 1
    assert chosen.popular_at[0, moment, 1:25].argmax() + 1 == 20
    assert chosen.popular.argmax() == 20


def test_one_moment_is_not_many():
    rows, times = [[1, 2], [2, 3]], [[1_400_000_000, 1_400_000_060]] * 2
    log = histories_of(rows, times)
    assert not choice._many_moments(fit_moments(log, 30, only_end=True))
    assert choice._many_moments(fit_moments(log.timeless(), 30))


def test_new_items_rise_by_the_lift():
    """Both users have items 1 and 2; item 3 comes before item 4, which is new, by log(5 / 3)."""
    log = histories_of([[1, 2], [1, 2], [3]])
    asked = Validation(log.select([0, 1]), np.arange(2), np.array([3, 4], np.int32))
    ranker = FixedRanker([0, 0.1, 0.1, 0.5, 0.3])
    found = quality_by_lift(ranker, asked, Fusion.alone(4), fit_moments(log, 4), (0.0, 0.5, 0.6))
    second = 1 / np.log2(3)
    np.testing.assert_allclose(found.ndcg, [[1, second], [1, second], [second, 1]])
    assert found.cold.tolist() == [[1], [1], [1]]  # of the user who took item 4
    assert found.listed.tolist() == [0.5, 0.5, 0.5]


def test_a_table_is_measured_alone():
    """After item 1 comes item 2, then item 3; nothing is known of item 4."""
    log = histories_of([[1, 2]] * 3 + [[1, 3]])
    tables = fit_tables(log, 4, parts=("transitions",))["transitions"]
    asked = Validation(histories_of([[1], [1], [4]]), np.arange(3), np.array([2, 3, 1], np.int32))
    found = quality_of_tables({"transitions": tables[0]._replace(decay=0.5)}, asked)
    assert found == {"transitions": pytest.approx((1 + 1 / np.log2(3)) / 3)}


def popular_for_newcomers(histories, validation):
    uniform = np.full(11, 1 / 10)
    moments = fit_moments(histories, 10, only_end=True)
    return choose_fusion(FixedRanker(uniform), validation, {}, moments)[0].popular


def test_what_is_seen_by_many_is_no_less_popular():
    # everybody has item 1, so nobody can take it any more; of the others the popular ones are taken
    rows = [[1, 2 + user % 2] for user in range(12)] + [[1, 2], [1, 2], [1, 4]]
    log = histories_of(rows, [[1_400_000_000, 1_400_000_060]] * len(rows))
    targets = np.array([3 if row[1] == 2 else 2 for row in rows], np.int32)
    validation = Validation(log, np.arange(len(rows)), targets)
    order = np.argsort(-popular_for_newcomers(log, validation)[1:], kind="stable") + 1
    assert order[:3].tolist() == [1, 2, 3]


def test_newcomers_say_what_newcomers_take():
    # those with a past take what is new, those without one what most have taken
    log = histories_of([[1, 2], [1, 3], [1, 4]], [[1_400_000_000, 1_400_000_060]] * 3)
    later = histories_of([[9], [10], [9], *[[1]] * 30], [[1_400_009_999]] * 33)
    later = later._replace(
        user_ids=np.array([f"u{i}" for i in range(3)] + [f"n{i}" for i in range(30)])
    )
    validation = make_validation(log, later)
    assert validation.newcomers.user_ids.tolist() == [f"n{i}" for i in range(30)]
    assert popular_for_newcomers(log, validation).argmax() == 1
    alone = popular_for_newcomers(log, validation._replace(newcomers=None))
    assert alone[9] > alone[1]


# --- chosen as a live server predicts ---


def live_log(num_days=12, num_users=240):
    """Every day all take the item of the day; then each takes the one that always follows it."""
    rng = np.random.default_rng(0)
    rows, times = [[] for _ in range(num_users)], [[] for _ in range(num_users)]
    for day in range(num_days):
        for user in rng.permutation(num_users)[:80]:
            moment = 1_000_000_000 + 86400 * day + int(rng.integers(80_000))
            rows[user] += [2 * day + 1, 2 * day + 2]
            times[user] += [moment, moment + 60]
    kept = [n for n, row in enumerate(rows) if row]
    return histories_of([rows[n] for n in kept], [times[n] for n in kept])


def chosen_live(log, since, num_items=30, before_it=None):
    """`choose_live` on the events from `since` on, with tables of what comes before."""
    tables = {
        name: found[1 if len(found) > 1 else 0]
        for name, found in fit_tables(log.where(log.timestamps < since), num_items).items()
    }
    places = np.flatnonzero(log.timestamps >= since)
    places = places[np.argsort(log.timestamps[places], kind="stable")]
    rows = before(log, places)
    validation = Validation(rows, np.arange(len(places)), log.items[places])
    ranker = FixedRanker(np.full(num_items + 1, 1 / num_items))
    times = log.timestamps[places]
    chosen = {"transitions": 1}
    found = choose_live(ranker, log, validation, times, tables, chosen, before=before_it)
    return found, tables, places


def test_choose_live_knows_no_later_events():
    """Half of the events are new items of the day: no table of earlier days can know them."""
    log = live_log()
    since = 1_000_000_000 + 86400 * 9
    (chosen, quality), tables, places = chosen_live(log, since)
    assert chosen.tables and quality["valid_ndcg@10"] > 0.6
    # the tables are those of the last part for "ease", and as they were given for the others
    with_a_past = places[before(log, places).lengths > 0]
    last = np.array_split(with_a_past, choice.LIVE_BLOCKS)[-1][0]
    known = fit_tables(log.where(log.timestamps < log.timestamps[last]), 30)["ease"][0]
    np.testing.assert_allclose(chosen.tables["ease"].weights, known.weights)
    assert chosen.tables["transitions"] is tables["transitions"]
    # what is recent speaks up: the item of the day stands first for who has had none of it
    newcomer = chosen.popular[1:].argmax() + 1
    assert newcomer in (23, 24)
    # who comes back after a day asks what is there now, more than who goes on
    popular = chosen.mixture_rows(["popular"])[:, 0]
    assert popular[6] >= popular[1]
    assert chosen.popular_at.shape == (KINDS, *chosen.prior.shape)


def test_choose_live_takes_the_mean_with_an_earlier_choice():
    log = live_log()
    since = 1_000_000_000 + 86400 * 9
    (new, _), tables, places = chosen_live(log, since)
    earlier = log.where(log.timestamps < since)
    (old, _), *_ = chosen_live(earlier, since - 86400)
    count = len(places)
    (mean, _), *_ = chosen_live(log, since, before_it=(old, 3 * count))
    for name in mean.weights:
        one, other = (np.array(f.weights.get(name, (0, 0))) for f in (old, new))
        np.testing.assert_allclose(mean.weights[name], 0.75 * one + 0.25 * other, atol=1e-9)
    names = list(mean.mixture)
    shares = [found.mixture_rows(names) for found in (old, new, mean)]
    np.testing.assert_allclose(shares[2], 0.75 * shares[0] + 0.25 * shares[1])
    for name in ("weights", "popular_weights"):
        one, other = (getattr(f.recency, name) for f in (old, new))
        np.testing.assert_allclose(getattr(mean.recency, name), 0.75 * one + 0.25 * other)
    assert mean.scorer_weight == pytest.approx(0.75 * old.scorer_weight + 0.25 * new.scorer_weight)
    # the priors are those of the mean, and equal weights stay as they are
    prior, popular = mean.recency.priors()
    np.testing.assert_allclose(mean.prior[-1], prior, atol=1e-4)
    np.testing.assert_allclose(mean.popular, popular[-1], atol=1e-4)
    (same, _), *_ = chosen_live(log, since, before_it=(new, 7))
    np.testing.assert_allclose(same.popular, new.popular, atol=1e-5)
    # an earlier choice of the model alone has nothing to say
    alone = Fusion.alone(30)
    (found, _), *_ = chosen_live(log, since, before_it=(alone, 1000))
    assert found.weights == new.weights


def test_tables_are_chosen_on_events_as_they_come():
    """The kind and decay of each table: what was tried, and nothing that came later is known."""
    log = live_log()
    order = np.argsort(log.timestamps, kind="stable")[-400:]
    validation = Validation(before(log, order), np.arange(400), log.items[order])
    times = log.timestamps[order]
    num_items = int(log.items.max())
    tables, chosen = choice.choose_tables(log, validation, times, num_items)
    assert list(tables) == list(chosen) == ["transitions", "follows", "ease"]
    assert all(table.decay in choice.DECAYS for table in tables.values())
    known = fit_tables(log.where(log.timestamps < times[0]), num_items)
    for name, place in chosen.items():
        np.testing.assert_array_equal(tables[name].neighbours, known[name][place].neighbours)
    # all follow the last item: a slower decay only adds noise
    assert tables["transitions"].decay == choice.DECAYS[0]
