"""torch.distributed.checkpoint: saved by four processes, resumed by two and by one, to the bit."""

import os
import subprocess
import sys

import pytest
import torch

from drivers import resharding
from programs import WITH_TESTS

# It says so where there is one process and no process group, as here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized"
)


def launched(processes, action, folder):
    """Run the program on so many processes, for no more than two minutes."""
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *run, "-m", "drivers.resharding", action, str(folder)]
    environment = {**os.environ, **WITH_TESTS, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as launcher:
        try:
            told, _ = launcher.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends those that it has started, which killing it would not
            told, _ = launcher.communicate()
    assert launcher.returncode == 0, told
    return torch.load(folder / f"ends-{processes}.pt", weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def saved(folder):
    return launched(4, "save", folder)


@pytest.fixture(scope="module")
def by_two(saved, folder):
    return launched(2, "load", folder)


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.clause("C47", "C84")
@pytest.mark.parametrize("name", resharding.RUNS)
def test_a_run_on_four_processes_that_is_saved_is_the_undisturbed_one_on_one(name, saved):
    assert_equal(saved[name], resharding.undisturbed(name))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("saved_at", resharding.SAVED_AT)
@pytest.mark.parametrize("name", resharding.RUNS)
def test_saved_by_four_it_is_resumed_by_two_to_the_bit(name, saved_at, by_two):
    assert_equal(by_two[name, saved_at], resharding.undisturbed(name))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("saved_at", resharding.SAVED_AT)
@pytest.mark.parametrize("name", resharding.RUNS)
def test_saved_by_four_it_is_resumed_by_one_without_shards_to_the_bit(
    name, saved_at, saved, folder
):
    assert_equal(resharding.resumed(name, folder, saved_at), resharding.undisturbed(name))
