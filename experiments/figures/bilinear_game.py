"""The game min_x max_y x y: gradient steps circle outwards, Lookahead's slow weights come in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from experiments.figures import style
from lookahead_core import SyncRule, lookahead
from lookahead_core.analysis import bilinear_game_rate

ALPHA, LEARNING_RATE, STEPS = 0.5, 0.3, 60
GAMES = {0.1: (style.BLUE, "o"), 0.3: (style.ORANGE, "s")}
PERIODS = range(1, 51)


def play(rule: SyncRule) -> NDArray[np.float64]:
    """Both players after each step, from (1, 0); shape (1 + STEPS, 2)."""
    fast: Sequence[Any] = [np.asarray([1.0, 0.0])]
    state, places = rule.init(fast), [fast[0]]
    for _ in range(STEPS):
        x, y = fast[0]
        fast, _, state = rule.step(
            [np.asarray([x - LEARNING_RATE * y, y + LEARNING_RATE * x])], (), state
        )
        places.append(fast[0])
    return np.asarray(places)


def draw(path: Path) -> None:
    """Two paths, and the rate against the sync period."""
    figure, (upper, lower) = style.panels(2, height=2.7)
    draw_paths(upper)
    draw_rates(lower)
    style.save(figure, path)


def draw_paths(upper: Axes) -> None:
    """Both players' weights, with Lookahead and without."""
    bare, slow = play(lookahead(1, alpha=1.0)), play(lookahead(6, ALPHA))
    upper.plot(
        *bare[:22].T,
        color=style.VERMILLION,
        ls="--",
        marker=".",
        ms=4,
        label="gradient steps alone",
    )
    upper.plot(*slow.T, color=style.SKY, lw=0.8, marker=".", ms=3, label="Lookahead, fast weights")
    upper.plot(*slow[::6].T, color=style.BLUE, marker="o", ms=4, label="slow weights, k = 6")
    upper.plot(0, 0, "+", color=style.BLACK, ms=9, mew=1.5)
    upper.annotate("solution", (0.5, -0.75), fontsize=7.5)
    upper.set_aspect("equal")
    upper.set(xlim=(-2.9, 3.1), ylim=(-2.3, 3.4))
    upper.set(xlabel="first player's weight", ylabel="second player's weight")
    upper.set_title(f"Learning rate {LEARNING_RATE:g}, alpha = {ALPHA:g}")
    upper.legend(loc="upper right", handlelength=1.3)


def draw_rates(lower: Axes) -> None:
    """Rate per step against the sync period."""
    for step, (colour, marker) in GAMES.items():
        rates = [bilinear_game_rate(lookahead(k, ALPHA), step) for k in PERIODS]
        lower.plot(
            PERIODS,
            rates,
            color=colour,
            marker=marker,
            ms=2.5,
            lw=1,
            label=f"learning rate {step:g}",
        )
        alone = bilinear_game_rate(lookahead(1, 1.0), step)
        lower.axhline(alone, color=colour, lw=1.2, ls="--", label=f"{step:g} alone")
    lower.axhline(1, color=style.BLACK, lw=0.8)
    lower.set_ylim(0.87, 1.1)
    lower.set(xlabel="sync period k (steps)", ylabel="rate per step\n(below 1 converges)")
    lower.legend(loc="upper left", ncols=2, handlelength=1.3, columnspacing=1.0)
