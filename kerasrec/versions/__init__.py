"""Writes and reads versions: SavedModel folders that are never changed once they are there.

- What a version computes: `graph` (lists, scores, vectors), `plangraph` (plans as well), and
  `itemmatrix` (its item vectors in several forms).
- How it is written: `exporter` writes the graph, reloads it in a fresh process and compares;
  `manifest` and `modelcard` say what it is; `trainingstate` keeps the weights for further training;
  `warmup` has one request for each signature; `deployment` makes the files for TF Serving.
- How it is read: `folders` finds versions and labels, `manifest` reads what a version says of
  itself (both without TensorFlow), and `loaded` alone knows the attributes of a loaded SavedModel.
- How the next one comes from it: `derive` copies it with other numbers in the same graph.
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
