"""Tables in, version out.

`pipeline` goes through the stages; `trainer` fits one model in a `run` with `optimizers`,
`fitting` several, `generating` the generator of plans; `options` knows the sections and presets.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.training.generating import fit_generator as fit_generator
    from kerasrec.training.pipeline import Trained as Trained
    from kerasrec.training.pipeline import train as train
    from kerasrec.training.trainer import Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "pipeline": ["Trained", "train"],
            "trainer": ["Trainer"],
            "generating": ["fit_generator"],
        },
    )
