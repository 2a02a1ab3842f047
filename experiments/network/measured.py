"""From what workers wrote down to what is in docs/distributed.json, and to what formulas say of it.

No time is asserted anywhere: the two processors of this measurement have other work too, so
everything is a median.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from experiments.network.sync_methods import METHODS
from lookahead_core.analysis import (
    compute_utilisation,
    peak_traffic,
    sync_seconds,
    traffic_per_step,
)

__all__ = ["Formulas", "Run", "formulas", "runs", "summary"]

Syncs: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Run:
    """One method on so many workers and links, as JSON has it.

    Attributes
    ----------
    method : str
    workers, steps, weights : int
    megabits : float
        Each link passes, in a second.
    local_seconds : float
        Median step that sends nothing, over steps and workers.
    sync_step_seconds : float or None
        Median over the steps that end a sync, each as the worker took it that came last and waited
        for nobody; None if there are none.
    total_seconds : float
        Of all steps, mean over the workers.
    sent, sent_in_sync : float
        Bytes of a worker: mean of a step, and median of a sync of one fragment; means over the
        workers.
    held_out : list of [step, seconds until then, loss, accuracy]
        Of worker 0.
    """

    method: str
    workers: int
    megabits: float
    steps: int
    weights: int
    local_seconds: float
    sync_step_seconds: float | None
    total_seconds: float
    sent: float
    sent_in_sync: float
    held_out: list[list[float]]

    @property
    def sync_seconds(self) -> float:
        """That one sync takes from a worker: the step that ends it, less one without."""
        return (
            0.0 if self.sync_step_seconds is None else self.sync_step_seconds - self.local_seconds
        )

    @property
    def utilisation(self) -> float:
        """Part of the time in which a worker computes."""
        return self.local_seconds * self.steps / self.total_seconds


@dataclass(frozen=True)
class Formulas:
    """What lookahead_core.analysis says of a run, for a latency of zero.

    Attributes
    ----------
    sent, sent_in_sync : float
        Bytes of a worker: `traffic_per_step`, `peak_traffic`.
    sync_seconds : float
        `sync_seconds`, less the measured steps that go on meanwhile.
    utilisation : float
        `compute_utilisation`, of the measured `local_seconds`.
    """

    sent: float
    sent_in_sync: float
    sync_seconds: float
    utilisation: float


def runs(lines: Sequence[Mapping[str, Any]]) -> list[Run]:
    """From the lines of the JSON."""
    return [Run(**line) for line in lines]


def formulas(run: Run) -> Formulas:
    """For a method that syncs; ValueError for one that does not."""
    method = METHODS[run.method]
    if method.sync_period is None:
        raise ValueError(f"run must be of a method that syncs, got {run.method!r}")
    in_sync = peak_traffic(run.weights, run.workers, method.bits, method.fragments)
    seconds = sync_seconds(in_sync, run.workers, run.megabits * 1e6)
    return Formulas(
        sent=traffic_per_step(run.weights, run.workers, method.sync_period, method.bits),
        sent_in_sync=in_sync,
        sync_seconds=max(0.0, seconds - method.delay * run.local_seconds),
        utilisation=compute_utilisation(
            run.local_seconds, seconds, method.sync_period // method.fragments, method.delay
        ),
    )


def summary(method: str, megabits: float, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line of the JSON: a `Run`, to five digits."""
    seconds = records[0]["seconds"]
    steps = len(seconds)
    syncs = METHODS[method].syncs(steps)
    last = [min(r["seconds"][end] for r in records) for _, end in syncs]
    run = Run(
        method=method,
        workers=len(records),
        megabits=megabits,
        steps=steps,
        weights=records[0]["weights"],
        local_seconds=statistics.median(_local_steps(records, syncs)),
        sync_step_seconds=statistics.median(last) if last else None,
        total_seconds=statistics.fmean(sum(r["seconds"]) for r in records),
        sent=statistics.fmean(r["sent"][-1] for r in records) / steps,
        sent_in_sync=statistics.fmean(_sent_in(r["sent"], syncs) for r in records),
        held_out=[
            [step, sum(seconds[: int(step)]), *scores] for step, *scores in records[0]["held_out"]
        ],
    )
    rounded: dict[str, Any] = _rounded(asdict(run))
    return rounded


def _local_steps(records: Sequence[Mapping[str, Any]], syncs: Syncs) -> list[float]:
    """Seconds of the steps that wait for no sync, and of those of the spare network."""
    waiting = {step for sync in syncs for step in sync}
    own = [s for r in records for i, s in enumerate(r["seconds"]) if i not in waiting]
    return own + [s for r in records for s in r["local_seconds"]]


def _sent_in(total: Sequence[float], syncs: Syncs) -> float:
    if not syncs:
        return 0.0
    before = [0, *total]
    return statistics.median(before[end + 1] - before[first] for first, end in syncs)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
