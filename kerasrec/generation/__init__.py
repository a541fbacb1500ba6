"""Generates items in order: a decoder over the codes of items, and beam search in the graph.

`decoder` builds the language model over codes, `generator` keeps what was trained, `beamsearch`
searches plans.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.generation.beamsearch import BeamSearch as BeamSearch
    from kerasrec.generation.decoder import build_decoder as build_decoder
    from kerasrec.generation.generator import Generator as Generator
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "generator": ["Generator"],
            "decoder": ["build_decoder"],
            "beamsearch": ["BeamSearch"],
        },
    )
