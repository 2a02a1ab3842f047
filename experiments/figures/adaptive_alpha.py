"""The paper's Figure 2: adaptive alpha against a fixed one, on a quadratic and on a real run.

On the quadratic the gradient and the Hessian are exact, then the gradient is noisy. On the real run
the inner optimizer is Adam, as in the paper, and the curvature is estimated in two ways.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from experiments.demo.mlp import flat
from experiments.figures import style
from experiments.figures.real_run import STEPS_PER_EPOCH, batch_gradient, batches, loss, started
from lookahead_core.adapters.numpy import SGD, Adam, Lookahead
from lookahead_core.analysis import adaptive_alpha, secant_alpha

SYNC_PERIOD, ALPHA_LOW = 5, 0.2
CURVATURE = np.geomspace(0.01, 1.0, 20)
QUADRATIC_STEPS, NOISY_RUNS, SEEDS, EPOCHS = 300, 40, 5, 8
Vector = NDArray[np.float64]
LOOKS: dict[str, dict[str, Any]] = {
    "inner optimizer": {"color": style.VERMILLION, "ls": "--", "marker": "s"},
    "alpha 0.5": {"color": style.BLUE, "ls": "-", "marker": "o"},
    "alpha 0.2": {"color": style.SKY, "ls": "-", "marker": "D", "lw": 1.0},
    "adaptive, exact A": {"color": style.GREEN, "ls": "-.", "marker": "^"},
    "adaptive, secant": {"color": style.GREEN, "ls": "-.", "marker": "^"},
    "adaptive, Adam's A": {"color": style.ORANGE, "ls": ":", "marker": "v"},
}


class Ends(NamedTuple):
    """What a rule for alpha may look at before a sync."""

    slow: Vector
    fast: Vector
    slow_gradient: Vector
    fast_gradient: Vector
    inner: Any


Rule = Callable[[Ends], float]
FIXED: dict[str, Rule] = {
    "inner optimizer": lambda ends: 1.0,
    "alpha 0.5": lambda ends: 0.5,
    "alpha 0.2": lambda ends: 0.2,
}


def with_exact_hessian(ends: Ends) -> float:
    return float(adaptive_alpha(ends.slow, ends.fast, ends.fast_gradient, CURVATURE, ALPHA_LOW))


def secant(ends: Ends) -> float:
    """1 where the slope does not rise: the loss still falls at the fast weights."""
    ways = (ends.slow_gradient - ends.fast_gradient) @ (ends.slow - ends.fast)
    return float(secant_alpha(*ends[:4], ALPHA_LOW)) if ways > 0 else 1.0


def from_adam(ends: Ends) -> float:
    """With the root of Adam's corrected second moment for the Hessian."""
    beta = 0.999
    seconds, correction = [], 1.0
    for name in sorted(ends.inner.params):
        correction = 1 - beta ** int(ends.inner.state[f"count/{name}"])
        seconds.append(ends.inner.state[f"second/{name}"].ravel())
    diagonal = np.sqrt(np.concatenate(seconds) / correction)
    return float(adaptive_alpha(ends.slow, ends.fast, ends.fast_gradient, diagonal, ALPHA_LOW))


class Run:
    """Lookahead whose alpha a rule chooses at every sync: syncs are asked for by hand."""

    def __init__(self, inner: Any, rule: Rule) -> None:
        self.chosen: list[float] = []
        self._rule, self._inner = rule, inner
        self._lookahead = Lookahead(inner, SYNC_PERIOD + 1, lambda syncs: self.chosen[-1])

    def cycle(self, gradients: list[Callable[[], Any]]) -> None:
        """One cycle; each gradient is of the loss of its own mini-batch, at the weights now."""
        slow, first = flat(self._inner.params), flat(gradients[0]())
        for gradient in gradients:
            self._lookahead.step(gradient())
        ends = Ends(slow, flat(self._inner.params), first, flat(gradients[-1]()), self._inner)
        self.chosen.append(self._rule(ends))
        self._lookahead.sync()


def noisy_gradient(weights: dict[str, Vector], optimum: Vector) -> dict[str, Vector]:
    """Of the quadratic around a sampled optimum."""
    return {"w": CURVATURE * (weights["w"] - optimum)}


def on_quadratic(rule: Rule, noise: float) -> Vector:
    """Loss after each cycle, the mean over seeds; `noise` is the deviation of the optimum."""
    losses = []
    for seed in range(NOISY_RUNS if noise else 1):
        rng = np.random.default_rng(seed)
        weights = {"w": np.ones_like(CURVATURE)}
        run = Run(SGD(weights, lr=1.0, momentum=0.9), rule)
        losses.append([CURVATURE @ weights["w"] ** 2 / 2])
        for _ in range(QUADRATIC_STEPS // SYNC_PERIOD):
            optima = noise * rng.standard_normal((SYNC_PERIOD, len(CURVATURE)))
            run.cycle([partial(noisy_gradient, weights, optimum) for optimum in optima])
            losses[-1].append(CURVATURE @ weights["w"] ** 2 / 2)
    return np.asarray(np.mean(losses, axis=0))


def on_digits(rule: Rule, learning_rate: float) -> tuple[Vector, float]:
    """Training loss after each epoch, mean over seeds; share of syncs with alpha = 1."""
    losses: list[list[float]] = []
    chosen: list[float] = []
    for seed in range(SEEDS):
        weights, inner = started(seed, partial(Adam, lr=learning_rate))
        run = Run(inner, rule)
        rows = np.asarray(list(batches(seed, EPOCHS * STEPS_PER_EPOCH)))
        losses.append([])
        for number, cycle in enumerate(rows.reshape(-1, SYNC_PERIOD, rows.shape[1]), start=1):
            run.cycle([partial(batch_gradient, weights, batch) for batch in cycle])
            if number % (STEPS_PER_EPOCH // SYNC_PERIOD) == 0:
                losses[-1].append(loss(weights))
        chosen += run.chosen
    return np.asarray(np.mean(losses, axis=0)), float(np.mean(np.asarray(chosen) == 1.0))


def draw(path: Path) -> None:
    """Two quadratics, two learning rates."""
    figure, axes = style.panels(4, height=2.1)
    for panel, noise in zip(axes[:2], (0.0, 0.5), strict=True):
        draw_quadratic(panel, noise)
    axes[0].legend(loc="lower left")
    for panel, rate in zip(axes[2:], (0.001, 0.003), strict=True):
        draw_digits(panel, rate)
    for panel in axes[1:]:
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    style.save(figure, path)


def draw_quadratic(panel: Axes, noise: float) -> None:
    """Loss by step, of fixed and adaptive alpha."""
    steps = np.arange(0, QUADRATIC_STEPS + 1, SYNC_PERIOD)
    for name, rule in {**FIXED, "adaptive, exact A": with_exact_hessian}.items():
        look = {**LOOKS[name], "marker": ""}
        panel.semilogy(steps, on_quadratic(rule, noise), label=name, **look)
    what = f"noisy, {NOISY_RUNS} runs" if noise else "exact gradients"
    panel.set_title(f"Quadratic, momentum 0.9: {what}")
    panel.set(xlabel="inner steps", ylabel="loss (log scale)")


def draw_digits(panel: Axes, learning_rate: float) -> None:
    """Loss by epoch, and how often an estimate is clipped to 1."""
    rules = {**FIXED, "adaptive, secant": secant, "adaptive, Adam's A": from_adam}
    for name, rule in rules.items():
        losses, ones = on_digits(rule, learning_rate)
        label = f"{name} (is 1 in {100 * ones:.0f} %)" if "adaptive" in name else name
        panel.semilogy(range(1, EPOCHS + 1), losses, ms=3, label=label, **LOOKS[name])
    panel.set_ylim(top=90)  # room for the legend
    panel.set_title(f"Digits, Adam at {learning_rate:g}, mean of {SEEDS} seeds")
    panel.set(xlabel="epochs", ylabel="training loss (nats)")
    panel.legend(loc="upper right", labelspacing=0.25)
