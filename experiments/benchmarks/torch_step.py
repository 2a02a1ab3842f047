"""What a step costs in torch: ours and the other Lookaheads, against the bare inner optimizer.

Everything is a ratio within a round (paired.py). The gradient is fixed and shared: nothing but the
optimizer runs. What a user's own training loses is training_step.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer

from experiments.benchmarks.contenders import PEERS, Wrap, contenders
from experiments.benchmarks.paired import Make, Rounds, interleaved, ratio, spread, timed
from experiments.benchmarks.report import NOT_INSTALLED, Tables
from experiments.benchmarks.workloads import Shapes, workloads

__all__ = ["HEADLINE", "INNERS", "arrays", "cycles", "measure", "parameters", "wrapped"]

LR = 1e-4
INNERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD momentum, foreach": partial(SGD, lr=LR, momentum=0.9, foreach=True),
    "AdamW, foreach": partial(AdamW, lr=LR, foreach=True),
    "AdamW, fused": partial(AdamW, lr=LR, fused=True),
}
SGD_MOMENTUM = next(iter(INNERS))
OVER_BARE = "Whole step, over the bare inner optimizer"
OVER_PEER = "Whole step, ours over each peer's"


class Case(NamedTuple):
    """One row of the table of steps."""

    workload: str
    inner: str
    dtype: torch.dtype
    period: int

    @property
    def name(self) -> str:
        kind = "fp32" if self.dtype == torch.float32 else "bf16"
        return f"{self.workload}, {self.inner}, {kind}, k={self.period}"

    def count(self, quick: bool) -> int:
        """Steps that are timed at once: whole cycles.

        Two of them where the weights are not much larger than a cache: what a sync has put into it
        costs the next step, which is the same optimizer's then.
        """
        least = 1 if quick else 10 if self.workload in ("400 tiny", "ResNet-18") else 5
        return self.period * max(1, least // self.period)


HEADLINE = Case("ResNet-18", SGD_MOMENTUM, torch.float32, 5)


def cases() -> list[Case]:
    """Every combination for the small sets; for the large ones each thing varied by itself."""
    fp32, bf16 = torch.float32, torch.bfloat16
    found = [
        Case(name, inner, dtype, period)
        for name in ("400 tiny", "ResNet-18")
        for inner in INNERS
        for dtype in (fp32, bf16)
        for period in (1, 5, 10)
    ]
    for name in ("32M in one", "GPT-2 124M"):
        found += [Case(name, inner, fp32, 5) for inner in INNERS]
        found += [Case(name, SGD_MOMENTUM, bf16, 5)]
    return found + [Case("32M in one", SGD_MOMENTUM, fp32, period) for period in (1, 10)]


def arrays(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [(1e-2 * torch.randn(shape, generator=draw)).to(dtype) for shape in shapes]


def parameters(values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Parameter]:
    """Parameters with their own arrays and with these gradients."""
    leaves = [Parameter(value.clone()) for value in values]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
    return leaves


def cycles(
    optimizer: Callable[[list[Parameter]], Any],
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    count: int,
) -> Make:
    """Seconds of so many steps, with weights of their own."""

    def make() -> Callable[[], Sequence[float]]:
        step = optimizer(parameters(values, gradients)).step

        def run() -> list[float]:
            return [timed(lambda: [step() for _ in range(count)])]

        return run

    return make


def wrapped(inner: Callable[[Any], Optimizer], wrap: Wrap, period: int) -> Callable[[Any], Any]:
    return lambda params: wrap(inner(params), period)


def measure(rounds: dict[str, int], quick: bool, report: Tables) -> None:
    """The tables of whole steps."""
    sets = workloads(quick)
    for case in cases():
        found = contenders(low_precision=case.dtype == torch.bfloat16)
        repeated = 3 if case == HEADLINE and not quick else 1
        count = case.count(quick)
        number = repeated * rounds[case.workload]
        times = step_times(case, sets[case.workload], number, count, found)
        milliseconds = [1e3 * sum(parts) / count for parts in times["bare"]]
        report.put(OVER_BARE, case.name, "bare, ms", spread(milliseconds))
        record(report, case, times, found)


def step_times(
    case: Case, shapes: Shapes, rounds: int, count: int, found: dict[str, Wrap | None]
) -> Rounds:
    """Seconds of `count` steps of the bare inner optimizer, twice, and of each contender."""
    values, gradients = arrays(shapes, 0, case.dtype), arrays(shapes, 1, case.dtype)
    inner = INNERS[case.inner]
    makers: dict[str, Callable[[Any], Any]] = {"bare": inner}
    large = case.workload == "GPT-2 124M"
    if not large:  # else all of them together are too many gigabytes
        makers["bare again"] = inner
    for name, wrap in found.items():
        if wrap is not None:
            makers[name] = wrapped(inner, wrap, case.period)
    ways = {n: cycles(make, values, gradients, count) for n, make in makers.items()}
    return interleaved(ways, rounds, renewals=1 if large else 3)


def record(report: Tables, case: Case, times: Rounds, found: dict[str, Wrap | None]) -> None:
    for name in ("bare again", *found):
        value = ratio(times, name, "bare") if name in times else NOT_INSTALLED
        if name in times or name in found:
            report.put(OVER_BARE, case.name, name, value)
    for name in PEERS:
        value = ratio(times, "ours", name) if name in times else NOT_INSTALLED
        report.put(OVER_PEER, case.name, name, value)
