"""Loads the data set that ships with the package: a first run needs no download."""

from pathlib import Path

from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.sources import read_interactions, read_items

MOOCCUBE_FOLDER = Path(__file__).parent / "mooccube"


def load_mooccube() -> tuple[Interactions, Items]:
    """Loads course enrolments of 2,000 learners with Chinese course texts.

    The source is MOOCCube (CC0); cite Yu et al. 2020.

    Returns:
        `(Interactions, Items)`: 26,890 enrolments (2015-06 to 2019-11) in 633 courses; the items
        have `title`, `text` (introduction) and `category` (code of the school).

    >>> interactions, items = load_mooccube()
    >>> len(interactions), interactions.num_users, len(items)
    (26890, 2000, 633)
    """
    return (
        read_interactions(MOOCCUBE_FOLDER / "interactions.csv.gz"),
        read_items(MOOCCUBE_FOLDER / "items.csv.gz"),
    )
