"""How plans are chosen, and the checks of it that `Client` and `Recommender` share."""

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from kerasrec.checks import check_number, is_whole

#: plans that are alike cannot be pressed further apart: exp(-100) is nothing
MOST_DIVERSITY = 100.0


class Draws(NamedTuple):
    """Plans are searched for at temperature 0, else drawn; see `BeamSearch.search`."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def checked(self) -> "Draws":
        """The same; raises ValueError where a number is out of range."""
        check_number("temperature", self.temperature, np.inf)
        check_number("top_p", self.top_p, 1.0)
        if not is_whole(self.seed):
            raise ValueError(f"seed must be a whole number. Received: {self.seed!r}.")
        return self

    def seeds(self, users: Iterable[Any]) -> np.ndarray:
        """A seed of each user's own, which does not depend on who else is asked for.

        Returns:
            int32 `(num_users,)`.

        >>> Draws(seed=1).seeds(["a", "b"]).tolist() == Draws(seed=1).seeds(["a"]).tolist() + [
        ...     int(Draws(seed=1).seeds(["b"])[0])]
        True
        """
        texts = (f"{int(self.seed)}/{user}".encode("utf-8", "surrogatepass") for user in users)
        return np.array([zlib.crc32(text) & 0x3FFFFFFF for text in texts], np.int32)
