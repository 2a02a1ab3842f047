"""The paper's Figure 4: convergence rate against condition number, each at its best learning rate.

The paper draws Lookahead (k = 20, alpha = 0.5) around the heavy ball with a fixed momentum. How
much it gains depends on the eigenvalues between the two ends, so both extremes are drawn.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.figures import style
from lookahead_core import SyncRule, lookahead
from lookahead_core.analysis import best_heavy_ball, contraction_rate, inner_stability_limit

MOMENTA = (0.9, 0.99)
CONDITIONS = np.geomspace(3, 1e5, 28)
RULE = lookahead(sync_period=20, alpha=0.5)
CANDIDATES, ZOOMS = 240, 3


def two_ends(condition: float) -> NDArray[np.float64]:
    return np.asarray([1 / condition, 1.0])


def dense(condition: float) -> NDArray[np.float64]:
    return np.geomspace(1 / condition, 1.0, 801)


def best_rate(rule: SyncRule, momentum: float, curvature: NDArray[np.float64]) -> float:
    """Least contraction per step over all learning rates, of the slowest eigenvalue."""
    limit = inner_stability_limit(momentum)
    low, high = limit * 1e-4, limit
    for _ in range(ZOOMS):
        rates = np.geomspace(low, high, CANDIDATES)
        worst = contraction_rate(rule, rates[:, None], curvature, momentum).max(axis=1)
        best = int(worst.argmin())
        low, high = rates[max(best - 2, 0)], rates[min(best + 2, CANDIDATES - 1)]
    return float(worst.min())


def draw(path: Path) -> None:
    """A panel for each momentum."""
    figure, axes = style.panels(2, height=2.5, sharex=True)
    for panel, momentum in zip(axes, MOMENTA, strict=True):
        alone = [1 - best_heavy_ball(momentum, condition)[1] for condition in CONDITIONS]
        panel.loglog(CONDITIONS, alone, color=style.VERMILLION, ls="--", label="heavy ball alone")
        for spectrum, colour, marker, name in (
            (two_ends, style.SKY, "^", "Lookahead, two eigenvalues"),
            (dense, style.BLUE, "o", "Lookahead, 801 eigenvalues"),
        ):
            rates = [1 - best_rate(RULE, momentum, spectrum(c)) for c in CONDITIONS]
            panel.loglog(CONDITIONS, rates, color=colour, marker=marker, ms=3, label=name)
        edge = ((1 + momentum**0.5) / (1 - momentum**0.5)) ** 2
        if edge < CONDITIONS[-1]:
            panel.axvline(edge, color=style.GREY, lw=1, ls=":")
            panel.annotate("over-damped →", (edge * 1.2, 0.1), color=style.GREY, fontsize=7.5)
        panel.set_title(f"Momentum {momentum:g}, k = 20, alpha = 0.5")
        panel.set_ylabel("1 - rate per step\n(higher is faster)")
        panel.set_ylim(1e-4, 0.2)
    axes[0].legend(loc="lower left")
    axes[-1].set_xlabel("condition number (largest / smallest eigenvalue)")
    style.save(figure, path)
