"""What all figures share: a size for phones, colours for colour-blind readers, and one way to save.

A page column on a phone is 360 pixels wide, 3.6 inches at 100 pixels each: figures are that wide,
text is 7.5 points or more, and the file has twice the pixels. Panels are stacked, not side by side.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SETTINGS",
    "SKY",
    "VERMILLION",
    "panels",
    "save",
]

# Okabe and Ito's colours.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"

WIDTH = 3.6
DPI = 200
COLOURS = 160
# Of matplotlib; draw.py has them hold while a program draws.
SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
}


def panels(count: int, height: float = 2.3, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels under each other, `height` inches each."""
    figure = Figure(figsize=(WIDTH, count * height), dpi=DPI, layout="constrained")
    axes = figure.subplots(count, 1, squeeze=False, **options)[:, 0]
    return figure, list(axes)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of few colours that is the same in every run: no date and no version in it."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
