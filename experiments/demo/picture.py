"""The picture: slow and fast loss step by step, and test accuracy against the learning rate."""

from math import log2
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from experiments.demo.experiment import Trace
from experiments.demo.methods import ALPHA, SYNC_PERIOD, Method
from experiments.demo.summary import Summary

__all__ = ["draw"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers and dashes for print.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE = "#CC79A7"
STYLES: dict[Method, dict[str, Any]] = {
    Method.INNER: {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    Method.CONTROL: {"color": GREEN, "marker": "^", "linestyle": "-."},
    Method.LOOKAHEAD: {"color": BLUE, "marker": "o", "linestyle": "-"},
}
CHOSEN: dict[str, Any] = {"color": PURPLE, "marker": "D", "linestyle": ":"}


def draw(summary: Summary, trace: Trace, path: Path) -> None:
    """Write both panels to `path` as a PNG."""
    figure = Figure(figsize=(5.4, 7.6), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1)
    _draw_trace(upper, trace)
    _draw_accuracy(lower, summary)
    for axes in (upper, lower):
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _draw_trace(axes: Axes, trace: Trace) -> None:
    steps = np.arange(len(trace.fast))
    syncs, color = steps[trace.sync_period :: trace.sync_period], _style(trace.method)["color"]
    axes.plot(steps, trace.fast, color=ORANGE, linewidth=1.4, label="fast weights")
    axes.step(steps, trace.slow, where="post", color=color, linewidth=1.8, label="slow weights")
    if trace.sync_period > 1:
        axes.plot(syncs, trace.slow[syncs], "o", color=color, markersize=4, label="sync")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training steps (mini-batches)")
    axes.set_ylabel("loss on the training set (nats, log scale)")
    axes.set_title(_what_is_traced(trace), loc="left", fontsize=10.5)
    axes.legend(frameon=False, loc="upper right")


def _what_is_traced(trace: Trace) -> str:
    if trace.method is Method.LOOKAHEAD:
        return (
            f"One Lookahead run at lr {trace.lr:g}: every {SYNC_PERIOD} steps the slow weights\n"
            f"move {ALPHA:g} of the way to the fast ones, which go on from there"
        )
    return (
        f"One run of {trace.method.label} at lr {trace.lr:g}: the fast weights are trained,\n"
        "and the slow ones are what it evaluates and ships"
    )


def _style(method: Method) -> dict[str, Any]:
    return STYLES.get(method, CHOSEN)


def _draw_accuracy(axes: Axes, summary: Summary) -> None:
    for method in summary.methods:
        cells = [summary.cells[method, lr] for lr in summary.lrs]
        mean = 100 * np.asarray([cell.accuracy for cell in cells])
        spread = 100 * np.nan_to_num([cell.spread for cell in cells])
        style = _style(method)
        axes.plot(summary.lrs, mean, markersize=5, label=method.label, **style)
        axes.fill_between(
            summary.lrs, mean - spread, mean + spread, color=style["color"], alpha=0.18, linewidth=0
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(summary.lrs)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("learning rate lr (log scale)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(
        f"How far to the right does each line hold? {Method.CONTROL.label} is SGD,\n"
        f"shifted by {-log2(ALPHA):g} octave: only what exceeds it is Lookahead's own",
        loc="left",
        fontsize=10.5,
    )
    axes.legend(frameon=False, loc="lower left", title="mean ± s.d. over seeds")
