"""The array loop on many leaves of one number each: whether its cost grows with their number alone.

    python -m experiments.benchmarks.many_leaves [--most 1000000] [--seconds 60]

Seconds of CPU time, measured once, of Lookahead around SGD with momentum. What a tenth of the
leaves says would take longer than the limit is not run, and is a dash in the table.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead, load, save

COLUMNS = (
    "construct",
    "step",
    "sync",
    *(f"{act} {end}" for end in (".npz", ".safetensors") for act in ("save", "load")),
)


def optimizer_of(leaves: int) -> Lookahead:
    return Lookahead(SGD([np.ones(()) for _ in range(leaves)], 0.1, 0.9))


def acts(leaves: int, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, by its column."""
    optimizer = optimizer_of(leaves)
    gradients = [np.ones(()) for _ in range(leaves)]
    params = [np.ones(()) for _ in range(leaves)]
    found: dict[str, Callable[[], object]] = {
        "construct": lambda: Lookahead(SGD(params, 0.1, 0.9)),
        "step": lambda: optimizer.step(gradients),
        "sync": optimizer.sync,
    }
    for end in (".npz", ".safetensors"):
        path = folder / f"run{end}"
        found[f"save {end}"] = lambda path=path: save(path, optimizer)
        found[f"load {end}"] = lambda path=path: load(path, optimizer)
    return found


def measured(leaves: int, before: dict[str, float], limit: float) -> dict[str, float]:
    """Seconds by column, without those that would take too long."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for column, act in acts(leaves, Path(folder)).items():
            if before.get(column, limit) * 10 > limit and before:
                continue
            gc.collect()
            start = time.process_time()
            act()
            seconds[column] = time.process_time() - start
    return seconds


def row(name: object, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=10**6, help="leaves of the last row")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest that a cell may take")
    options = parser.parse_args(arguments)
    print(row("leaves", list(COLUMNS)))
    print(row("---", ["---"] * len(COLUMNS)))
    leaves, seconds = 1000, {}
    while leaves <= options.most:
        seconds = measured(leaves, seconds, options.seconds)
        cells = [f"{seconds[c]:.2g} s" if c in seconds else "–" for c in COLUMNS]
        print(row(f"{leaves:,}", cells), flush=True)
        leaves *= 10


if __name__ == "__main__":
    main()
