"""Draw the figures of docs/figures: all, or those named; with --check, compare instead.

nox -s figures                     all of them, minutes
nox -s figures -- bilinear_game    one
nox -s figures -- --check          exit with 1 if a committed one would come out otherwise
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import matplotlib
import numpy as np
from rich.console import Console

from experiments.figures import style

FOLDER = Path(__file__).parents[2] / "docs" / "figures"
PROGRAMS = (
    "matched_risk",
    "condition_number",
    "variance_grid",
    "instability_bands",
    "bilinear_game",
    "weight_plane",
    "inner_loop_accuracy",
    "learning_rates",
    "adaptive_alpha",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw or check what the command line asks for."""
    parser = argparse.ArgumentParser(description="Draw the figures of docs/figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PROGRAMS):
        parser.error(f"NAME must be one of {', '.join(PROGRAMS)}, got {', '.join(unknown)}")
    names = options.names or PROGRAMS
    if options.check:
        sys.exit(check(names))
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        draw(name, FOLDER)


def check(names: Sequence[str]) -> str | None:
    """Draw into a folder of its own; the names of those that differ from the committed ones."""
    with TemporaryDirectory() as folder:
        differing = [name for name in names if draw(name, Path(folder)) != committed(name)]
    return f"not as committed: {', '.join(differing)}" if differing else None


def committed(name: str) -> bytes | None:
    """Contents of the committed file, None if there is none."""
    path = FOLDER / f"{name}.png"
    return path.read_bytes() if path.exists() else None


def draw(name: str, folder: Path) -> bytes:
    """Run one program; what it wrote."""
    began = perf_counter()
    path = folder / f"{name}.png"
    # Divergence is a result here.
    with np.errstate(over="ignore", invalid="ignore"), matplotlib.rc_context(style.SETTINGS):
        import_module(f"experiments.figures.{name}").draw(path)
    contents = path.read_bytes()
    seconds = perf_counter() - began
    Console(stderr=True).print(f"{name}.png  {len(contents) / 1e3:.0f} kB  {seconds:.1f} s")
    return contents


if __name__ == "__main__":
    main()
