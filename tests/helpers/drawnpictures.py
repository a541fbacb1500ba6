"""Drawn pictures whose colour and shape decide what follows: synthetic, for tests and figures."""

from typing import NamedTuple

import numpy as np
import pandas as pd

SIZE = 32
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 70, 200), (210, 180, 40))
SHAPES = ("square", "disc", "triangle")


class DrawnShop(NamedTuple):
    """A shop whose items differ by their pictures alone.

    log, valid, later: DataFrames of events, one after the other; half of the events of the last two
    are of items that are new then.  items: DataFrame; the titles say nothing.  vectors: float32
    `(num_items, width)`, of their pictures.  kinds: colour and shape of each item, as one number.
    cold: ids of the items that are new in `later`.
    """

    log: pd.DataFrame
    valid: pd.DataFrame
    later: pd.DataFrame
    items: pd.DataFrame
    vectors: np.ndarray
    kinds: np.ndarray
    cold: list


def draw(colour, shape, rng):
    """A picture, uint8 `(SIZE, SIZE, 3)`: one shape somewhere on a grey ground, with noise."""
    centre, radius = rng.uniform(12, 20, 2), rng.uniform(6, 10)
    down, right = np.mgrid[:SIZE, :SIZE] - centre[:, None, None]
    inside = {
        "square": (abs(down) < 0.85 * radius) & (abs(right) < 0.85 * radius),
        "disc": down**2 + right**2 < radius**2,
        "triangle": (down < 0.7 * radius) & (down > 2 * abs(right) - radius),
    }[shape]
    light = rng.uniform(0.7, 1.2)
    picture = np.where(inside[..., None], light * np.array(colour), rng.uniform(120, 200))
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def describe(picture):
    """A vector of a picture, float32 `(80,)`: how much of which colour, edges of which direction.

    It stands for an image network: plain counts, which know nothing of what the shop sells.
    """
    cells = (picture // 64).astype(int) @ [16, 4, 1]
    colours = np.bincount(cells.ravel(), minlength=64) / cells.size
    down, right = np.gradient(picture.mean(axis=2))
    direction = ((np.arctan2(down, right) + np.pi) / (2 * np.pi) * 16).astype(int) % 16
    edges = np.bincount(direction.ravel(), np.hypot(down, right).ravel(), minlength=16)
    return np.concatenate([colours, edges / edges.sum()]).astype(np.float32)


def drawn_shop(*, num_items=120, num_new=24, num_users=300, events=10, stays=0.85, seed=0):
    """Makes a `DrawnShop`: each user stays with items of one colour and shape for most events."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(num_items) % (len(COLOURS) * len(SHAPES)))
    pictures = [draw(COLOURS[kind // 3], SHAPES[kind % 3], rng) for kind in kinds]
    ids = np.array([f"i{number}" for number in range(num_items)], object)
    titles = [f"商品 {number}" for number in rng.permutation(num_items)]
    #: 0 = known from the start, 1 = new when `valid` begins, 2 = new when `later` begins
    came = np.repeat([0, 1, 2], [num_items - 2 * num_new, num_new, num_new])
    tastes = rng.integers(0, len(COLOURS) * len(SHAPES), num_users)
    parts = []
    for period, count in enumerate((events, 2, 2)):
        rows = []
        for user in rng.permutation(num_users):
            start = 1_700_000_000 + 10_000_000 * period + 1000 * len(rows)
            for step in range(count):
                # of later events every second one is of what is new
                among = came == period if period and step else came <= max(period - 1, 0)
                if rng.random() < stays:
                    among = among & (kinds == tastes[user])
                rows.append((f"u{user}", rng.choice(ids[among]), start + step))
        parts.append(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))
    return DrawnShop(
        *parts,
        pd.DataFrame({"item_id": ids, "title": titles}),
        np.stack([describe(picture) for picture in pictures]),
        kinds,
        ids[came == 2].tolist(),
    )
