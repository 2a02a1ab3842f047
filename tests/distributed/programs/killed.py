"""Runs a program of examples/workers, which is killed by SIGKILL once in each of its lives.

torchrun ... killed.py PROGRAM FOLDER MOMENTS

MOMENTS is a JSON list, one for each life: {"rank": who, "step": when, "before": what it is about
to do, "once": a file in FOLDER to wait for, if any}. After the last of them it lives on. With
"hangs": true it does not end then, and does not go on.
"""

import importlib.util
import io
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from lookahead_core.adapters.torch._workers.collectives import Link


def program_in(path):
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def die(moment, folder):
    end = time.monotonic() + 60
    while "once" in moment and not (folder / moment["once"]).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{moment['once']} has not come")
        time.sleep(0.01)
    while "hangs" in moment:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(state, file):
    """What there is when torch.save is killed in the middle."""
    whole = io.BytesIO()
    torch_save(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()


def arm(program, moment, folder):
    """Have this process killed at `moment`; the program's `batch` tells which step it is in."""
    owner, name = {
        "its step": (program, "batch"),
        "the mean": (Link, "start_sum"),
        "saving": (program, "save"),
        "the rest of the file": (torch, "save"),
        "the rename": (os, "replace"),
    }[moment["before"]]
    now = [0]
    batch = program.batch

    def told(step, *args):
        now[0] = step
        return batch(step, *args)

    program.batch = told
    function = getattr(owner, name)

    def fatal(*args):
        if moment["step"] == (args[0] if owner is program and name == "batch" else now[0]):
            if owner is torch:
                write_half(*args)
            die(moment, folder)
        return function(*args)

    setattr(owner, name, fatal)


if __name__ == "__main__":
    torch_save = torch.save
    program, folder, moments = program_in(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    life, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    if any("hangs" in moment for moment in moments):
        program.TIMEOUT = timedelta(seconds=15)  # the minute of the program is long for a test
    if life < len(moments) and moments[life]["rank"] == rank:
        arm(program, moments[life], folder)
    program.main(folder)
