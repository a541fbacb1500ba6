"""What a child learns from, and what it keeps of its parent."""

import numpy as np
from conftest import histories_of

from kerasrec.childversion import replayed
from kerasrec.recommender import Recommender
from kerasrec.trainingstate import Rebuilt, read_training_state
from kerasrec.updating import grown_catalogue


def test_replayed_by_hand():
    """Two new events of user 0: these and 2 before them; one of the others is drawn."""
    histories = histories_of([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [5, 6, 7], [8]])
    part = replayed(histories, np.array([2, 0, 0, 0]), 2, seed=0)
    assert part.num_users == 2 and part.user_ids[0] == "u0"
    assert part.items[: part.offsets[1]].tolist() == [3, 4, 5, 6]
    assert part.items[part.offsets[1] :].tolist() in ([3, 4], [6, 7])
    nobody = replayed(histories, np.array([0, 0, 0, 1]), 2, seed=0)
    assert nobody.num_users == 0  # one event alone has nothing before it


def test_a_grown_model_gives_old_items_their_vectors(toy_base, grown_items):
    parent = Recommender.load(toy_base / "1")
    items = grown_catalogue(parent.items, grown_items)
    rebuilt = Rebuilt(toy_base / "1", items)
    model, state = rebuilt.model, rebuilt.state
    vectors = model.item_vectors(np.arange(len(items) + 1)).numpy()
    old = len(parent.items)
    np.testing.assert_allclose(
        vectors[1 : old + 1], parent.item_vectors(parent.items.ids), atol=1e-6
    )
    new = parent.encode(["深度学习与推荐系统", "唐诗宋词鉴赏", ""])
    np.testing.assert_allclose(vectors[old + 1 :], new, atol=1e-5)
    assert (
        state.options["num_items"]
        == old
        == read_training_state(toy_base / "1").options["num_items"]
    )
