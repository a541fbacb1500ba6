"""One SavedModel folder: what it computes, how it is written, read, derived and deployed.

`folders` (which loads without TensorFlow) knows the layout and the labels; `graph` is what a
version computes; `exporter` writes it, reloads it in a fresh process and compares; `derive` copies
it with other numbers.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.versions.deployment import deploy as deploy
    from kerasrec.versions.derive import export_again as export_again
    from kerasrec.versions.exporter import export as export
    from kerasrec.versions.folders import find_version as find_version
    from kerasrec.versions.folders import read_manifest as read_manifest
    from kerasrec.versions.folders import rollback as rollback
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "exporter": ["export"],
            "derive": ["export_again"],
            "deployment": ["deploy"],
            "folders": ["find_version", "read_manifest", "rollback"],
        },
    )
