"""The paper's Figure 3: SGD and Lookahead on the noisy quadratic, compared at equal final risk.

Gradient noise has covariance A, so the sampled optimum has A^-1; weights start at distance 1 in
every direction. 1000 updates, k = 5.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from experiments.figures import style
from lookahead_core.analysis import lookahead_variance

SYNC_PERIOD, UPDATES = 5, 1000
ALPHAS = np.linspace(0.05, 0.95, 19)
LEARNING_RATES = np.geomspace(0.003, 1.5, 120)
Curve = NDArray[np.float64]


class Outcome(NamedTuple):
    """By learning rate: steady-state risk without the noise floor, and what is above it."""

    risk: Curve
    excess: Curve


def spectra() -> dict[str, Curve]:
    """Eigenvalues: the paper's main text does not say which ones it has."""
    nodes = np.cos(np.pi * (np.arange(1000) + 0.5) / 1000)
    return {
        "1/i, 100 of them": 1 / np.arange(1.0, 101),
        "1/i, 10 000 of them": 1 / np.arange(1.0, 10_001),
        "log-uniform, 1e-3 to 1": np.geomspace(1e-3, 1.0, 1000),
        "Chebyshev nodes, 1e-3 to 1": 1e-3 + (1 - 1e-3) * (nodes + 1) / 2,
    }


def outcome(curvature: Curve, learning_rates: Curve, alpha: float) -> Outcome:
    """Of Lookahead after `UPDATES` updates; alpha = 1 is SGD."""
    variance = lookahead_variance(
        learning_rates[:, None], curvature, SYNC_PERIOD, alpha, noise_variance=1 / curvature
    )
    remembered = (1 - learning_rates[:, None] * curvature) ** SYNC_PERIOD
    squared = (1 - alpha + alpha * remembered) ** (2 * UPDATES // SYNC_PERIOD)
    # E x^2 goes from 1 to the variance, by this factor.
    excess = squared * (1 - variance)
    return Outcome((curvature * variance).sum(axis=1) / 2, (curvature * excess).sum(axis=1) / 2)


def against_sgd(curvature: Curve, alpha: float) -> Outcome:
    """Excess of Lookahead over that of SGD at the same steady-state risk, where both reach it."""
    sgd = outcome(curvature, LEARNING_RATES, 1.0)
    slow = outcome(curvature, LEARNING_RATES, alpha)
    shared = (sgd.risk >= slow.risk[0]) & (sgd.risk <= slow.risk[-1])
    excess = np.interp(np.log(sgd.risk[shared]), np.log(slow.risk), np.log(slow.excess))
    return Outcome(sgd.risk[shared], np.exp(excess) / sgd.excess[shared])


def draw(path: Path) -> None:
    """Four panels, a spectrum each."""
    figure, axes = style.panels(4, height=1.8, sharey=True)
    colours = matplotlib.colormaps["viridis"]
    for panel, (name, curvature) in zip(axes, spectra().items(), strict=True):
        for alpha in ALPHAS:
            risk, ratio = against_sgd(curvature, alpha)
            panel.semilogx(risk, 100 * ratio, color=colours(alpha), lw=1.1)
        panel.axhline(100, color=style.VERMILLION, lw=2, ls="--")
        panel.set_title(f"Eigenvalues {name}")
        panel.set_ylabel("% of SGD's\nexcess loss")
        panel.set_ylim(40, 112)
    axes[0].annotate("SGD", (0.03, 103), xycoords=("axes fraction", "data"))
    axes[0].annotate("Lookahead, k = 5, by alpha", (0.03, 45), xycoords=("axes fraction", "data"))
    axes[-1].set_xlabel("steady-state risk, equal for both (loss units)")
    scale = ScalarMappable(Normalize(0, 1), colours)
    figure.colorbar(scale, ax=axes, location="bottom", label="alpha", aspect=40, pad=0.01)
    style.save(figure, path)
