"""The script for a machine with a GPU runs through on the CPU, and says what is missing."""

from pathlib import Path

import pytest

from experiments.benchmarks import gpu_checks, on_gpu


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the script, dry; gives whether all was right, and the file that it writes."""

    def called(*arguments):
        out = tmp_path / "on_gpu.md"
        return on_gpu.main(["--dry", "--out", str(out), *arguments]), out.read_text()

    return called


def test_it_runs_through_without_a_gpu_and_writes_all_of_it_to_one_file(run, monkeypatch):
    monkeypatch.delitem(gpu_checks.SUITES, "torch, conformance")  # seconds to collect
    good, text = run("--only", "torch")
    assert good
    for name in gpu_checks.CHECKS:
        assert f"tried without a GPU: {name}" in text
    assert "test_a_move_is_the_references" in text  # collected by a suite
    assert "torch: passed" in text
    for row in on_gpu.workloads():
        assert f"| | {row} |" in text
    assert "% of the copies' bandwidth" in text
    assert "all of it ran and was right" in text


def test_what_fails_or_is_missing_is_said_and_the_rest_still_runs(run, monkeypatch):
    def broken(dry):
        raise RuntimeError("no such graph")

    monkeypatch.setitem(gpu_checks.CHECKS, "torch: broken", broken)
    monkeypatch.setitem(gpu_checks.SUITES, "torch", ("torch-cuda", "nothing", ()))
    monkeypatch.delitem(gpu_checks.SUITES, "torch, conformance")
    good, text = run("--only", "torch", "--minutes", "0.5")
    assert not good
    assert "FAILED: torch: broken" in text
    assert "no such graph" in text
    assert "torch: FAILED, exit status 4" in text
    assert "% of the copies' bandwidth" in text
    assert "NOT all of it ran" in text


def test_a_run_without_time_says_what_it_left_out(run):
    good, text = run("--only", "torch", "--minutes", "0")
    assert not good
    assert "CUT OFF" in text
    assert "NO TIME LEFT, not measured: torch" in text


def test_the_suites_are_files_of_this_checkout():
    for _, _, paths in gpu_checks.SUITES.values():
        for path in paths:
            assert (Path(__file__).parents[1] / path).exists()
