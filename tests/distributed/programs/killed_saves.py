"""Saves again and again in a child that is killed by SIGKILL, and reads what is left each time.

killed_saves.py PROGRAM FOLDER KIND KILLS: KIND is "file", the `save` of PROGRAM, or "folder",
torch.distributed.checkpoint in a new folder that is then renamed. All weights are the number of
the save. Says, as JSON, for each kill: the last save that the child knows of, what is read, and
whether the kill was in mid-write.
"""

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from lookahead_core import diloco
from lookahead_core.adapters.torch import MetaOptimizer

LEAVES, SIZE = 4, 100_000


def state_of(number):
    """What a worker saves after a step, with one number in all of its tensors."""
    leaves = [torch.nn.Parameter(torch.full((SIZE,), float(number))) for _ in range(LEAVES)]
    wrapper = MetaOptimizer(torch.optim.SGD(leaves, lr=0.1), diloco(5))
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    wrapper.step()  # before the first step there is nothing to save
    optimizer = wrapper.state_dict()
    for entries in optimizer["state"].values():
        del entries["lookahead_numbers"]  # which cannot all be one number
        for name in ("lookahead_outer_0", "lookahead_inner_step"):
            entries[name].fill_(number)
    return {"model": dict(enumerate(map(torch.Tensor.detach, leaves))), "optimizer": optimizer}


def tensors(state):
    leaves = torch.utils._pytree.tree_leaves(state)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def save_folder(folder, number, state):
    """The pattern of docs/distributed-faults.md."""
    dcp.save(state, checkpoint_id=folder / f"{number}.tmp", no_dist=True)
    os.rename(folder / f"{number}.tmp", folder / str(number))
    for old in (path for path in folder.glob("*") if path.name.isdigit()):
        if int(old.name) < number - 1:
            shutil.rmtree(old)


def load_folder(folder):
    newest = max(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    state = state_of(-1)
    dcp.load(state, checkpoint_id=folder / str(newest), no_dist=True)
    return state


def child(folder, kind, number, pipe):
    while True:
        if kind == "file":
            program.save(folder / "run.pt", state_of(number))
        else:
            save_folder(folder, number, state_of(number))
        os.write(pipe, b"%d\n" % number)
        number += 1


def killed(folder, kind, number, delay):
    """The last save that a child tells of, which starts at `number` and is killed after `delay`."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            child(folder, kind, number, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = int(lines.readline())
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        told = max([told, *map(int, lines)])
    os.waitpid(process, 0)
    return told


def number_in(folder, kind):
    """The number that all weights of what is left have, or all of theirs."""
    if kind == "file":
        state = torch.load(folder / "run.pt", weights_only=True)
    else:
        state = load_folder(folder)
    leaves = tensors(state)
    assert len(leaves) == 4 * LEAVES
    numbers = {float(value) for leaf in leaves for value in leaf.unique()}
    return numbers.pop() if len(numbers) == 1 else sorted(numbers)


if __name__ == "__main__":
    torch.set_num_threads(1)  # what is forked has one thread
    spec = importlib.util.spec_from_file_location("program", sys.argv[1])
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    folder, kind, kills = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    number, moments, results = 0, random.Random(0), []
    for _ in range(kills):
        told = killed(folder, kind, number, moments.uniform(0.0, 0.1))
        found, left = number_in(folder, kind), list(folder.glob("*.tmp"))
        results.append([told, found, bool(left)])
        for path in left:
            path.unlink() if path.is_file() else shutil.rmtree(path)
        number = told + 2
    print(json.dumps(results))
