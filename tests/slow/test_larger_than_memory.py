"""Memory-mapped weights of 2 GB, and slow weights of 2 GB, are synced with a small part in memory.

A child maps both, is allowed 512 MB of memory of its own (RLIMIT_DATA: heap and private maps, not
files), syncs, and tells the most that it had. What is mapped from files is the system's to drop.
"""

import json
import subprocess
import sys

import numpy as np

GIGABYTES, ALLOWED = 2, 512 << 20
SIZE = (GIGABYTES << 30) // 4
CHILD = f"""
import json, resource, sys
import numpy as np
from lookahead_core.adapters.numpy import SGD, Lookahead

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {{name: int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssFile", "VmHWM")}}

def mapped(name):
    return np.memmap(f"{{sys.argv[1]}}/{{name}}", np.float32, "w+", shape=({SIZE},))

resource.setrlimit(resource.RLIMIT_DATA, ({ALLOWED}, {ALLOWED}))
params = {{"w": mapped("fast")}}
params["w"][:: 1 << 20] = 1.0
optimizer = Lookahead(SGD(params, 1.0), 5, 0.25, slow_buffer=lambda name, leaf: mapped("slow"))
params["w"][:: 1 << 20] = 3.0
optimizer._state = optimizer._state._replace(count=1)  # in mid-cycle: a sync does not anchor first
optimizer.sync()
try:
    np.ones({SIZE}, np.float32)
except MemoryError:
    print(json.dumps(peak()))
"""


def test_two_gigabytes_are_synced_in_a_small_part_of_memory(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout, "one array of 2 GB in memory must have been too much"
    for name in ("fast", "slow"):
        leaf = np.memmap(tmp_path / name, np.float32, "r", shape=(SIZE,))
        assert np.unique(leaf[:: 1 << 20]).tolist() == [1.5]
        assert not leaf[1 : 1 << 20].any()
    told = {name: size >> 20 for name, size in json.loads(result.stdout).items()}
    print(f"2 + 2 GB synced; MiB: {told}")
    assert told["RssAnon"] < 256
