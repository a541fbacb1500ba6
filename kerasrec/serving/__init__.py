"""Versions behind REST and gRPC, as TensorFlow Serving speaks them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "server": ["Access", "Loop", "Server", "running_server", "serve"],
        "limits": ["Limits"],
    },
)
