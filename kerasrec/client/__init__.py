"""Asks a server over gRPC or REST, and puts plans into words.

Loads without TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "client": ["Client"],
        "planwords": ["LanguageModel", "Plan", "describe_plans"],
    },
)
