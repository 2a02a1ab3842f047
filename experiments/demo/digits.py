"""Train a small network on real scans of digits with and without Lookahead; print and draw it.

nox -s demo                       NumPy alone, half a minute
nox -s demo -- --backend torch    the same experiment through another adapter
nox -s demo -- --method gpa       one more method beside the three: any preset of lookahead_core
nox -s demo -- --quick            a few seconds, to see that it works
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.demo import picture, table
from experiments.demo.experiment import BACKENDS, Result, check_backend, run_grid, trace
from experiments.demo.methods import RULES, Method, compared
from experiments.demo.summary import summarise

__all__ = ["main"]

# Octaves, from one that is slow but safe to ones where every method fails.
LRS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
QUICK_LRS = (0.02, 0.16, 1.28)
TRACED_STEPS = 80


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment that the command line asks for."""
    options = _parse(arguments)
    try:
        check_backend(options.backend)
    except ImportError as error:
        sys.exit(f"digits.py: {error}")
    lrs = QUICK_LRS if options.quick else LRS
    methods = compared(options.method)
    results = _run(options.backend, methods, lrs, options.seeds, options.epochs)
    summary = summarise(results)

    # Rich assumes 80 columns where there is no terminal: too few for the table.
    console = Console(width=None if sys.stdout.isatty() else 100)
    title = f"Digits, 64-32-10 ReLU network, {options.epochs} epochs, {options.backend} backend"
    console.print(table.table(summary, title))
    for sentence in table.sentences(summary):
        console.print(f"\n{sentence}", highlight=False)

    chosen = options.method
    own = "" if chosen is Method.LOOKAHEAD else f"-{chosen}"
    path = options.out / f"digits-{options.backend}{own}.png"
    lr = summary.highest_stable_lr(chosen)
    traced = trace(options.backend, chosen, lr, 0, TRACED_STEPS, options.epochs)
    picture.draw(summary, traced, path)
    print(f"\nPicture: {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="SGD, SGD at a smaller learning rate, and Lookahead on scikit-learn's digits."
    )
    parser.add_argument("--backend", choices=BACKENDS, default="numpy", help="default: numpy")
    presets = [str(method) for method in Method if method in RULES]
    parser.add_argument(
        "--method",
        choices=presets,
        default="lookahead",
        metavar="PRESET",
        help=f"one more method to compare, and to follow step by step: {', '.join(presets)}",
    )
    parser.add_argument("--seeds", type=_positive, metavar="N", help="runs of each kind; default 5")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="of training; default 10")
    parser.add_argument("--quick", action="store_true", help="1 seed, 2 epochs, 3 learning rates")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("demo-results"), help="for the picture"
    )
    options = parser.parse_args(arguments)
    options.method = Method(options.method)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.epochs = options.epochs or (2 if options.quick else 10)
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _run(
    backend: str, methods: Sequence[Method], lrs: Sequence[float], seeds: int, epochs: int
) -> list[Result]:
    """The whole grid, with a bar on stderr, so that stdout holds the table alone."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task, results = progress.add_task("training", total=len(lrs) * len(methods) * seeds), []
        for result in run_grid(backend, methods, lrs, range(seeds), epochs):
            results.append(result)
            done = f"training, {result.method.label} at lr {result.lr:g}"
            progress.update(task, advance=1, description=done)
        return results


if __name__ == "__main__":
    main()
