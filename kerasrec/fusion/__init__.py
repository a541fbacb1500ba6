"""The one score: what the model says, what follows what, what reads alike, what is recent.

Fits the neighbour tables and recency, and chooses the weights of all parts on validation. Loads
without TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fusion": ["Fusion", "fit_tables"],
        "neighbours": ["NeighbourTable"],
        "recency": ["Counts", "Recency"],
        "choice": ["choose_fusion", "choose_live"],
    },
)
