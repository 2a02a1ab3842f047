"""Runs examples/workers/come_and_go.py at a steady pace, and leaves it by SIGKILL.

leaving.py PROGRAM FOLDER NUMBER [WHERE STEP]

It leaves before its STEP-th step, or in the first average after it, of which it has sent a part.
The number in the file FOLDER/last, once it is there, is that of the last sync.
"""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path


def program_in(path):
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    program, last = program_in(sys.argv[1]), Path(sys.argv[2]) / "last"
    where, when = (sys.argv[4], int(sys.argv[5])) if len(sys.argv) > 4 else ("never", 0)
    program.SYNCS = 1000
    steps, sums = 0, 0
    batch, allreduce = program.batch, program.Manager.allreduce

    def paced(*args):
        global steps
        steps += 1
        time.sleep(0.02)
        if where == "step" and steps == when:
            die()
        if last.exists():
            program.SYNCS = int(last.read_text())
        return batch(*args)

    def cut_short(*args, **kwargs):
        global sums
        sums += steps >= when
        if where == "average" and sums == 2:
            die()
        return allreduce(*args, **kwargs)

    program.batch, program.Manager.allreduce = paced, cut_short
    program.main(int(sys.argv[3]))
    os._exit(0)  # not Python's own end: a thread of gloo may abort there (pytorch#190489)
