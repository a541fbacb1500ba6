"""Judges a new version beside its parent and baselines, on held-back events: the gate."""

from typing import Any

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Interactions
from kerasrec.evaluation.evaluation import Evaluation, evaluate, run_baselines

#: length of the lists that are judged: here, by `drift` and by `simulate`
LIST_LENGTH = 10
#: baselines that a child must not fall behind
_RIVALS = ("recent_popularity", "item_knn")


def judge(child: Any, parent: Any, learned: Interactions, held: Interactions) -> Evaluation:
    """Judges child, parent and baselines on events that are later than all they have learned.

    Args:
        child, parent: `Recommender`s.
        learned: `Interactions` that both know.
        held: `Interactions` to judge on.

    Returns:
        `Evaluation`; its first model is the child.

    Raises:
        ValueError: nothing to judge on.
    """
    histories = make_histories(learned, child.items)
    asked = histories.of_users(held.frame["user_id"].astype(str).unique())
    lists = {
        name: model.recommend(asked, k=LIST_LENGTH, at="now")
        for name, model in (("child", child), ("parent", parent))
    }
    lists |= run_baselines(histories, asked, child.items, k=LIST_LENGTH, names=_RIVALS)
    return evaluate(
        lists, held, histories=histories, train=learned, items=child.items, ks=(LIST_LENGTH,)
    )


def decide(evaluation: Evaluation) -> tuple[bool, str]:
    """Decides whether the child may be published, and says why.

    It may when its NDCG is at least the parent's and not surely (95 %) below that of a baseline. It
    may also be below a baseline when it is surely better than the parent: otherwise the worse
    version would remain.
    """
    figures = figures_of(evaluation)
    ndcg = evaluation.comparisons.query("metric == 'ndcg'").set_index("model")
    against = ndcg.loc["parent"]
    text = (
        f"NDCG@{LIST_LENGTH} {figures['child']:.4f} against the parent's {figures['parent']:.4f} "
        f"(difference {against['difference']:+.4f}, 95 % {against['low']:+.4f} to "
        f"{against['high']:+.4f}, {evaluation.counts['child']['users']} users)"
    )
    if against["difference"] < 0:
        return False, f"worse than its parent: {text}"
    for name in _RIVALS:
        if ndcg.loc[name, "high"] < 0 and not against["low"] > 0:
            return False, f"below {name} ({figures[name]:.4f}): {text}"
    return True, text


def figures_of(evaluation: Evaluation) -> dict[str, float]:
    """Gives the NDCG of every judged model, by name."""
    return {name: round(evaluation.value(name, "ndcg")[0], 4) for name in evaluation.models}
