import numpy as np
import pytest

from kerasrec.fusion import weights as fusionweights
from kerasrec.fusion.weights import (
    FITS,
    NUM_WAITS,
    FitData,
    _part,
    best_mixture,
    best_way,
    by_likelihood,
    climb,
    fit_logit,
    fit_weights,
    mixed,
    most_likely,
    ndcg_of_hits,
    top_hits,
    wait_buckets,
)


def test_most_likely_finds_the_weights_a_mixture_was_drawn_from():
    rng = np.random.default_rng(0)
    first, second = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    drawn = rng.random(20000) < 0.3 * first[0] + 0.7 * second[0]
    outcome = np.where(drawn, 0, 1)
    weights = most_likely(np.stack([first[outcome], second[outcome]], axis=1), steps=500)
    assert weights[0] == pytest.approx(0.3, abs=0.03)


def test_targets_that_no_part_can_name_do_not_move_the_weights():
    parts = np.array([[0.5, 0.1], [0.4, 0.1]])
    known = np.vstack([parts, np.zeros((5, 2))])
    np.testing.assert_allclose(most_likely(known), most_likely(parts))
    assert most_likely(known)[0] > 0.99
    np.testing.assert_allclose(most_likely(np.zeros((3, 2))), [0.5, 0.5])


def logit_data(num_users=3000, num_items=8, seed=0):
    """Users who choose by `exp(features . weights)`: features, candidates, the weights."""
    rng = np.random.default_rng(seed)
    weights = np.array([1.5, -0.7, 0.0, 0.4])
    features = rng.normal(size=(4, num_users, num_items)).astype(np.float32)
    noise = rng.gumbel(size=(num_users, num_items))
    chosen = (np.tensordot(weights, features, 1) + noise).argmax(axis=1)
    hits = np.zeros((num_users, num_items), bool)
    hits[np.arange(num_users), chosen] = True
    return features, candidates_of(hits), weights


def candidates_of(hits, real=None):
    nothing = np.zeros((1, *hits.shape), np.float32)
    return FitData(
        items=np.tile(np.arange(1, hits.shape[1] + 1), (len(hits), 1)),
        shares=nothing,
        is_new=nothing[0],
        prior=nothing,
        scorer=nothing[0],
        real=np.ones_like(hits) if real is None else real,
        hits=hits,
        num_targets=hits.sum(axis=1),
        waited=np.zeros(len(hits), int),
        target_shares=np.ones((int(hits.sum()), 1)),
        target_waited=np.zeros(int(hits.sum()), int),
    )


def test_the_likelihood_finds_the_weights_that_choices_were_drawn_with():
    features, data, weights = logit_data()
    np.testing.assert_allclose(by_likelihood(features, data), weights, atol=0.12)


def test_the_likelihood_by_hand():
    # one feature, two items: 3 of 4 users take the one with the feature, so exp(w) = 3
    features = np.tile(np.array([[1.0, 0.0]], np.float32), (400, 1))[None]
    hits = np.zeros((400, 2), bool)
    hits[:300, 0] = hits[300:, 1] = True
    weight = fit_logit(features, hits.astype(np.float32), np.ones_like(hits))
    assert weight[0] == pytest.approx(np.log(3), abs=0.02)  # the ridge takes a little


def test_an_item_that_half_the_users_have_counts_half():
    # three of four take the first item though it is open to half of them: exp(w) / 2 = 3
    features = np.array([[[1.0, 0.0, 0.0]]], np.float32)
    wanted = np.array([[300.0, 100.0, 50.0]], np.float32)  # nobody could choose the last one
    weight = fit_logit(features, wanted, np.array([[0.5, 1.0, 0.0]]))
    assert weight[0] == pytest.approx(np.log(6), abs=0.02)


def test_the_weight_of_the_mlp_is_not_below_0():
    features, data, _ = logit_data()
    order = [0, 2, 3, 1]  # the feature that repels is last, where the MLP is
    for weights in fit_weights(features[order], data, np.eye(4)[0], 3).values():
        assert weights[-1] >= 0


def test_climbing_makes_ndcg_no_worse_and_can_mend_a_bad_start():
    features, data, weights = logit_data()

    def ndcg(found):
        hits = top_hits(np.tensordot(found, features, 1), data, 3)
        return ndcg_of_hits(hits, data.num_targets).mean()

    start = np.array([0.2, 0.7, 0.5, 0.0])
    climbed = climb(start, features, data, 3, ridge=1e-4)
    assert ndcg(climbed) > ndcg(start) + 0.05
    assert ndcg(climbed) > ndcg(weights) - 0.01


def test_places_without_a_candidate_have_no_say():
    features, data, _ = logit_data(num_users=200)
    real = np.ones_like(data.hits)
    padded = np.pad(features, [(0, 0), (0, 0), (0, 3)], constant_values=50.0)
    hits, real = (np.pad(part, [(0, 0), (0, 3)]) for part in (data.hits, real))
    wide = candidates_of(hits, real)
    for name, weights in fit_weights(features, data, np.eye(4)[0], 3).items():
        found = fit_weights(padded, wide, np.eye(4)[0], 3)[name]
        np.testing.assert_allclose(found, weights, atol=2e-2)


def test_no_target_among_the_candidates_gives_no_weights():
    data = candidates_of(np.zeros((5, 3), bool))
    features = np.ones((2, 5, 3), np.float32)
    assert not by_likelihood(features, data).any()
    assert climb(np.ones(2), features, data, 3, ridge=1e-4).tolist() == [1, 1]


@pytest.mark.parametrize("hold_back", ["users", "items"])
def test_the_best_fit_is_one_of_the_three(hold_back):
    features, data, _ = logit_data(num_users=300)
    assert best_way(features, data, np.eye(4)[0], 3, hold_back=hold_back) in FITS


def test_held_back_items_have_no_part_in_the_fit():
    features, data, _ = logit_data(num_users=50)
    mask = data.items % 3 != 0
    _, fitted = _part(features, data, mask)
    assert not fitted.real[fitted.items % 3 == 0].any()
    assert fitted.num_targets.sum() == (data.hits & mask).sum() > 0


@pytest.mark.parametrize("way", FITS)
def test_one_way_alone_is_the_same_as_among_all(way):
    features, data, _ = logit_data(num_users=200)
    start = np.eye(4)[0]
    alone = fit_weights(features, data, start, 3, ways=(way,))
    assert list(alone) == [way]
    np.testing.assert_array_equal(alone[way], fit_weights(features, data, start, 3)[way])


def test_a_climb_by_a_sample_of_the_targets_is_near_that_by_all(monkeypatch):
    features, data, _ = logit_data()
    start = np.array([0.2, 0.7, 0.5, 0.0])
    by_all = climb(start, features, data, 3, ridge=1e-4)
    monkeypatch.setattr(fusionweights, "MAX_TARGETS", 1500)
    by_sample = climb(start, features, data, 3, ridge=1e-4)
    assert not np.array_equal(by_all, by_sample)

    def ndcg(weights):
        hits = top_hits(np.tensordot(weights, features, 1), data, 3)
        return ndcg_of_hits(hits, data.num_targets).mean()

    assert ndcg(by_sample) == pytest.approx(ndcg(by_all), abs=0.01)


def test_the_best_mixture_leaves_out_a_part_that_knows_nothing():
    rng = np.random.default_rng(0)
    hits = np.zeros((60, 8), bool)
    hits[np.arange(60), rng.integers(0, 8, 60)] = True
    knows = np.where(hits, 0.6, 0.4 / 7).astype(np.float32)
    noise = rng.dirichlet(np.full(8, 0.2), 60).astype(np.float32)
    shares = np.stack([noise, knows])
    data = candidates_of(hits)._replace(shares=shares, target_shares=shares[:, hits].T)
    rows = best_mixture(data, 1)
    mixture = rows[0]
    assert mixture.sum() == pytest.approx(1) and mixture[1] > 0.6
    found = top_hits(mixed(data, rows), data, 1)
    np.testing.assert_array_equal(found, top_hits(np.tensordot(mixture, shares, 1), data, 1))
    assert ndcg_of_hits(found, data.num_targets).mean() > 0.95
    np.testing.assert_array_equal(rows, np.tile(mixture, (NUM_WAITS, 1)))  # nobody has waited


def test_the_best_mixture_follows_the_wait():
    """Users of bucket 1 take what part 0 knows, those of bucket 6 what part 1 knows."""
    rng = np.random.default_rng(1)
    hits = np.zeros((600, 8), bool)
    hits[np.arange(600), rng.integers(0, 8, 600)] = True
    waited = np.where(np.arange(600) < 300, 1, 6)
    knows = np.where(hits, 0.3, 0.7 / 7).astype(np.float32)
    wrong = rng.dirichlet(np.full(8, 0.2), 600).astype(np.float32)
    of_first = (waited == 1)[:, None]
    shares = np.stack([np.where(of_first, knows, wrong), np.where(of_first, wrong, knows)])
    data = candidates_of(hits)._replace(
        shares=shares, waited=waited, target_shares=shares[:, hits].T, target_waited=waited
    )
    rows = best_mixture(data, 1)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert rows[1, 0] > 0.6 and rows[6, 1] > 0.6 and rows[1, 0] > rows[0, 0] > rows[6, 0]
    np.testing.assert_array_equal(rows[3], rows[0])  # a bucket without users
    assert ndcg_of_hits(top_hits(mixed(data, rows), data, 1), data.num_targets).mean() > 0.9


def test_a_few_users_of_a_bucket_move_little():
    """EM by hand: 10 targets that part 0 alone names, and 30 of the mixture (.25, .75) of all."""
    parts = np.tile([[1.0, 0.0]], (10, 1))
    found = most_likely(parts, known=np.array([0.25, 0.75]))
    np.testing.assert_allclose(found, [(10 + 7.5) / 40, 22.5 / 40])


def test_wait_buckets_at_the_bounds():
    seconds = [-5, 0, 1, 59, 60, 299, 300, 1799, 1800, 7199, 7200, 71_999, 72_000, 604_800, 10**9]
    assert wait_buckets(seconds).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7]


def test_a_nearly_constant_feature_gets_no_large_weight():
    """In a log of days what happened within the hour is the same for nearly all items."""
    rng = np.random.default_rng(0)
    wanted = np.zeros((500, 20), np.float32)
    wanted[np.arange(500), rng.integers(0, 20, 500)] = 1
    telling = (rng.standard_normal(wanted.shape) + wanted).astype(np.float32)
    # the chosen item has a bit less of it, by a ten-thousandth
    nearly = (1e-4 * rng.standard_normal(wanted.shape) - 1e-4 * wanted).astype(np.float32)
    constant = np.ones_like(telling)
    found = fit_logit(np.stack([telling, nearly, constant]), wanted, np.ones_like(wanted))
    assert found[2] == 0 and 0.8 < found[0] < 1.2
    assert abs(found[1]) < 100  # it was about -10,000
    # at a varying feature nothing has changed: the same weight in other units
    tenfold = fit_logit(np.stack([10 * telling]), wanted, np.ones_like(wanted))
    alone = fit_logit(np.stack([telling]), wanted, np.ones_like(wanted))
    np.testing.assert_allclose(10 * tenfold, alone, rtol=1e-3)
