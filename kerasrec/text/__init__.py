"""Turns item texts into vectors, in Python and in the graph of a version.

The way of a text in Python:

1. `checkpointfolder` and `e5small` find the files of a pretrained encoder; `tensorfiles` reads
   their tensors.
2. `architectures` renames the tensors and builds the transformer of bert4keras.
3. `tokenizers` turns texts into token ids.
4. `textmodel` pools token states to one vector, and sets which weights learn.
5. `encoders` joins all this to an `Encoder`; `plainencoders` has those without one of
   their own: n-grams, ready vectors, an endpoint.
6. `vectors` has the contract `Encoder`, and keeps vectors on disk.

The twin in the graph, which needs no Python: `graphwordpiece` and `graphunigram` tokenize,
`graphtokenizers` picks one of them and encodes many texts in chunks; pooling and whitening are
layers (`textmodel`, `models.itemvectors.WhiteningLayer`).
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
