"""The scripts for data that is not here run on synthetic data of the same shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "evidence" / "with_data"
SCRIPTS = {
    "cifar": ["--classes", "100"],
    "penn_treebank": [],
    "transformer": ["--lr", "1"],
}


def run(script, *arguments):
    command = [sys.executable, "-W", "error", str(FOLDER / f"{script}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def last_record(script, *arguments):
    common = ("--synthetic", "--tiny", "--batch", "16", *SCRIPTS[script])
    result = run(script, *common, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_every_script_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SCRIPTS, "shipped"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_few_steps_run_and_are_counted(script):
    record = last_record(script, "--steps", "6")
    assert record["step"] == 6
    assert all(isinstance(number, int | float) for number in record.values())


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_method_asked_for_is_the_method_that_runs(script):
    """After a sync at the k-th step, shipped scores differ unless alpha is 1."""
    scores = {}
    for name, arguments in {
        "inner": ["--method", "inner"],
        "alpha 1": ["--method", "lookahead", "--alpha", "1"],
        "alpha 0": ["--method", "lookahead", "--alpha", "0"],
        "ema": ["--method", "ema", "--decay", "0.5"],
    }.items():
        record = last_record(script, "--steps", "5", *arguments)
        scores[name] = {key: value for key, value in record.items() if "loss" in key or "_p" in key}
    assert scores["inner"] == scores["alpha 1"]
    if script != "cifar":  # a few hundred images are classified by chance
        assert scores["alpha 0"] != scores["inner"] != scores["ema"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_data_the_error_says_what_is_missing(script):
    result = run(script, "--steps", "1")
    assert result.returncode == 1
    assert "--data must be the folder of the data, or --synthetic given" in result.stderr
    assert "Traceback" not in result.stderr
