import sys
from datetime import date, datetime

import openpyxl
import pytest

from kerasrec.data.sources import read_interactions, read_items
from kerasrec.data.tables import open_table

ROWS = [
    ["用户", "商品编号", "下单时间", "评分"],
    ["u1", "000300", datetime(2024, 3, 1, 8, 5), 5],
    ["u2", 301, datetime(2024, 3, 2), 3.5],
]


def write(path, **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_sheet_as_excel_writes_it(tmp_path):
    log = read_interactions(write(tmp_path / "x.xlsx", 订单=ROWS), timezone="Asia/Shanghai")
    assert log.frame["user_id"].tolist() == ["u1", "u2"]
    assert log.frame["item_id"].tolist() == ["000300", "301"]
    assert log.frame["timestamp"].tolist() == [1709251500, 1709308800]
    assert log.frame["value"].tolist() == [5, 3.5]


def test_blank_lines_and_columns_around_the_table(tmp_path):
    rows = [[], [None, "id", None, "name"], [None, 1.0, None, "围城"], [], [None, 2, None, "边城"]]
    items = read_items(write(tmp_path / "x.xlsx", blank=[], items=rows))
    assert items.frame.to_dict("list") == {"item_id": ["1", "2"], "title": ["围城", "边城"]}
    assert any("sheet items of 2" in step.what for step in items.report.steps)


def test_a_sheet_by_its_name(tmp_path):
    path = write(tmp_path / "x.xlsx", a=ROWS, b=[["user", "item"], ["x", "y"]])
    assert open_table(f"{path}#b").columns == ["user", "item"]
    assert open_table(path).columns == ROWS[0]
    with pytest.raises(ValueError, match="expected a sheet 'c'. Received: a, b"):
        open_table(f"{path}#c")


def test_numbers_that_excel_has_rounded_are_bad_rows(tmp_path):
    rows = [["user", "item"], [1234567890123456789, "a"], [7, "b"]]
    path = write(tmp_path / "x.xlsx", log=rows)
    with pytest.raises(ValueError, match="expected whole ids as user_id"):
        read_interactions(path)
    assert read_interactions(path, on_bad="skip").frame["user_id"].tolist() == ["7"]


def test_days_and_texts_of_days_in_one_column(tmp_path):
    rows = [["user", "item", "date"], [1, 2, date(2024, 3, 1)], [1, 3, "2024-03-02"]]
    log = read_interactions(write(tmp_path / "x.xlsx", log=rows))
    assert log.frame["timestamp"].tolist() == [1709251200, 1709337600]


def test_not_excel_blank_and_repeated_names(tmp_path):
    (tmp_path / "x.xlsx").write_text("user,item\n1,2\n")
    with pytest.raises(ValueError, match="expected a file of Excel without a password"):
        open_table(tmp_path / "x.xlsx")
    with pytest.raises(ValueError, match="blank cells only"):
        open_table(write(tmp_path / "y.xlsx", a=[]))
    with pytest.raises(ValueError, match="Received: 'user' 2 times"):
        open_table(write(tmp_path / "z.xlsx", a=[["user", "user"], [1, 2]]))


def test_without_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "x.xlsx", a=ROWS)
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(ImportError, match=r"pip install 'kerasrec\[excel\]', or save the sheet"):
        open_table(path)
