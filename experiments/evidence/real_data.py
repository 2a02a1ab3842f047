"""Train on real data with Lookahead, its relatives and without; write the tables and pictures
of docs/evidence.md and docs/evidence-tables.md.

    nox -s evidence                 everything: up to an hour on two cores
    nox -s evidence -- --missing    what docs/evidence.json has not, and the others from there
    nox -s evidence -- --quick      a few minutes, to see that it works; writes no table
    nox -s evidence -- --tables     tables and picture again, from docs/evidence.json alone

What is finished is kept: started again, it goes on where it was cut off.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.evidence import (
    cells,
    picture_of_methods,
    picture_of_rates,
    results,
    tables,
)
from experiments.evidence.cells import Cell, Plan

__all__ = ["fill", "main"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = DOCS / "evidence.json"
# Parallel by processes: in each, XLA shall not start threads of its own for the same cores.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    options = _parse(arguments)
    if not options.tables:
        plan = Plan().quick() if options.quick else Plan()
        wanted = list(cells.all_cells(plan))
        before = results.saved(RESULTS) if options.missing else {}
        fill(
            options.cache,
            [cell for cell in wanted if cells.key(cell) not in before],
            options.workers,
        )
        if options.quick:
            print(f"{len(wanted)} cells in {options.cache}; a quick run writes no table")
            return
        results.save(RESULTS, wanted, cells.read(options.cache, wanted), before)
    tables.rewrite(DOCS, RESULTS)
    picture_of_methods.draw(RESULTS, DOCS / "evidence.png")
    picture_of_rates.draw(RESULTS, DOCS / "evidence-rates.png")
    print(f"Tables and pictures: evidence.md and evidence-tables.md in {DOCS}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Lookahead and its controls on real data.")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 5 learning rates, 50 steps")
    parser.add_argument(
        "--missing", action="store_true", help="train only what docs/evidence.json has not"
    )
    parser.add_argument("--tables", action="store_true", help="train nothing; only write and draw")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes; default 2")
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / "evidence-results",
        metavar="DIR",
        help="finished cells, one a file; default: evidence-results in the checkout",
    )
    return parser.parse_args(arguments)


def fill(folder: Path, wanted: Sequence[Cell], workers: int) -> None:
    """Compute what `folder` does not have of `wanted`, in `workers` processes, with a bar."""
    finished = cells.read(folder, wanted)
    missing = [cell for cell in wanted if cell not in finished]
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # spawn: a fork of a process that has run JAX may hang.
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(workers, mp_context=spawn) as pool,
    ):
        bar = progress.add_task("training", total=len(wanted), completed=len(finished))
        jobs = [pool.submit(_compute_all, folder, job) for job in _jobs(missing)]
        for job in as_completed(jobs):
            progress.advance(bar, job.result())


def _jobs(missing: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Cells of one compiled program are one job: each process compiles for itself."""
    ordered = sorted(missing, key=lambda cell: cell.program)
    return (list(group) for _, group in groupby(ordered, key=lambda cell: cell.program))


def _compute_all(folder: Path, job: Sequence[Cell]) -> int:
    for cell in job:
        cells.write(folder, cell, cells.compute(cell))
    return len(job)


if __name__ == "__main__":
    main()
