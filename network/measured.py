"""From what workers wrote down to what is in docs/distributed.json, and to what formulas say of it.

No time is asserted anywhere: the two processors of this measurement have other work too, so
everything is a median.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lookahead_core.analysis import (
    compute_utilisation,
    peak_traffic,
    sync_seconds,
    traffic_per_step,
)
from sync_methods import METHODS, Method

__all__ = ["Row", "Run", "rows", "summary"]


@dataclass(frozen=True)
class Run:
    """One method on so many workers and links, as JSON has it.

    Attributes
    ----------
    method : str
    workers, steps, weights : int
    megabits : float
        Each link passes, in a second.
    local_seconds : float or None
        Median step without a sync, over steps and workers; None where each step has one.
    sync_step_seconds : float
        Median over the steps with a sync, each as the worker took it that came last.
    total_seconds : float
        Of all steps, mean over the workers.
    sent, sent_in_sync : float
        Bytes of a worker: mean of a step, and median of a step with a sync; means over the workers.
    held_out : list of [step, seconds until then, loss, accuracy]
        Of worker 0.
    """

    method: str
    workers: int
    megabits: float
    steps: int
    weights: int
    local_seconds: float | None
    sync_step_seconds: float
    total_seconds: float
    sent: float
    sent_in_sync: float
    held_out: list[list[float]]


def summary(
    method: str, megabits: float, records: Sequence[Mapping[str, Any]], period: int
) -> dict[str, Any]:
    """One line of the JSON: a `Run`, to five digits."""
    steps = len(records[0]["seconds"])
    syncing = range(period - 1, steps, period)
    local = [r["seconds"][i] for r in records for i in range(steps) if (i + 1) % period]
    seconds = records[0]["seconds"]
    run = Run(
        method=method,
        workers=len(records),
        megabits=megabits,
        steps=steps,
        weights=records[0]["weights"],
        local_seconds=statistics.median(local) if local else None,
        sync_step_seconds=statistics.median(min(r["seconds"][i] for r in records) for i in syncing),
        total_seconds=statistics.fmean(sum(r["seconds"]) for r in records),
        sent=statistics.fmean(r["sent"][-1] for r in records) / steps,
        sent_in_sync=statistics.fmean(
            statistics.median(_difference(r["sent"], i) for i in syncing) for r in records
        ),
        held_out=[
            [step, sum(seconds[: int(step)]), *scores] for step, *scores in records[0]["held_out"]
        ],
    )
    rounded: dict[str, Any] = _rounded(asdict(run))
    return rounded


def _difference(total: Sequence[float], index: int) -> float:
    return total[index] - (total[index - 1] if index else 0)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Row:
    """A run beside the formulas of lookahead_core.analysis, latency zero.

    Attributes
    ----------
    run : Run
    local_seconds : float
        Median step without a sync; of the other methods where this one has none.
    formula_sent, formula_in_sync : float
        Bytes a worker: `traffic_per_step`, `peak_traffic`.
    sync_seconds, formula_seconds : float
        Measured: the step with a sync less one without. Formula: `sync_seconds`.
    utilisation, formula_utilisation : float
        Part of the time in which a worker computes; formula: `compute_utilisation`.
    """

    run: Run
    local_seconds: float
    formula_sent: float
    formula_in_sync: float
    sync_seconds: float
    formula_seconds: float
    utilisation: float
    formula_utilisation: float


def rows(lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row of each run."""
    runs = [Run(**line) for line in lines]
    return [_row(run, METHODS[run.method], _local_seconds(run, runs)) for run in runs]


def _local_seconds(run: Run, runs: Sequence[Run]) -> float:
    """The run's own; else the median of the others with as many workers on as fast links."""
    if run.local_seconds is not None:
        return run.local_seconds
    return statistics.median(
        other.local_seconds
        for other in runs
        if (other.workers, other.megabits) == (run.workers, run.megabits)
        and other.local_seconds is not None
    )


def _row(run: Run, method: Method, local: float) -> Row:
    period, bits = method.sync_period, method.bits
    in_sync = peak_traffic(run.weights, run.workers, bits, method.fragments)
    seconds = sync_seconds(in_sync, run.workers, run.megabits * 1e6)
    return Row(
        run=run,
        local_seconds=local,
        formula_sent=traffic_per_step(run.weights, run.workers, period, bits),
        formula_in_sync=in_sync,
        sync_seconds=run.sync_step_seconds - local,
        formula_seconds=seconds,
        utilisation=local * run.steps / run.total_seconds,
        formula_utilisation=compute_utilisation(local, seconds, period),
    )
