import codecs
import gzip

import pyarrow as pa
import pytest

from kerasrec.data.formats.csvtable import CsvTable

GOOD = "user,item,note\n007,a,x\n8,乙,y\n"


def read(tmp_path, raw, *, name="x.csv", encoding="utf-8", on_bad="error", columns=None):
    path = tmp_path / name
    path.write_bytes(raw)
    table = CsvTable(path, encoding)
    columns = columns or table.columns
    data, report = table.read(columns, columns, on_bad)
    return {name: column.to_pylist() for name, column in data.items()}, report


def packed(raw):
    """Gzip without its time: the bytes name a case, and two workers must name it alike."""
    return gzip.compress(raw, mtime=0)


@pytest.mark.parametrize(
    ("raw", "encoding", "name"),
    [
        (GOOD.encode(), "utf-8", "x.csv"),
        (codecs.BOM_UTF8 + GOOD.encode(), "utf-8", "x.csv"),
        (codecs.BOM_UTF8 + GOOD.encode(), "utf-8-sig", "x.csv"),
        (GOOD.encode("gb18030"), "gb18030", "x.csv"),
        (GOOD.encode("gbk"), "GB2312", "x.csv"),
        (GOOD.encode("big5"), "big5", "x.csv"),
        (GOOD.encode("utf-16"), "utf-16", "x.csv"),
        (codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le"), "utf-16-le", "x.csv"),
        (packed(GOOD.encode()), "utf-8", "x.csv.gz"),
        (packed(GOOD.encode()), "utf-8", "x.csv"),
        (packed(GOOD.encode("gbk")), "gbk", "x.csv.gz"),
        (
            packed(GOOD[:20].encode()) + packed(GOOD[20:].encode()),
            "utf-8",
            "x.csv.gz",
        ),
        (GOOD.replace("\n", "\r\n").encode(), "utf-8", "x.csv"),
        (GOOD.replace("\n", "\r").encode(), "utf-8", "x.csv"),
        (GOOD.replace(",", "\t").encode(), "utf-8", "x.tsv"),
        (GOOD.replace(",", ";").encode(), "utf-8", "x.csv"),
        (GOOD.replace(",", "|").encode(), "utf-8", "x.txt"),
        (("\n\n" + GOOD + "\n\n").encode(), "utf-8", "x.csv"),
        (GOOD.rstrip("\n").encode(), "utf-8", "x.csv"),
        (b'"user","item","note"\n"007","a","x"\n"8","\xe4\xb9\x99","y"\n', "utf-8", "x.csv"),
    ],
)
def test_every_dress_of_the_same_table(tmp_path, raw, encoding, name):
    data, report = read(tmp_path, raw, encoding=encoding, name=name)
    assert data == {"user": ["007", "8"], "item": ["a", "乙"], "note": ["x", "y"]}
    assert (report.rows_before, report.rows_after) == (2, 2)


def test_quoted_separators_quotes_and_line_breaks(tmp_path):
    raw = b'user,note\n1,"a, ""b"""\n2,"c\nd"\n3,5" screen\n'
    data, report = read(tmp_path, raw)
    assert data["note"] == ['a, "b"', "c\nd", '5" screen']


def test_other_separator_is_noted(tmp_path):
    _, report = read(tmp_path, GOOD.replace(",", "\t").encode())
    assert [step.what for step in report.steps] == ["separator: tab"]


def test_ragged_rows_are_counted_with_the_number_of_the_first(tmp_path):
    raw = (GOOD + "\n9,c\n10,d,z,zz\n11,e,w\n").encode()
    with pytest.raises(ValueError) as error:
        read(tmp_path, raw)
    said = str(error.value)
    assert "Received: 2 in line 5, '9,c' (2 such rows; also lines 6), most often a text" in said
    assert "a text with a line break, without double quotes. Correct the data" in said
    data, report = read(tmp_path, raw, on_bad="skip")
    assert data["user"] == ["007", "8", "11"]
    assert (report.rows_before, report.rows_after) == (5, 3)
    assert report.steps[0].count == 2


def test_broken_bytes_in_one_row(tmp_path):
    raw = GOOD.encode() + b"9,\xe4\xb9,z\n" + "10,丙,w\n".encode()
    with pytest.raises(ValueError, match="bytes that are not in line 4, '9,"):
        read(tmp_path, raw)
    data, report = read(tmp_path, raw, on_bad="skip")
    assert data["user"] == ["007", "8", "10"] and data["item"] == ["a", "乙", "丙"]
    assert (report.steps[0].what, report.steps[0].count) == (
        "rows with bytes that are not utf-8",
        1,
    )
    assert report.steps[0].example == "data row 3"


def test_replacement_character_that_was_written_is_no_broken_byte(tmp_path):
    data, _ = read(tmp_path, "user,note\n1,a\ufffdb\n".encode(), on_bad="skip")
    assert data["note"] == ["a\ufffdb"]


def test_gbk_is_not_skipped_row_by_row(tmp_path):
    raw = "user,title\n1,红楼梦\n2,西游记\n".encode("gbk")
    for on_bad in ("error", "skip"):
        with pytest.raises(ValueError, match=r"looks like GBK/GB18030\. Pass encoding='gb18030'"):
            read(tmp_path, raw, on_bad=on_bad)


def test_gbk_in_columns_that_nobody_reads_does_not_matter(tmp_path):
    raw = "user,title\n1,红楼梦\n2,西游记\n".encode("gbk")
    data, _ = read(tmp_path, raw, columns=["user"])
    assert data == {"user": ["1", "2"]}


@pytest.mark.parametrize("position", ["last", "middle"])
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_open_quote_never_swallows_rows_silently(tmp_path, position, on_bad):
    row = '8,b,"y' if position == "last" else '8,"b,y'
    raw = f"user,item,note\n7,a,x\n{row}\n9,c,z\n10,d,w\n".encode()
    with pytest.raises(ValueError, match="never closed in line 3, '8,"):
        read(tmp_path, raw, on_bad=on_bad, columns=["user", "item"])


def test_open_quote_that_swallows_more_than_a_block(tmp_path):
    raw = b'user,item\n1,"a\n' + b"2,b\n" * 1_500_000
    with pytest.raises(ValueError, match="never closed in line 2, '1,"):
        read(tmp_path, raw)


def test_header_only_gives_no_rows(tmp_path):
    data, report = read(tmp_path, b"user,item")
    assert data == {"user": [], "item": []} and report.rows_before == 0


def test_repeated_column_name(tmp_path):
    with pytest.raises(ValueError, match="Received: 'user' 2 times"):
        read(tmp_path, b"user,user\n1,2\n")


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_cut_off_gzip_with_broken_bytes(tmp_path, on_bad):
    lines = b"".join(b"%d,\xe4\xb9,%d\n" % (i, i * 7919 % 10007) for i in range(50000))
    raw = gzip.compress(b"user,item,note\n" + lines)[:-2000]
    with pytest.raises(ValueError, match="cut off or damaged"):
        read(tmp_path, raw, name="x.csv.gz", on_bad=on_bad)


LOG = "用户,商品,标题\n1,2,红楼梦\n3,4,大学物理实验\n5,6,中国历史地理\n"


@pytest.mark.parametrize("pack", [bytes, packed, lambda raw: zstd(raw)])
@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be"])
def test_chinese_of_another_encoding_is_read_and_said(tmp_path, encoding, pack):
    data, report = read(tmp_path, pack(LOG.encode(encoding)))
    assert data["标题"] == ["红楼梦", "大学物理实验", "中国历史地理"] and data["用户"] == [
        "1",
        "3",
        "5",
    ]
    name = "UTF-16" if encoding[:3] == "utf" else "GBK/GB18030"
    assert [step.what for step in report.steps] == [f"encoding: {name}, by its bytes"]


def test_chinese_far_behind_an_ascii_start_is_read_too(tmp_path):
    start = "user,item,title\n" + "1,2,plain\n" * 10_000
    data, report = read(tmp_path, (start + LOG.split("\n", 1)[1]).encode("gbk"))
    assert data["title"][-1] == "中国历史地理" and len(data["user"]) == 10_003
    assert report.steps[0].what == "encoding: GBK/GB18030, by its bytes"


def test_a_broken_line_in_a_found_encoding_is_named(tmp_path):
    raw = (LOG * 3).encode("gbk") + b"7,8,\xff\n"
    with pytest.raises(ValueError, match="bytes that are not in line 13, '7,8,"):
        read(tmp_path, raw)
    data, _ = read(tmp_path, raw, on_bad="skip")
    assert len(data["用户"]) == 11


def zstd(raw):
    return pa.Codec("zstd").compress(raw).to_pybytes()


def test_zstd_in_several_frames_and_under_any_name(tmp_path):
    raw = zstd(GOOD[:20].encode()) + zstd(GOOD[20:].encode())
    for name in ("x.csv.zst", "x.csv"):
        data, _ = read(tmp_path, raw, name=name)
        assert data == {"user": ["007", "8"], "item": ["a", "乙"], "note": ["x", "y"]}


def test_a_name_of_zstd_and_a_cut_off_one(tmp_path):
    with pytest.raises(ValueError, match="expected a zstd file, as its name says"):
        read(tmp_path, GOOD.encode(), name="x.csv.zst")
    body = "".join(f"{i},{i * 7919 % 10007},x\n" for i in range(50_000)).encode()
    raw = zstd(b"user,item,note\n" + body)
    with pytest.raises(ValueError, match="expected a whole zstd file.*Copy or compress it again"):
        read(tmp_path, raw[:-2000], name="x.csv.zst")


def test_rows_of_a_wrong_length_are_named_by_their_lines(tmp_path):
    """Line breaks within quotes, blank lines and rows before them count as lines."""
    raw = 'user,item,note\n1,a,"x\ny"\n\n2,b,z\n3,c,one, two\n4,d,"f, g"\n5,e,p, q\n'.encode()
    with pytest.raises(ValueError) as error:
        read(tmp_path, raw)
    said = str(error.value)
    assert "4 in line 6, '3,c,one, two' (2 such rows; also lines 8)" in said
    assert "a text that holds the separator, such as a comma, without double quotes" in said


def test_many_rows_of_a_wrong_length(tmp_path):
    raw = ("user,item\n" + "1,a\n2,b,c\n" * 100).encode()
    with pytest.raises(
        ValueError, match=r"in line 3, .*\(100 such rows; also lines 5, 7, 9, 11, ..."
    ):
        read(tmp_path, raw)


def test_the_separator_of_hive(tmp_path):
    data, report = read(tmp_path, GOOD.replace(",", "\x01").encode())
    assert data["user"] == ["007", "8"] and report.steps[0].what == r"separator: \001"
