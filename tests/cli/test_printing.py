from kerasrec.cli.printing import print_rows


def test_rows_are_shown_as_they_are(capsys):
    print_rows(("what", "value"), [("[bold]", 1), ("物品", None)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["what", "value"], ["[bold]", "1"], ["物品", "None"]]
