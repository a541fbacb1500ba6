"""Ten exports as Chinese tools write them, of the same events: a slice of the packaged courses.

    .venv/bin/python benchmarks/exports.py FOLDER [--train]

Writes them into FOLDER and runs `kerasrec inspect` on each; with --train also `kerasrec train`, of
ids alone and one epoch. Beside the paths each takes one option at most (`Export.option`).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

USERS = 80
ZONE = "Asia/Shanghai"
TRAIN = "--encoder none --preset fast --quiet --set trainer.epochs=1"


class Export(NamedTuple):
    """Holds one kind of export.

    what: in words.  log, items: names of its files.  write: makes them, of `(folder, events)`.
    option: what has to be said beside the paths, or "".
    """

    what: str
    log: str
    items: str
    write: Callable[[Path, pd.DataFrame], None]
    option: str = ""


def events() -> pd.DataFrame:
    """Columns user, item, title, seconds (UTC) and local (a clock in China), in order of time."""
    from kerasrec import load_mooccube

    interactions, items = load_mooccube()
    frame = interactions.frame[["user_id", "item_id", "timestamp"]].astype({"user_id": str})
    first = frame["user_id"].drop_duplicates().head(USERS)
    frame = frame[frame["user_id"].isin(first)].set_axis(["user", "item", "seconds"], axis=1)
    frame["item"] = frame["item"].astype(str)
    titles = items.frame.set_index("item_id")["title"]
    frame["title"] = frame["item"].map(titles)
    utc = pd.to_datetime(frame["seconds"], unit="s", utc=True)
    frame["local"] = utc.dt.tz_convert(ZONE).dt.tz_localize(None)
    return frame.sort_values("seconds", kind="stable").reset_index(drop=True)


def _catalogue(frame):
    return frame[["item", "title"]].drop_duplicates("item").sort_values("item")


def _clock(frame, form="%Y-%m-%d %H:%M:%S"):
    return frame["local"].dt.strftime(form)


def _save(path, rows, separator=",", encoding="utf-8", end="\n"):
    text = "".join(separator.join(map(str, row)) + end for row in rows)
    path.write_bytes(text.encode(encoding))


def write_hive(folder, frame):
    """`hive -e "set hive.cli.print.header=true; select ..."`: \\001 between, \\N where none."""
    rows = zip(frame["user"], frame["item"], _clock(frame), ["\\N"] * len(frame), strict=True)
    head = ["t.user_id", "t.course_id", "t.event_time", "t.channel"]
    _save(folder / "hive.csv", [[name[2:] for name in head], *rows], "\x01")
    items = zip(*_catalogue(frame).T.to_numpy(), strict=True)
    _save(folder / "hive_items.csv", [("course_id", "title"), *items], "\x01")


def write_mysql(folder, frame):
    """`mysqldump --tab` and Navicat: every value in quotes, \\N where none, CR LF."""
    rows = [
        (f'"{n}"', f'"{one.user}"', f'"{one.item}"', f'"{one.local}"', "\\N")
        for n, one in enumerate(frame.itertuples(), start=1)
    ]
    head = ['"id"', '"user_id"', '"course_id"', '"gmt_create"', '"remark"']
    _save(folder / "mysql.csv", [head, *rows], end="\r\n")
    items = [(f'"{item}"', f'"{title}"') for item, title in _catalogue(frame).to_numpy()]
    _save(folder / "mysql_items.csv", [('"course_id"', '"title"'), *items], end="\r\n")


def write_excel(folder, frame):
    """A workbook: ids as texts, dates as dates, two sheets."""
    with pd.ExcelWriter(folder / "excel.xlsx") as book:
        table = frame[["user", "item", "local"]]
        table = table.set_axis(["用户编号", "商品编号", "操作时间"], axis=1)
        table.to_excel(book, sheet_name="明细", index=False)
        _catalogue(frame).set_axis(["商品编号", "商品名称"], axis=1).to_excel(
            book, sheet_name="商品", index=False
        )


def write_orders(folder, frame):
    """Orders of a shop such as Youzan's: GBK, a date and a clock, a tab behind long numbers."""
    rows = [
        (f"E2016{n:015d}\t", one.user, one.item, one.title, d, t, "1", "99.00", "交易完成")
        for n, (one, d, t) in enumerate(
            zip(
                frame.itertuples(),
                _clock(frame, "%Y/%m/%d"),
                _clock(frame, "%H:%M:%S"),
                strict=True,
            )
        )
    ]
    head = "订单号 用户ID 商品ID 商品名称 下单日期 下单时间 数量 实付金额 订单状态".split()
    quoted = [[f'"{cell}"' for cell in row] for row in [head, *rows]]
    _save(folder / "orders.csv", quoted, encoding="gb18030", end="\r\n")
    items = _catalogue(frame).set_axis(["商品ID", "商品名称"], axis=1)
    items.to_csv(folder / "orders_items.csv", index=False, encoding="gb18030")


def _lines(path, objects):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects), "utf-8")


def write_kafka(folder, frame):
    """`kcat -J`-like messages: the event within `payload`, milliseconds."""
    _lines(
        folder / "kafka.jsonl",
        (
            {
                "topic": "learn",
                "partition": n % 3,
                "offset": n,
                "payload": {
                    "userId": one.user,
                    "courseId": one.item,
                    "action": "click",
                    "eventTime": one.seconds * 1000 + n % 1000,
                },
            }
            for n, one in enumerate(frame.itertuples())
        ),
    )
    _lines(
        folder / "kafka_items.jsonl",
        ({"courseId": i, "title": t} for i, t in _catalogue(frame).to_numpy()),
    )


def write_sensors(folder, frame):
    """Sensors Data and GrowingIO: one event a line, `distinct_id`, properties within."""
    _lines(
        folder / "sensors.jsonl",
        (
            {
                "type": "track",
                "event": "view",
                "distinct_id": one.user,
                "time": one.seconds * 1000,
                "properties": {"course_id": one.item, "$os": "Android", "$ip": "10.0.0.1"},
            }
            for one in frame.itertuples()
        ),
    )
    _lines(
        folder / "sensors_items.jsonl",
        ({"course_id": i, "title": t} for i, t in _catalogue(frame).to_numpy()),
    )


def write_taobao(folder, frame):
    """UserBehavior.csv with a header above it: numbers alone, pv, unix seconds."""
    rows = zip(
        frame["user"].str.extract(r"(\d+)", expand=False),
        pd.factorize(frame["item"])[0] + 1,
        [4756105] * len(frame),
        ["pv"] * len(frame),
        frame["seconds"],
        strict=True,
    )
    head = "user_id item_id category_id behavior_type timestamp".split()
    _save(folder / "taobao.csv", [head, *rows])
    codes = pd.factorize(frame["item"])[0] + 1
    items = dict(zip(codes, frame["title"], strict=True))
    _save(folder / "taobao_items.csv", [("item_id", "title"), *items.items()])


def write_wechat(folder, frame):
    """Events of a mini-program as its console saves them: UTF-16, tabs."""
    rows = zip(frame["user"], frame["item"], ["浏览"] * len(frame), _clock(frame), strict=True)
    head = "openid 商品ID 行为类型 上报时间".split()
    _save(folder / "wechat.csv", [head, *rows], "\t", "utf-16", "\r\n")
    items = _catalogue(frame).to_numpy().tolist()
    _save(folder / "wechat_items.csv", [("商品ID", "商品名称"), *items], "\t", "utf-16", "\r\n")


def write_clickhouse(folder, frame):
    """`FORMAT TSVWithNames`: milliseconds behind the point, \\N where none."""
    rows = zip(
        frame["user"], frame["item"], _clock(frame) + ".125", ["\\N"] * len(frame), strict=True
    )
    head = ["user_id", "item_id", "event_time", "referrer"]
    _save(folder / "clickhouse.tsv", [head, *rows], "\t")
    _save(
        folder / "clickhouse_items.tsv", [("item_id", "title"), *_catalogue(frame).to_numpy()], "\t"
    )


def write_spark(folder, frame):
    """A table of Spark with a folder for each month: parquet, _SUCCESS and checksums beside."""
    root = folder / "spark"
    for month, part in frame.groupby(_clock(frame, "%Y-%m")):
        path = root / f"month={month}" / "part-00000.snappy.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = part[["user", "item", "local"]].set_axis(
            ["user_id", "item_id", "event_time"], axis=1
        )
        table.to_parquet(path, index=False)
        path.with_name(f".{path.name}.crc").write_bytes(b"crc")
    (root / "_SUCCESS").write_bytes(b"")
    items = _catalogue(frame).set_axis(["item_id", "title"], axis=1)
    items.to_parquet(folder / "spark_items.parquet", index=False)


_LOCAL = f"--timezone {ZONE}"
EXPORTS = {
    "hive": Export("Hive, \\001 and \\N", "hive.csv", "hive_items.csv", write_hive, _LOCAL),
    "mysql": Export(
        "MySQL dump, quotes and \\N", "mysql.csv", "mysql_items.csv", write_mysql, _LOCAL
    ),
    "excel": Export(
        "Excel, ids as texts and dates", "excel.xlsx#明细", "excel.xlsx#商品", write_excel, _LOCAL
    ),
    "orders": Export(
        "orders of a shop, GBK, 下单日期 and 下单时间",
        "orders.csv",
        "orders_items.csv",
        write_orders,
        _LOCAL,
    ),
    "kafka": Export(
        "Kafka, payload, ms",
        "kafka.jsonl",
        "kafka_items.jsonl",
        write_kafka,
        "--columns event=payload.action",
    ),
    "sensors": Export(
        "event log of Sensors or GrowingIO",
        "sensors.jsonl",
        "sensors_items.jsonl",
        write_sensors,
    ),
    "taobao": Export("Taobao UserBehavior", "taobao.csv", "taobao_items.csv", write_taobao),
    "wechat": Export(
        "mini-program of WeChat, UTF-16",
        "wechat.csv",
        "wechat_items.csv",
        write_wechat,
        _LOCAL,
    ),
    "clickhouse": Export(
        "ClickHouse TSVWithNames",
        "clickhouse.tsv",
        "clickhouse_items.tsv",
        write_clickhouse,
        _LOCAL,
    ),
    "spark": Export(
        "Spark, a folder for each month", "spark", "spark_items.parquet", write_spark, _LOCAL
    ),
}


def write_all(folder: Path) -> pd.DataFrame:
    """Writes the ten; gives the events that are in each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = events()
    for export in EXPORTS.values():
        export.write(folder, frame)
    return frame


def arguments(name: str, folder: Path) -> list[str]:
    """The paths and the one option of an export, for `kerasrec inspect` and `train`."""
    export = EXPORTS[name]
    paths = ["--interactions", str(folder / export.log), "--items", str(folder / export.items)]
    return [*paths, *export.option.split()]


def main(argv: list[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args(argv)
    frame = write_all(options.folder)
    print(f"{len(frame)} events, {frame['user'].nunique()} users, {frame['item'].nunique()} items")
    for name, export in EXPORTS.items():
        given = arguments(name, options.folder)
        kerasrec = [sys.executable, "-m", "kerasrec.cli"]
        runs = [("inspect", [*kerasrec, "inspect", *given])]
        if options.train:
            out = ["--name", name, "--out", str(options.folder / "models"), *TRAIN.split()]
            runs.append(("train", [*kerasrec, "train", *given, *out]))
        for verb, command in runs:
            done = subprocess.run(command, capture_output=True, text=True)
            last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
            shown = f"ok {last}" if done.returncode == 0 else done.stderr.strip()[-300:]
            print(f"{name} ({export.what}) {verb}: {shown}", flush=True)


if __name__ == "__main__":
    main()
