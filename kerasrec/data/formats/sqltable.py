"""Reads what a query of a database gives, through SQLAlchemy: `sqlite:///shop.db?query=SELECT ...`.

No message, log or report holds a password: a source is called by its address without one.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from kerasrec.data.formats.columntable import ColumnBuilder, ColumnTable, arrow_columns
from kerasrec.data.formats.packed import one_line

_QUERY = re.compile(r"[?&]query=", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+_]*://", re.IGNORECASE)
_FETCHED = 10_000
_HOW = "Write it as sqlite:///shop.db?query=SELECT user_id, item_id, time FROM orders"
#: what people write -> the driver that kerasrec installs for it
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}


def is_address(source: object) -> bool:
    """Whether a source is the address of a database rather than a path.

    >>> is_address("sqlite:///shop.db?query=SELECT 1"), is_address("log.csv")
    (True, False)
    """
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def source_name(source: object) -> str:
    """A source as it may be shown: of a database without user, password and options.

    >>> source_name("postgresql://me:secret@host/shop?query=SELECT 1")
    'postgresql://host/shop'
    """
    if not is_address(source):
        return str(source)
    address = _QUERY.split(str(source), maxsplit=1)[0].split("?", 1)[0]
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def open_query(source: str) -> ColumnTable:
    """Runs the query of an address and reads all its rows, in the order in which it gives them.

    Raises:
        ImportError, FileNotFoundError, ConnectionError, ValueError: as `query_rows`.
    """
    if is_duckdb(source):
        return ColumnTable(source_name(source), *arrow_columns(open_duckdb(source)))
    found = query_rows(source)
    names = list(next(found))
    builder = ColumnBuilder(names)
    for rows in found:
        for row in rows:
            builder.add(dict(zip(names, row, strict=True)))
    return ColumnTable(source_name(source), builder.columns(), builder.num_rows)


def query_rows(source: str) -> Iterator[Sequence[Any]]:
    """Runs the query of an address; yields its names, then lists of rows, in its order.

    Nothing is written: a file of SQLite is opened to read only, PostgreSQL runs a transaction that
    may only read.

    Raises:
        ImportError: SQLAlchemy or the driver of the database is missing.
        FileNotFoundError: no such file of SQLite.
        ConnectionError: the server does not answer, or refuses the user.
        ValueError: no query behind the address, or one that the database refuses.
    """
    name = source_name(source)
    address, query = split_query(source)
    try:
        import sqlalchemy as sa
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"{name}: tables of a database need sqlalchemy, which is missing. "
            "Run: pip install 'kerasrec[sql]'"
        ) from missing
    engine = _engine(sa, address, name)
    secret = str(engine.url.password or engine.url.query.get("password") or "")
    try:
        with _explained(sa, name, secret), engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            # as it is: a colon or a % in a query stands for no parameter
            asked = connection.execution_options(stream_results=True, no_parameters=True)
            result = asked.exec_driver_sql(query)
            if not result.returns_rows:
                raise ValueError(
                    f"{name}: expected a query that gives rows. Received: "
                    f"'{one_line(query)[:60]}'. {_HOW}."
                )
            yield list(result.keys())
            for rows in result.partitions(_FETCHED):
                yield [tuple(map(_plain, row)) for row in rows]
    finally:
        engine.dispose()


def split_query(source: str) -> tuple[str, str]:
    """Cuts `sqlite:///shop.db?query=SELECT 1` into the address and the query.

    Raises:
        ValueError: there is no query.
    """
    address, *queries = _QUERY.split(source, maxsplit=1)
    if not queries or not queries[0].strip():
        raise ValueError(
            f"{source_name(source)}: expected a query behind the address of the database. "
            f"Received: none. {_HOW}."
        )
    return address, queries[0].strip().rstrip(";")


def is_duckdb(source: object) -> bool:
    """Whether a source is a query of a DuckDB file, which SQLAlchemy is not needed for."""
    return isinstance(source, str) and source.lower().startswith("duckdb:///")


def open_duckdb(source: str) -> Any:
    """Runs a query such as `duckdb:///shop.duckdb?query=SELECT ...`; opens the file to read only.

    Returns:
        A relation of DuckDB, which offers an Arrow stream.

    Raises:
        ImportError: DuckDB is missing.
        FileNotFoundError: no such file.
        ValueError: no query behind the address, or one that DuckDB refuses.
    """
    name = source_name(source)
    address, query = split_query(source)
    try:
        import duckdb
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"{name}: a file of DuckDB needs duckdb, which is missing. "
            "Run: pip install 'kerasrec[duckdb]'"
        ) from missing
    path = Path(address[len("duckdb:///") :])
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: expected a file of DuckDB. Received: a path where there is none. Check "
            "the path: three strokes before a relative one, four before an absolute one."
        )
    try:
        found = duckdb.connect(str(path), read_only=True).sql(query)
    except duckdb.Error as error:
        raise ValueError(
            f"{name}: expected a query that DuckDB can run. Received: one that it refuses "
            f"({one_line(error)}). Correct the query, and try it in DuckDB's own shell."
        ) from None
    if found is None:
        raise ValueError(
            f"{name}: expected a query that gives rows. Received: '{one_line(query)[:60]}'. {_HOW}."
        )
    return found


def _engine(sa, address, name):
    try:
        url = sa.make_url(address)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None:
        raise ValueError(
            f"{name}: expected the address of a database. Received: one that cannot be read. "
            "Write it as postgresql://user@host/database, with %40 for an @ in a password."
        )
    options: dict[str, Any] = {}
    if url.drivername.startswith("sqlite"):
        path = Path(url.database or "")
        if not path.is_file():
            raise FileNotFoundError(
                f"{name}: expected a file of SQLite. Received: a path where there is none. Check "
                "the path: three strokes before a relative one, four before an absolute one."
            )
        url = url.set(database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    elif "postgresql" in url.drivername:
        options["connect_args"] = {"connect_timeout": 10}
    try:
        return sa.create_engine(url, **options)
    except sa.exc.NoSuchModuleError:
        raise ValueError(
            f"{name}: expected a kind of database that SQLAlchemy knows, such as sqlite, "
            f"postgresql or mysql+pymysql. Received: {url.drivername}. Correct the address."
        ) from None
    except ModuleNotFoundError as missing:
        extra = "'kerasrec[postgres]'" if "postgresql" in url.drivername else missing.name
        raise ImportError(
            f"{name}: this kind of database needs {missing.name}, which is missing. "
            f"Run: pip install {extra}"
        ) from None


@contextlib.contextmanager
def _explained(sa, name, secret):
    """Turns what a driver says into one sentence, without the password and without its cause."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        said = one_line(getattr(error, "orig", None) or error)
        said = said.replace(secret, "***") if secret else said
        if re.search("password|authentication|role .* does not exist", said):
            kind: type[Exception] = ConnectionError
            sentence = "the server refuses the user or the password. Correct them in the address."
        elif isinstance(error, sa.exc.OperationalError) and re.search(
            "connect|server|resolve|timeout|database .* does not exist", said
        ):
            kind = ConnectionError
            sentence = f"the server does not answer ({said}). Start it, or correct the address."
        else:
            kind = ValueError
            sentence = (
                f"expected a query that the database can run. Received: one that it refuses "
                f"({said}). Correct the query, and try it in the database's own shell."
            )
        raise kind(f"{name}: {sentence}") from None


def _plain(value: Any) -> Any:
    """Values of databases as those of a file."""
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value) if isinstance(value, UUID) else value
