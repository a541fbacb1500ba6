"""Item text to vector, in Python and in the graph.

Builds encoders from checkpoints of many formats, tokenizes, pools, whitens and caches, and holds
the same tokenizers as TensorFlow operations for the exported graph.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.text.encoders import build_encoder as build_encoder
    from kerasrec.text.textmodel import add_lora as add_lora
    from kerasrec.text.textmodel import set_trainable as set_trainable
    from kerasrec.text.vectors import Whitening as Whitening
    from kerasrec.text.vectors import fit_whitening as fit_whitening
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "encoders": ["build_encoder"],
            "vectors": ["Whitening", "fit_whitening"],
            "textmodel": ["add_lora", "set_trainable"],
        },
    )
