"""What the runs say: means and spreads over seeds, who was ahead, and how wide a method works.

Numbers only; table.py and picture.py show them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.demo.experiment import Result
from experiments.demo.methods import Method

__all__ = ["Cell", "Lead", "Range", "Summary", "summarise"]


class Lead(NamedTuple):
    """Shares of checkpoints, in [0, 1], at which one set of weights was better; the rest tie."""

    slow: float
    fast: float


@dataclass(frozen=True)
class Cell:
    """All seeds of one method at one learning rate; diverged runs count like any other.

    Attributes
    ----------
    accuracy, spread : float
        Mean and sample standard deviation of the test accuracy, in [0, 1]; the spread of a single
        seed is NaN.
    loss : float
        Mean training loss; infinite if any run diverged.
    seconds : float
        Mean time of a run.
    runs, diverged : int
        How many there were, and how many of them diverged.
    by_loss, by_accuracy : Lead
        Slow weights against fast ones just before a sync.
    checkpoints : int
        How many `by_loss` and `by_accuracy` are shares of.
    """

    accuracy: float
    spread: float
    loss: float
    seconds: float
    runs: int
    diverged: int
    by_loss: Lead
    by_accuracy: Lead
    checkpoints: int


class Range(NamedTuple):
    """Learning rates at which a method stays near its own best accuracy.

    Attributes
    ----------
    low, high : float
        Ends of the range, interpolated between the measured learning rates.
    open : bool
        Whether it reaches an end of what was measured, so that the real range may be wider.
    """

    low: float
    high: float
    open: bool

    @property
    def octaves(self) -> float:
        return math.log2(self.high / self.low)


@dataclass(frozen=True)
class Summary:
    """The whole experiment.

    Attributes
    ----------
    lrs : tuple of float
        Nominal learning rates, ascending.
    cells : dict of (Method, float) to Cell
        One for each method and learning rate.
    """

    lrs: tuple[float, ...]
    cells: dict[tuple[Method, float], Cell]

    @property
    def methods(self) -> tuple[Method, ...]:
        """What was compared, in the order of the runs."""
        return tuple(dict.fromkeys(method for method, _ in self.cells))

    def best_lr(self, method: Method) -> float:
        """Learning rate with the highest mean test accuracy; the lowest such one."""
        return max(self.lrs, key=lambda lr: self.cells[method, lr].accuracy)

    def range_near_best(self, method: Method, margin: float) -> Range:
        """Learning rates around the best one with a mean accuracy within `margin` of its."""
        accuracy = [self.cells[method, lr].accuracy for lr in self.lrs]
        best = self.lrs.index(self.best_lr(method))
        floor = accuracy[best] - margin
        low = _crossing(self.lrs[best::-1], accuracy[best::-1], floor)
        high = _crossing(self.lrs[best:], accuracy[best:], floor)
        return Range(low or self.lrs[0], high or self.lrs[-1], low is None or high is None)

    def highest_stable_lr(self, method: Method) -> float:
        """Highest learning rate below every divergence; the lowest one if that diverges as well."""
        stable = self.lrs[0]
        for lr in self.lrs:
            if self.cells[method, lr].diverged:
                break
            stable = lr
        return stable


def summarise(results: Sequence[Result]) -> Summary:
    """Group `results` by method and learning rate; needs all of the grid."""
    groups: dict[tuple[Method, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.lr), []).append(result)
    lrs = tuple(sorted({lr for _, lr in groups}))
    return Summary(lrs, {key: _cell(group) for key, group in groups.items()})


def _cell(group: Sequence[Result]) -> Cell:
    accuracies = [result.shipped.accuracy for result in group]
    checkpoints = [checkpoint for result in group for checkpoint in result.checkpoints]
    diverged = sum(result.diverged for result in group)
    losses = [result.shipped.loss for result in group]
    return Cell(
        accuracy=float(np.mean(accuracies)),
        spread=float(np.std(accuracies, ddof=1)) if len(group) > 1 else math.nan,
        loss=math.inf if diverged else float(np.mean(losses)),
        seconds=float(np.mean([result.seconds for result in group])),
        runs=len(group),
        diverged=diverged,
        by_loss=_lead([(-point.slow.loss, -point.fast.loss) for point in checkpoints]),
        by_accuracy=_lead([(point.slow.accuracy, point.fast.accuracy) for point in checkpoints]),
        checkpoints=len(checkpoints),
    )


def _lead(pairs: Sequence[tuple[float, float]]) -> Lead:
    """Shares of `pairs`, (slow, fast) with more being better, that each side wins."""
    slow = sum(s > f for s, f in pairs)
    fast = sum(f > s for s, f in pairs)
    return Lead(slow / len(pairs), fast / len(pairs))


def _crossing(lrs: Sequence[float], accuracy: Sequence[float], floor: float) -> float | None:
    """Where `accuracy`, straight between points on a log axis, first falls to `floor`."""
    for index in range(1, len(lrs)):
        above, below = accuracy[index - 1], accuracy[index]
        if below < floor:
            part = (above - floor) / (above - below)
            return math.exp2(math.log2(lrs[index - 1]) * (1 - part) + math.log2(lrs[index]) * part)
    return None
