import sqlite3
import subprocess
import sys

import pytest

from kerasrec.checks import ArtifactError
from kerasrec.feedback.database import ACTION, EVENTS, STORE, open_database, parse_url, sa


def test_parse_url(tmp_path):
    assert parse_url(tmp_path / "a.db").database == parse_url(f"sqlite:///{tmp_path}/a.db").database
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert parse_url(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "url",
    ["", " ", ":memory:", "sqlite://", None, 5, "mysql://me:geheim@h/d", "://", "x://[", "a://"],
)
def test_other_urls_are_refused_without_a_password(url):
    with pytest.raises(ValueError, match="store: expected the path of a file") as caught:
        parse_url(url)
    assert "geheim" not in str(caught.value)


def test_settings_of_sqlite(tmp_path):
    database = open_database(tmp_path / "new" / "f.db")
    with database.reading() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "secure_delete")
        ]
    assert found == ["wal", 2, 30000, 1]
    database.engine.dispose()


def test_latest_actions_are_read_from_their_index(tmp_path):
    database = open_database(tmp_path / "f.db")
    query = (
        sa.select(EVENTS.c.seq)
        .where(EVENTS.c.user_id == "u", EVENTS.c.timestamp >= 0, ACTION)
        .order_by(EVENTS.c.timestamp.desc(), EVENTS.c.seq.desc())
    )
    text = query.compile(database.engine, compile_kwargs={"literal_binds": True})
    with database.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    assert "feedback_actions" in plan[0][-1] and len(plan) == 1  # no sort
    database.engine.dispose()


def test_a_store_that_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a feedback store. Received: a path wher"):
        open_database(tmp_path / "no.db", create=False)
    assert not list(tmp_path.iterdir())
    open_database(tmp_path / "f.db").engine.dispose()
    open_database(tmp_path / "f.db", create=False).engine.dispose()


def closed(database):
    database.engine.dispose()
    return database


def test_a_store_has_an_id_wherever_it_lies(tmp_path, monkeypatch):
    first = closed(open_database(tmp_path / "f.db")).id
    monkeypatch.chdir(tmp_path)
    for url in ("f.db", "./f.db", "sqlite:///f.db", f"sqlite:///{tmp_path}/f.db"):
        assert closed(open_database(url)).id == first
    assert closed(open_database("other.db")).id != first
    (tmp_path / "f.db").rename(tmp_path / "moved.db")
    assert closed(open_database("moved.db", create=False)).id == first
    assert len(first) == 32 and str(tmp_path) not in first


def test_a_store_of_a_server_has_an_id(postgres_server):
    one, other = postgres_server.new_url(), postgres_server.new_url()
    first = closed(open_database(one)).id
    assert closed(open_database(one, create=False)).id == first
    assert closed(open_database(other)).id != first


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "f.db"
    return request.getfixturevalue("postgres_server").new_url()


def test_a_store_from_before_there_were_ids_gets_one(url):
    database = open_database(url)
    with database.writing() as connection:
        connection.execute(sa.delete(STORE).where(STORE.c.key == "id"))
    closed(database)
    found = closed(open_database(url, create=False))
    assert found.id != database.id and found.salt == database.salt
    assert closed(open_database(url)).id == found.id


def test_a_reader_of_a_server_opens_a_store_from_before_there_were_ids(postgres_server):
    name = postgres_server.new_database()
    url = postgres_server.url(name)
    database = open_database(url)
    with database.writing() as connection:
        connection.execute(sa.delete(STORE).where(STORE.c.key == "id"))
    closed(database)
    postgres_server.run(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'r'")
    postgres_server.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}", name)
    reader = postgres_server.url(name, user=f"reader_{name}", password="r")
    assert closed(open_database(reader, create=False)).id == closed(open_database(url)).id


def test_files_that_are_something_else_stay_as_they_are(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, message in (
        ("log.csv", "Received: another kind of file"),
        ("other.db", r"Received: a SQLite file with other tables \(mine\)"),
        ("damaged.db", "Received: a damaged file"),
    ):
        with pytest.raises(ArtifactError, match=message):
            open_database(tmp_path / name)
    with pytest.raises(ValueError, match="expected a file. Received: a folder"):
        open_database(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_writer_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrec.feedback.database.BUSY_SECONDS", 0.05)
    database = open_database(tmp_path / "f.db")
    with sqlite3.connect(tmp_path / "f.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match="another process has been writing for"):
            with database.writing():
                pass
        other.execute("COMMIT")
    other.close()
    database.engine.dispose()


def test_mistakes_with_a_server(postgres_server):
    good = postgres_server.new_url()
    with pytest.raises(FileNotFoundError, match="a database without its tables"):
        open_database(good, create=False)
    port = postgres_server.port
    for url, message in (
        (postgres_server.url(password="geheim"), "the server refuses the user or the password"),
        (postgres_server.url(user="nobody"), "the server refuses the user or the password"),
        (postgres_server.url("nowhere"), "the server has no such database"),
        ("postgresql://u:geheim@127.0.0.1:1/d", "the server does not answer"),
        (f"postgresql://u:geheim@no-such-host.invalid:{port}/d", "the server does not answer"),
    ):
        with pytest.raises(ConnectionError, match=message) as caught:
            open_database(url)
        assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)


def test_writers_of_postgresql_are_durable_and_take_turns(postgres_server):
    name = postgres_server.new_database()
    postgres_server.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = open_database(postgres_server.url(name))
    with database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        assert postgres_server.run(held, name) == [(1,)]
    database.engine.dispose()


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("sqlalchemy", "import kerasrec; kerasrec.FeedbackStore", "feedback"),
        ("psycopg", "import kerasrec; kerasrec.FeedbackStore('postgresql://h/d')", "postgres"),
    ],
)
def test_a_missing_package_is_said(missing, code, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert f"needs {missing}, which is missing. Run: pip install 'kerasrec[{extra}]'" in last
