"""What a sync costs beside its message: DiLoCo of many workers on one machine, and its peers.

    python -m experiments.network.sync_cost

Workers are processes that gloo joins over the loopback interface. All ways take turns in each
round, after a barrier, and the time of a way is that of the slowest worker: so a slow moment of the
machine meets all of them, and what is compared are the times of one round (benchmarks/paired.py).
Processor time is that of all workers: other programs on the machine do not lengthen it.
A sync is a cycle of two steps less two steps of the inner optimizer alone: what the first step does
to find out what the last sync has left is in it. What the workers run is sync_ways.py.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.benchmarks.paired import Rounds, environment, spread

__all__ = ["main", "markdown"]

WORKERS = (2, 3, 4)
ROUNDS = 24
LONGEST = 500.0  # seconds
FLOOR = ("all-reduce", "arithmetic")
STEPS = "inner steps"
# What is measured of each: seconds of the slowest worker, and of the processors for all of them.
WALL, CPU = 0, 1
HEAD = ("workers", "", "ms", "over message and arithmetic", "ms of processor", "over these")


def main() -> None:
    """Measure with 2, 3 and 4 workers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--layers", type=int, default=1, help="how many the 10M weights are in")
    arguments = parser.parse_args()
    print(environment("torch", "torchft"))
    measure = partial(measured, arguments.rounds, arguments.layers)
    print(markdown({size: measure(size) for size in arguments.workers}))


def measured(rounds: int, layers: int, size: int) -> Rounds:
    """Seconds of each way in each round, by so many workers."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "rounds.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        program = ["-m", "experiments.network.sync_ways", "--rounds", str(rounds)]
        command = [sys.executable, *launcher, *program, "--layers", str(layers), "--out", str(out)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, timeout=LONGEST, env=one_thread)
        found: Rounds = json.loads(out.read_text())
        return found


def markdown(found: Mapping[int, Rounds]) -> str:
    """A row for each number of workers and way: a sync, and times message and arithmetic."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for size, rounds in found.items():
        for name in FLOOR:
            cells = [milliseconds([own[part] for own in rounds[name]]) for part in (WALL, CPU)]
            lines.append(f"| {size} | {name} alone | {cells[0]} | | {cells[1]} | |")
        lines += [row(size, name, rounds) for name in rounds if name not in (*FLOOR, STEPS)]
    return "\n".join(lines)


def row(size: int, name: str, rounds: Rounds) -> str:
    """A sync, beside what it cannot do without in the same round."""
    cells = []
    for part in (WALL, CPU):
        cycles = zip(rounds[name], rounds[STEPS], strict=True)
        syncs = [own[part] - steps[part] for own, steps in cycles]
        floors = zip(*(rounds[floor] for floor in FLOOR), strict=True)
        ratios = [own / (a[part] + b[part]) for own, (a, b) in zip(syncs, floors, strict=True)]
        middle = spread(ratios)
        cells.append(milliseconds(syncs))
        cells.append(f"{middle.median:.2f} ({middle.low:.2f} to {middle.high:.2f})")
    return f"| {size} | {name} | {' | '.join(cells)} |"


def milliseconds(seconds: Sequence[float]) -> str:
    """The median."""
    return f"{1e3 * spread(seconds).median:.0f}"


if __name__ == "__main__":
    main()
