"""`VersionPlans`: plans from a loaded version, and the codes of the items that it is told of."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerasrec.checks import check_number, is_whole
from kerasrec.client.draws import MOST_DIVERSITY, Draws
from kerasrec.models.codes import SemanticIds, make_trie
from kerasrec.recommender.questions import Questions
from kerasrec.versions import folders
from kerasrec.versions.loaded import LoadedVersion

if TYPE_CHECKING:  # the decoder is built by training code; to plan, none of it is needed
    from kerasrec.generation.generator import Generator

SEARCHED = Draws()
#: numbers of one call for all items together, about
_CELLS = 2**22
#: beams of a search at most: they take memory
MOST_BEAMS = 256


class VersionPlans:
    """Plans from a loaded version.

    Args:
        loaded: `LoadedVersion`.
    """

    def __init__(self, loaded: LoadedVersion):
        self._loaded = loaded
        self._ids: SemanticIds | None = None  # read when items are added

    @property
    def can_plan(self) -> bool:
        """Whether there is a generator in the graph."""
        return "plans" in self._loaded.abilities

    def check(
        self,
        num_items: int,
        beams: int,
        num_lists: int,
        diversity: float,
        draws: Draws,
        batch_size: int = 1,
    ) -> None:
        """Raises ValueError where `index` does not take these, or there is no generator."""
        if not self.can_plan:
            raise ValueError(
                "This version generates no plans. Train one that does: kerasrec train --generator, "
                "or train(..., generator=True)."
            )
        for name, value, most in (
            ("num_items", num_items, self._loaded.longest_plan),
            ("beams", beams, MOST_BEAMS),
            ("num_lists", num_lists, beams),
            ("batch_size", batch_size, 2**20),
        ):
            if not (is_whole(value) and 1 <= value <= most):
                raise ValueError(
                    f"{name} must be a whole number from 1 to {most}. Received: {value!r}."
                )
        check_number("diversity", diversity, MOST_DIVERSITY)
        draws.checked()

    def index(
        self,
        questions: Questions,
        num_items: int,
        *,
        beams: int = 16,
        num_lists: int = 1,
        diversity: float = 0.0,
        draws: Draws = SEARCHED,
        batch_size: int = 64,
        in_order: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Plans as item indices: int32 and log p, `(num_users, num_lists, num_items)`.

        Args:
            questions: `Questions`; a plan holds no item of its history.
            others: of `Recommender.generate`, checked.
        """
        histories = questions.histories
        shape = (questions.num_users, num_lists, num_items)
        index, logs = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
        seeds = draws.seeds(histories.user_ids)
        batch_size = min(batch_size, max(_CELLS // len(self._loaded.plan_tokens()), 1))
        by_length = np.argsort(histories.lengths, kind="stable")
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            part = questions.select(rows)
            plans = functools.partial(
                self._loaded.plans,
                part.inputs(),
                part.allow,
                part.deny,
                part.times,
                part.waited,
                diversity=float(diversity),
                num_items=num_items,
                beams=beams,
                temperature=draws.temperature,
                top_p=draws.top_p,
                in_order=in_order,
            )
            index[rows], logs[rows] = _lists(plans, seeds[rows], num_lists, diversity)
        return index, logs

    def add_items(self, vectors: np.ndarray) -> None:
        """Codes new items by their item vectors, `(num_new, dim)`, so that they are planned too."""
        if not self.can_plan:
            return
        before = self.ids
        self._ids = grown = before.with_items(vectors)
        known = self._loaded.plan_tokens()
        offsets = known[1] - before.codes[0]
        new = (grown.codes[len(before.codes) :] + offsets).astype(np.int32)
        self._loaded.set_plan_codes(np.concatenate([known, new]), make_trie(grown.codes))

    def change_items(self, rows: np.ndarray, before: np.ndarray, now: np.ndarray) -> None:
        """Codes items anew whose texts have changed; see `SemanticIds.with_changed`."""
        if not self.can_plan:
            return
        old = self.ids
        self._ids = moved = old.with_changed(rows, before, now)
        tokens = self._loaded.plan_tokens()
        tokens[1:] += (moved.codes - old.codes).astype(np.int32)
        self._loaded.set_plan_codes(tokens, make_trie(moved.codes))

    @property
    def ids(self) -> SemanticIds:
        """`SemanticIds` of the catalogue, added items included."""
        if self._ids is None:
            from kerasrec.generation.generator import read_ids

            self._ids = read_ids(self._path)
        return self._ids

    @property
    def _path(self):
        return self._loaded.folder / folders.GENERATOR

    def facts(self) -> dict:
        """What a manifest says of the codes of the catalogue: `usage` and `most_alike`."""
        return {"usage": self.ids.usage(), "most_alike": int(self.ids.codes[:, -1].max()) + 1}

    def generator(self) -> "Generator | None":
        """The `Generator` of the version with the codes of added items, to go on with; or None."""
        if not self.can_plan:
            return None
        from kerasrec.generation.generator import Generator

        return Generator.load(self._path, ids=self.ids)

    def save_to(self, folder: Path) -> None:
        """Writes the codes of added items into the folder of a copy of the version."""
        generator = None if self._ids is None else self.generator()
        if generator is not None:
            generator.save(folder / folders.GENERATOR)


def _lists(plans, seeds, num_lists, diversity):
    """Several plans for each row, `(batch, num_lists, num_items)` of index and of log p.

    Args:
        plans: `LoadedVersion.plans` of a batch; only earlier plans and seeds are missing.
        seeds: int32 `(batch,)`.
    """
    earlier = np.zeros((len(seeds), 0), np.int32)
    if num_lists == 1 or not diversity:
        return [part[:, :num_lists] for part in plans(earlier=earlier, seeds=seeds)]
    lists = []
    for number in range(num_lists):
        index, logs = plans(earlier=earlier, seeds=seeds + number)
        lists.append((index[:, :1], logs[:, :1]))
        earlier = np.concatenate([earlier, index[:, 0]], axis=1)
    return [np.concatenate(parts, axis=1) for parts in zip(*lists, strict=True)]
