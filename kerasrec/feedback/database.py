"""Opens a feedback store, a SQLite file or a PostgreSQL server, and defines its tables.

The differences between the two databases are in this file alone.
"""

import contextlib
import hashlib
import os
import re
import secrets
import sqlite3
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from kerasrec.checks import ArtifactError
from kerasrec.data.formats.addresses import check_address

try:
    import sqlalchemy as sa
except ModuleNotFoundError as missing:
    if missing.name != "sqlalchemy":
        raise
    raise ImportError(
        "the feedback store needs sqlalchemy, which is missing. "
        "Run: pip install 'kerasrec[feedback]'"
    ) from missing
from collections.abc import Iterator
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite

FORMAT = "1"
#: how long a write waits for another process's, seconds
BUSY_SECONDS = 30
#: any number; writers of one PostgreSQL database take turns under it
_LOCK = 7_205_759_403
_LOG_PAGES = 16_000  # of SQLite's log, 64 MiB, at most
_LOG_BYTES = 4 << 20  # beyond which it is moved into the file
_METADATA = sa.MetaData()
_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite's row id must be INTEGER

EVENTS = sa.Table(
    "feedback_events",
    _METADATA,
    sa.Column("seq", _WHOLE, sa.Identity(), primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("version", sa.BigInteger),
    sa.Column("position", sa.BigInteger),
    sqlite_autoincrement=True,  # a seq is never given twice, also after an erasure
    implicit_returning=False,  # seq numbers are not asked for
)
ERASURES = sa.Table(
    "feedback_erasures",
    _METADATA,
    sa.Column("id", _WHOLE, sa.Identity(), primary_key=True),
    sa.Column("user_hash", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("first_seq", sa.BigInteger),
    sqlite_autoincrement=True,
)
#: values of items that are newer than the catalogue of any version; a value is JSON, NULL = taken
#: back, so that whoever follows the seq hears of it. Stores of before 2026-12 lack the table until
#: something is written into it
ITEMS = sa.Table(
    "feedback_items",
    _METADATA,
    sa.Column("seq", _WHOLE, sa.Identity(), primary_key=True),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("item_id", "name"),
    sqlite_autoincrement=True,
)
#: what is known of users beside their events: JSON, column -> value. Stores of before 2026-12 lack
#: the table until something is written into it
USERS = sa.Table(
    "feedback_user_values",
    _METADATA,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("known", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
)
STORE = sa.Table(
    "feedback_store",
    _METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
#: what a user did, and what was merely shown; text, because SQLite uses the partial indexes below
#: only where a query has their condition word for word
ACTION = sa.text("event <> 'impression'")
SHOWN = sa.text("event = 'impression'")
#: what keeps an item out of the user's lists for good
DECIDED = sa.text("event IN ('purchase', 'dislike')")
_ASKED = sa.text("request_id IS NOT NULL")


def _index(name, *columns, where=None):
    indexed = [EVENTS.c[column] for column in columns]
    return sa.Index(name, *indexed, sqlite_where=where, postgresql_where=where)


# The newest events of a user are a bounded read, whatever else there is of the same user. One index
# on (user_id, timestamp, seq) for all would be taken for the actions too, past all impressions.
_index("feedback_actions", "user_id", "timestamp", "seq", where=ACTION)
_index("feedback_shown", "user_id", "timestamp", "seq", where=SHOWN)
_index("feedback_decided", "user_id", "timestamp", "seq", where=DECIDED)
_index("feedback_users", "user_id")
_index("feedback_requests", "request_id", "item_id", where=_ASKED)
_index("feedback_times", "timestamp")


class Database(NamedTuple):
    """Holds an open store: engine, name for messages (no password), salt of user hashes, id.

    The id lies in the store: it is the same whatever path or URL leads there, and moves with it.
    """

    engine: sa.Engine
    name: str
    salt: str
    id: str

    @property
    def is_sqlite(self) -> bool:
        """False on PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Opens a connection that sees one state of the store."""
        with explained(self.name), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Opens a transaction; one writer at a time, so `seq` grows in the order of commits."""
        with explained(self.name), _write_transaction(self.engine) as connection:
            yield connection

    def insert_events(self) -> Any:
        """Makes the INSERT of events; it skips an event id that the store has already."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        statement = insert(EVENTS).on_conflict_do_nothing(index_elements=["event_id"])
        return statement.execution_options(preserve_rowcount=True)  # how many of them are new

    def needs_checkpoint(self) -> bool:
        """Says whether SQLite's log is long enough to be moved into the file."""
        if not self.is_sqlite:
            return False
        try:
            return os.path.getsize(f"{self.name}-wal") > _LOG_BYTES
        except OSError:
            return False

    def checkpoint(self) -> None:
        """Moves SQLite's log into the file; readers and writers continue meanwhile."""
        with explained(self.name), contextlib.closing(self.engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def scrub(self) -> bool:
        """Overwrites what was deleted: afterwards SQLite's file and its log hold none of it.

        PostgreSQL uses the space again; its own tools (VACUUM FULL, backups) decide when the
        bytes are gone.

        Returns:
            False where a reader of another process kept the log of SQLite in use.
        """
        with explained(self.name), contextlib.closing(self.engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            if self.is_sqlite:
                driver.execute("VACUUM")  # secure_delete leaves copies in moved parts of pages
                return driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            driver.autocommit = True
            try:
                for table in (EVENTS, ERASURES, USERS):
                    found = driver.execute("SELECT to_regclass(%s)", [table.name]).fetchone()
                    if found[0]:  # a store of before may lack one
                        driver.execute(f"VACUUM {table.name}")
            finally:
                driver.autocommit = False
            return True


def open_database(url: str | os.PathLike[str], *, create: bool = True) -> Database:
    """Opens a store and makes its tables where they are missing.

    Args:
        url: path of a SQLite file, `sqlite:///path` or `postgresql+psycopg://user:pw@host/db`.
        create: False: a store that does not exist is an error.

    Raises:
        FileNotFoundError: no such store, and `create` is False.
        ArtifactError: a file or database that is something else, or of a newer kerasrec.
        ConnectionError: the server does not answer or refuses the user.
        ImportError: the driver of PostgreSQL is missing.
        ValueError: a URL of another kind.
    """
    parsed = parse_url(url)
    path = parsed.database or ""
    name = path if _is_file(parsed) else parsed.render_as_string(hide_password=True)
    if _is_file(parsed):
        _check_file(Path(path), create)
    engine = _make_engine(parsed)
    try:
        with explained(name):
            settings = _make_tables(engine, name, create)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, name, settings["salt"], settings["id"])


def parse_url(url: str | os.PathLike[str]) -> sa.URL:
    """Parses a path or a URL of one of the two databases.

    >>> parse_url("feedback.db"), parse_url("postgres://me@host/shop").drivername
    (sqlite:///feedback.db, 'postgresql+psycopg')
    """
    text = os.fspath(url) if isinstance(url, str | os.PathLike) else ""
    if not os.path.exists(text):
        check_address(text)
    if "://" not in text:
        if not text.strip() or text == ":memory:":
            raise ValueError(_url_message(repr(url)))
        return sa.URL.create("sqlite", database=text)
    try:
        parsed = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(_url_message("a URL that cannot be read")) from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ValueError(_url_message(repr(parsed.render_as_string(hide_password=True))))


def _url_message(received):
    return (
        "store: expected the path of a file, sqlite:///path or "
        f"postgresql+psycopg://user:password@host/database. Received: {received}. Name one of them."
    )


def _is_file(url):
    return url.drivername == "sqlite"


def _check_file(path, create):
    """Raise unless a store can be at the path; looks before anything is changed there."""
    if path.is_dir():
        raise ValueError(f"{path}: expected a file. Received: a folder. Name a file in it.")
    if not path.exists():
        if not create:
            raise FileNotFoundError(
                f"{path}: expected a feedback store. Received: a path where there is none. "
                "Check --store, or add events first."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    with open(path, "rb") as file:
        start = file.read(16)
    if start and start != b"SQLite format 3\0":
        raise ArtifactError(
            f"{path}: expected a feedback store (a SQLite file). Received: another kind of file. "
            "Name another file; events in a table are read with `kerasrec feedback import`."
        )
    with explained(str(path)), contextlib.closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if names and STORE.name not in names:
        raise ArtifactError(
            f"{path}: expected a feedback store. Received: a SQLite file with other tables "
            f"({', '.join(sorted(names)[:5])}). Name another file."
        )


def _make_engine(url):
    waits = {"connect_timeout": 10}
    options = {} if _is_file(url) else {"pool_pre_ping": True, "connect_args": waits}
    try:
        # an idle transaction of a reader would keep PostgreSQL's and SQLite's old rows alive
        engine = sa.create_engine(url, pool_reset_on_return="rollback", **options)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a feedback store in PostgreSQL needs {error.name}, which is missing. "
            "Run: pip install 'kerasrec[postgres]'"
        ) from error
    sa.event.listen(engine, "connect", _set_up_sqlite if _is_file(url) else _set_up_postgresql)
    if _is_file(url):
        # the driver would begin a transaction at the first write only, and never an IMMEDIATE one
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection, _):
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # of two that change it one is refused at once
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA cache_size = -65536")  # 64 MiB: event ids fall all over their index
    # a commit that moves the log into the file keeps its caller waiting; the writer does it beside
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")


def _begin_sqlite(connection):
    mode = connection.get_execution_options().get("kerasrec_begin", "")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _set_up_postgresql(connection, _):
    with connection.cursor() as cursor:
        if cursor.execute("SHOW synchronous_commit").fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit = on")
    connection.commit()


@contextlib.contextmanager
def _write_transaction(engine):
    with engine.connect() as connection:
        connection = connection.execution_options(kerasrec_begin="IMMEDIATE")
        with connection.begin():
            if engine.dialect.name != "sqlite":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection


def _make_tables(engine, name, create):
    """The settings of the store; its tables are made where they are missing."""
    found = _read_settings(engine)
    if found is None:
        if not create:
            raise FileNotFoundError(
                f"{name}: expected a feedback store. Received: a database without its tables. "
                "Check --store, or add events first."
            )
        with _write_transaction(engine) as connection:
            _METADATA.create_all(connection)
            if not connection.execute(sa.select(STORE)).first():
                settings = {"format": FORMAT, "salt": secrets.token_hex(16), "id": uuid.uuid4().hex}
                rows = [{"key": key, "value": value} for key, value in settings.items()]
                connection.execute(sa.insert(STORE), rows)
        found = _read_settings(engine)
    if found.get("format") != FORMAT:
        raise ArtifactError(
            f"{name}: expected a feedback store of format {FORMAT}. Received: format "
            f"{found.get('format')}. Use the kerasrec that made it."
        )
    # a store from before there were ids has that of its salt: whoever opens it may be a reader
    of_salt = hashlib.sha256(found["salt"].encode()).hexdigest()[:32]
    return {"id": of_salt, **found}


def _read_settings(engine):
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(STORE.name):
            return None
        return dict(connection.execute(sa.select(STORE.c.key, STORE.c.value)).all())


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns the error of a driver into one sentence: what was expected, what came, what to do."""
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        for pattern, kind, sentence in _SENTENCES:
            if re.search(pattern, said):
                raise kind(f"{name}: {sentence.format(said=said)}") from error
        raise


#: what a driver says -> the error and the sentence that it becomes
_SENTENCES = (
    (
        "not a database|malformed",
        ArtifactError,
        "expected a feedback store. Received: a damaged file ({said}). Restore it from a copy.",
    ),
    (
        "database is locked|database is busy",
        TimeoutError,
        f"another process has been writing for {BUSY_SECONDS} seconds. Try again when it is done.",
    ),
    ("disk is full|No space left", OSError, "the disk is full. Make room and send it again."),
    (
        "unable to open|readonly database|read-only",
        PermissionError,
        "expected a store that can be written. Received: {said}. Choose another place.",
    ),
    (
        "password|authentication|role .* does not exist",
        ConnectionError,
        "the server refuses the user or the password. Correct them in the URL of the store.",
    ),
    (
        "database .* does not exist",
        ConnectionError,
        "the server has no such database. Make it with createdb, or name another in the URL.",
    ),
    (
        "permission denied",
        PermissionError,
        "the user may not do that ({said}). Grant it in PostgreSQL.",
    ),
    (
        "column .* does not exist|no such column",
        ArtifactError,
        "expected the tables of a feedback store. Received: others of the same name ({said}). "
        "Name another database.",
    ),
    (
        "connection|server|resolve|timeout",
        ConnectionError,
        "the server does not answer ({said}). Start it, or correct the URL of the store.",
    ),
)
