"""What tests ask of a tutorial: its code, run in order, prints and draws what its page shows."""

import re

import numpy as np
import pytest
from PIL import Image

from experiments.tutorials import FOLDER, blocks

NUMBER = r"\d+(?:\.\d+)?"


def assert_printed(name, printed):
    """The page shows the same words, and nearly the same numbers: processors round differently."""
    shown = "".join(blocks(name, "text"))
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", shown)
    numbers = [[float(n) for n in re.findall(NUMBER, text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.02)


def assert_drawn(name, folder):
    """The picture on the page is this one, but for some pixels, and it is small."""
    file = f"{name}.png"
    drawn, shown = (np.asarray(Image.open(f / file).convert("L"), int) for f in (folder, FOLDER))
    assert f"]({file})" in (FOLDER / f"{name}.md").read_text()
    assert (FOLDER / file).stat().st_size < 100_000
    assert drawn.shape == shown.shape
    assert (abs(drawn - shown) > 64).mean() < 0.01
