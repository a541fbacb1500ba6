import pytest

from kerasrec.data.cleaningreport import CleaningReport, column_lines


def test_rows_after_is_what_the_steps_leave():
    report = CleaningReport(10).add("skip", "a", 3, removed=3).add("note", "b", 7)
    assert (report.rows_before, report.rows_after) == (10, 7)


def test_add_leaves_the_first_report_as_it_was():
    report = CleaningReport(10)
    report.add("skip", "a", 3, removed=3)
    assert report.steps == () and report.rows_after == 10


def test_reports_join_in_order():
    read = CleaningReport(10).add("skip", "a", 3, removed=3)
    cleaned = CleaningReport(7).add("clean", "b", 2, removed=2)
    joined = read + cleaned
    assert (joined.rows_before, joined.rows_after) == (10, 5)
    assert [step.what for step in joined.steps] == ["a", "b"]


def test_reports_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match="expected a report that starts with the 10 rows"):
        CleaningReport(10) + CleaningReport(7)


def test_of_sources_names_each_source():
    one = CleaningReport(2).add("note", "separator: tab", 1)
    two = CleaningReport(3).add("skip", "empty user_id", 1, removed=1)
    joined = CleaningReport.of_sources([("a.csv", one), ("b.csv", two)])
    assert (joined.rows_before, joined.rows_after) == (5, 4)
    assert [step.what for step in joined.steps] == [
        "a.csv: separator: tab",
        "b.csv: empty user_id",
    ]


def test_table_is_aligned_with_wide_chinese_characters():
    report = CleaningReport(3).add("skip", "空 id", 1, removed=1, example="行 2")
    lines = str(report).split("\n")
    assert lines[0] == "step   what         count  removed  example"
    assert lines[1] == "skip   空 id            1        1  行 2"
    assert lines[2] == "total  rows 3 -> 2               1"


def test_frame_and_dict_hold_the_same_lines():
    report = CleaningReport(3).add("skip", "empty user_id", 1, removed=1, example="data row 2")
    line = {
        "step": "skip",
        "what": "empty user_id",
        "count": 1,
        "removed": 1,
        "example": "data row 2",
    }
    assert report.to_frame().to_dict("records") == [line]
    assert report.to_dict() == {"rows_before": 3, "rows_after": 2, "steps": [line]}


def test_how_a_table_was_read_is_said_beside_its_columns():
    report = CleaningReport(1).add("note", "encoding: GBK/GB18030, by its bytes", 1)
    report = report.add("columns", "columns: item_id = id", 1).add("note", "empty title (kept)", 1)
    assert column_lines(report, "x.csv") == [
        "x.csv: columns: item_id = id",
        "x.csv: encoding: GBK/GB18030, by its bytes",
    ]
