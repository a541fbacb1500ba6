"""`VersionPlans`: plans from a loaded version, and the codes of the items that it is told of."""

import numpy as np

from kerasrec.backend import tf
from kerasrec.checks import check_number, is_whole
from kerasrec.data.histories import model_inputs
from kerasrec.generation.generator import Generator, read_ids
from kerasrec.models.codes import make_trie
from kerasrec.recommender.draws import MOST_DIVERSITY, Draws
from kerasrec.versions import folders

SEARCHED = Draws()
#: numbers of one call for all items together, about
_CELLS = 2**22
#: the trie's arrays among the variables of the search
_TRIE = ("first_child", "num_children", "code", "start", "end", "leaves", "widest")
#: beams of a search at most: they take memory
MOST_BEAMS = 256


class VersionPlans:
    """Plans from a loaded version.

    Args:
        module: the loaded version, or a `PlanningModule`.
        version: its folder; None where it is none (yet).
    """

    def __init__(self, module, version):
        self._module, self._version = module, version
        self._ids = None  # read when items are added

    @property
    def can_plan(self):
        """Whether there is a generator in the graph."""
        return hasattr(self._module, "planner")

    def check(self, num_items, beams, num_lists, diversity, draws, batch_size=1):
        """Raise ValueError where `index` does not take these, or there is no generator."""
        if not self.can_plan:
            raise ValueError(
                "This version generates no plans. Train one that does: kerasrec train --generator, "
                "or train(..., generator=True)."
            )
        longest = int(self._module.planner.longest.numpy())
        for name, value, most in (
            ("num_items", num_items, longest),
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
        histories,
        asked,
        num_items,
        *,
        listed=(),
        beams=16,
        num_lists=1,
        diversity=0.0,
        draws=SEARCHED,
        batch_size=64,
    ):
        """Plans as item indices: int32 and log p, `(num_users, num_lists, num_items)`.

        Args:
            histories: `Histories`, whole ones: what they hold is left out.
            asked: int64 `(num_users,)`, when each plan is asked for.
            listed: two int32 arrays, the item indices that alone may be listed and those that may
                not; empty = no such rule.
            others: of `Recommender.generate`, checked.
        """
        shape = (histories.num_users, num_lists, num_items)
        index, logs = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
        seeds = draws.seeds(histories.user_ids)
        batch_size = min(batch_size, max(_CELLS // len(self._module.planner.tokens.numpy()), 1))
        by_length = np.argsort(histories.lengths, kind="stable")
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            part = histories.select(rows)
            inputs = model_inputs(part, int(part.lengths.max(initial=1)))
            inputs = [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]
            rules = listed or (np.zeros(0, np.int32), np.zeros(0, np.int32))
            inputs += [tf.constant(np.tile(rule, (len(rows), 1))) for rule in rules]
            inputs.append(tf.constant(asked[rows]))
            options = (num_items, beams, num_lists, float(diversity), draws)
            index[rows], logs[rows] = self._plans(inputs, seeds[rows], *options)
        return index, logs

    def _plans(self, inputs, seeds, num_items, beams, num_lists, diversity, draws):
        size = len(seeds)
        temperature, top_p = (
            tf.fill([size], float(value)) for value in (draws.temperature, draws.top_p)
        )

        def run(earlier, seeds):
            found = self._module.generate_rows(
                *inputs,
                tf.constant(earlier),
                tf.constant(diversity),
                tf.constant(num_items, tf.int32),
                tf.constant(beams, tf.int32),
                temperature,
                top_p,
                tf.constant(seeds),
            )
            return [part.numpy() for part in found]

        earlier = np.zeros((size, 0), np.int32)
        if num_lists == 1 or not diversity:
            return [part[:, :num_lists] for part in run(earlier, seeds)]
        lists = []
        for number in range(num_lists):
            index, logs = run(earlier, seeds + number)
            lists.append((index[:, :1], logs[:, :1]))
            earlier = np.concatenate([earlier, index[:, 0]], axis=1)
        return [np.concatenate(parts, axis=1) for parts in zip(*lists, strict=True)]

    def add_items(self, vectors):
        """Code new items by their item vectors, `(num_new, dim)`, so that they are planned too."""
        if not self.can_plan:
            return
        before = self.ids
        self._ids = before.with_items(vectors)
        planner, trie = self._module.planner, make_trie(self._ids.codes)
        known = planner.tokens.numpy()
        offsets = known[1] - before.codes[0]
        new = self._ids.codes[len(before.codes) :] + offsets
        planner.tokens.assign(np.concatenate([known, new.astype(np.int32)]))
        for name, values in trie._asdict().items():
            getattr(planner, f"trie_{name}").assign(values)

    @property
    def ids(self):
        """`SemanticIds` of the catalogue, added items included."""
        if self._ids is None:
            self._ids = read_ids(self._version / folders.GENERATOR)
        return self._ids

    def variables(self):
        """Name in a checkpoint -> value, of what grows with the catalogue."""
        if not self.can_plan:
            return {}
        names = ["tokens", *(f"trie_{name}" for name in _TRIE)]
        return {f"planner/{name}": getattr(self._module.planner, name) for name in names}

    def facts(self):
        """What a manifest says of the codes of the catalogue: `usage` and `most_alike`."""
        return {"usage": self.ids.usage(), "most_alike": int(self.ids.codes[:, -1].max()) + 1}

    def generator(self):
        """The `Generator` of the version with the codes of added items, to go on with; or None."""
        if not self.can_plan:
            return None
        return Generator.load(self._version / folders.GENERATOR, ids=self.ids)

    def save_to(self, folder):
        """Write the codes of added items into the folder of a copy of the version."""
        if self.can_plan and self._ids is not None:
            self.generator().save(folder / folders.GENERATOR)
