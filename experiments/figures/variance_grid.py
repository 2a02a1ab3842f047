"""Proposition 2, measured: steady-state variance of Lookahead over SGD's, from sampled chains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.figures import style
from lookahead_core import lookahead
from lookahead_core.analysis import lookahead_variance_factor, sgd_variance

ALPHA, PERIODS = 0.5, (1, 5, 20)
STEPS = np.linspace(0.05, 1.9, 13)
CHAINS, INNER_STEPS = 50_000, 300
COLOURS = {1: style.ORANGE, 5: style.BLUE, 20: style.GREEN}
MARKERS = {1: "^", 5: "o", 20: "s"}


def measured(sync_period: int) -> NDArray[np.float64]:
    """Variance over chains that the core's own rule was run on, for each of `STEPS`."""
    rule, rng = lookahead(sync_period, ALPHA), np.random.default_rng(sync_period)
    fast: Sequence[Any] = [np.zeros((len(STEPS), CHAINS))]
    state = rule.init(fast)
    for _ in range(INNER_STEPS):
        noise = rng.standard_normal((len(STEPS), CHAINS))
        fast = [fast[0] - STEPS[:, None] * (fast[0] - noise)]
        fast, _, state = rule.step(fast, (), state)
    return np.asarray(rule.slow(fast, state)[0].var(axis=1, ddof=1))


def draw(path: Path) -> None:
    """The factor, and how far measurements are from it."""
    figure, (upper, lower) = style.panels(2, height=2.4, sharex=True)
    smooth = np.linspace(0.01, 1.99, 300)
    error = 100 * 2 * np.sqrt(2 / CHAINS)
    for period in PERIODS:
        exact = lookahead_variance_factor(smooth, 1.0, period, ALPHA)
        upper.plot(smooth, exact, color=COLOURS[period], label=f"k = {period}")
        factor = measured(period) / sgd_variance(STEPS, 1.0)
        look: dict[str, Any] = {
            "marker": MARKERS[period],
            "ms": 3.5,
            "ls": "",
            "color": COLOURS[period],
        }
        upper.plot(STEPS, factor, **look)
        off = 100 * (factor / lookahead_variance_factor(STEPS, 1.0, period, ALPHA) - 1)
        lower.errorbar(STEPS + 0.012 * (period - 8) / 4, off, error, lw=0.8, **look)
    upper.axhline(ALPHA, color=style.GREY, lw=1, ls=":")
    upper.annotate("alpha: flat directions", (1.98, ALPHA + 0.01), color=style.GREY, ha="right")
    upper.axhline(ALPHA / (2 - ALPHA), color=style.BLACK, lw=1, ls="--")
    upper.annotate("alpha / (2 - alpha)", (0.28, 0.295), fontsize=7.5)
    upper.set_ylim(0, 0.56)
    upper.set_ylabel("variance of slow weights\n/ that of SGD")
    upper.set_title("Proposition 2: exact (lines), measured (points)")
    upper.legend(loc="lower left")
    lower.axhline(0, color=style.BLACK, lw=0.8)
    lower.set_ylabel("measured - exact (%)\nbars: ± 2 standard errors")
    lower.set_xlabel("learning rate × curvature")
    style.save(figure, path)
