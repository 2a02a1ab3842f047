"""Everything that is measured without a GPU, in one run; writes docs/performance.md and its JSON.

    nox -s bench                    about twenty minutes
    nox -s bench -- --quick         less than one: cut-down arrays, to see that all of it runs

The quick form writes to the folder of `--out` alone and never to the page.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import array_sync
import optax_step
import torch
import torch_cost
import torch_step
import torch_sync
import training_step
from contenders import PEERS
from paired import environment, timed
from report import Tables, write

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.json"
PACKAGES = ("torch", *PEERS, "numpy", "jax", "optax", "braintools")
# Rounds of each set of shapes; a large one shows its spread in few.
ROUNDS = {"400 tiny": 20, "ResNet-18": 12, "32M in one": 8, "GPT-2 124M": 4}
TRAINING, NUMPY, JAX = 60, 15, 8


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="cut-down arrays, two rounds")
    parser.add_argument("--threads", type=int, help="of torch (default: 2, or 1 with --quick)")
    parser.add_argument("--out", type=Path, help="a JSON file; the page is then left alone")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick needs --out: its times say nothing, and do not belong in the page")
    threads = arguments.threads or (1 if arguments.quick else 2)
    torch.set_num_threads(threads)
    report = Tables(environment(*PACKAGES, threads=threads))
    print(report.environment, flush=True)
    measure_all(report, arguments.quick)
    write(report, arguments.out or DATA, None if arguments.out else PAGE)
    print(report.markdown())


def measure_all(report: Tables, quick: bool) -> None:
    """Every section, the ones that matter most first."""
    rounds = dict.fromkeys(ROUNDS, 2) if quick else ROUNDS
    sections: dict[str, Callable[[], None]] = {
        "torch, steps": lambda: torch_step.measure(rounds, quick, report),
        "torch, syncs": lambda: torch_sync.measure(rounds, quick, report),
        "torch, counts, memory, handling": lambda: torch_cost.measure(rounds, quick, report),
        "torch, training": lambda: training_step.measure(2 if quick else TRAINING, report),
        "NumPy": lambda: array_sync.tabulate(2 if quick else NUMPY, quick, report),
        "JAX": lambda: optax_step.tabulate(2 if quick else JAX, quick, report),
    }
    for name, section in sections.items():
        print(f"{name}: {timed(section):.0f} s", flush=True)


if __name__ == "__main__":
    main()
