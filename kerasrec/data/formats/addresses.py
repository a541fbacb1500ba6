"""Addresses of databases that people write with a slip: their passwords are shown in no message."""

import re

#: marks of an address: a user with a password, or options
_MARKS = re.compile(r"[?&](?:query|password|user)=|:[^@\s/]+@", re.IGNORECASE)
_HOW = (
    "Write it as postgresql://user:password@host/database, with %40 for an @ and %3F for a ? in "
    "a password."
)


def check_address(text: str) -> None:
    """Refuses what looks like an address of a database but cannot be read as one.

    Args:
        text: an address, or a path that names no file.

    Raises:
        ValueError: with nothing of the text in it, for it may hold a password.

    >>> check_address("postgresql://me:secret@host/shop"), check_address("log.csv")
    (None, None)
    """
    scheme, has_scheme, rest = text.partition("://")
    if has_scheme and ":" not in scheme:
        server, _, options = rest.split("/", 1)[0].partition("?")
        # an @ or a ? in a password, which ends it early
        is_cut = ":" in server and "@" not in server and "@" in options
        if server.count("@") < 2 and not is_cut:
            return
    elif not (has_scheme or _MARKS.search(text)):
        return
    raise ValueError(
        "expected a path, or the address of a database. Received: an address with a slip in it "
        f"(it may hold a password and is not shown). {_HOW}"
    )
