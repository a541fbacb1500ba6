"""The command line: words in, tables and sentences out."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.cli.entry import build_parser as build_parser
    from kerasrec.cli.entry import main as main
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "entry": ["build_parser", "main"],
        },
    )
