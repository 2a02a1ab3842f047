"""What the measurement shows, in sentences around its own numbers: none of them is stale."""

from collections.abc import Callable, Mapping, Sequence

from experiments.network.measured import Formulas, Run, formulas
from experiments.network.sizes import size
from experiments.network.sync_methods import METHODS

__all__ = ["text"]

EVERY_STEP, SELDOM, ALONE = "every step", "Local SGD, k = 100", "alone"
CODED = "k = 100, 4 bits"


def text(found: Sequence[Run]) -> str:
    """A list."""
    workers, speeds = max(run.workers for run in found), sorted({run.megabits for run in found})
    chosen = {r.method: r for r in found if (r.workers, r.megabits) == (workers, speeds[0])}
    where = f"{workers} workers at {speeds[0]:g} Mbit/s"
    return (
        _bytes(found)
        + _times(found, speeds[0], speeds[-1])
        + _whole(where, *(chosen[name] for name in (EVERY_STEP, SELDOM, ALONE)))
        + _streams(where, chosen)
        + _encoding([r for r in found if r.workers == workers])
    )


def _bytes(found: Sequence[Run]) -> str:
    syncing = [run for run in found if METHODS[run.method].sync_period is not None]
    in_time = [run for run in syncing if not METHODS[run.method].delay]
    return (
        f"- **Bytes are what the formula says**: {_range(syncing, _sent_in_sync)} times it in a "
        f"sync, and {_range(in_time, _sent)} times it over all steps. (What is late is still on "
        "its way at the end.)\n"
    )


def _times(found: Sequence[Run], slow: float, fast: float) -> str:
    plain = [run for run in found if METHODS[run.method].rule and not METHODS[run.method].streams]
    return (
        f"- **A sync takes {_range(plain, _seconds, slow)} times the formula** at {slow:g} Mbit/s, "
        f"and {_range(plain, _seconds, fast)} times at {fast:g}, without fragments and codecs. On "
        "top are headers, adding up and copying, and waiting for a processor that others use.\n"
    )


def _whole(where: str, often: Run, seldom: Run, alone: Run) -> str:
    return (
        f"- **{where}, {often.steps} steps**: {_cost(often)} if every step sends, {_cost(seldom)} "
        f"with k = 100. Alone, each on its own part of the data, it is {alone.total_seconds:.0f} "
        "s.\n"
    )


def _cost(run: Run) -> str:
    return f"{run.total_seconds:.0f} s and {size(run.sent * run.steps)} a worker"


def _streams(where: str, chosen: Mapping[str, Run]) -> str:
    told = [
        f"{size(run.sent_in_sync)} and {run.sync_seconds:.3f} s in {name.removeprefix('k = 100, ')}"
        for name, run in chosen.items()
        if METHODS[name].streams
    ]
    whole = chosen[SELDOM]
    return (
        f"- **What one sync sends, and how long workers wait for it**, {where}, k = 100: "
        f"{size(whole.sent_in_sync)} and {whole.sync_seconds:.3f} s as it is; {'; '.join(told)}.\n"
    )


def _encoding(found: Sequence[Run]) -> str:
    seconds = {(run.method, run.megabits): run.sync_seconds for run in found}
    told = [
        f"{seconds[CODED, speed]:.3f} s in the place of {seconds[SELDOM, speed]:.3f} at {speed:g} "
        "Mbit/s"
        for speed in sorted({run.megabits for run in found})
    ]
    coded, plain = (next(r.sent_in_sync for r in found if r.method == n) for n in (CODED, SELDOM))
    return (
        "- **Four bits take time to encode**, here on processors that are busy: a sync with them "
        f"takes {' and '.join(told)}, for {coded / plain:.2f} of the bytes. Late, nobody waits.\n"
    )


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
