"""The plan for 64 and 1,000 workers: traffic, time, memory, and what breaks first. Pure arithmetic.

Everything is from lookahead_core.analysis, except for the two formulas that are written out here.
What is assumed and not computed are the constants below, and the page repeats them.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from lookahead_core.analysis import (
    compute_utilisation,
    extra_memory,
    peak_traffic,
    sync_seconds,
    traffic_per_step,
)

__all__ = [
    "ENOUGH",
    "INNER_BYTES",
    "JITTER",
    "LINKS",
    "MODELS",
    "NEAR",
    "SHARDS",
    "STEP",
    "WAYS",
    "WORKERS",
    "Link",
    "Memory",
    "Way",
    "at_once",
    "bandwidth_for",
    "held_up_by",
    "memory",
    "sent",
    "slowest_of",
    "sync_time",
    "utilisation",
]

WORKERS = (64, 1000)
MODELS = {"1B": 1e9, "8B": 8e9, "70B": 70e9}
# Seconds of an inner step.
STEP = 1.0
# The utilisation that a link is asked for.
ENOUGH = 0.95
# Standard deviation of one step's time, as a part of it, independent from step to step.
JITTER = 0.1
# bfloat16 weights and gradients, float32 weights and Adam's two moments: 2 + 2 + 4 + 4 + 4.
INNER_BYTES = 16
# Devices that share one replica.
SHARDS = (8, 64, 512)


@dataclass(frozen=True)
class Link:
    """Of each worker, to the next one in the ring.

    Attributes
    ----------
    bandwidth : float
        Bits per second.
    hop : float
        Seconds of latency.
    """

    bandwidth: float
    hop: float


NEAR = "100 Gbit/s, 1 ms"
LINKS = {
    "1 Gbit/s, 50 ms": Link(1e9, 0.05),
    "10 Gbit/s, 50 ms": Link(1e10, 0.05),
    NEAR: Link(1e11, 0.001),
}


@dataclass(frozen=True)
class Way:
    """How often workers sync, how much of the weights, in how many bits.

    Attributes
    ----------
    sync_period : int
    bits : float
        Sent for each weight.
    fragments : int
        Synced one at a time, at steps of their own, sync_period / fragments apart.
    overlap : int
        Steps that go on while a sync runs.
    """

    sync_period: int
    bits: float = 16.0
    fragments: int = 1
    overlap: int = 0

    @property
    def apart(self) -> int:
        """Steps from one sync to the next, of whichever fragment."""
        return self.sync_period // self.fragments


WAYS = {
    "every step": Way(1),
    "k = 30": Way(30),
    "k = 100": Way(100),
    "k = 500": Way(500),
    "k = 100, 4 bits": Way(100, bits=4),
    "k = 100, 4 bits, streamed": Way(100, bits=4, fragments=10, overlap=5),
}


def sent(parameters: float, workers: int, way: Way) -> float:
    """Bytes that a worker sends in a step, on average."""
    return traffic_per_step(parameters, workers, way.sync_period, way.bits)


def at_once(parameters: float, workers: int, way: Way) -> float:
    """Bytes that a worker sends in one sync of one fragment."""
    return peak_traffic(parameters, workers, way.bits, way.fragments)


def sync_time(parameters: float, workers: int, way: Way, link: Link) -> float:
    """Seconds of one sync of one fragment, by a ring over all workers."""
    return sync_seconds(at_once(parameters, workers, way), workers, link.bandwidth, link.hop)


def utilisation(parameters: float, workers: int, way: Way, link: Link) -> float:
    """Part of the time in which workers compute, in (0, 1]."""
    seconds = sync_time(parameters, workers, way, link)
    return compute_utilisation(STEP, seconds, way.apart, way.overlap)


def held_up_by(parameters: float, workers: int, way: Way, link: Link) -> str:
    """The larger part of a sync, "latency" or "bandwidth"; "" at a utilisation of `ENOUGH`."""
    if utilisation(parameters, workers, way, link) >= ENOUGH:
        return ""
    latency = sync_seconds(0, workers, link.bandwidth, link.hop)
    return "latency" if 2 * latency > sync_time(parameters, workers, way, link) else "bandwidth"


def bandwidth_for(parameters: float, workers: int, way: Way, hop: float) -> float:
    """Bits per second at which the utilisation is `ENOUGH`; infinite if latency is too much."""
    allowed = (way.overlap + way.apart * (1 / ENOUGH - 1)) * STEP
    left = allowed - sync_seconds(0, workers, 1.0, hop)
    return 8 * at_once(parameters, workers, way) / left if left > 0 else math.inf


def slowest_of(workers: int) -> float:
    """Mean of the largest of so many standard normal numbers, in standard deviations.

    Integral of 1 - F(x)^W above zero less that of F(x)^W below it; midpoints, to 1e-6.
    """
    width, normal = 1e-3, NormalDist()
    middles = [(i + 0.5) * width for i in range(-8000, 8000)]
    return width * sum((x > 0) - normal.cdf(x) ** workers for x in middles)


@dataclass(frozen=True)
class Memory:
    """Bytes of one replica, without activations.

    Attributes
    ----------
    inner : float
        Weights, gradients and AdamW, in mixed precision.
    outer : float
        Slow weights and outer momentum, float32.
    passing : float
        More, while a sync runs: differences in float32, in the three buckets of 16 under way.
    """

    inner: float
    outer: float
    passing: float

    @property
    def together(self) -> float:
        """The most that there is at one time, all of it on the devices."""
        return self.inner + self.outer + self.passing


def memory(parameters: float) -> Memory:
    """Of DiLoCo around AdamW."""
    outer = extra_memory(parameters, outer_buffers=1)
    return Memory(inner=INNER_BYTES * parameters, outer=outer, passing=3 / 16 * 4 * parameters)
