"""Saving is killed at 100 random moments, and never are both the old and the new file lost.

A child saves again and again, in the place of the same file, weights that all are the number of
the save. It is killed with SIGKILL; then the file must load, whole, and be no older than the last
save that the child knows to be complete.
"""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lookahead_core.adapters.numpy import SGD, Lookahead, load

KILLS = 100
LEAVES, SIZE = 4, 250_000  # 8 MB of weights and as much of slow weights
CHILD = f"""
import sys
import numpy as np
from lookahead_core.adapters.numpy import SGD, Lookahead, save

params = {{str(i): np.zeros({SIZE}) for i in range({LEAVES})}}
optimizer = Lookahead(SGD(params, 1.0))
number = int(sys.argv[2])
while True:
    for leaf in params.values():
        leaf[...] = number
    save(sys.argv[1], optimizer)
    print(number, flush=True)
    number += 1
"""


def number_in(path):
    """The number of the save that `path` holds, all of it."""
    params = {str(i): np.full(SIZE, -1.0) for i in range(LEAVES)}
    load(path, Lookahead(SGD(params, 1.0)))
    (number,) = {float(value) for leaf in params.values() for value in np.unique(leaf)}
    return int(number)


@pytest.mark.clause("C61")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_killed_save_leaves_the_old_file_or_the_new_one(suffix, tmp_path):
    path, moments = tmp_path / f"run{suffix}", random.Random(0)
    number, in_mid_write, saves = 0, 0, 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", CHILD, str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            told = int(child.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.1))
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                told = int(line) if line.endswith("\n") else told
        assert child.returncode == -signal.SIGKILL
        found = number_in(path)
        assert told <= found <= told + 1
        left = list(tmp_path.glob(".run*.tmp"))
        in_mid_write += bool(left)
        for file in left:
            file.unlink()
        saves, number = saves + found - number + 1, found + 1
    print(f"{suffix}: {KILLS} kills, {in_mid_write} of them in mid-write, {saves} saves; none lost")
    assert in_mid_write >= KILLS // 4  # else the moments would say little
