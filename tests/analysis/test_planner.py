"""python -m lookahead_core.analysis: what it prints, when it warns, what it refuses."""

import subprocess
import sys

import pytest

from lookahead_core import lookahead
from lookahead_core.analysis import effective_learning_rate, stability_limit, variance_factor
from lookahead_core.analysis.__main__ import main


def printed(capsys, *arguments):
    """Rows by name, and the warnings."""
    main(["--lr", "0.1", *arguments])
    rows, *warnings = capsys.readouterr().out.split("\nWARNING: ")
    warnings = [" ".join(warning.split()) for warning in warnings]
    split = (line.strip().partition("  ") for line in rows.splitlines())
    return {name: text.strip() for name, _, text in split}, warnings


def test_the_rows_are_what_the_functions_say(capsys):
    rows, _ = printed(capsys, "--momentum", "0.9")
    rule = lookahead(5, 0.5)
    assert rows["effective learning rate"].startswith(
        f"{effective_learning_rate(rule, 0.1, 0.9):.4g} "
    )
    factor = variance_factor(rule, 0.1, 1.0, 0.9)
    assert rows["at lr * curvature 0.1"].startswith(f"{factor:.3g} (control: ")
    assert f"curvature < {stability_limit(rule, 0.9) / 0.1:.4g} " in rows["stability limit"]
    assert rows["inner optimizer alone"] == "curvature < 38 (3.8)"


def test_the_control_of_plain_sgd_at_alpha_times_the_rate_is_beside_the_factor(capsys):
    rows, _ = printed(capsys, "--sync-period", "1")
    assert rows["at lr * curvature 0.1"] == "0.487 (control: 0.487)"


def test_memory_and_traffic_follow_the_settings(capsys):
    rows, _ = printed(capsys)
    assert (rows["extra memory"], rows["traffic"]) == (
        "4 MB for slow weights in float32",
        "none: one process",
    )
    options = ["--inner-state", "interpolate", "--momentum", "0.9", "--parameters", "1e9"]
    rows, _ = printed(capsys, *options, "--workers", "8", "--sync-period", "100", "--bits", "4")
    assert rows["extra memory"].startswith("8 GB ")
    assert rows["traffic"].startswith("8.75 MB a step")
    assert "875 MB at each sync" in rows["traffic"]


def test_a_momentum_rule_takes_the_place_of_alpha(capsys):
    rows, _ = printed(capsys, "--outer-lr", "0.7", "--outer-momentum", "0.9")
    assert rows["effective learning rate"].startswith("0.7 ")
    assert rows["at lr * curvature 0.001"] == "6.82 (control: 7.02)"
    assert rows["at lr * curvature 1"] == "1.91 (control: unstable)"
    assert rows["extra memory"] == "8 MB for slow weights, outer momentum in float32"


def test_it_warns_of_each_unstable_band(capsys):
    _, warnings = printed(capsys, "--momentum", "0.9")
    assert ["curvature 25.97 to 29 " in w for w in warnings] == [True, False]
    assert "curvature 34.92 to 38 " in warnings[1]


def test_interpolating_the_inner_state_has_no_band_to_warn_of(capsys):
    _, warnings = printed(capsys, "--momentum", "0.9", "--inner-state", "interpolate")
    assert warnings == []


@pytest.mark.parametrize(("curvature", "count"), [(25, 0), (27, 1), (36, 2)])
def test_bands_beyond_the_known_curvature_are_not_warned_of(capsys, curvature, count):
    _, warnings = printed(capsys, "--momentum", "0.9", "--curvature", str(curvature))
    assert len(warnings) == count


def test_it_warns_beyond_the_limit_where_there_is_no_band(capsys):
    _, warnings = printed(capsys, "--curvature", "25")
    assert warnings == ["unstable: lr * curvature = 2.5 is not below 2.246"]


def test_a_rule_that_is_stable_hardly_anywhere_is_planned_and_warned_of(capsys):
    rows, warnings = printed(capsys, "--outer-lr", "1000", "--outer-momentum", "0.9")
    assert rows["stability limit"].startswith("curvature < 0.002")
    assert rows["at lr * curvature 0.001"] == "unstable"
    assert "curvature 0.002" in warnings[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sync-period", "0"], "sync_period must be an int >= 1"),
        (["--alpha", "1.5"], "alpha must be a number in [0, 1]"),
        (["--alpha", "0"], "alpha must be > 0"),
        (["--alpha", "0.5", "--outer-lr", "0.7"], "alpha must be left out with --outer-lr"),
        (["--outer-lr", "0.7"], "must be given together"),
        (["--outer-lr", "-1", "--outer-momentum", "0"], "lr must be a finite number >= 0"),
        (["--momentum", "1"], "momentum must be a number in [0, 1)"),
        (["--nesterov"], "momentum must be > 0 with nesterov=True"),
        (["--lr", "-1"], "lr must be a finite number > 0"),
        (["--curvature", "-1"], "curvature must be a finite number > 0"),
        (["--parameters", "0"], "parameters must be a finite number > 0"),
        (["--workers", "0"], "workers must be an int >= 1"),
        (["--bits", "0"], "bits must be a finite number > 0"),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_printed(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(["--lr", "0.1", *arguments])
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_it_runs_as_a_module_without_numpy():
    program = (
        "import runpy, sys; sys.argv = ['planner', '--lr', '0.1'];"
        "runpy.run_module('lookahead_core.analysis', run_name='__main__');"
        "assert 'numpy' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("effective learning rate    0.05 ")
