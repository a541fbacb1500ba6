"""The Keras graph: item vectors, sequence model, interest, losses, scorer.

`build_model` joins them; `validation` ranks with what is trained so far; `codes` gives items short
tuples of codes; `ensemble` averages several models into one.
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
            "losses": ["LOSSES"],
            "sequencemodels": ["SEQUENCE_MODELS"],
            "codes": ["fit_product_codes", "fit_semantic_ids"],
            "validation": ["Ranker", "Validation", "hold_out_last", "make_validation"],
            "ensemble": ["average_models"],
        },
    )
