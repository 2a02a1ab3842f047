"""The real core on symbols: a weight is a vector of coefficients of the start and of each noise.

SGD on a quadratic is linear, so running `SyncRule` on such vectors gives the exact mean (the
coefficient of the start) and, as the noises are independent, the exact variance (the sum of the
other squares): an oracle that shares no formula with lookahead_core.analysis.
"""

from typing import NamedTuple

import numpy as np

from lookahead_core import SyncRule


class Run(NamedTuple):
    """Coefficients after each step, shape (steps, 1 + steps)."""

    slow: np.ndarray
    fast: np.ndarray


def run(rule, step, steps, momentum=0.0, nesterov=False) -> Run:
    """`steps` inner steps with learning_rate * curvature = `step`, and the syncs of `rule`."""
    noises = np.eye(1 + steps)[1:]
    fast, velocity = [np.eye(1 + steps)[0]], [np.zeros(1 + steps)]
    state = rule.init(fast, velocity)
    rows = []
    for noise in noises:
        gradient = step * (fast[0] - noise)
        velocity = [momentum * velocity[0] + gradient]
        moved = gradient + momentum * velocity[0] if nesterov else velocity[0]
        fast, velocity, state = rule.step([fast[0] - moved], velocity, state)
        rows.append((rule.slow(fast, state)[0], fast[0]))
    return Run(*(np.asarray(side) for side in zip(*rows, strict=True)))


def variance(coefficients) -> np.ndarray:
    """Of weights that are these combinations of independent noises of variance 1."""
    return (coefficients[..., 1:] ** 2).sum(axis=-1)


def bare(sync_period=1) -> SyncRule:
    """No slow weights: alpha = 1."""
    from lookahead_core import lookahead

    return lookahead(sync_period, alpha=1.0)
