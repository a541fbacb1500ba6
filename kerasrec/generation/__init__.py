"""Items in order: a decoder over the codes of items, and beam search in the graph."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "generator": ["Generator"],
        "decoder": ["build_decoder"],
        "beamsearch": ["BeamSearch"],
    },
)
