"""One SavedModel folder: what it computes, how it is written, read, derived and deployed.

`folders` (which loads without TensorFlow) knows the layout and the labels; `graph` is what a
version computes; `exporter` writes it, reloads it in a fresh process and compares; `derive` copies
it with other numbers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "exporter": ["export"],
        "derive": ["export_again"],
        "deployment": ["deploy"],
        "folders": ["find_version", "read_manifest", "rollback"],
    },
)
