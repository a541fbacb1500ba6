"""An address of a database with a slip shows nothing of itself: it may hold a password."""

import pytest

from kerasrec.data.formats.addresses import check_address
from kerasrec.data.tables import open_table
from kerasrec.feedback.database import parse_url

SLIPS = [
    "postgresql:/me:S3CRET@127.0.0.1:1/shop?query=SELECT 1",
    "postgresql:me:S3CRET@host/shop",
    "postgresql//me:S3CRET@host/shop",
    "jdbc:postgresql://me:S3CRET@host/shop",
    "jdbc:postgresql://host/shop?user=me&password=S3CRET&query=SELECT 1",
    "postgresql://me:S3CRET@pw@host/shop?query=SELECT 1",
    "postgresql://me:S3?CRET@host:1/shop?query=SELECT 1",
    "postgres://me:S3CR@ET@host/shop",
]


@pytest.mark.parametrize("text", SLIPS)
@pytest.mark.parametrize("read", [check_address, open_table, parse_url])
def test_nothing_of_it_is_shown(text, read):
    with pytest.raises(ValueError) as caught:
        read(text)
    said = str(caught.value)
    assert "an address with a slip in it" in said and "%40 for an @" in said
    assert "S3" not in said and "CRET" not in said and "ET@" not in said


@pytest.mark.parametrize(
    "text",
    [
        "log.csv",
        "logs/2024-03-01T08:00/part*.csv",
        "C:/data/log.csv",
        "sqlite:///shop.db?query=SELECT '@' FROM a:b",
        "postgresql://me:secret@host:5432/shop?query=SELECT a FROM b WHERE c LIKE '%@x'",
        "postgresql://host/shop?query=SELECT 1",
        "postgresql://me:sec%40ret@host/shop",
    ],
)
def test_others_pass(text):
    assert check_address(text) is None
