"""The durable log of what users did, in SQLite or PostgreSQL.

`store` is the log. Events come in checked (`intake`), are written in groups (`writer`), asked for
(`queries`) and counted (`stats`), read back as one user's list (`userlists`) or as the newest
events of all (`recentlog`). Loads without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.feedback.store import Added as Added
    from kerasrec.feedback.store import FeedbackStore as FeedbackStore
    from kerasrec.feedback.userlists import LiveLists as LiveLists
    from kerasrec.feedback.userlists import Rules as Rules
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "store": ["Added", "FeedbackStore"],
            "userlists": ["LiveLists", "Rules"],
        },
    )
