"""The table of what JAX makes of a step has a row for each form; each program is traced once."""

from experiments.benchmarks import optax_compile


def test_each_form_has_a_row_and_each_program_is_traced_once(capsys):
    optax_compile.main(["--leaves", "2"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: row[1:] for row in lines if len(row) == 9}
    assert [*rows] == ["bare", "drop-in", "split", "bare, scanned", "scan"]
    traced = {name: (row[0], row[1]) for name, row in rows.items()}
    assert traced["bare"] == traced["drop-in"] == ("1", "1")
    assert traced["split"] == ("2", "2")
    assert traced["scan"] == traced["bare, scanned"] == ("1", "2")
