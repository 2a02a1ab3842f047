"""The picture on docs/evidence-tables.md: test score against the learning rate, with controls."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from experiments.evidence.results import Table, load

__all__ = ["draw"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; dashes for print.
STYLES: dict[str, dict[str, Any]] = {
    "inner": {"color": "#D55E00", "linestyle": "--", "label": "inner alone"},
    "inner at 0.5 lr": {"color": "#009E73", "linestyle": "-.", "label": "inner at 0.5 lr"},
    "inner, EMA 0.98": {"color": "#E69F00", "linestyle": ":", "label": "inner, EMA 0.98"},
    "LA k=5 α=0.5 maintain": {"color": "#0072B2", "linestyle": "-", "label": "LA, maintain"},
    "LA k=5 α=0.5 interpolate": {"color": "#56B4E9", "linestyle": "-", "label": "LA, interpolate"},
    "LA k=5 α=0.5 reset": {"color": "#000000", "linestyle": (0, (1, 1)), "label": "LA, reset"},
}
NAMES = {"digits": "Digits", "mnist": "MNIST-5000", "mnist1d": "MNIST-1D", "text": "Text"}
INNERS = {"sgd": "SGD, momentum", "adamw": "AdamW"}


def draw(results: Path, path: Path) -> None:
    """One panel a data set and inner optimizer, at a constant rate; a PNG."""
    tables = [t for t in load(results) if t.schedule == "constant" and t.inner in INNERS]
    figure = Figure(figsize=(6.0, 10.0), dpi=100, layout="constrained")
    grid = figure.subplots(len(tables) // 2, 2, squeeze=False)
    for axes, table in zip(grid.flat, tables, strict=True):
        _panel(axes, table)
    for axes in grid[-1]:
        axes.set_xlabel("learning rate (log scale)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def _panel(axes: Axes, table: Table) -> None:
    sign = -1 if table.is_text else 1
    for name, style in STYLES.items():
        row = table.rows[name]
        mean = sign * row.test.mean(axis=1)
        spread = row.test.std(axis=1, ddof=1)
        axes.plot(np.log2(row.lrs), mean, linewidth=1.7, **style)
        axes.fill_between(
            np.log2(row.lrs), mean - spread, mean + spread, color=style["color"], alpha=0.13, lw=0
        )
    if table.is_text:
        axes.set_ylim(5.2, 3.0)
    else:
        best = max(row.test.mean(axis=1).max() for row in table.rows.values())
        axes.set_ylim(best - 30, best + 2)
    axes.xaxis.set_major_locator(MultipleLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda power, _: f"$2^{{{power:.0f}}}$"))
    axes.set_title(f"{NAMES[table.task]}, {INNERS[table.inner]}", loc="left", fontsize=10)
    axes.set_ylabel("bits a character" if table.is_text else "test accuracy (%)")
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
