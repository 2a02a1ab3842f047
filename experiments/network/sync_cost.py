"""What a sync costs beside its message: DiLoCo of many workers on one machine, and its peers.

    python -m experiments.network.sync_cost

Workers are processes that gloo joins over the loopback interface. All ways take turns in each
round, after a barrier, and the time of a way is that of the slowest worker: so a slow moment of the
machine meets all of them, and what is compared are the times of one round (benchmarks/paired.py).
Beside torchft's DiLoCo, where torchft is installed; its manager, which finds out who is there, is
stood in for by the same all-reduce.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer

from experiments.benchmarks.paired import Rounds, environment, interleaved, spread, timed
from lookahead_core import diloco, local_sgd
from lookahead_core.adapters.torch import MetaOptimizer

__all__ = ["main", "markdown"]

WORKERS = (2, 3, 4)
WIDTH, LAYERS = 768, 17  # 10,040,064 weights
PERIOD, LR = 2, 1e-3
OUTER_LR, MOMENTUM = 0.7, 0.9
ROUNDS, RENEWALS = 24, 3
LONGEST = 500
COUNTED = ("DiLoCo", "torchft's DiLoCo", "Local SGD", "PostLocalSGDOptimizer")


def main() -> None:
    """Measure with 2, 3 and 4 workers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--out", type=Path, help="for the workers: where the first one writes")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        worker(arguments.rounds, arguments.out)
        os._exit(0)  # not Python's own end: a thread of gloo may abort there (pytorch#190489)
    print(environment("torch", "torchft"))
    print(markdown({size: measured(size, arguments.rounds) for size in arguments.workers}))


def measured(size: int, rounds: int) -> Rounds:
    """Seconds of each way in each round, by so many workers."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "rounds.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        program = ["-m", "experiments.network.sync_cost", "--rounds", str(rounds)]
        command = [sys.executable, *launcher, *program, "--out", str(out)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, timeout=LONGEST, env=alone)
        found: Rounds = json.loads(out.read_text())
        return found


def worker(rounds: int, out: Path) -> None:
    """Measure on this worker, with the others; the first one writes the times of the slowest."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    times = interleaved(ways(), rounds, RENEWALS)
    for own in times.values():
        slowest = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        own[:] = slowest.tolist()
    if dist.get_rank() == 0:
        out.write_text(json.dumps(times))
    dist.barrier()


def ways() -> dict[str, Callable[[], Callable[[], Sequence[float]]]]:
    """What is measured."""
    made: dict[str, Callable[[], Callable[[], Any]]] = {
        "inner steps": lambda: cycle(*inner_steps()),
        "all-reduce": all_reduce,
        "arithmetic": arithmetic,
        "DiLoCo": lambda: cycle(*with_rule(diloco(PERIOD, OUTER_LR, MOMENTUM))),
        "Local SGD": lambda: cycle(*with_rule(local_sgd(PERIOD))),
        "PostLocalSGDOptimizer": lambda: cycle(*post_local_sgd()),
    }
    if find_spec("torchft"):
        made["torchft's DiLoCo"] = lambda: cycle(*torchft_diloco())
    return {name: together(make) for name, make in made.items()}


def together(make: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Sequence[float]]]:
    """The same way, begun by all workers at once, and timed."""

    def making() -> Callable[[], Sequence[float]]:
        run = make()

        def once() -> Sequence[float]:
            dist.barrier()
            return [timed(run)]

        return once

    return making


# --- what is measured ---


def inner_steps() -> tuple[nn.Module, torch.optim.Optimizer]:
    """What every cycle has: its steps alone."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    for leaf in model.parameters():
        leaf.grad = torch.full_like(leaf, 1e-3 * (1 + dist.get_rank()))
    return model, torch.optim.SGD(model.parameters(), lr=LR)


def cycle(model: nn.Module, optimizer: Any) -> Callable[[], Any]:
    """All steps of a cycle: the last one syncs, and the first one finds what the sync left."""

    def run() -> None:
        for _ in range(PERIOD):
            optimizer.step()

    return run


def with_rule(rule: Any) -> tuple[nn.Module, Any]:
    """Ours."""
    model, inner = inner_steps()
    return model, MetaOptimizer(inner, rule, process_group=dist.group.WORLD)


def all_reduce() -> Callable[[], Any]:
    """The message alone, of as many numbers in one piece."""
    model, _ = inner_steps()
    flat = torch.zeros(sum(leaf.numel() for leaf in model.parameters()))
    return lambda: dist.all_reduce(flat)


def arithmetic() -> Callable[[], Any]:
    """What a worker has to compute beside the message, in memory that is there already."""
    model, _ = inner_steps()
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


def post_local_sgd() -> tuple[nn.Module, Any]:
    """torch's Local SGD."""
    model, inner = inner_steps()
    averager = PeriodicModelAverager(period=PERIOD, warmup_steps=0)
    return model, PostLocalSGDOptimizer(inner, averager)


def torchft_diloco() -> tuple[nn.Module, Any]:
    """torchft's DiLoCo, which hooks into the inner optimizer."""
    from torchft.local_sgd import DiLoCo

    model, inner = inner_steps()
    outer = torch.optim.SGD(model.parameters(), lr=OUTER_LR, momentum=MOMENTUM, nesterov=True)
    wrapped = DiLoCo(Standing(), [model], inner, outer, sync_every=PERIOD)
    wrapped.__enter__()
    return model, Cleared(inner, model, [leaf.grad for leaf in model.parameters()])


class Cleared:
    """An optimizer before whose steps the gradients are given again: torchft takes them away."""

    def __init__(self, inner: Any, model: nn.Module, gradients: list[Any]) -> None:
        self.inner, self.leaves, self.gradients = inner, list(model.parameters()), gradients

    def step(self) -> None:
        for leaf, gradient in zip(self.leaves, self.gradients, strict=True):
            leaf.grad = gradient
        self.inner.step()


class Standing:
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


# --- the table ---


def markdown(found: Mapping[int, Rounds]) -> str:
    """A row for each number of workers and way: milliseconds, and times message and arithmetic."""
    lines = ["| workers | | ms a sync | over message and arithmetic |", "|---|---|---|---|"]
    for size, rounds in found.items():
        for name in ("all-reduce", "arithmetic"):
            lines.append(f"| {size} | {name} alone | {milliseconds(rounds[name])} | |")
        for name in COUNTED:
            if name in rounds:
                lines.append(row(size, name, rounds))
    return "\n".join(lines)


def row(size: int, name: str, rounds: Rounds) -> str:
    cycles = zip(rounds[name], rounds["inner steps"], strict=True)
    syncs = [(own[0] - steps[0],) for own, steps in cycles]
    floors = zip(rounds["all-reduce"], rounds["arithmetic"], strict=True)
    ratios = [s / (a + b) for (s,), ((a,), (b,)) in zip(syncs, floors, strict=True)]
    middle = spread(ratios)
    told = f"{middle.median:.2f} ({middle.low:.2f} to {middle.high:.2f})"
    return f"| {size} | {name} | {milliseconds(syncs)} | {told} |"


def milliseconds(times: Sequence[Sequence[float]]) -> str:
    return f"{1e3 * spread([own for (own,) in times]).median:.0f}"


if __name__ == "__main__":
    main()
