"""Many leaves of one number each: whether the cost of an adapter grows with their number alone.

    python -m experiments.benchmarks.many_leaves [--adapter numpy] [--most 1000000] [--seconds 60]

Seconds of CPU time, measured once, of Lookahead around SGD with momentum. What a tenth of the
leaves says would take longer than the limit is not run, and is a dash in the table. optax runs
without jit, which would compile each leaf.
"""

import argparse
import gc
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Acts = dict[str, Callable[[], object]]


def on_numpy(leaves: int, folder: Path) -> Acts:
    """What is measured of the array loop, by its column."""
    from lookahead_core.adapters.numpy import SGD, Lookahead, load, save

    def ones() -> list[Any]:
        return [np.ones(()) for _ in range(leaves)]

    optimizer, gradients, params = Lookahead(SGD(ones(), 0.1, 0.9)), ones(), ones()
    found: Acts = {
        "construct": lambda: Lookahead(SGD(params, 0.1, 0.9)),
        "step": lambda: optimizer.step(gradients),
        "sync": optimizer.sync,
    }
    for end in (".npz", ".safetensors"):
        path = folder / f"run{end}"
        found[f"save {end}"] = lambda path=path: save(path, optimizer)
        found[f"load {end}"] = lambda path=path: load(path, optimizer)
    return found


def on_torch(leaves: int, folder: Path) -> Acts:
    """Likewise of torch; files are torch.save's."""
    import torch

    from lookahead_core.adapters.torch import Lookahead

    torch.set_num_threads(1)

    def around(params: list[Any]) -> Lookahead:
        return Lookahead(torch.optim.SGD(params, 0.1, 0.9))

    params = [torch.nn.Parameter(torch.ones(())) for _ in range(leaves)]
    others = [torch.nn.Parameter(torch.ones(())) for _ in range(leaves)]
    for leaf in params:
        leaf.grad = torch.ones(())
    optimizer, path = around(params), folder / "run.pt"

    def load() -> None:
        weights, state = torch.load(path)
        with torch.no_grad():
            torch._foreach_copy_(params, weights)
        optimizer.load_state_dict(state)

    return {
        "construct": lambda: around(others),
        "step": optimizer.step,
        "sync": optimizer.sync,
        "save .pt": lambda: torch.save(
            ([leaf.detach() for leaf in params], optimizer.state_dict()), path
        ),
        "load .pt": load,
    }


def on_optax(leaves: int, folder: Path) -> Acts:
    """Likewise of optax, in its split form; a pickle is the shortest way to save a tree."""
    import jax
    import optax

    from lookahead_core.adapters.optax import lookahead, split

    optimizer = split(lookahead(optax.sgd(0.1, 0.9)))
    params = [jax.numpy.ones(()) for _ in range(leaves)]
    state, path = optimizer.init(params), folder / "run.pickle"

    def save() -> None:
        path.write_bytes(pickle.dumps(jax.device_get((params, state))))

    def done(tree: Any) -> None:
        jax.block_until_ready(tree)

    return {
        "construct": lambda: done(optimizer.init(params)),
        "step": lambda: done(optimizer.update(params, state, params)),
        "sync": lambda: done(optimizer.update_and_sync(params, state, params)),
        "save .pickle": save,
        "load .pickle": lambda: done(jax.device_put(pickle.loads(path.read_bytes()))),
    }


ADAPTERS = {"numpy": on_numpy, "torch": on_torch, "optax": on_optax}


def measured(acts: Acts, before: dict[str, float], limit: float) -> dict[str, float]:
    """Seconds by column, without those that would take too long."""
    seconds = {}
    for column, act in acts.items():
        if before and before.get(column, limit) * 10 > limit:
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
    parser.add_argument("--adapter", choices=ADAPTERS, default="numpy")
    parser.add_argument("--most", type=int, default=10**6, help="leaves of the last row")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest that a cell may take")
    options = parser.parse_args(arguments)
    leaves, seconds = 1000, {}
    while leaves <= options.most:
        with tempfile.TemporaryDirectory() as folder:
            acts = ADAPTERS[options.adapter](leaves, Path(folder))
            seconds = measured(acts, seconds, options.seconds)
        if leaves == 1000:
            print(row("leaves", list(acts)))
            print(row("---", ["---"] * len(acts)))
        cells = [f"{seconds[c]:.2g} s" if c in seconds else "–" for c in acts]
        print(row(f"{leaves:,}", cells), flush=True)
        leaves *= 10


if __name__ == "__main__":
    main()
