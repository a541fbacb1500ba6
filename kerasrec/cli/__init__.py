"""The command line: words in, tables and sentences out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "entry": ["build_parser", "main"],
    },
)
