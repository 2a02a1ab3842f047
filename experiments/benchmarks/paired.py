"""Paired measuring: every way to do a thing in turn, many times, and medians of ratios.

A slow moment of the machine meets all ways of one round alike, so what is compared are the times of
one round. No harness that we know does this: pyperf, pytest-benchmark and airspeed velocity time
one way after the other, and a machine that changes meanwhile changes the ratio. Where arrays happen
to lie in memory is worth up to 15 % to one and the same program, so they are made anew a few times.
"""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

__all__ = [
    "Make",
    "Rounds",
    "Spread",
    "difference",
    "environment",
    "interleaved",
    "ratio",
    "spread",
    "timed",
]

# Makes the arrays of a way, and returns what runs it once: seconds, by part of the way.
Make = Callable[[], Callable[[], Sequence[float]]]
Rounds = Mapping[str, list[Sequence[float]]]


class Spread(NamedTuple):
    """A median with its quartiles.

    Attributes
    ----------
    median, low, high : float
        Of the values of all rounds; low and high are the first and the third quartile.
    rounds : int
        How many there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def interleaved(ways: Mapping[str, Make], rounds: int, renewals: int = 3) -> Rounds:
    """Run each way once in each round, every time in another order.

    Parameters
    ----------
    ways : mapping of str to callable
        Makes the arrays, and returns what runs the way once and gives the seconds of its parts.
    rounds : int
        How often each way is timed.
    renewals : int
        How often all arrays are made anew; the first run after that is not counted.
    """
    times: dict[str, list[Sequence[float]]] = {name: [] for name in ways}
    names = list(ways)
    for renewal in range(min(renewals, rounds)):
        running = {name: ways[name]() for name in turned(names, renewal)}
        for run in running.values():
            run()
        for number in range(renewal, rounds, renewals):
            for name in turned(names, number):
                times[name].append(running[name]())
        del running
        gc.collect()  # optimizers and their hooks are cycles, and hold the arrays
    return times


def turned(names: list[str], number: int) -> list[str]:
    """The names from another one on, and the other way round every second time."""
    start = number % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if number // len(names) % 2 else order


def timed(function: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high, len(values))


def ratio(rounds: Rounds, ours: str, theirs: str, part: slice = slice(None)) -> Spread:
    """Spread of the ratios of the two ways within a round."""
    pairs = zip(rounds[ours], rounds[theirs], strict=True)
    return spread([sum(a[part]) / sum(b[part]) for a, b in pairs])


def difference(rounds: Rounds, ours: str, theirs: str, scale: float = 1.0) -> Spread:
    """Spread of the differences of the two ways within a round, in seconds times `scale`."""
    pairs = zip(rounds[ours], rounds[theirs], strict=True)
    return spread([scale * (sum(a) - sum(b)) for a, b in pairs])


def environment(*packages: str, **more: Any) -> dict[str, str]:
    """Date, machine and versions; what is not installed is said to be so."""
    found = {"date": date.today().isoformat(), "machine": machine()}
    found["python"] = platform.python_version()
    for name in packages:
        try:
            found[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {name: str(value) for name, value in more.items()}


def machine() -> str:
    """Architecture and, where Linux tells it, the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next(line.split(":")[1] for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
    return f"{platform.machine()}, {model.strip()}"
