"""The table of many leaves is printed, and leaves out what would take too long."""

from experiments.benchmarks import many_leaves


def table(capsys, *arguments):
    many_leaves.main(list(arguments))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    return rows[0], rows[2:]


def test_each_row_has_a_time_in_each_column(capsys):
    columns, rows = table(capsys, "--most", "1000")
    assert columns[:4] == ["leaves", "construct", "step", "sync"]
    assert [row[0] for row in rows] == ["1,000"]
    assert len(rows[0]) == len(columns) == 8
    assert all(cell.endswith(" s") for cell in rows[0][1:])


def test_what_would_take_too_long_is_a_dash(capsys):
    _, rows = table(capsys, "--most", "10000", "--seconds", "1e-9")
    assert rows[1][1:] == ["–"] * 7
