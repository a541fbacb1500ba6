"""An address of a database with a slip shows nothing of itself: it may hold a password."""

from pathlib import Path

import pytest

from kerasrec.data.formats.addresses import check_address, check_is_here
from kerasrec.data.tables import check_output, open_table
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


@pytest.mark.parametrize(
    ("address", "how"),
    [
        ("https://me:S3CRET@host/log.csv?token=S3CRET", "curl -o"),
        ("http://host/log.csv", "curl -o"),
        ("s3://bucket/log.parquet", "aws s3 cp"),
        ("oss://bucket/log.csv", "ossutil cp"),
        ("hdfs://nn:8020/warehouse/log", "hdfs dfs -get"),
        ("HDFS://nn/log", "hdfs dfs -get"),
    ],
)
@pytest.mark.parametrize("read", [check_is_here, open_table, check_output])
def test_a_file_elsewhere_is_refused_with_the_way_to_bring_it_here(address, how, read):
    for source in (address, Path(address)):
        with pytest.raises(ValueError, match="expected a path of this machine") as caught:
            read(source)
        assert how in str(caught.value) and "S3CRET" not in str(caught.value)


def test_file_addresses_name_the_path():
    with pytest.raises(ValueError, match="Give the path itself: /data/log.csv"):
        open_table("file:///data/log.csv")
    with pytest.raises(FileNotFoundError):  # a folder that is called so
        open_table("https/log.csv")
