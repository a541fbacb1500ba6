"""Asks a server over gRPC or REST, and puts plans into words.

Loads without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.client.client import Client as Client
    from kerasrec.client.planwords import LanguageModel as LanguageModel
    from kerasrec.client.planwords import Plan as Plan
    from kerasrec.client.planwords import describe_plans as describe_plans
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "client": ["Client"],
            "planwords": ["LanguageModel", "Plan", "describe_plans"],
        },
    )
