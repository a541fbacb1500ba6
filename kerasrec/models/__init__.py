"""The Keras graph: item vectors, sequence model, interest, losses, scorer.

`build_model` joins them; `validation` ranks with what is trained so far; `codes` gives items short
tuples of codes; `ensemble` averages several models into one.
"""

import lazy_loader

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
