"""Workers that are killed, hang or leave: real processes, real signals, every wait bounded."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
RESTARTS = ROOT / "examples" / "workers" / "restarts.py"
# One core for each process. The store is the workers' own: that of the launcher still has the
# addresses of those that were killed (pytorch#135712).
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
ONE_OF_TWO = [
    {"rank": 1, "step": 8, "before": "its step"},
    # The other one is as far ahead as it can be: at the next sync.
    {"rank": 1, "step": 10, "before": "saving", "once": "worker-0/14.pt"},
    {"rank": 0, "step": 12, "before": "the rest of the file"},
    {"rank": 0, "step": 15, "before": "the mean"},
    {"rank": 1, "step": 20, "before": "the rename"},
]
ONE_OF_FOUR = [{"rank": 2, "step": 10, "before": "saving", "once": "worker-3/14.pt"}]


def running(folder):
    """Processes with this folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:  # it has ended since
            continue
        if str(folder).encode() in arguments:
            found.append(int(path.parent.name))
    return found


def ended(folder, within=20.0):
    """What is still running after some time, and is then killed."""
    end = time.monotonic() + within
    while (left := running(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left


@pytest.fixture
def folder(tmp_path):
    """An argument of every process that a test starts; none of them outlives the test."""
    yield tmp_path
    assert ended(tmp_path) == []


def launched(processes, *arguments, restarts=0):
    """What a program says that the elastic launcher runs to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    command += ["--monitor-interval=0.1", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **options) as launcher:
        try:
            said, _ = launcher.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends its workers
            raise
    assert launcher.returncode == 0, said[-5000:]
    return said


def tensors(path):
    """All tensors of a file, in order."""
    leaves = torch.utils._pytree.tree_leaves(torch.load(path, weights_only=True))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def resumed(said):
    """After which step each life went on, if all workers say the same."""
    steps = [int(step) for step in re.findall(r"goes on after step (\d+)", said)]
    return steps


@pytest.mark.parametrize(
    ("processes", "moments", "lives"),
    [(2, ONE_OF_TWO, [0, 6, 8, 10, 14, 18]), (4, ONE_OF_FOUR, [0, 8])],
)
def test_workers_killed_and_started_again_end_with_the_weights_of_an_undisturbed_run(
    processes, moments, lives, folder
):
    launched(processes, RESTARTS, folder / "whole")
    moments_told = json.dumps(moments)
    said = launched(
        processes,
        *(PROGRAMS / "killed.py", RESTARTS, folder / "killed", moments_told),
        restarts=len(moments),
    )
    told = re.findall(r"goes on after step (\d+)", said)
    assert [int(step) for step in told] == [step for step in lives for _ in range(processes)]
    files = sorted(path.relative_to(folder / "whole") for path in folder.glob("whole/**/22.pt"))
    assert len(files) == processes
    for file in [Path("model.pt"), *files]:
        whole, killed = tensors(folder / "whole" / file), tensors(folder / "killed" / file)
        assert len(whole) == len(killed) > 0
        assert all(map(torch.equal, whole, killed)), file
