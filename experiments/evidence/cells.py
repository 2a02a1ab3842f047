"""Cells: one method under one schedule on one task, computed once and kept in a file.

A file's name is a hash of everything that its numbers depend on, the program included, so that a
cell is taken from the cache only if it would come out the same. A cell is all seeds and learning
rates of a row of a table.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evidence.compared import (
    INNERS,
    LRS,
    MUON_ON,
    SCHEDULES,
    SEEDS,
    Method,
    methods_for,
    rates_for,
)
from experiments.evidence.tasks import TASKS, Task, load_split

__all__ = [
    "Cell",
    "Plan",
    "all_cells",
    "compute",
    "fingerprint",
    "key",
    "read",
    "settings",
    "write",
]

Record = dict[str, Any]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """How much is computed; the committed tables are of the default.

    Attributes
    ----------
    tasks : tuple of Task
    seeds : tuple of int
    lrs : dict of str to tuple of float
        Nominal learning rates by inner optimizer.
    """

    tasks: tuple[Task, ...] = TASKS
    seeds: tuple[int, ...] = SEEDS
    lrs: tuple[tuple[str, tuple[float, ...]], ...] = tuple(LRS.items())

    def quick(self) -> "Plan":
        """Two seeds, five rates, fifty steps: to see that everything runs."""
        tasks = tuple(replace(task, steps=50) for task in self.tasks)
        lrs = tuple((inner, rates[::3]) for inner, rates in self.lrs)
        return Plan(tasks, self.seeds[:2], lrs)


@dataclass(frozen=True)
class Cell:
    """What one row of a table is computed from."""

    task: Task
    inner: str
    schedule: str
    method: Method
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def program(self) -> tuple[str, str, Method]:
        """Cells that share it share a compiled program."""
        return self.task.name, self.inner, self.method.program


def all_cells(plan: Plan) -> Iterator[Cell]:
    """Every cell of every table."""
    rates = dict(plan.lrs)
    for task, inner, schedule in product(plan.tasks, INNERS, SCHEDULES):
        if inner == "muon" and task.name not in MUON_ON:
            continue
        for method in methods_for(task.name, inner, schedule):
            lrs = rates_for(task.name, inner, method, rates[inner])
            yield Cell(task, inner, schedule, method, lrs, plan.seeds)


@cache
def fingerprint(modules: tuple[str, ...] = ("training",)) -> str:
    """Hash of what the modules do: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse((HERE / f"{module}.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                del body[0]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def settings(cell: Cell) -> Record:
    """Everything that the numbers of a cell depend on, but for the versions of libraries."""
    task = {
        name: value for name, value in asdict(cell.task).items() if name not in {"load", "title"}
    }
    return {
        "task": task,
        "data": load_split(cell.task.name).sha256,
        "inner": cell.inner,
        "schedule": cell.schedule,
        "method": asdict(cell.method),
        "lrs": list(cell.lrs),
        "seeds": list(cell.seeds),
        "program": fingerprint(),
    }


def key(cell: Cell) -> str:
    """Name of the cell's file."""
    text = json.dumps(settings(cell), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def compute(cell: Cell) -> Record:
    """Train all of the cell; JAX is imported here, and not where tables are made."""
    from experiments.evidence.training import train

    measures = train(cell.task, cell.inner, cell.schedule, cell.method, cell.lrs, cell.seeds)
    results = {name: _plain(np.asarray(array)) for name, array in measures._asdict().items()}
    return {"settings": settings(cell), "results": results}


def _plain(array: Any) -> list[list[Any]]:
    """Numbers as JSON has them, to six digits; None where a run diverged."""
    if np.issubdtype(array.dtype, np.integer):
        rows: list[list[Any]] = array.tolist()
        return rows
    return [[float(f"{x:.6g}") if np.isfinite(x) else None for x in row] for row in array]


def write(folder: Path, cell: Cell, record: Record) -> None:
    """Whole or not at all: a run that is cut off leaves no half of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key(cell)}.json"
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(record, default=list))
    unfinished.replace(path)


def read(folder: Path, cells: Sequence[Cell]) -> dict[Cell, Record]:
    """The cells that `folder` has."""
    found = {}
    for cell in cells:
        path = folder / f"{key(cell)}.json"
        if path.exists():
            found[cell] = json.loads(path.read_text())
    return found
