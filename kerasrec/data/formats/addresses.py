"""Addresses of databases that people write with a slip: their passwords are shown in no message."""

import os
import re

#: marks of an address: a user with a password, or options
_MARKS = re.compile(r"[?&](?:query|password|user)=|:[^@\s/]+@", re.IGNORECASE)
_HOW = (
    "Write it as postgresql://user:password@host/database, with %40 for an @ and %3F for a ? in "
    "a password."
)


#: kinds of addresses of files elsewhere -> how to bring such a file here
_ELSEWHERE = {
    "http https ftp": "curl -o FILE ADDRESS",
    "s3 s3a s3n": "aws s3 cp ADDRESS FILE",
    "oss": "ossutil cp ADDRESS FILE",
    "cos cosn": "coscli cp ADDRESS FILE",
    "obs": "obsutil cp ADDRESS FILE",
    "gs gcs": "gcloud storage cp ADDRESS FILE",
    "hdfs webhdfs viewfs": "hdfs dfs -get ADDRESS FILE",
    "abfs abfss wasb wasbs az azure": "azcopy copy ADDRESS FILE",
    "sftp scp ssh": "scp HOST:PATH FILE",
    "dbfs": "databricks fs cp ADDRESS FILE",
}


def check_is_here(source: object) -> None:
    """Refuses the address of a file elsewhere, and `file://`: kerasrec reads and writes paths.

    The address is not shown whole: it may hold a key.

    Raises:
        ValueError: with the way to bring the file to this machine.

    >>> check_is_here("log.csv"), check_is_here("sqlite:///shop.db?query=SELECT 1")
    (None, None)
    """
    # a Path makes one stroke of the two
    found = re.match(r"([a-z][a-z0-9]*):/+(.*)", str(source), re.IGNORECASE)
    if not isinstance(source, str | os.PathLike) or not found:
        return
    scheme = found[1].lower()
    if scheme == "file":
        raise ValueError(
            f"expected a path. Received: an address that begins with file://. Give the path "
            f"itself: /{found[2]}."
        )
    how = next((how for names, how in _ELSEWHERE.items() if scheme in names.split()), None)
    if how is not None:
        raise ValueError(
            f"expected a path of this machine, or a query of a database. Received: an address of "
            f"{scheme}://, from where kerasrec reads and writes nothing. Bring the file here first "
            f"({how}), or mount the folder, and give its path."
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
