"""One worker of the slow network: trains, and writes down its times and what its interface sent.

slow_network.py starts it, once a rank, with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and
GLOO_SOCKET_IFNAME in its environment.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from experiments.network.sync_methods import METHODS, Method
from lookahead_core.adapters.torch import MetaOptimizer, StreamingOptimizer

# AdamW's rate is the best of 3e-4, 1e-3 and 3e-3 for every-step averaging with four workers.
LR, BATCH = 1e-3, 32
WIDTHS = (784, 320, 784, 320, 784, 10)
# Steps between looks at the held-out loss, if the slow weights are the model's then.
LOOK = 30
# Where every step sends, one in so many is made once more, by a spare network that sends nothing.
SPARE = 10
LONGEST_WAIT = timedelta(seconds=120)


def main() -> None:
    """Train by one method after the other, and write the records of this rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", action="append", choices=METHODS, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        data = {name: torch.from_numpy(array) for name, array in np.load(arguments.data).items()}
        records = {}
        for name in arguments.method:
            dist.barrier()
            records[name] = train(METHODS[name], arguments.steps, data)
    finally:
        dist.destroy_process_group()
    arguments.out.write_text(json.dumps(records))


def mlp() -> nn.Module:
    """1,013,578 weights, the same on every rank, in four parts of one size: they make fragments."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(method: Method, steps: int, data: Mapping[str, Tensor]) -> dict[str, Any]:
    """Seconds and bytes sent of each step, and the held-out loss at times."""
    rank, size = dist.get_rank(), dist.get_world_size()
    own_x, own_y = data["train_x"][rank::size], data["train_y"][rank::size]
    model = mlp()
    forward, optimizer = with_others(method, model)
    generator = torch.Generator().manual_seed(1 + rank)
    spare = mlp()
    spare_optimizer = torch.optim.AdamW(spare.parameters(), lr=LR)
    record: dict[str, Any] = {"seconds": [], "sent": [], "held_out": [], "local_seconds": []}
    dist.barrier()  # the first weights, which all get from one, are not to be counted
    before = sent_bytes()
    for step in range(1, steps + 1):
        rows = torch.randint(len(own_y), (BATCH,), generator=generator)
        batch = own_x[rows], own_y[rows]
        if method.sync_period == 1 and step % SPARE == 0:
            record["local_seconds"].append(seconds_of_step(spare, spare_optimizer, *batch))
        record["seconds"].append(seconds_of_step(forward, optimizer, *batch))
        record["sent"].append(sent_bytes() - before)
        if step % max(method.sync_period or LOOK, LOOK) == 0:
            with slow_weights(optimizer):
                scores = held_out(model, data["test_x"], data["test_y"])
            record["held_out"].append([step, *scores])
    return record | {"weights": sum(p.numel() for p in model.parameters())}


def seconds_of_step(
    forward: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> float:
    """One step of training, and how long it took."""
    start = time.perf_counter()
    optimizer.zero_grad()
    cross_entropy(forward(x), y).backward()
    optimizer.step()
    return time.perf_counter() - start


def with_others(method: Method, model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What the batch goes through, and what steps."""
    inner = torch.optim.AdamW(model.parameters(), lr=LR)
    if method.alone:
        return model, inner
    if method.rule is None:
        return DistributedDataParallel(model), inner
    group = dist.group.WORLD
    if not method.streams:
        return model, MetaOptimizer(inner, method.rule, process_group=group)
    how = {"fragments": method.fragments, "delay": method.delay, "codec": method.codec}
    return model, StreamingOptimizer(inner, method.rule, process_group=group, **how)


def slow_weights(optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """In which the model has the weights that are the same on all workers."""
    return optimizer.slow_weights() if isinstance(optimizer, MetaOptimizer) else nullcontext()


def sent_bytes() -> int:
    """By this machine since it was made, as its interface counts them."""
    name = os.environ["GLOO_SOCKET_IFNAME"]
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


@torch.no_grad()
def held_out(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss, and accuracy."""
    output = model(x)
    return cross_entropy(output, y).item(), (output.argmax(1) == y).double().mean().item()


if __name__ == "__main__":
    main()
    # Not Python's own end: a thread of gloo may abort there, with all work done (pytorch#190489).
    os._exit(0)
