"""The paper's Figure 10: test accuracy after every fast step, and what a sync makes of it.

One run, as in the paper, and then the mean over seeds by position in the cycle: at a learning rate
that is comfortable for SGD, and at one that is hot.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.real_run import STEPS_PER_EPOCH, accuracy, batch_gradient, batches, started
from lookahead_core.adapters.numpy import SGD, Lookahead

SYNC_PERIOD, ALPHA, MOMENTUM, SEEDS = 5, 0.5, 0.9, 10
RATES = {0.04: (style.BLUE, "o"), 0.32: (style.ORANGE, "s")}
FIRST_EPOCH, SHOWN = 3, 60
Accuracies = NDArray[np.float64]


def cycles(learning_rate: float, seed: int) -> Accuracies:
    """Shape (cycles, k + 2): before the cycle, after each of its k fast steps, after the sync.

    The inner optimizer and the sync are told apart by asking for the sync by hand.
    """
    weights, optimizer = started(
        seed, lambda w: Lookahead(SGD(w, learning_rate, MOMENTUM), SYNC_PERIOD + 1, ALPHA)
    )
    first = FIRST_EPOCH * STEPS_PER_EPOCH
    rows, found = [], []
    for step, batch in enumerate(batches(seed, first + SHOWN)):
        if step >= first and step % SYNC_PERIOD == 0:
            found = [accuracy(weights)]
        optimizer.step(batch_gradient(weights, batch))
        if step >= first:
            found.append(accuracy(weights))
        if (step + 1) % SYNC_PERIOD == 0:
            optimizer.sync()
            if step >= first:
                rows.append([*found, accuracy(weights)])
    return np.asarray(rows)


def draw_run(panel: Axes, run: Accuracies, colour: str) -> None:
    """Accuracy of one run after every fast step, and of the slow weights at each sync."""
    fast = run[:, 1:-1].ravel()
    steps = np.arange(1, len(fast) + 1)
    syncs = steps[SYNC_PERIOD - 1 :: SYNC_PERIOD]
    panel.plot(steps, fast, color=colour, lw=1, marker=".", ms=3, label="fast weights")
    panel.plot(syncs, run[:, -1], "D", color=style.BLACK, ms=3.5, label="slow, after the sync")
    panel.set(xlabel="fast steps in epoch 4", ylabel="test accuracy (%)")


def draw(path: Path) -> None:
    """A run at each learning rate, then the mean by position in the cycle."""
    figure, axes = style.panels(3, height=2.1)
    for panel, (rate, (colour, marker)) in zip(axes, RATES.items(), strict=False):
        runs = [cycles(rate, seed) for seed in range(SEEDS)]
        draw_run(panel, runs[0], colour)
        panel.set_title(f"One run, learning rate {rate:g}")
        change = np.asarray([(run - run[:, :1]).mean(axis=0) for run in runs])
        error = 2 * change.std(axis=0, ddof=1) / np.sqrt(SEEDS)
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "ms": 4,
            "label": f"learning rate {rate:g}",
        }
        axes[2].errorbar(np.arange(SYNC_PERIOD + 2), change.mean(axis=0), error, **look)
    axes[0].legend(loc="lower right", ncols=2, columnspacing=1.0)
    names = [
        "slow",
        *(f"step {i}" if i == 1 else str(i) for i in range(1, SYNC_PERIOD + 1)),
        "sync",
    ]
    axes[2].set_xticks(range(SYNC_PERIOD + 2), names)
    axes[2].axhline(0, color=style.BLACK, lw=0.8)
    axes[2].set_title(f"Mean of {SEEDS} seeds × {SHOWN // SYNC_PERIOD} cycles, ± 2 s.e.")
    axes[2].set(
        xlabel="position in the cycle", ylabel="accuracy against the\nslow weights (points)"
    )
    axes[2].legend(loc="best")
    style.save(figure, path)
