"""The paper's Figure 1, left: fast and slow weights of a real run, on the plane through one cycle.

The plane goes through the fast weights before, half-way through and at the end of a cycle of ten
steps. What lies beside it is projected onto it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.demo.mlp import Weights, flat
from experiments.figures import style
from experiments.figures.real_run import accuracy, batch_gradient, batches, copies, started
from lookahead_core.adapters.numpy import SGD, Lookahead

SYNC_PERIOD, ALPHA, LEARNING_RATE, MOMENTUM, SEED = 10, 0.5, 0.1, 0.9, 0
FIRST_STEP, CYCLES, POINTS = 30, 3, 45
Vector = NDArray[np.float64]


class Path2D(NamedTuple):
    """Weights as they were after each step, and the slow ones at each sync, first of all before."""

    fast: list[Weights]
    slow: list[Weights]


def recorded() -> Path2D:
    """`CYCLES` cycles after `FIRST_STEP` steps; the last fast weights of a cycle are unsynced."""
    weights, optimizer = started(
        SEED, lambda w: Lookahead(SGD(w, LEARNING_RATE, MOMENTUM), SYNC_PERIOD, ALPHA)
    )
    fast, slow = [], []
    for step, rows in enumerate(batches(SEED, FIRST_STEP + CYCLES * SYNC_PERIOD)):
        gradient = batch_gradient(weights, rows)
        if step >= FIRST_STEP and step % SYNC_PERIOD == 0:
            slow.append(copies(optimizer.slow_weights()))
        if step >= FIRST_STEP:
            fast.append(copies(weights))
        optimizer.step(gradient)
    return Path2D(fast, [*slow, copies(optimizer.slow_weights())])


def unsynced(path: Path2D, cycle: int) -> Vector:
    """Where the last inner step of a cycle led: slow' = slow + alpha (fast - slow), solved."""
    before, after = flat(path.slow[cycle]), flat(path.slow[cycle + 1])
    return before + (after - before) / ALPHA


def plane(path: Path2D) -> tuple[Vector, NDArray[np.float64]]:
    """Origin, and two orthonormal directions as rows."""
    origin, middle = flat(path.fast[0]), flat(path.fast[SYNC_PERIOD // 2])
    first = unsynced(path, 0) - origin
    first = first / np.linalg.norm(first)
    second = middle - origin - (middle - origin) @ first * first
    return origin, np.stack([first, second / np.linalg.norm(second)])


def reshaped(vector: Vector, like: Weights) -> Weights:
    """A flat vector as weights again."""
    sizes = np.cumsum([like[name].size for name in sorted(like)])[:-1]
    parts = zip(sorted(like), np.split(vector, sizes), strict=True)
    return {name: part.reshape(like[name].shape) for name, part in parts}


def draw(path: Path) -> None:
    """The paths over test accuracy."""
    run = recorded()
    origin, directions = plane(run)
    slow = np.asarray([directions @ (flat(w) - origin) for w in run.slow])
    cycles = []
    for cycle in range(CYCLES):
        inside = run.fast[cycle * SYNC_PERIOD : (cycle + 1) * SYNC_PERIOD]
        vectors = [*map(flat, inside), unsynced(run, cycle)]
        cycles.append(np.asarray([directions @ (vector - origin) for vector in vectors]))
    every = np.concatenate([slow, *cycles])
    margin = 0.2 * np.ptp(every, axis=0).max()
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    x, y = (np.linspace(a, b, POINTS) for a, b in zip(low, high, strict=True))
    height = [
        [accuracy(reshaped(origin + np.asarray([a, b]) @ directions, run.fast[0])) for a in x]
        for b in y
    ]
    figure, (panel,) = style.panels(1, height=3.9)
    filled = panel.contourf(x, y, height, levels=14, cmap="cividis")
    for number, places in enumerate(cycles):
        label = "fast weights, step by step" if number == 0 else None
        panel.plot(*places.T, color="black", ls="--", lw=1, marker=".", ms=4, label=label)
    panel.plot(*slow.T, color=style.VERMILLION, lw=2, marker="o", ms=5, label="slow weights")
    panel.grid(visible=False)
    panel.set_title(f"Digits, SGD with momentum, k = {SYNC_PERIOD}, alpha = {ALPHA:g}")
    panel.set(xlabel="distance of weights along the cycle (L2)", ylabel="across it (L2)")
    panel.legend(loc="upper left", frameon=True)
    figure.colorbar(filled, ax=panel, location="bottom", label="test accuracy (%)", aspect=40)
    style.save(figure, path)
