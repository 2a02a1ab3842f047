"""The question of the paper's Figure 8, with controls: how far may the learning rate be off?

Lookahead beside its inner optimizer at the same rate, at alpha times the rate, and with an
exponential average of its weights read out: what exceeds all of them is Lookahead's own.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.real_run import STEPS_PER_EPOCH, accuracy, batch_gradient, batches, started
from lookahead_core.adapters.numpy import SGD, Lookahead

SYNC_PERIOD, ALPHA, MOMENTUM, DECAY = 5, 0.5, 0.9, 0.98
SEEDS, EPOCHS, MARGIN = 5, 10, 2.0
LEARNING_RATES = 2.0 ** np.arange(-8, 1.01, 0.5)


class Method(NamedTuple):
    """How one line trains and is drawn: the factor of the rate, slow weights, an average."""

    label: str
    factor: float
    lookahead: bool
    averaged: bool
    colour: str
    marker: str
    line: str


METHODS = (
    Method("SGD", 1.0, False, False, style.VERMILLION, "s", "--"),
    Method("SGD at alpha × rate", ALPHA, False, False, style.GREEN, "^", "-."),
    Method("SGD, EMA read-out", 1.0, False, True, style.ORANGE, "v", ":"),
    Method("Lookahead", 1.0, True, False, style.BLUE, "o", "-"),
)


def final_accuracy(method: Method, learning_rate: float, seed: int) -> float:
    """Test accuracy, in percent, of the weights that one would ship."""

    def make(weights: object) -> SGD | Lookahead:
        inner = SGD(weights, method.factor * learning_rate, MOMENTUM)
        return Lookahead(inner, SYNC_PERIOD, ALPHA) if method.lookahead else inner

    weights, optimizer = started(seed, make)
    average = {name: leaf.copy() for name, leaf in weights.items()}
    for rows in batches(seed, EPOCHS * STEPS_PER_EPOCH):
        optimizer.step(batch_gradient(weights, rows))
        if method.averaged:
            for name, leaf in weights.items():
                average[name] += (1 - DECAY) * (leaf - average[name])
    if method.lookahead:
        return accuracy(optimizer.slow_weights())
    return accuracy(average if method.averaged else weights)


def octaves(mean: NDArray[np.float64]) -> float:
    """Width, in octaves, of the rates whose mean is within `MARGIN` points of the best one."""
    return 0.5 * float((mean >= mean.max() - MARGIN).sum())


def draw(path: Path) -> None:
    """Mean and spread over seeds, and a closer look at the top."""
    figure, (upper, lower) = style.panels(2, height=2.7, sharex=True)
    for method in METHODS:
        found = np.asarray(
            [[final_accuracy(method, lr, seed) for seed in range(SEEDS)] for lr in LEARNING_RATES]
        )
        mean, spread = found.mean(axis=1), found.std(axis=1, ddof=1)
        look: dict[str, Any] = {
            "color": method.colour,
            "marker": method.marker,
            "ls": method.line,
            "ms": 3,
        }
        label = f"{method.label}: {mean.max():.1f} %, {octaves(mean):g} octaves"
        for panel in (upper, lower):
            panel.plot(LEARNING_RATES, mean, label=label, lw=1.3, **look)
            low, high = mean - spread, mean + spread
            panel.fill_between(LEARNING_RATES, low, high, color=method.colour, alpha=0.15, lw=0)
    upper.set_xscale("log", base=2)
    upper.set_ylim(0, 101)
    lower.set_ylim(93, 98.5)
    for panel in (upper, lower):
        panel.set_ylabel("test accuracy (%)")
    upper.legend(loc="lower left", title=f"best mean; width within {MARGIN:g} points of it")
    upper.set_title(f"Digits, momentum {MOMENTUM:g}, {SEEDS} seeds: mean ± s.d.")
    lower.set_title("The same, closer")
    lower.set_xlabel("learning rate (log scale: a grid line is two octaves)")
    style.save(figure, path)
