"""A worker without a launcher, which waits for others that do not come.

alone.py FOLDER RANK SIZE WHERE SECONDS: the last rank is not there from WHERE on; the others say
what they got, and after how long.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lookahead_core import diloco
from lookahead_core.adapters.torch import MetaOptimizer

if __name__ == "__main__":
    folder, rank, size, where = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    timeout, absent = timedelta(seconds=float(sys.argv[5])), rank == size - 1
    # The group's own timeout is an hour: what ends the wait is the optimizer's.
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=size,
        timeout=timedelta(hours=1),
    )
    leaf = torch.nn.Parameter(torch.zeros(3))
    if absent and where == "at the start":
        time.sleep(600)
    inner = torch.optim.SGD([leaf], lr=0.1)
    began = time.monotonic()
    try:
        optimizer = MetaOptimizer(inner, diloco(2), process_group=dist.group.WORLD, timeout=timeout)
        for step in range(4):
            began = time.monotonic()
            if absent and step == 3:
                os.kill(os.getpid(), signal.SIGKILL) if where == "killed" else time.sleep(600)
            leaf.grad = torch.ones(3)
            optimizer.step()
    except RuntimeError as error:
        print(f"{time.monotonic() - began:.1f} s: {error}", flush=True)
        os._exit(3)  # gloo would wait for the one that hangs
