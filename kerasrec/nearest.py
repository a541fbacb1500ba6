"""What was meant by a name that does not exist."""

import difflib


def nearest(name, known):
    """Text that proposes what was meant.

    Args:
        name: as it was given.
        known: the names that exist.

    >>> nearest("dropuot", ["dropout", "heads"])
    "Did you mean 'dropout'? Known: dropout, heads."
    """
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
