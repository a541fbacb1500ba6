"""A version at work in Python: lists, plans, similar items, new items, newer events."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.recommender.recommender import Recommender as Recommender
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "recommender": ["Recommender"],
        },
    )
