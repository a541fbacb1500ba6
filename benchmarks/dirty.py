"""Dirty inputs as people have them: what became of each before, and what becomes of it now.

    PYTHONPATH=OLD_CHECKOUT python benchmarks/dirty.py --json before.json
    python benchmarks/dirty.py --before before.json        # writes benchmarks/DIRTY.md

Each input is written to a folder and read as a new user would, without options unless it names
some. What is expected was written by hand. An outcome is "right" where the events are read as they
were meant, "says so" where a sentence names the trouble (a refusal, a warning, a problem of
`inspect`), and "wrong" where neither is the case. Without TensorFlow, in one process.
"""

import argparse
import gzip
import json
import re
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from exports import EXPORTS

HERE = Path(__file__).parent
CHINA = {"timezone": "Asia/Shanghai"}
#: 2024-03-01 09:05:00 UTC and ten minutes later
NINE, LATER = 1_709_283_900, 1_709_284_500
CATALOGUE = "item_id,title\na,围城\nb,活着\nc,红楼梦\n"
SHOWN = 150
#: refusals that name the trouble, whatever the input
CLEAR = "unparsable time|expected a file that ends in|expected one column for"


class Dirty(NamedTuple):
    """Holds one input.

    kind, what: in words.  log: name of the file and its content, or a function that gives a source
    for `read_interactions`.  right: what the events are where they are read as meant, see `facts`;
    None where nobody can read them.  says: words of which a refusal, a warning or a problem must
    hold one where they are not (or, beside `right`, must be said too).  items: the catalogue, a
    csv.  options: of `read_interactions`.  feedback: events for a store, in place of a log.
    """

    kind: str
    what: str
    log: Any
    right: dict[str, Any] | None = None
    says: str = ""
    items: str | None = None
    options: dict[str, Any] = {}
    feedback: bool = False


def csv(*times: str, name: str = "log.csv", head: str = "user,item,time") -> tuple[str, bytes]:
    """A log of users u1, u2, ... at items a, b, ... at the times."""
    rows = [f"u{n},{'abcdefgh'[n - 1]},{one}" for n, one in enumerate(times, start=1)]
    return name, "\n".join([head, *rows, ""]).encode()


def lines(*rows: str, name: str = "log.csv", encoding: str = "utf-8", end: str = "\n"):
    """A text file of the rows."""
    return name, "".join(row + end for row in rows).encode(encoding)


def jsonl(*objects: Any) -> tuple[str, bytes]:
    """A file of JSON objects, one a line."""
    return lines(*(json.dumps(one, ensure_ascii=False) for one in objects), name="log.jsonl")


def sheet(*rows: list) -> Callable[[Path], Path]:
    """A workbook with these rows."""

    def write(folder):
        import openpyxl

        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(folder / "log.xlsx")
        return folder / "log.xlsx"

    return write


def frame(**columns: list) -> Callable[[Path], pd.DataFrame]:
    """A table of pandas."""
    return lambda folder: pd.DataFrame(columns)


def parquet(**columns: Any) -> Callable[[Path], Path]:
    """A parquet file with these columns."""

    def write(folder):
        pd.DataFrame(columns).to_parquet(folder / "log.parquet", index=False)
        return folder / "log.parquet"

    return write


def database(*statements: str, query: str) -> Callable[[Path], str]:
    """The address of a SQLite database with a query."""

    def write(folder):
        with sqlite3.connect(folder / "shop.db") as base:
            for one in statements:
                base.execute(one)
        return f"sqlite:///{folder / 'shop.db'}?query={query}"

    return write


def parts(**files: bytes) -> Callable[[Path], Path]:
    """A folder with these files; `__` stands for a point, `ß` for a slash."""

    def write(folder):
        for name, content in files.items():
            path = folder / "log" / name.replace("ß", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / "log"

    return write


def at(*times: str, **more: Any) -> dict[str, Any]:
    """Facts of events at these UTC times."""
    return {"rows": len(times), "times": list(times), **more}


DAY = "2024-03-01"
BOTH = at(f"{DAY} 09:05:00", f"{DAY} 15:05:00")
TWO = ("u1,a,2024-03-01 09:05:00", "u2,b,2024-03-01 15:05:00")
H = "user,item,time"
INPUTS = [
    # --- time ---
    Dirty(
        "time",
        "Excel's days behind a point, 45352.378472",
        csv("45352.378472", "45352.628472"),
        BOTH,
    ),
    Dirty("time", "上午 and 下午", csv("2024/3/1 上午9:05", "2024/3/1 下午3:05"), BOTH),
    Dirty("time", "年月日时分", csv("2024年3月1日9时05分", "2024年03月01日15时05分"), BOTH),
    Dirty(
        "time",
        "an hour 24",
        csv("2024-02-29 24:00:00", "2024-03-01 00:00:01"),
        at(f"{DAY} 00:00:00", f"{DAY} 00:00:01"),
    ),
    Dirty(
        "time",
        "a day of the week within, 星期五",
        csv("2024-03-01 星期五 09:05:00"),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time",
        "month first, 03/01/2024 09:05",
        csv("03/01/2024 09:05", "03/01/2024 15:05"),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time",
        "of a web server, 01/Mar/2024:09:05:00 +0800",
        csv("01/Mar/2024:09:05:00 +0800"),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time",
        "of a mail, Fri, 01 Mar 2024",
        lines(H, 'u1,a,"Fri, 01 Mar 2024 09:05:00 +0000"'),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time",
        "Java's toString, Fri Mar 01 09:05:00 CST 2024",
        csv("Fri Mar 01 09:05:00 CST 2024"),
        BOTH,
        "unparsable time",
    ),
    Dirty("time", "relative, 刚刚 and 3小时前", csv("刚刚", "3小时前"), None, "unparsable time"),
    Dirty(
        "time",
        "years of two digits",
        csv("24-03-01 09:05", "24-03-01 15:05"),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time", "compact ISO, 20240301T090500Z", csv("20240301T090500Z", "20240301T150500Z"), BOTH
    ),
    Dirty("time", "14 digits, 20240301090500", csv("20240301090500", "20240301150500"), BOTH),
    Dirty(
        "time",
        "log4j's comma, 09:05:00,123",
        lines(H, 'u1,a,"2024-03-01 09:05:00,123"', 'u2,b,"2024-03-01 15:05:00,456"'),
        BOTH,
    ),
    Dirty(
        "time",
        "BigQuery's UTC behind it",
        csv("2024-03-01 09:05:00 UTC", "2024-03-01 15:05:00 UTC"),
        BOTH,
    ),
    Dirty(
        "time",
        "Java's ZonedDateTime",
        csv("2024-03-01T17:05:00+08:00[Asia/Shanghai]", "2024-03-01T23:05:00+08:00[Asia/Shanghai]"),
        BOTH,
    ),
    Dirty("time", "Java's double, 1.7092839E9", csv("1.7092839E9", "1.7093055E9"), BOTH),
    Dirty(
        "time",
        ".NET ticks",
        csv("638448735000000000", "638448951000000000"),
        BOTH,
        "ticks",
    ),
    Dirty(
        "time",
        "Windows file times",
        csv("133537575000000000", "133537791000000000"),
        BOTH,
        "ticks",
    ),
    Dirty(
        "time",
        "Chrome's microseconds since 1601",
        csv("13353757500000000", "13353779100000000"),
        BOTH,
        "after 2099|future",
    ),
    Dirty(
        "time",
        "MySQL's 0000-00-00",
        csv("0000-00-00 00:00:00", "2024-03-01 09:05:00"),
        None,
        "0000-00-00",
    ),
    Dirty(
        "time",
        "9999-12-31 as no end",
        csv("9999-12-31 00:00:00", "2024-03-01 09:05:00"),
        None,
        "9999-12-31",
    ),
    Dirty(
        "time",
        "full-width digits, ２０２４-０３-０１",
        csv("２０２４-０３-０１ 09:05:00"),
        BOTH,
        "unparsable time",
    ),
    Dirty(
        "time",
        "newest first, as consoles export",
        csv("2024-03-01 15:05:00", "2024-03-01 09:05:00"),
        at(f"{DAY} 15:05:00", f"{DAY} 09:05:00"),
    ),
    Dirty(
        "time",
        "seconds and milliseconds, mixed",
        csv("1709283900", "1709305500000"),
        BOTH,
        "one unit",
    ),
    Dirty(
        "time",
        "a date and a clock in two columns",
        lines("user,item,日期,时间", "u1,a,2024-03-01,09:05:00", "u2,b,2024-03-01,15:05:00"),
        BOTH,
    ),
    Dirty(
        "time",
        "a date and an hour, dt and hour",
        lines("user,item,dt,hour", "u1,a,20240301,09", "u1,b,20240301,15"),
        at(f"{DAY} 09:00:00", f"{DAY} 15:00:00"),
    ),
    Dirty(
        "time",
        "a zone that daylight saving moves",
        csv("2024-07-01 09:05:00", "2024-12-01 09:05:00"),
        at("2024-07-01 13:05:00", "2024-12-01 14:05:00"),
        options={"timezone": "America/New_York"},
    ),
    # --- ids ---
    Dirty(
        "ids",
        "undefined of a script",
        lines(H, "undefined,a,2024-03-01 09:05:00", *TWO),
        None,
        "a user_id",
    ),
    Dirty(
        "ids",
        "#N/A of a spreadsheet",
        lines(H, "#N/A,a,2024-03-01 09:05:00", *TWO),
        None,
        "a user_id",
    ),
    Dirty(
        "ids",
        "masked telephones, 138****1234",
        lines(
            H, "138****1234,a,2024-03-01", "138****1234,b,2024-03-02", "139****0001,a,2024-03-02"
        ),
        None,
        "masked",
    ),
    Dirty(
        "ids",
        "a tab behind long numbers",
        lines(H, '"9007199254740993\t",a,2024-03-01', '"9007199254740995\t",b,2024-03-02'),
        {"users": 2},
    ),
    Dirty(
        "ids",
        "visitors who are all called 0",
        lines(
            H, *(f"0,{one},2024-03-0{n}" for n, one in enumerate("abcabcabc", 1)), "7,a,2024-03-02"
        ),
        None,
        "'0'",
    ),
    Dirty(
        "ids",
        'numbers and texts in JSON, 12 and "12"',
        jsonl({"uid": 12, "iid": "a", "ts": NINE}, {"uid": "12", "iid": "b", "ts": LATER}),
        {"rows": 2, "users": 1},
    ),
    Dirty(
        "ids",
        "above 2^64 in JSON",
        jsonl(
            {"uid": 2**64 + 1, "iid": "a", "ts": NINE}, {"uid": 2**64 + 2, "iid": "b", "ts": LATER}
        ),
        {"users": 2},
    ),
    Dirty(
        "ids",
        "a float column with gaps (pandas)",
        frame(user=[1.0, None, 3.0], item=["a", "b", "c"], ts=[NINE] * 3),
        None,
        "empty user_id|a user_id",
    ),
    Dirty(
        "ids",
        "1E5 and 100000, as texts",
        lines(H, "1E5,a,2024-03-01", "100000,a,2024-03-02"),
        {"users": 2},
    ),
    Dirty(
        "ids",
        "lists of items in one cell (parquet)",
        parquet(user=["u"], items=[["a", "b"]], item=[["a", "b"]], ts=[NINE]),
        None,
        "texts or whole numbers",
    ),
    # --- encodings ---
    Dirty(
        "encoding",
        "Big5",
        lines("用戶,物品,時間", "臺灣,紅樓夢,2024-03-01", name="log.csv", encoding="big5"),
        None,
        "big5",
    ),
    Dirty(
        "encoding",
        "Korean, EUC-KR",
        lines("user,item,time", "사용자,상품,2024-03-01", encoding="euc-kr"),
        None,
        "euc-kr",
    ),
    Dirty("encoding", "UTF-16 without a mark", lines(H, *TWO, encoding="utf-16-le"), BOTH),
    Dirty(
        "encoding",
        "UTF-8 with a mark, semicolons",
        lines(*(r.replace(",", ";") for r in ("\ufeffuser,item,time", *TWO))),
        BOTH,
    ),
    Dirty(
        "encoding",
        "a rare character of GB18030",
        lines(
            "用户,商品,时间",
            "李㐀,红楼梦的故事,2024-03-01 09:05:00",
            "王小明,中国历史大全,2024-03-01 15:05:00",
            encoding="gb18030",
        ),
        BOTH,
    ),
    Dirty(
        "encoding",
        "GBK rows below UTF-8 rows",
        (
            "log.csv",
            "用户,商品,时间\n小明,红楼梦,2024-03-01\n".encode()
            + "小红,围城,2024-03-02\n".encode("gbk"),
        ),
        None,
        "bytes",
    ),
    Dirty(
        "encoding",
        "a title 锟斤拷",
        lines(H, *TWO),
        BOTH,
        "broken",
        items="item_id,title\na,锟斤拷锟斤拷\nb,活着\n",
    ),
    Dirty(
        "encoding",
        "zero bytes where a disk was full",
        ("log.csv", ("\n".join([H, *TWO]) + "\n").encode() + b"\0" * 64),
        None,
        "values in every row|zero|empty",
    ),
    # --- separators and headers ---
    Dirty(
        "form",
        "sep=; of Excel above the header",
        lines("sep=;", *(r.replace(",", ";") for r in (H, *TWO))),
        BOTH,
    ),
    Dirty(
        "form",
        "a title above the header",
        lines("2024年3月订单报表,,", H, *TWO),
        BOTH,
        "expected a column user_id",
    ),
    Dirty("form", "no header", lines(*TWO), BOTH, "header line"),
    Dirty(
        "form",
        "no header, its names given",
        lines(*TWO),
        BOTH,
        options={"columns": ["user", "item", "time"]},
    ),
    Dirty(
        "form",
        "user::item::time",
        lines("1::2::1709283900", "2::3::1709284500"),
        None,
        "header line|expected a column",
    ),
    Dirty("form", "a row of sums, 合计", lines(H, *TWO, "合计,,2"), None, "empty item_id|item_id"),
    Dirty(
        "form", "a header again in the middle", lines(H, TWO[0], H, TWO[1]), None, "unparsable time"
    ),
    Dirty(
        "form",
        "a separator at the end of each row",
        lines(H, *(r + "," for r in TWO)),
        None,
        "values in every row",
    ),
    Dirty("form", "one at the end of the header too", lines(*(r + "," for r in (H, *TWO))), BOTH),
    Dirty("form", "lines that end as on an old Mac", lines(H, *TWO, end="\r"), BOTH),
    Dirty(
        "form",
        "quotes escaped by a backslash",
        lines(
            "user,item,time,remark",
            'u1,a,2024-03-01 09:05:00,"他说\\"好\\""',
            'u2,b,2024-03-01 15:05:00,"无"',
        ),
        BOTH,
        "quote|values in every row",
    ),
    Dirty(
        "form",
        "commas of full width between",
        lines("用户，商品，时间", "u1，a，2024-03-01"),
        BOTH,
        "expected a column user_id",
    ),
    Dirty(
        "form",
        "time twice in the header",
        lines("user,item,time,time", "u1,a,2024-03-01,2024-03-02"),
        None,
        "every column name once",
    ),
    Dirty(
        "form",
        "a space of no width in the header",
        lines("user\u200b,item\u200b,time\u200b", *TWO),
        BOTH,
    ),
    Dirty(
        "form",
        "userId and uid",
        lines("userId,uid,item,time", "x,u1,a,2024-03-01"),
        None,
        "expected one column for user_id",
    ),
    Dirty("form", "会员ID, 商品编号, 下单时间", lines("会员ID,商品编号,下单时间", *TWO), BOTH),
    Dirty(
        "form",
        "a borders of mysql's terminal",
        lines("+------+------+", "| user | item |", "+------+------+", "| u1   | a    |"),
        None,
        "expected a column|values in every row",
    ),
    # --- files ---
    Dirty(
        "file",
        "a web page called .xls",
        ("log.xls", b"<html><table><tr><td>user</td></tr></table></html>"),
        None,
        "Excel",
    ),
    Dirty(
        "file",
        "a JSON list in .jsonl",
        ("log.jsonl", b'[{"user": 1, "item": 2}]\n'),
        None,
        "without a list",
    ),
    Dirty(
        "file",
        "jsonl that ends in the middle",
        ("log.jsonl", b'{"uid": 1, "iid": 2, "ts": 1709283900}\n{"uid": 1, "ii'),
        None,
        "JSON object",
    ),
    Dirty(
        "file",
        "half of a csv.gz",
        ("log.csv.gz", gzip.compress("\n".join([H, *TWO * 4000]).encode(), mtime=0)[:150]),
        None,
        "damaged|cut|broken|gzip",
    ),
    Dirty("file", "a zip called .csv", ("log.csv", b"PK\x03\x04" + bytes(60)), None, "zip"),
    Dirty(
        "file",
        "a folder with _SUCCESS and an empty part",
        parts(
            _SUCCESS=b"",
            part_0__csv="\n".join([H, TWO[0]]).encode(),
            part_1__csv=b"",
            part_2__csv="\n".join([H, TWO[1]]).encode(),
        ),
        BOTH,
    ),
    Dirty(
        "file",
        "parts whose columns stand in another order",
        parts(
            a__csv="\n".join([H, TWO[0]]).encode(),
            b__csv=b"time,item,user\n2024-03-01 15:05:00,b,u2\n",
        ),
        BOTH,
    ),
    Dirty(
        "file",
        "Kafka's payload as JSON within",
        jsonl(
            *(
                {"offset": n, "payload": {"userId": f"u{n}", "itemId": i, "ts": t}}
                for n, i, t in ((1, "a", NINE * 1000), (2, "b", LATER * 1000))
            )
        ),
        at(f"{DAY} 09:05:00", f"{DAY} 09:15:00"),
    ),
    Dirty(
        "file",
        "MongoDB's $oid and $date",
        jsonl(
            *(
                {
                    "user": {"$oid": f"65{n}"},
                    "item": {"$oid": f"ab{n}"},
                    "time": {"$date": f"{DAY}T{h}:05:00Z"},
                }
                for n, h in ((1, "09"), (2, "15"))
            )
        ),
        BOTH,
        "expected a column user_id",
    ),
    # --- Excel ---
    Dirty(
        "xlsx",
        "dates as dates, ids as numbers",
        sheet(
            ["用户", "商品", "时间"],
            [1001, "a", pd.Timestamp("2024-03-01 09:05").to_pydatetime()],
            [1002, "b", pd.Timestamp("2024-03-01 15:05").to_pydatetime()],
        ),
        {**BOTH, "users": 2},
    ),
    Dirty(
        "xlsx",
        "a title above the header",
        sheet(["订单报表", None, None], ["用户", "商品", "时间"], ["u1", "a", "2024-03-01"]),
        None,
        "expected a column user_id",
    ),
    Dirty(
        "xlsx",
        "dates as texts beside dates",
        sheet(
            ["用户", "商品", "时间"],
            ["u1", "a", "2024-03-01 09:05:00"],
            ["u2", "b", pd.Timestamp("2024-03-01 15:05").to_pydatetime()],
        ),
        BOTH,
    ),
    Dirty(
        "xlsx",
        "ids of 18 digits as numbers",
        sheet(
            ["用户", "商品", "时间"],
            *([123456789012345680 + n * 1000, "a", "2024-03-01"] for n in range(3)),
        ),
        None,
        "rounded",
    ),
    # --- databases ---
    Dirty(
        "SQL",
        "no user in a row",
        database(
            "create table o(u, i, t)",
            "insert into o values (null, 'a', '2024-03-01'), ('x', 'b', '2024-03-02')",
            query="select u user_id, i item_id, t time from o",
        ),
        None,
        "empty user_id|user_id",
    ),
    Dirty(
        "SQL",
        "numbers and texts in one column",
        database(
            "create table o(u, i, t)",
            "insert into o values (12, 'a', 1709283900), ('12', 'b', 1709284500)",
            query="select u user_id, i item_id, t time from o",
        ),
        {"users": 1, "rows": 2},
    ),
    Dirty("SQL", "no such table", database(query="select * from orders"), None, "orders"),
    Dirty(
        "SQL",
        "a driver that is not there, with a password",
        lambda folder: "oracle://shop:hunter2@db/x?query=select 1",
        None,
        "install|driver",
    ),
    # --- duplicates ---
    Dirty("duplicates", "each event three times", lines(H, *TWO * 3), {"rows": 6}, "logged twice"),
    Dirty(
        "duplicates",
        "an item twice in the catalogue",
        lines(H, *TWO),
        BOTH,
        "repeated item_id|every item_id once",
        items=CATALOGUE + "a,围城\n",
    ),
    Dirty(
        "duplicates",
        "one title for all colours",
        lines(H, *TWO),
        BOTH,
        "share their title",
        items="item_id,title\na,T恤\nb,T恤\nc,T恤\n",
    ),
    # --- log and catalogue ---
    Dirty(
        "mismatch",
        "uuids with and without dashes",
        lines(H, "u,0a1b-2c3d,2024-03-01", "u,0a1b-2c3e,2024-03-02"),
        None,
        "hardly meet",
        items="item_id,title\n0a1b2c3d,甲\n0a1b2c3e,乙\n",
    ),
    Dirty(
        "mismatch",
        "ids of full width",
        lines(H, "u,ＡＢ１２,2024-03-01", "u,ＡＢ１３,2024-03-02"),
        None,
        "full-width",
        items="item_id,title\nAB12,甲\nAB13,乙\n",
    ),
    Dirty(
        "mismatch",
        "spaces that cannot be seen",
        lines(H, "u,a\u200b,2024-03-01", "u,b\u00a0,2024-03-02"),
        None,
        "invisible",
        items=CATALOGUE,
    ),
    Dirty(
        "mismatch",
        "users and items exchanged",
        lines("user,item,time", "a,u1,2024-03-01", "b,u2,2024-03-02"),
        None,
        "exchange",
        items=CATALOGUE,
    ),
    Dirty(
        "mismatch",
        "barcodes in the log, numbers in the catalogue",
        lines(H, "u,690001,2024-03-01", "u,690002,2024-03-02"),
        None,
        "item_id=barcode",
        items="item_id,title,barcode\n1,甲,690001\n2,乙,690002\n",
    ),
    Dirty(
        "mismatch",
        "thousands with commas",
        lines(H, 'u,"1,234",2024-03-01', 'u,"1,235",2024-03-02'),
        None,
        "commas",
        items="item_id,title\n1234,甲\n1235,乙\n",
    ),
    # --- withdrawn ---
    Dirty(
        "withdrawn",
        "销售状态 is 停售",
        lines(H, *TWO),
        {**BOTH, "withdrawn": 1},
        items="item_id,title,销售状态\na,围城,在售\nb,活着,停售\n",
    ),
    Dirty(
        "withdrawn",
        "is_deleted is 1",
        lines(H, *TWO),
        {**BOTH, "withdrawn": 1},
        items="item_id,title,is_deleted\na,围城,0\nb,活着,1\n",
    ),
    Dirty(
        "withdrawn",
        "库存 is 0.00",
        lines(H, *TWO),
        {**BOTH, "withdrawn": 1},
        items="item_id,title,库存\na,围城,3.00\nb,活着,0.00\n",
    ),
    Dirty(
        "withdrawn",
        "有效期至 is over",
        lines(H, *TWO),
        {**BOTH, "withdrawn": 1},
        items="item_id,title,有效期至\na,围城,2090-01-01\nb,活着,2020/1/1\n",
    ),
    # --- events ---
    Dirty(
        "events",
        "codes 1 to 4 (Tianchi)",
        lines("user,item,time,behavior_type", "u1,a,2024-03-01,1", "u2,b,2024-03-01,4"),
        None,
        "known event",
    ),
    Dirty(
        "events",
        "PV and BUY",
        lines("user,item,time,behavior_type", "u1,a,2024-03-01,PV", "u2,b,2024-03-01,BUY"),
        {"rows": 2, "events": ["purchase", "view"]},
    ),
    Dirty(
        "events",
        "加入收藏",
        lines("user,item,time,行为", "u1,a,2024-03-01,加入收藏"),
        None,
        "known event",
    ),
    Dirty(
        "events",
        "orders that were cancelled, 已取消",
        lines("user,item,time,订单状态", "u1,a,2024-03-01,交易完成", "u2,b,2024-03-01,已取消"),
        at(f"{DAY} 00:00:00"),
        "cancelled",
    ),
    # --- values ---
    Dirty(
        "values",
        "5星",
        lines("user,item,time,评分", "u1,a,2024-03-01,5星"),
        None,
        "number as value|value that is no number",
    ),
    Dirty(
        "values",
        "a decimal comma, 4,5",
        lines("user;item;time;rating", "u1;a;2024-03-01;4,5"),
        None,
        "number as value",
    ),
    Dirty(
        "values",
        "a rating that is empty",
        lines("user,item,time,rating", "u1,a,2024-03-01,", "u2,b,2024-03-01,4"),
        None,
        "value for every rating",
    ),
    # --- feedback ---
    Dirty(
        "feedback",
        "milliseconds",
        [{"user_id": "u", "item_id": "a", "timestamp": NINE * 1000}],
        {"rows": 1},
        "timestamp",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "an item null",
        [{"user_id": "u", "item_id": None, "timestamp": NINE}],
        None,
        "item_id",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "an event that nobody knows",
        [{"user_id": "u", "item_id": "a", "event": "teleport"}],
        None,
        "event",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "a field misspelt, timestmap",
        [{"user_id": "u", "item_id": "a", "timestmap": NINE}],
        None,
        "timestmap",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "the year 9999",
        [{"user_id": "u", "item_id": "a", "timestamp": 253402214400}],
        None,
        "timestamp",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "a position that is a text",
        [{"user_id": "u", "item_id": "a", "position": "third"}],
        None,
        "position",
        feedback=True,
    ),
    Dirty(
        "feedback",
        "a user who is true",
        [{"user_id": True, "item_id": "a"}],
        None,
        "user_id",
        feedback=True,
    ),
]


def facts(interactions: Any, items: Any) -> dict[str, Any]:
    """What was read: rows, users, times in UTC, kinds of events, withdrawn items."""
    table = interactions.frame
    return {
        "rows": len(table),
        "users": interactions.num_users,
        "times": pd.to_datetime(table["timestamp"], unit="s").astype(str).tolist(),
        "events": sorted(set(table["event"])),
        "withdrawn": len(getattr(items, "withdrawn", ())) if items is not None else 0,
    }


def outcome(dirty: Dirty, folder: Path) -> dict[str, Any]:
    """What becomes of an input: `facts`, what is said, `error` (a refusal), `crash` (another)."""
    import kerasrec

    found: dict[str, Any] = {"facts": None, "said": [], "error": "", "crash": ""}
    try:
        if dirty.feedback:
            with kerasrec.FeedbackStore(f"sqlite:///{folder / 'store.db'}") as store:
                store.add(dirty.log)
                found["facts"] = {"rows": len(dirty.log)}
            return found
        source = _written(dirty, folder)
        interactions = kerasrec.read_interactions(source, **dirty.options)
        items = None
        if dirty.items is not None:
            (folder / "items.csv").write_text(dirty.items, "utf-8")
            items = kerasrec.read_items(folder / "items.csv")
        found["facts"] = facts(interactions, items)
        notes = [*interactions.report.steps, *(items.report.steps if items else ())]
        found["said"] = [*(step.what for step in notes), *_problems(interactions, items)]
    except (ValueError, FileNotFoundError, ImportError) as error:
        found["error"] = " ".join(str(error).replace(f"{folder}/", "").split())
    except Exception as error:
        found["crash"] = f"{type(error).__name__}: {error}".split("\n")[0].replace(f"{folder}/", "")
    return found


def _written(dirty, folder):
    if callable(dirty.log):
        return dirty.log(folder)
    name, content = dirty.log
    (folder / name).write_bytes(content)
    return folder / name


def _problems(interactions, items):
    """What `inspect` opens with; nothing where it does not know problems yet."""
    try:
        from kerasrec.data.statistics import find_problems
    except ImportError:
        return []
    return find_problems(interactions, items)


def verdict(dirty: Dirty, found: dict[str, Any]) -> str:
    """`right`, `says so` or `wrong`, see the top of this file."""
    told = [found["error"], *found["said"]]
    is_said = bool(dirty.says) and any(re.search(dirty.says, one) for one in told)
    is_said |= bool(re.search(CLEAR, found["error"]))
    is_right = dirty.right is not None and found["facts"] is not None
    for name, value in (dirty.right or {}).items():
        is_right = is_right and found["facts"].get(name) == value
    if found["crash"] or not (is_right or is_said):
        return "wrong"
    return "says so" if is_said else "right"


def run_all(inputs: list[Dirty] = INPUTS) -> list[dict[str, Any]]:
    """The outcomes of all inputs, each in a folder of its own."""
    outcomes = []
    for dirty in inputs:
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(dirty, Path(folder))
        outcomes.append({**found, "what": f"{dirty.kind}: {dirty.what}"})
    return outcomes


def show(dirty: Dirty, found: dict[str, Any] | None) -> str:
    """An outcome in a cell of the table."""
    if found is None:
        return "not run"
    if found["crash"]:
        return _cell(f"crashes: {found['crash']}")
    if found["error"]:
        return _cell(f"refused: {found['error']}")
    read = found["facts"]
    text = f"{read['rows']} rows"
    for name in ("users", "events", "withdrawn"):
        if name in (dirty.right or {}):
            value = read.get(name)
            text += f", {name} {', '.join(value) if isinstance(value, list) else value}"
    if dirty.kind == "time" and read.get("times"):
        text += f", {' and '.join(read['times'][:2])}"
    for one in found["said"]:
        if dirty.says and re.search(dirty.says, one):
            text += f"; says: {one}"
            break
    return _cell(text)


def _cell(text):
    text = re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", "...", text)  # this machine's clock
    text = "".join(char if char.isprintable() else "�" for char in text).replace("|", "\\|")
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def page(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    """The page DIRTY.md."""
    known = {one["what"]: one for one in before}
    pairs = [
        (known.get(f"{d.kind}: {d.what}"), found) for d, found in zip(INPUTS, after, strict=True)
    ]
    counts = []
    for side in (0, 1):
        given = [verdict(d, p[side]) for d, p in zip(INPUTS, pairs, strict=True) if p[side]]
        counts.append(", ".join(f"{given.count(w)} {w}" for w in ("right", "says so", "wrong")))
    rows = []
    for dirty, pair in zip(INPUTS, pairs, strict=True):
        words = [verdict(dirty, one) if one else "not run" for one in pair]
        cells = [show(dirty, one) for one in pair]
        what = _cell(dirty.what)
        rows.append(
            f"| {dirty.kind} | {what} | {cells[0]} | {words[0]} | {cells[1]} | {words[1]} |"
        )
    return "\n".join(
        [
            "# Dirty inputs",
            "",
            f'{len(INPUTS)} inputs, each read as a new user would. "right": read as it was meant. '
            '"says so": a refusal, a warning or a problem of `inspect` names the trouble. "wrong": '
            "neither. What is expected of each was written by hand, in `benchmarks/dirty.py`.",
            "",
            f"- Before (commit 7047816): {counts[0]}.",
            f"- Now: {counts[1]}.",
            "",
            "```",
            "PYTHONPATH=OLD_CHECKOUT python benchmarks/dirty.py --json before.json",
            "python benchmarks/dirty.py --before before.json",
            "```",
            "",
            "| kind | input | before | | now | |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "## Exports of tools",
            "",
            "Ten exports of the same events (of the packaged courses) as tools write them, each "
            "with a line of names above it; each goes through `kerasrec inspect` without a "
            "problem and through `kerasrec train`, with the option named here, or none: "
            "`python benchmarks/exports.py FOLDER --train`.",
            "",
            "| export | option beside the paths |",
            "| --- | --- |",
            *(
                f"| {export.what} | {f'`{export.option}`' if export.option else 'none'} |"
                for export in EXPORTS.values()
            ),
            "",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="write the outcomes of this checkout here")
    parser.add_argument("--before", type=Path, help="such a file, of the older checkout")
    options = parser.parse_args(argv)
    outcomes = run_all()
    if options.json:
        options.json.write_text(json.dumps(outcomes, ensure_ascii=False, indent=1), "utf-8")
        return
    before = json.loads(options.before.read_text("utf-8")) if options.before else []
    (HERE / "DIRTY.md").write_text(page(before, outcomes), "utf-8")


if __name__ == "__main__":
    main()
