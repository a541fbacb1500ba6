"""A version at work in Python: lists, plans, similar items, new items, newer events."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "recommender": ["Recommender"],
    },
)
