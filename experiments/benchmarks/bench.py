"""Everything that is measured without a GPU, in one run; writes its page of tables and its JSON.

    nox -s bench                    half an hour
    nox -s bench -- --quick         a minute: cut-down arrays, to see that all of it runs

The quick form writes to the folder of `--out` alone and never to the page.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from experiments.benchmarks import (
    array_sync,
    family_step,
    torch_cost,
    torch_step,
    torch_sync,
    training_step,
)
from experiments.benchmarks.contenders import PEERS
from experiments.benchmarks.paired import environment, timed
from experiments.benchmarks.report import Tables, write

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "performance-tables.md", DOCS / "performance.json"
PACKAGES = ("torch", *PEERS, "schedulefree", "numpy", "jax", "optax", "braintools")
# Rounds of each set of shapes; a large one shows its spread in few.
ROUNDS = {"400 tiny": 9, "ResNet-18": 9, "32M in one": 5, "GPT-2 124M": 3}
# The ones that say most first.
SECTIONS = ("training", "syncs", "counts", "numpy", "family", "points", "steps", "jax")
TRAINING, NUMPY, POINTS, JAX = 24, 9, 15, 4


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="cut-down arrays, two rounds")
    parser.add_argument("--threads", type=int, help="of torch (default: 2, or 1 with --quick)")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this (or these)")
    parser.add_argument("--out", type=Path, help="a JSON file; the page is then left alone")
    arguments = parser.parse_args()
    if (arguments.quick or arguments.section) and arguments.out is None:
        parser.error("--quick and --section need --out: the page has one whole run at full size")
    threads = arguments.threads or (1 if arguments.quick else 2)
    torch.set_num_threads(threads)
    report = Tables(environment(*PACKAGES, threads=threads))
    print(report.environment, flush=True)
    data, page = arguments.out or DATA, None if arguments.out else PAGE
    for section in measured(report, arguments.quick, arguments.section or SECTIONS):
        print(section, flush=True)
        write(report, data, page)  # minutes that a later failure does not lose
    print(report.markdown())


def measured(report: Tables, quick: bool, chosen: Sequence[str]) -> Iterator[str]:
    """Measure section after section; what each of them took."""
    rounds = dict.fromkeys(ROUNDS, 2) if quick else ROUNDS

    def with_jax() -> None:
        from experiments.benchmarks import optax_step  # other sections do without JAX

        optax_step.tabulate(2 if quick else JAX, quick, report)

    def with_packages() -> None:
        from experiments.benchmarks import gradient_point  # and without schedulefree

        gradient_point.measure(2 if quick else POINTS, quick, report)

    sections: dict[str, Callable[[], None]] = {
        "steps": lambda: torch_step.measure(rounds, quick, report),
        "syncs": lambda: torch_sync.measure(rounds, quick, report),
        "counts": lambda: torch_cost.measure(rounds, quick, report),
        "training": lambda: training_step.measure(2 if quick else TRAINING, report),
        "numpy": lambda: array_sync.tabulate(2 if quick else NUMPY, quick, report),
        "family": lambda: family_step.measure(rounds, quick, report),
        "points": with_packages,
        "jax": with_jax,
    }
    for name in SECTIONS:
        if name in chosen:
            yield f"{name}: {timed(sections[name]):.0f} s"


if __name__ == "__main__":
    main()
