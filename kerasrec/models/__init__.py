"""Builds the Keras graph: item vectors, sequence model, interest, losses, scorer.

What is computed, in this order:

1. `textpart` encodes and whitens the item texts.
2. `itemvectors` joins text part, id part and codes of an item to its vector.
3. `sequencemodels` turns the vectors of a history into one state per event.
4. `interest` adds long- and short-term memory and projects to the interest U; `losses` trains it.
5. `scoring` corrects the scores by an MLP and finds the best items.
6. `graphfusion` fuses the parts of the score, in the graph of a version.

`build` joins 2 to 5 to a `Model`, and `kerasmodel` lets a Keras user train it; `ensemble` averages
several of them; `validation` ranks with the weights of the moment; `codes` gives items short tuples
of codes and needs no TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.models.build import Model as Model
    from kerasrec.models.build import TextEncoder as TextEncoder
    from kerasrec.models.build import build_model as build_model
    from kerasrec.models.codes import fit_product_codes as fit_product_codes
    from kerasrec.models.codes import fit_semantic_ids as fit_semantic_ids
    from kerasrec.models.ensemble import average_models as average_models
    from kerasrec.models.kerasmodel import plot_model as plot_model
    from kerasrec.models.losses import LOSSES as LOSSES
    from kerasrec.models.sequencemodels import SEQUENCE_MODELS as SEQUENCE_MODELS
    from kerasrec.models.validation import Ranker as Ranker
    from kerasrec.models.validation import Validation as Validation
    from kerasrec.models.validation import hold_out_last as hold_out_last
    from kerasrec.models.validation import make_validation as make_validation
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "build": ["Model", "TextEncoder", "build_model"],
            "kerasmodel": ["plot_model"],
            "losses": ["LOSSES"],
            "sequencemodels": ["SEQUENCE_MODELS"],
            "codes": ["fit_product_codes", "fit_semantic_ids"],
            "validation": ["Ranker", "Validation", "hold_out_last", "make_validation"],
            "ensemble": ["average_models"],
        },
    )
