import logging
import sqlite3
import sys

import pytest

from kerasrec.data.formats.sqltable import open_query, source_name
from kerasrec.data.sources import read_interactions, read_items, read_user_ids

QUERY = (
    "SELECT user_id, sku, paid_at FROM orders WHERE state <> 'void:x' AND sku LIKE 'a%' ORDER BY id"
)
ROWS = [
    ("007", "a1", "2024-03-01 08:00:00", "paid"),
    ("8", "a2", "2024-03-02 00:00:00", "paid"),
    ("9", "b1", "2024-03-03 00:00:00", "paid"),
    ("9", "a1", "2024-03-03 00:00:00", "void:x"),
]
CREATE = "CREATE TABLE orders (id INTEGER, user_id TEXT, sku TEXT, paid_at {}, state TEXT)"


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "my shop?.db"
    with sqlite3.connect(path) as connection:
        connection.execute(CREATE.format("TEXT"))
        rows = [(number, *row) for number, row in enumerate(ROWS)]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    return path.rename(tmp_path / "my shop.db")


def check(log):
    assert log.frame["user_id"].tolist() == ["007", "8"]
    assert log.frame["item_id"].tolist() == ["a1", "a2"]
    assert log.frame["timestamp"].tolist() == [1709280000, 1709337600]


def test_a_query_of_sqlite(shop):
    check(read_interactions(f"sqlite:///{shop}?query={QUERY};"))
    assert read_user_ids(f"sqlite:///{shop}?query={QUERY}").tolist() == ["007", "8"]


def test_a_list_of_queries_and_items(shop):
    source = f"sqlite:///{shop}?query={QUERY}"
    assert len(read_interactions([source, source])) == 4
    items = read_items(
        f"sqlite:///{shop}?query=SELECT DISTINCT sku, 'T' || sku AS name FROM orders ORDER BY 1"
    )
    assert items.frame["title"].tolist() == ["Ta1", "Ta2", "Tb1"]


def test_nothing_is_written_and_no_file_is_made(shop, tmp_path):
    with pytest.raises(ValueError, match="readonly database"):
        open_query(f"sqlite:///{shop}?query=DELETE FROM orders RETURNING *")
    with sqlite3.connect(shop) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (4,)
    connection.close()
    with pytest.raises(FileNotFoundError, match="expected a file of SQLite"):
        open_query(f"sqlite:///{tmp_path}/none.db?query=SELECT 1")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "expected a query behind the address"),
        ("?query= ", "expected a query behind the address"),
        ("?query=SELECT missing FROM orders", "no such column: missing"),
        ("?query=PRAGMA foreign_keys = ON", "expected a query that gives rows"),
    ],
)
def test_mistakes_are_one_sentence(shop, rest, said):
    with pytest.raises(ValueError, match=said) as error:
        open_query(f"sqlite:///{shop}{rest}")
    assert "\n" not in str(error.value)


def test_an_empty_answer_is_a_table_without_rows(shop):
    with pytest.raises(
        ValueError, match="at least one row. Received: a query without rows. Check the query"
    ):
        read_interactions(f"sqlite:///{shop}?query=SELECT user_id, sku FROM orders WHERE id > 9")


def test_kinds_of_databases_that_are_not_there(monkeypatch):
    with pytest.raises(ValueError, match="a kind of database that SQLAlchemy knows"):
        open_query("paradox://me:secret@host/shop?query=SELECT 1")
    with pytest.raises(
        ImportError, match="needs pymysql, which is missing. Run: pip install pymysql"
    ):
        open_query("mysql+pymysql://me:secret@host/shop?query=SELECT 1")
    with pytest.raises(ValueError, match="the address of a database. Received: one that cannot"):
        open_query("postgresql://me:secret@host:port/shop?query=SELECT 1")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"pip install 'kerasrec\[sql\]'"):
        open_query("sqlite:///x.db?query=SELECT 1")


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:s%40cret@host/shop", "postgresql://host/shop?user=me&password=s@cret"],
)
def test_names_have_no_password(address):
    assert source_name(f"{address}?query=SELECT 1") == "postgresql://host/shop"
    assert source_name("log.csv") == "log.csv"


@pytest.fixture
def orders(postgres_server):
    name = postgres_server.new_database()
    postgres_server.run(CREATE.format("timestamp"), name)
    postgres_server.run("CREATE SEQUENCE numbers", name)
    postgres_server.run("ALTER TABLE orders ADD price numeric, ADD uid uuid", name)
    values = ", ".join(
        f"({number}, {', '.join(map(repr, row))}, 9.5, gen_random_uuid())"
        for number, row in enumerate(ROWS)
    )
    postgres_server.run(f"INSERT INTO orders VALUES {values}", name)
    return name


def test_a_query_of_postgresql(orders, postgres_server):
    address = postgres_server.url(orders)
    check(read_interactions(f"{address}?query={QUERY}"))
    check(read_interactions(f"{address.replace('+psycopg', '')}?query={QUERY}"))
    table = open_query(
        f"{address}?query=SELECT uid AS user, price AS item, id % 2 AS odd FROM orders"
    )
    data, _ = table.read(["user", "item", "odd"])
    assert data["item"].to_pylist() == [9.5] * 4 and len(data["user"][0].as_py()) == 36
    assert sorted(data["odd"].to_pylist()) == [0, 0, 1, 1]


def test_postgresql_is_only_read(orders, postgres_server):
    for query, said in (
        ("SELECT nextval('numbers')", "read-only transaction"),
        ("DELETE FROM orders RETURNING *", "syntax error"),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", "data-modifying"),
    ):
        with pytest.raises(ValueError, match=said):
            open_query(f"{postgres_server.url(orders)}?query={query}")
    assert postgres_server.run("SELECT count(*) FROM orders", orders) == [(4,)]


def test_no_error_or_log_says_the_password(orders, postgres_server, caplog):
    secret = "hunter2-secret"
    caplog.set_level(logging.DEBUG)
    asked = {
        postgres_server.url(orders, password=secret): "SELECT 1",
        postgres_server.url(orders, user="nobody", password=secret): "SELECT 1",
        postgres_server.url("nowhere"): "SELECT 1",
        postgres_server.url(orders): "SELECT missing FROM orders",
        f"postgresql://me:{secret}@127.0.0.1:1/shop": "SELECT 1",
    }
    said = []
    for address, query in asked.items():
        with pytest.raises((ConnectionError, ValueError)) as error:
            read_interactions(f"{address}?query={query}")
        said.append(str(error.value))
        assert error.value.__cause__ is None and error.value.__suppress_context__
    text = " ".join([*said, caplog.text])
    assert secret not in text and "kerasrec:secret" not in text
    assert "refuses the user or the password" in said[0] and "refuses the user" in said[1]
    assert "database" in said[2] and "missing" in said[3] and "does not answer" in said[4]
