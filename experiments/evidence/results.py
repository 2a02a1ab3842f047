"""From cells to numbers for a reader: the best, differences by seed, how wide a method works.

docs/evidence.json is what the tables are made of; how they look is tables.py.
"""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student  # type: ignore[import-untyped]

from experiments.evidence.cells import Cell, Record, key
from experiments.evidence.tasks import TASKS, load_split

__all__ = [
    "Estimate",
    "Floats",
    "Row",
    "Table",
    "difference",
    "load",
    "save",
    "saved",
    "touches_the_end",
    "width",
]

LIBRARIES = ("jax", "jaxlib", "optax", "numpy", "scikit-learn", "mlxtend", "mnist1d")
Floats = NDArray[np.float64]


def save(
    path: Path,
    wanted: Sequence[Cell],
    records: Mapping[Cell, Record],
    before: Mapping[str, Record] | None = None,
) -> None:
    """What the tables need of all cells, one cell a line.

    Parameters
    ----------
    path : Path
    wanted : sequence of Cell
    records : mapping of Cell to Record
        What was computed.
    before : mapping of str to Record, optional
        Cells of a file that was saved before, by their keys, for those that `records` lacks.
    """
    # Those of the first cell around an inner optimizer, which is that optimizer alone.
    ranges = {cell.inner: cell.lrs for cell in reversed(wanted)}
    lines = [
        _line(cell, records[cell], ranges) if cell in records else (before or {})[key(cell)]
        for cell in wanted
    ]
    header = {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "seeds": wanted[0].seeds,
        "lrs": ranges,
        "tasks": {cell.task.name: _sizes(cell) for cell in wanted},
    }
    text = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    path.write_text(f'{{"about":{json.dumps(header)},\n"cells":[\n{text}\n]}}\n')


def saved(path: Path) -> dict[str, Record]:
    """The cells of a file that was saved, by their keys."""
    return {cell["key"]: cell for cell in json.loads(path.read_text())["cells"]}


def _line(cell: Cell, record: Record, ranges: Mapping[str, Sequence[float]]) -> Record:
    place = {
        "task": cell.task.name,
        "inner": cell.inner,
        "schedule": cell.schedule,
        "method": cell.method.name,
        "key": key(cell),
    }
    own = {} if cell.lrs == ranges[cell.inner] else {"lrs": cell.lrs}
    return place | own | _kept(cell, record["results"])


def _sizes(cell: Cell) -> Record:
    split = load_split(cell.task.name)
    return {
        "sha256": split.sha256,
        "steps": cell.task.steps,
        "batch": cell.task.batch,
        "train": len(split.train_y),
        "val": len(split.val_y),
        "test": len(split.test_y),
        "classes": split.classes,
    }


def _kept(cell: Cell, results: Record) -> Record:
    """Counts for images, losses for text, and the training loss; losses to four digits."""
    names = ("val_loss", "test_loss") if cell.task.is_text else ("val_correct", "test_correct")
    return {
        name: [[None if x is None else float(f"{x:.4g}") for x in row] for row in results[name]]
        if name.endswith("loss")
        else results[name]
        for name in (*names, "train_loss")
    }


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how far it is to be trusted.

    Attributes
    ----------
    mean : float
    spread : float
        Sample standard deviation over the seeds.
    half : float
        Half of the 95 % interval of the mean, by Student's t.
    """

    mean: float
    spread: float
    half: float

    @classmethod
    def of(cls, values: Floats) -> "Estimate":
        """From one value a seed; two seeds or more."""
        spread = float(np.std(values, ddof=1))
        factor = float(student.ppf(0.975, len(values) - 1)) / math.sqrt(len(values))
        return cls(float(np.mean(values)), spread, factor * spread)


@dataclass(frozen=True)
class Row:
    """One method: its score, higher is better, by learning rate and seed.

    Attributes
    ----------
    method : str
    lrs : array, shape (rates,)
        Nominal learning rates, ascending.
    val, test : array, shape (rates, seeds)
        Accuracy in %, or minus bits a character.
    """

    method: str
    lrs: Floats
    val: Floats
    test: Floats

    @property
    def best(self) -> int:
        """Index of the learning rate with the best mean score on the validation set."""
        return int(np.argmax(self.val.mean(axis=1)))

    @property
    def at_best(self) -> Floats:
        """Test score of each seed at the learning rate that the validation set chose."""
        scores: Floats = self.test[self.best]
        return scores


@dataclass(frozen=True)
class Table:
    """All methods around one inner optimizer, on one task, under one schedule.

    Attributes
    ----------
    task, inner, schedule : str
    is_text : bool
        Whether scores are minus bits a character.
    rows : dict of str to Row
        By the name of the method.
    """

    task: str
    inner: str
    schedule: str
    is_text: bool
    rows: dict[str, Row]

    @property
    def bar(self) -> float:
        """What counts as working: 2 points, or 0.1 bits, below the inner optimizer's best."""
        return float(self.rows["inner"].at_best.mean()) - (0.1 if self.is_text else 2.0)


def load(path: Path) -> list[Table]:
    """Every table, from docs/evidence.json."""
    content = json.loads(path.read_text())
    titles = {task.name: task.is_text for task in TASKS}
    tables: dict[tuple[str, str, str], Table] = {}
    for cell in content["cells"]:
        place = (cell["task"], cell["inner"], cell["schedule"])
        table = tables.setdefault(place, Table(*place, titles[cell["task"]], {}))
        sizes = content["about"]["tasks"][cell["task"]]
        lrs = np.asarray(cell.get("lrs", content["about"]["lrs"][cell["inner"]]))
        val, test = (_scores(cell, part, sizes) for part in ("val", "test"))
        table.rows[cell["method"]] = Row(cell["method"], lrs, val, test)
    return list(tables.values())


def _scores(cell: Record, part: str, sizes: Record) -> Floats:
    """Percent, or minus bits; a run that diverged does as well as a blind guess of a character."""
    if f"{part}_correct" in cell:
        correct = np.asarray(cell[f"{part}_correct"], float)
        return 100 * correct / float(sizes[part])
    nats = np.asarray(cell[f"{part}_loss"], float)  # None becomes NaN
    blind = math.log2(sizes["classes"])
    bits: Floats = np.minimum(np.nan_to_num(nats / math.log(2), nan=blind), blind)
    return -bits


def difference(row: Row, other: Row) -> Estimate:
    """Test score of `row` minus that of `other`, each at its own best rate, paired by seed."""
    return Estimate.of(row.at_best - other.at_best)


def width(row: Row, bar: float) -> Estimate:
    """Octaves of learning rate at which the test score reaches `bar`, seed by seed."""
    octaves = np.log2(row.lrs)
    return Estimate.of(np.array([_length_above(octaves, curve, bar) for curve in row.test.T]))


def touches_the_end(row: Row, bar: float) -> bool:
    """Whether the range may go on beyond the learning rates that were tried."""
    return bool(max(row.test[0].max(), row.test[-1].max()) >= bar)


def _length_above(octaves: Sequence[float] | Floats, curve: Floats, bar: float) -> float:
    """Length of the axis where the curve, straight between its points, is at or above `bar`."""
    total = 0.0
    for left in range(len(curve) - 1):
        low, high = sorted((curve[left], curve[left + 1]))
        length = octaves[left + 1] - octaves[left]
        if low >= bar:
            total += length
        elif high > bar:
            total += length * (high - bar) / (high - low)
    return float(total)
