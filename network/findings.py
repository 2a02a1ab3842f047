"""What the measurement shows, in sentences around its own numbers: none of them is stale."""

from collections.abc import Callable, Sequence

from measured import Formulas, Run, formulas
from sizes import size
from sync_methods import METHODS

__all__ = ["text"]

EVERY_STEP, SELDOM, ALONE = "every step", "Local SGD, k = 100", "alone"


def text(found: Sequence[Run]) -> str:
    """A list."""
    syncing = [run for run in found if METHODS[run.method].sync_period is not None]
    workers, speeds = max(run.workers for run in found), sorted({run.megabits for run in found})
    slow, fast = speeds[0], speeds[-1]
    chosen = {r.method: r for r in found if (r.workers, r.megabits) == (workers, slow)}
    often, seldom, alone = (chosen[name] for name in (EVERY_STEP, SELDOM, ALONE))
    return (
        f"- **Bytes are what the formula says**: {_range(syncing, _sent_in_sync)} times it in a "
        f"sync, {_range(syncing, _sent)} times it over all steps.\n"
        f"- **A sync takes {_range(syncing, _seconds, slow)} times the formula** at {slow:g} "
        f"Mbit/s, and {_range(syncing, _seconds, fast)} times at {fast:g}. Above are headers, "
        "adding up and copying, on processors that are busy; below is what a link lets through at "
        "once, and what DistributedDataParallel sends while it computes.\n"
        f"- **{workers} workers at {slow:g} Mbit/s, {often.steps} steps**: {_cost(often)} if every "
        f"step sends, {_cost(seldom)} with k = 100. Alone, each on its own part of the data, it is "
        f"{alone.total_seconds:.0f} s.\n"
    )


def _cost(run: Run) -> str:
    return f"{run.total_seconds:.0f} s and {size(run.sent * run.steps)} a worker"


def _range(
    found: Sequence[Run], ratio: Callable[[Run, Formulas], float], megabits: float | None = None
) -> str:
    """Least and largest ratio of measured and formula."""
    chosen = [run for run in found if megabits in (None, run.megabits)]
    ratios = [ratio(run, formulas(run)) for run in chosen]
    low, high = (f"{extreme(ratios):.3f}" for extreme in (min, max))
    return low if low == high else f"{low} to {high}"


def _sent(run: Run, said: Formulas) -> float:
    return run.sent / said.sent


def _sent_in_sync(run: Run, said: Formulas) -> float:
    return run.sent_in_sync / said.sent_in_sync


def _seconds(run: Run, said: Formulas) -> float:
    return run.sync_seconds / said.sync_seconds
