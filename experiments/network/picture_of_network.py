"""The picture of docs/distributed.md, from docs/distributed.json: bytes, seconds, losses.

Size and colours are those of figures/style.py: read at the width of a phone, and without colours.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.figures import style
from experiments.network.measured import Run, formulas, runs
from experiments.network.sync_methods import METHODS

__all__ = ["draw"]

WORKERS = 4
# Of the curves of losses: those that tell most, and few enough to be told apart.
CURVES = {
    "alone": (style.GREY, "x"),
    "every step": (style.VERMILLION, "s"),
    "Local SGD, k = 5": (style.SKY, "D"),
    "Local SGD, k = 30": (style.BLUE, "^"),
    "Local SGD, k = 100": (style.GREEN, "v"),
    "k = 100, both, 5 late": (style.BLACK, "*"),
}
SPEED_COLOURS = (style.BLUE, style.VERMILLION)


def draw(data: Path, path: Path) -> None:
    """Three panels, of four workers."""
    found = [run for run in runs(json.loads(data.read_text())["runs"]) if run.workers == WORKERS]
    speeds = sorted({run.megabits for run in found})
    slowest = [run for run in found if run.megabits == speeds[0]]
    with rc_context(style.SETTINGS):
        figure, panels = style.panels(3, height=2.6)
        _sent(panels[0], [run for run in slowest if METHODS[run.method].sync_period])
        _seconds(panels[1], [run for run in found if METHODS[run.method].sync_period], speeds)
        _losses(panels[2], slowest)
        style.save(figure, path)


def _sent(axes: Axes, found: Sequence[Run]) -> None:
    """Bytes a step, each method a row."""
    names, heights = [run.method for run in found], range(len(found))
    megabytes = [formulas(run).sent / 1e6 for run in found]
    axes.scatter(megabytes, heights, marker="|", s=160, color=style.BLACK, label="formula")
    measured = [run.sent / 1e6 for run in found]
    axes.scatter(measured, heights, s=18, color=style.BLUE, label="measured", zorder=3)
    _rows(axes, names)
    _logarithmic(axes)
    axes.set_xlabel("MB sent by a worker, mean of a step")
    axes.set_title(f"{WORKERS} workers, {found[0].weights / 1e6:.2f} million weights")
    axes.legend(loc="upper left")


def _seconds(axes: Axes, found: Sequence[Run], speeds: Sequence[float]) -> None:
    """Milliseconds a step by method and speed; by the formula: local step over utilisation."""
    for speed, colour, marker in zip(speeds, SPEED_COLOURS, "os", strict=True):
        same = [run for run in found if run.megabits == speed]
        measured = [1000 * run.total_seconds / run.steps for run in same]
        said = [1000 * run.local_seconds / formulas(run).utilisation for run in same]
        heights = range(len(same))
        axes.scatter(said, heights, marker="|", s=160, color=colour)
        label = f"{speed:g} Mbit/s"
        axes.scatter(measured, heights, s=18, color=colour, marker=marker, label=label, zorder=3)
    _rows(axes, [run.method for run in same])
    _logarithmic(axes)
    axes.set_xlabel("milliseconds a step; bars: by the formula")
    axes.legend(loc="upper left")


def _losses(axes: Axes, found: Sequence[Run]) -> None:
    """Held-out loss against time on the slowest links."""
    for name, (colour, marker) in CURVES.items():
        (run,) = (run for run in found if run.method == name)
        _, seconds, loss, _ = zip(*run.held_out, strict=True)
        axes.plot(seconds, loss, color=colour, marker=marker, ms=3.5, lw=1, label=name)
    _logarithmic(axes)
    axes.set_xlabel(f"seconds at {found[0].megabits:g} Mbit/s")
    axes.set_ylabel("held-out loss")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.4, 1), ncols=2, columnspacing=1)


def _logarithmic(axes: Axes) -> None:
    """With a few numbers written out, which do not meet at the width of a phone."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -2.7)  # the first on top, under the legend
