"""One worker of sync_cost.py: runs each way in its turn, with the others, and notes the seconds.

Beside ours are torch's PostLocalSGDOptimizer and, where torchft is installed, its DiLoCo. torchft's
manager, which finds out who is there, is stood in for by the same all-reduce.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer

from experiments.benchmarks.paired import Make, interleaved, timed
from lookahead_core import diloco, local_sgd
from lookahead_core.adapters.torch import MetaOptimizer

WEIGHTS = 10_040_064
PERIOD, LR = 2, 1e-3
OUTER_LR, MOMENTUM = 0.7, 0.9


def main() -> None:
    """Measure; the first worker writes the times of the slowest, and the processor's of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    times = interleaved(ways(arguments.layers), arguments.rounds)
    for own in times.values():
        walls, processors = torch.tensor(own, dtype=torch.float64).t().contiguous()
        dist.all_reduce(walls, op=dist.ReduceOp.MAX)
        dist.all_reduce(processors)
        own[:] = torch.stack([walls, processors], dim=1).tolist()
    if dist.get_rank() == 0:
        arguments.out.write_text(json.dumps(times))
    dist.barrier()


def ways(layers: int) -> dict[str, Make]:
    """What is measured; what all of it is held against comes first."""
    made: dict[str, Callable[[], Callable[[], Any]]] = {
        "inner steps": lambda: cycle(*inner_steps(layers)),
        "all-reduce": lambda: all_reduce(layers),
        "arithmetic": lambda: arithmetic(layers),
        "DiLoCo": lambda: cycle(*with_rule(layers, diloco(PERIOD, OUTER_LR, MOMENTUM))),
    }
    if find_spec("torchft"):
        made["torchft's DiLoCo"] = lambda: cycle(*torchft_diloco(layers))
    made["Local SGD"] = lambda: cycle(*with_rule(layers, local_sgd(PERIOD)))
    made["torch's PostLocalSGDOptimizer"] = lambda: cycle(*post_local_sgd(layers))
    return {name: together(make) for name, make in made.items()}


def together(make: Callable[[], Callable[[], Any]]) -> Make:
    """The same way, begun by all workers at once: its seconds, and its seconds of processor."""

    def making() -> Callable[[], Sequence[float]]:
        run = make()

        def once() -> Sequence[float]:
            dist.barrier()
            before = time.process_time()
            wall = timed(run)
            return [wall, time.process_time() - before]

        return once

    return making


# --- what is measured ---


def inner_steps(layers: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What every cycle has: its steps alone."""
    width = isqrt(WEIGHTS // layers)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    for leaf in model.parameters():
        leaf.grad = torch.full_like(leaf, 1e-3 * (1 + dist.get_rank()))
    return model, torch.optim.SGD(model.parameters(), lr=LR)


def cycle(model: nn.Module, optimizer: Any) -> Callable[[], Any]:
    """All steps of a cycle: the last one syncs, and the first one finds what the sync left."""

    def run() -> None:
        for _ in range(PERIOD):
            optimizer.step()

    return run


def with_rule(layers: int, rule: Any) -> tuple[nn.Module, Any]:
    """Ours."""
    model, inner = inner_steps(layers)
    return model, MetaOptimizer(inner, rule, process_group=dist.group.WORLD)


def all_reduce(layers: int) -> Callable[[], Any]:
    """The message alone, of as many numbers in one piece."""
    model, _ = inner_steps(layers)
    flat = torch.zeros(sum(leaf.numel() for leaf in model.parameters()))
    return lambda: dist.all_reduce(flat)


def arithmetic(layers: int) -> Callable[[], Any]:
    """What a worker has to compute beside the message, in memory that is there already."""
    model, _ = inner_steps(layers)
    fast = [leaf.detach() for leaf in model.parameters()]
    slow, mean, buffer = ([leaf.clone() for leaf in fast] for _ in range(3))
    return lambda: plain_lines(fast, slow, mean, buffer)


@torch.no_grad()
def plain_lines(
    fast: list[Tensor], slow: list[Tensor], mean: list[Tensor], buffer: list[Tensor]
) -> None:
    """DiLoCo as it is written down, without the message: SGD with Nesterov's momentum."""
    torch._foreach_copy_(mean, slow)
    torch._foreach_sub_(mean, fast)
    torch._foreach_div_(mean, dist.get_world_size())
    torch._foreach_mul_(buffer, MOMENTUM)
    torch._foreach_add_(buffer, mean)
    torch._foreach_add_(mean, buffer, alpha=MOMENTUM)
    torch._foreach_add_(slow, mean, alpha=-OUTER_LR)
    torch._foreach_copy_(fast, slow)


def post_local_sgd(layers: int) -> tuple[nn.Module, Any]:
    """torch's Local SGD."""
    model, inner = inner_steps(layers)
    averager = PeriodicModelAverager(period=PERIOD, warmup_steps=0)
    return model, PostLocalSGDOptimizer(inner, averager)


def torchft_diloco(layers: int) -> tuple[nn.Module, Any]:
    """torchft's DiLoCo, which hooks into the inner optimizer."""
    from torchft.local_sgd import DiLoCo

    model, inner = inner_steps(layers)
    outer = torch.optim.SGD(model.parameters(), lr=OUTER_LR, momentum=MOMENTUM, nesterov=True)
    wrapped = DiLoCo(StandIn(), [model], inner, outer, sync_every=PERIOD)
    wrapped.__enter__()
    return model, GivenAgain(inner, model, [leaf.grad for leaf in model.parameters()])


class GivenAgain:
    """An optimizer before whose steps the gradients are given again: torchft takes them away."""

    def __init__(self, inner: Any, model: nn.Module, gradients: list[Any]) -> None:
        self.inner, self.leaves, self.gradients = inner, list(model.parameters()), gradients

    def step(self) -> None:
        for leaf, gradient in zip(self.leaves, self.gradients, strict=True):
            leaf.grad = gradient
        self.inner.step()


class StandIn:
    """In the place of torchft's manager: everybody is there, and the mean is gloo's."""

    _use_async_quorum = False

    def allreduce(self, tensor: Tensor, should_quantize: bool = False) -> Any:
        tensor /= dist.get_world_size()
        return dist.all_reduce(tensor, async_op=True)

    def current_step(self) -> int:
        return 0

    def should_commit(self) -> bool:
        return True

    def start_quorum(self) -> None: ...

    def allow_state_dict_read(self) -> None: ...

    def disallow_state_dict_read(self) -> None: ...

    def register_state_dict_fn(self, *ignored: Any) -> None: ...


if __name__ == "__main__":
    main()
    # Not Python's own end: a thread of gloo may abort there, with all work done (pytorch#190489).
    os._exit(0)
