"""Tables in, version out.

`pipeline` goes through the stages; `trainer` fits one model, `fitting` several, `generating` the
generator of plans; `options` knows the sections and presets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pipeline": ["Trained", "train"],
        "trainer": ["Trainer"],
        "generating": ["fit_generator"],
    },
)
