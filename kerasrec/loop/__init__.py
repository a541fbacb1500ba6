"""The next version, from what users did since the last one.

`updating` makes it and publishes it or refuses; `drifting` says when it is time; `simulation`
replays a log to say what all this is worth, and `replaying` answers the requests of one.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.loop.drifting import drift as drift
    from kerasrec.loop.replaying import replay as replay
    from kerasrec.loop.simulation import simulate as simulate
    from kerasrec.loop.updating import update as update
    from kerasrec.loop.updating import update_from_store as update_from_store
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "updating": ["update", "update_from_store"],
            "drifting": ["drift"],
            "simulation": ["simulate"],
            "replaying": ["replay"],
        },
    )
