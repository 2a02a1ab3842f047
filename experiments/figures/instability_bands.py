"""Where Lookahead diverges although its inner optimizer converges, by inner-state policy."""

from pathlib import Path

import numpy as np

from experiments.figures import style
from lookahead_core import lookahead
from lookahead_core.analysis import (
    contraction_rate,
    inner_contraction_rate,
    inner_stability_limit,
    unstable_bands,
)

MOMENTUM, SYNC_PERIOD, ALPHA = 0.9, 5, 0.5
COLOURS = {"maintain": style.BLUE, "reset": style.ORANGE, "interpolate": style.GREEN}


def draw(path: Path) -> None:
    """A panel for each policy."""
    figure, axes = style.panels(3, height=1.9, sharex=True, sharey=True)
    steps = np.linspace(0.002, inner_stability_limit(MOMENTUM), 1500)
    for panel, (policy, colour) in zip(axes, COLOURS.items(), strict=True):
        rule = lookahead(SYNC_PERIOD, ALPHA, policy)
        bands = unstable_bands(rule, MOMENTUM)
        for band in bands:
            panel.axvspan(band.low, band.high, color=style.VERMILLION, alpha=0.22, lw=0)
        panel.plot(steps, contraction_rate(rule, steps, 1.0, MOMENTUM), color=colour)
        alone = inner_contraction_rate(steps, 1.0, MOMENTUM)
        panel.plot(steps, alone, color=style.GREY, ls="--", lw=1.2)
        panel.axhline(1, color=style.BLACK, lw=0.8)
        found = ", ".join(f"{band.low:.2f}-{band.high:.2f}" for band in bands) or "none"
        panel.set_title(f"{policy}; unstable: {found}")
        panel.set_ylim(0.83, 1.16)
        panel.set_ylabel("rate per step")
    axes[2].annotate("heavy ball alone", (1.9, 0.957), color=style.GREY, fontsize=7.5)
    axes[0].annotate("above 1: diverges", (0.05, 1.015), fontsize=7.5)
    axes[-1].set_xlabel("learning rate × curvature (heavy ball: stable up to 3.8)")
    style.save(figure, path)
