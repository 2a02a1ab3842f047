"""What a real training step loses: forward, backward and step, with and without ours.

The difference is far smaller than what a training step varies by, so it is given twice: as the
paired ratio of whole training cycles, and as the time of the optimizer alone over the bare one's,
divided by the time of the training step, which is the sharper of the two.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch.optim import SGD

from experiments.benchmarks.contenders import ours
from experiments.benchmarks.models import Training, trainings
from experiments.benchmarks.paired import Make, Rounds, interleaved, ratio, spread
from experiments.benchmarks.report import Tables

__all__ = ["measure"]

K = 5
TITLE = "A real training step, SGD momentum foreach, k=5"


def measure(rounds: int, report: Tables) -> None:
    """One row for each model."""
    for name, build in trainings().items():
        ways = {
            "bare": trained(build, lambda inner: inner),
            "bare again": trained(build, lambda inner: inner),
            "ours": trained(build, lambda inner: ours(inner, K)),
        }
        times = interleaved(ways, rounds)
        steps = [1e3 * sum(seconds) / K for seconds in times["bare"]]
        report.put(TITLE, name, "bare, ms", spread(steps))
        report.put(TITLE, name, "ours / bare", ratio(times, "ours", "bare"))
        report.put(TITLE, name, "bare again / bare", ratio(times, "bare again", "bare"))
        report.put(TITLE, name, "optimizer alone, % of the step", spread(shares(times)))


def shares(times: Rounds) -> list[float]:
    """What the optimizer takes beyond the bare one, in per cent of the whole bare step."""
    pairs = zip(times["ours"], times["bare"], strict=True)
    return [100 * (a[1] - b[1]) / sum(b) for a, b in pairs]


def trained(build: Callable[[], Training], wrap: Callable[[Any], Any]) -> Make:
    """Seconds of forward and backward, and of the optimizer, in one cycle."""

    def make() -> Callable[[], Sequence[float]]:
        torch.manual_seed(0)
        training = build()
        inner = SGD(training.model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
        optimizer = wrap(inner)

        def run() -> list[float]:
            seconds = [0.0, 0.0]
            for _ in range(K):
                start = perf_counter()
                optimizer.zero_grad()
                training.loss().backward()
                middle = perf_counter()
                optimizer.step()
                seconds[0] += middle - start
                seconds[1] += perf_counter() - middle
            return seconds

        return run

    return make
