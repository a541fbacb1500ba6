"""Item text to vector, in Python and in the graph.

Builds encoders from checkpoints of many formats, tokenizes, pools, whitens and caches, and holds
the same tokenizers as TensorFlow operations for the exported graph.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "encoders": ["build_encoder"],
        "vectors": ["Whitening", "fit_whitening"],
        "textmodel": ["add_lora", "set_trainable"],
    },
)
