"""What of the held-out events is learned at the end, and why."""

import numpy as np
import pandas as pd
import pytest
from toys import histories_of, tiny_options

from kerasrec.fusion.choice import Lifted
from kerasrec.models.validation import make_validation
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.choosing.heldout import HeldOut
from kerasrec.training.choosing.learning import (
    LIFTS,
    Tried,
    decide,
    halves_by_time,
    halves_by_user,
    lift_that_keeps,
)
from kerasrec.training.pipeline import train

START, DAY = 1_400_000_000, 86400


def lifted(ndcg, cold, listed=None):
    """`Lifted` of rows by lift."""
    ndcg, cold = np.array(ndcg, float), np.array(cold, float)
    return Lifted(ndcg, cold, np.zeros(len(ndcg)) if listed is None else np.array(listed))


def test_the_best_of_all_users_is_learned():
    nothing = Tried(False, False, lifted([[0.2, 0.4]], [[0.0, 1.0]]))
    tables = Tried(True, False, lifted([[0.4, 0.4]], [[0.0, 1.0]]))
    both = Tried(True, True, lifted([[0.4, 0.3]], [[0.0, 1.0]]))
    found = decide([nothing, tables, both], (0.0,))
    assert found[:3] == (True, False, 0.0)
    # the mean of +0.2 and 0, and its standard error
    assert (found.why["gain"], found.why["se"]) == (0.1, 0.1)
    assert found.why["ndcg@10"] == {"nothing": 0.3, "tables": 0.4, "tables and model": 0.35}
    assert found.why["recall of new@10"]["tables"] == 0.5


def test_of_equals_the_one_that_learns_more():
    one = lifted([[0.3, 0.3]], np.zeros((1, 0)))
    tried = [Tried(False, False, one), Tried(True, False, one)]
    assert decide(tried, (0.0,))[:3] == (True, False, 0.0)


def test_of_what_is_as_good_the_most_is_learned():
    nothing = Tried(False, False, lifted([[0.1, 0.1]], np.zeros((1, 0))))
    tables = Tried(True, False, lifted([[0.40, 0.42]], np.zeros((1, 0))))

    def found(ndcg):
        tried = [nothing, tables, Tried(True, True, lifted([ndcg], np.zeros((1, 0))))]
        return decide(tried, (0.0,))

    # 0.01 less than the best, of a standard error of 0.03; the gain is said of what is taken
    assert found([0.42, 0.38])[:2] == (True, True) and found([0.42, 0.38]).why["gain"] == 0.3
    assert found([0.39, 0.37])[:2] == (True, False)  # 0.03 less, of a standard error of 0.02


def test_nothing_is_learned_that_hides_new_items():
    """By a lift of 1 the better one lists as many new items, but is worse than nothing then."""
    nothing = Tried(False, False, lifted([[0.3, 0.3], [0.2, 0.2]], [[0.5, 0.6], [0.5, 0.6]]))
    hiding = lifted([[0.9, 0.9], [0.1, 0.1]], [[0.0, 0.0], [0.5, 0.6]])
    assert decide([nothing, Tried(True, True, hiding)], (0.0, 1.0))[:3] == (False, False, 0.0)
    # with a better list at that lift it is taken, lifted
    better = hiding._replace(ndcg=np.array([[0.9, 0.9], [0.4, 0.4]]))
    assert decide([nothing, Tried(True, True, better)], (0.0, 1.0))[:3] == (True, True, 1.0)


def test_new_items_are_lifted_where_it_costs_next_to_nothing():
    rows = [
        [0.30, 0.50, 0.40],  # mean 0.4
        [0.34, 0.48, 0.38],  # as good
        [0.32, 0.48, 0.39],  # 0.0033 less, of a standard error of 0.0120
        [0.20, 0.40, 0.30],  # a tenth less for everybody
    ]
    cold = np.zeros((4, 0))

    def lift(listed):
        tried = [Tried(False, False, lifted(rows, cold, listed))]
        return decide(tried, (0.0, 0.5, 1.0, 2.0)).lift

    assert lift([0.0, 0.1, 0.2, 0.9]) == 1.0
    assert lift([0.0, 0.1, 0.104, 0.9]) == 0.5  # the same in per cent: the smaller lift
    assert lift([0.0, 0.0, 0.0, 0.0]) == 0.0


def test_new_items_keep_their_places():
    one = lifted([[0.3, 0.3], [0.3, 0.3]], np.zeros((2, 0)), [0.5, 0.5])
    fewer = lifted([[0.9, 0.9], [0.4, 0.4]], np.zeros((2, 0)), [0.1, 0.5])
    assert decide([Tried(False, False, one), Tried(True, False, fewer)], (0.0, 1.0))[:3] == (
        True,
        False,
        1.0,
    )
    grows = np.linspace(0, 0.7, len(LIFTS))  # 0.05 by lift
    assert lift_that_keeps(0.1, grows) == LIFTS[2] and lift_that_keeps(0.9, grows) == LIFTS[-1]
    assert lift_that_keeps(0.104, grows) == LIFTS[2]  # the same in per cent
    assert lift_that_keeps(0.1, grows, least=1.0) == 1.0


def test_the_end_is_cut_in_the_middle_of_its_events():
    fitted = histories_of([[1, 2], [3]], [[1, 2], [3]])
    later = histories_of([[3, 4], [5, 6]], [[10, 12], [11, 13]])
    known = histories_of([[1, 2, 3, 4], [3, 5, 6]], [[1, 2, 10, 12], [3, 11, 13]])
    for given in (later, later.select([])):
        held = HeldOut("end", fitted, make_validation(fitted, later), given)
        halves = halves_by_time(held, known)
        assert halves.known.items.tolist() == [1, 2, 3, 3, 5] and halves.are_few
        assert halves.first.histories.items.tolist() == [1, 2, 3]
        assert halves.first.target_items.tolist() == [3, 5]
        assert halves.second.histories.items.tolist() == [1, 2, 3, 3, 5]
        assert halves.second.target_items.tolist() == [4, 6]


def test_half_of_the_users_is_known_and_the_other_half_asked_for():
    fitted = histories_of([[n, n + 1] for n in range(1, 41)])
    later = histories_of([[n + 2] for n in range(1, 41)])
    known = histories_of([[n, n + 1, n + 2] for n in range(1, 41)])
    held = HeldOut("newest", fitted, make_validation(fitted, later), later)
    first, second, learned = halves_by_user(held, known)
    taught, asked = (part.histories.user_ids.tolist() for part in (first, second))
    assert sorted(taught + asked) == sorted(known.user_ids) and 10 < len(taught) < 30
    assert learned.of_users(taught).items.tolist() == known.of_users(taught).items.tolist()
    assert learned.of_users(asked).items.tolist() == fitted.of_users(asked).items.tolist()
    for part in (first, second):
        last = known.of_users(part.histories.user_ids)
        assert part.target_items.tolist() == last.items[last.offsets[1:] - 1].tolist()
        assert part.target_rows.tolist() == list(range(part.histories.num_users))


def log_that_turns():
    """Item n + 20 comes after item n; until the held-out events, after an odd one, n + 40."""
    rng, rows, later = np.random.default_rng(0), [], []
    for user in range(600):
        last, start = user % 20, START + 600 * user
        items = [*rng.integers(60, 100, 2), rng.integers(20, 60), last]
        if user < 200:
            items.append(last + (40 if last % 2 else 20))
        else:
            later.append((user, last + 20, start + DAY * 10))
        rows += [(user, item, start + n) for n, item in enumerate(items)]
    columns = ["user_id", "item_id", "timestamp"]
    return [pd.DataFrame(part, columns=columns).astype({"item_id": str}) for part in (rows, later)]


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["end", "newest"])
def test_train_learns_what_pays_unless_told_not_to(ask, tmp_path):
    log, later = log_that_turns()
    items = pd.DataFrame({"item_id": [str(n) for n in range(100)]}).assign(title="甲")
    options = tiny_options({"name": "none"}, text_units=0, id_units=8, sequence="rnn")
    found = {}
    for refit in (None, False):
        given = dict(name=f"m{refit}", out=tmp_path, options=options, progress=False)
        found[refit] = train(log, items, valid=later, ask=ask, refit=refit, **given)
    assert "learned" not in found[False].manifest
    assert not any(one.manifest["refit"] for one in found.values())
    assert found[None].metrics == found[False].metrics
    learned = found[None].manifest["learned"]
    why = learned["why"]
    if ask == "newest":
        fresher, older = (sum(v.values()) for v in why["tables, ndcg@10"].values())
        assert learned["tables"] == (fresher >= older)
        assert learned["model"] == (why["gain"] >= 0) and learned["lift"] == 0
        return
    assert learned["tables"] and why["ndcg@10"]["tables"] > why["ndcg@10"]["nothing"] + 0.2
    # what the later half was asked for is found once the earlier half is known
    first = {}
    for refit, one in found.items():
        lists = Recommender.load(one.version).recommend([[str(n)] for n in range(20)], k=1)
        first[refit] = (lists["item_id"].astype(int) == np.arange(20, 40)).mean()
    assert first[None] > 0.9 > 0.6 > first[False]


@pytest.mark.slow
def test_with_few_users_nothing_is_learned(small, tmp_path):
    given = dict(name="m", out=tmp_path, options=tiny_options({"name": "none"}), progress=False)
    trained = train(*small, ask="end", **given)
    learned = trained.manifest["learned"]
    assert learned["why"] == {"refused": "too few held-out events"}
    assert (learned["tables"], learned["model"], learned["lift"]) == (False, False, 0.0)
