"""The picture on docs/evidence.md: what each method gains over the inner optimizer alone."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evidence.compared import SCHEDULES, SETTINGS
from experiments.evidence.results import Table, difference, load
from experiments.evidence.tables import INNERS, chosen
from experiments.evidence.tasks import TASKS

__all__ = ["draw"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; other marks for print.
MARKS = {"sgd": ("o", "#D55E00"), "adamw": ("s", "#0072B2"), "muon": ("^", "#000000")}
NAMES = {"digits": "Digits", "mnist": "MNIST-5000", "mnist1d": "MNIST-1D", "text": "Text"}


def draw(results: Path, path: Path) -> None:
    """One panel a data set and schedule, one line a method, one mark an inner optimizer; a PNG."""
    tables = load(results)
    figure = Figure(figsize=(7.0, 9.0), dpi=100, layout="constrained")
    grid = figure.subplots(len(TASKS), len(SCHEDULES), sharex="row", sharey=True)
    for line, task in zip(grid, TASKS, strict=True):
        for axes, schedule in zip(line, SCHEDULES, strict=True):
            _panel(axes, [t for t in tables if (t.task, t.schedule) == (task.name, schedule)])
            axes.set_title(f"{NAMES[task.name]}, {schedule} rate", loc="left", fontsize=10)
            axes.set_xlabel("bits a character" if task.is_text else "points of accuracy")
    grid[0, 0].invert_yaxis()
    handles = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(INNERS), frameon=False
    )
    figure.savefig(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def _panel(axes: Axes, tables: Sequence[Table]) -> None:
    axes.axvline(0, color="#888888", linewidth=1)
    for index, table in enumerate(tables):
        gains = [difference(row, table.rows["inner"]) for row in chosen(table).values()]
        marker, color = MARKS[table.inner]
        axes.errorbar(
            [gain.mean for gain in gains],
            [line + 0.22 * (index - (len(tables) - 1) / 2) for line in range(len(gains))],
            xerr=[gain.half for gain in gains],
            fmt=marker,
            color=color,
            markersize=4,
            elinewidth=1.2,
            label=INNERS[table.inner],
        )
    axes.set_yticks(range(len(SETTINGS)), SETTINGS)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
