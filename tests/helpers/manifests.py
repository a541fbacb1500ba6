"""A manifest that an earlier kerasrec 0.1.0 wrote, and variants of it."""

import json

from places import FILES

from kerasrec.versions.manifest import make_manifest

TEXT = (FILES / "manifest.json").read_text(encoding="utf-8")


def real_dict(**changes):
    """The manifest as the dict that the file holds; a change to `...` leaves the key out."""
    changed = {**json.loads(TEXT), **changes}
    return {key: value for key, value in changed.items() if value is not ...}


def real_manifest(**changes):
    """The same as a `Manifest`."""
    return make_manifest(real_dict(**changes))
