"""The one score: what the model says, what follows what, what reads alike, what is recent.

Fits the neighbour tables and recency, and chooses the weights of all parts on validation. Loads
without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.fusion.choice import choose_fusion as choose_fusion
    from kerasrec.fusion.choice import choose_live as choose_live
    from kerasrec.fusion.fusion import Fusion as Fusion
    from kerasrec.fusion.fusion import fit_tables as fit_tables
    from kerasrec.fusion.neighbours import NeighbourTable as NeighbourTable
    from kerasrec.fusion.recency import Counts as Counts
    from kerasrec.fusion.recency import Recency as Recency
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "fusion": ["Fusion", "fit_tables"],
            "neighbours": ["NeighbourTable"],
            "recency": ["Counts", "Recency"],
            "choice": ["choose_fusion", "choose_live"],
        },
    )
