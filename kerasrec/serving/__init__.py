"""Versions behind REST and gRPC, as TensorFlow Serving speaks them."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.serving.limits import Limits as Limits
    from kerasrec.serving.server import Access as Access
    from kerasrec.serving.server import Loop as Loop
    from kerasrec.serving.server import Server as Server
    from kerasrec.serving.server import running_server as running_server
    from kerasrec.serving.server import serve as serve
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "server": ["Access", "Loop", "Server", "running_server", "serve"],
            "limits": ["Limits"],
        },
    )
