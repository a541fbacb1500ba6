"""The next version, from what users did since the last one.

`updating` makes it and publishes it or refuses; `drifting` says when it is time; `simulation`
replays a log to say what all this is worth.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "updating": ["update", "update_from_store"],
        "drifting": ["drift"],
        "simulation": ["simulate"],
    },
)
