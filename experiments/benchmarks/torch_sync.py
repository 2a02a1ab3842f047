"""What a sync costs in torch by itself, what is left between syncs, and how both grow.

The inner optimizer does nothing here. What a sync must do is measured in the same rounds: the two
bare foreach calls, and two copies of all weights, which move as many bytes as an interpolation of
both (4Nb).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.contenders import ALPHA, Still, Wrap, contenders, ours
from experiments.benchmarks.paired import (
    Make,
    Rounds,
    Spread,
    difference,
    interleaved,
    ratio,
    spread,
    timed,
)
from experiments.benchmarks.report import NOT_INSTALLED, Tables
from experiments.benchmarks.torch_step import arrays, cycles, parameters, wrapped
from experiments.benchmarks.workloads import Shapes, elements, workloads

__all__ = ["copies", "measure", "phases", "reference"]

# torch-optimizer syncs in the first step of each cycle, the others in the last (clause C02).
SYNCS_FIRST = "torch-optimizer"
OVER_REFERENCE = "A sync alone, over the two bare foreach calls"
OVER_LIMIT = "A sync alone, over two copies of all weights (4Nb)"
BETWEEN = "Between syncs, microseconds over the inner step"
GROWTH = "How a sync grows, microseconds"
# One graph holds all tensors: of hundreds it takes minutes to compile.
COMPILED = ("ResNet-18", "32M in one")
FIRST, MIDDLE, LAST = slice(0, 1), slice(1, 2), slice(2, 3)


def phases(wrap: Wrap, values: Sequence[Tensor], repeats: int) -> Make:
    """Seconds of the first, the middle and the last step of a cycle of three."""

    def make() -> Callable[[], Sequence[float]]:
        step = wrap(Still(parameters(values, values)), 3).step

        def run() -> list[float]:
            seconds = [[timed(step) for _ in range(3)] for _ in range(repeats)]
            return [sum(part) for part in zip(*seconds, strict=True)]

        return run

    return make


def bare(calls: Callable[..., None], values: Sequence[Tensor], repeats: int) -> Make:
    """Seconds of calls on two copies of the weights, with room for two more."""

    def make() -> Callable[[], Sequence[float]]:
        fast, slow = [v.clone() for v in values], [v.clone() for v in values]
        spare = [torch.empty_like(v) for v in (*values, *values)]

        def run() -> list[float]:
            return [sum(timed(partial(calls, slow, fast, spare)) for _ in range(repeats))]

        return run

    return make


def reference(slow: list[Tensor], fast: list[Tensor], spare: list[Tensor]) -> None:
    torch._foreach_lerp_(slow, fast, ALPHA)
    torch._foreach_copy_(fast, slow)


def copies(slow: list[Tensor], fast: list[Tensor], spare: list[Tensor]) -> None:
    torch._foreach_copy_(spare, [*fast, *slow])


def repeats_of(shapes: Shapes) -> int:
    """How often at once: a few tiny arrays take no longer than reading the clock."""
    return 20 if elements(shapes) < 1_000_000 else 1


def sync_times(shapes: Shapes, rounds: int, wraps: dict[str, Wrap | None]) -> Rounds:
    """Seconds of the bare calls, and of the steps of a cycle of each contender."""
    values, repeats = arrays(shapes, 0), repeats_of(shapes)
    calls = {"two calls": reference, "4Nb": copies}
    calls |= {"two calls again": reference, "4Nb again": copies}
    ways = {name: bare(function, values, repeats) for name, function in calls.items()}
    for name, wrap in wraps.items():
        if wrap is not None:
            ways[name] = phases(wrap, values, repeats)
    return interleaved(ways, rounds, renewals=1 if elements(shapes) > 100_000_000 else 3)


def part_over(times: Rounds, name: str, against: str, *parts: slice) -> Spread | str:
    """Some steps of a cycle of `name`, over a bare call."""
    if name not in times:
        return NOT_INSTALLED
    chosen = [[s for part in parts for s in seconds[part]] for seconds in times[name]]
    return ratio({name: chosen, against: times[against]}, name, against)


def measure(rounds: dict[str, int], quick: bool, report: Tables) -> None:
    """All tables of this file."""
    found = contenders()
    for workload, shapes in workloads(quick).items():
        wraps: dict[str, Wrap | None] = dict(found)
        if workload in COMPILED:
            wraps["ours, compiled"] = partial(ours, kernel="compiled")
        times = sync_times(shapes, rounds[workload], wraps)
        for table, against in ((OVER_REFERENCE, "two calls"), (OVER_LIMIT, "4Nb")):
            for name in wraps:
                part = FIRST if name == SYNCS_FIRST else LAST
                report.put(table, workload, name, part_over(times, name, against, part))
            # The anchor is taken in the first step of a cycle: with it, all that a cycle costs.
            whole = part_over(times, "ours", against, FIRST, LAST)
            report.put(table, workload, "ours and the anchor", whole)
            twice = ratio(times, f"{against} again", against)
            report.put(table, workload, "what is compared with, twice", twice)
        report.put(OVER_LIMIT, workload, "two calls", ratio(times, "two calls", "4Nb"))
    between(rounds["400 tiny"], 10 if quick else 200, found, report)
    growth(rounds["32M in one"], quick, report)


def between(rounds: int, count: int, found: dict[str, Wrap | None], report: Tables) -> None:
    """Steps that neither begin nor end a cycle."""
    never = 10**9
    for leaves in (1, 62, 400, 1600):
        values = arrays([(16, 16)] * leaves, 0)
        still = cycles(Still, values, values, count)
        ways = {"bare": still, "the inner step, twice": still}
        for name, wrap in found.items():
            if wrap is not None:
                ways[name] = cycles(wrapped(Still, wrap, never), values, values, count)
        times = interleaved(ways, rounds)
        for name in ("the inner step, twice", *found):
            there = name in times
            value = difference(times, name, "bare", 1e6 / count) if there else NOT_INSTALLED
            report.put(BETWEEN, f"{leaves} tensors", name, value)


def growth(rounds: int, quick: bool, report: Tables) -> None:
    """Ours alone, by size and by number of tensors."""
    millions, many = ((1, 2), (25, 50)) if quick else ((1, 4, 16, 64), (25, 100, 400, 1600))
    sets: dict[str, Shapes] = {f"{n}M in one": [(n * 1_000_000,)] for n in millions}
    sets |= {f"{n} tensors of 16 x 16": [(16, 16)] * n for n in many}
    for row, shapes in sets.items():
        times = sync_times(shapes, rounds, {"ours": ours})
        parts = {"first step, with the anchor": FIRST, "between": MIDDLE, "step that syncs": LAST}
        for column, part in parts.items():
            scale = 1e6 / repeats_of(shapes)
            seconds = [scale * sum(s[part]) for s in times["ours"]]
            report.put(GROWTH, row, column, spread(seconds))
        calls = [1e6 / repeats_of(shapes) * sum(s) for s in times["two calls"]]
        report.put(GROWTH, row, "two bare calls", spread(calls))
