"""Schedules of the number of syncs as values: they pickle, compare and trace; a lambda does none.

Any setting that takes a callable of the syncs takes one of these. A counter that is a Python int
gives a number of Python, one that is a 0-d array a 0-d array.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lookahead_core.namespace import is_array, namespace
from lookahead_core.settings import as_real
from lookahead_core.typing import Array, Count
from lookahead_core.validation import (
    finite,
    non_negative_int,
    one_of,
    positive,
    positive_int,
)

__all__ = ["HalfLife", "PostLocal", "PowerWeights", "QuadraticPeriod", "Ramp"]


@dataclass(frozen=True)
class Ramp:
    """From one number to another over so many syncs, and the ends before and after it.

    value = first + (last - first) * s, s = (syncs - start) / length within [0, 1]; with
    shape="cosine", s becomes (1 - cos(pi * s)) / 2

    Parameters
    ----------
    first, last : float
        The ends.
    length : int
        Syncs from one end to the other, >= 1.
    start : int
        Syncs at the first end before it, >= 0.
    shape : {"linear", "cosine"}

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Loshchilov and Hutter 2017, eq. 5, arXiv:1608.03983, for the cosine.

    Examples
    --------
    >>> ramp = Ramp(0.5, 1.0, length=10)
    >>> ramp(0), ramp(5), ramp(99)
    (0.5, 0.75, 1.0)
    >>> ramp == Ramp(0.5, 1.0, length=10)
    True
    """

    first: float
    last: float
    length: int
    start: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            object.__setattr__(self, name, finite(name, getattr(self, name), "end of the ramp"))
        object.__setattr__(self, "length", positive_int("length", self.length, "syncs of the ramp"))
        start = non_negative_int("start", self.start, "syncs before the ramp")
        object.__setattr__(self, "start", start)
        one_of("shape", self.shape, ("linear", "cosine"))

    def __call__(self, syncs: Count) -> float | Array:
        """The value at the sync that follows `syncs` others."""
        part: Any = (as_real(syncs) - self.start) / self.length
        xp: Any = namespace(part) if is_array(part) else math
        if xp is math:
            part = min(max(part, 0.0), 1.0)
        else:
            part = xp.where(part < 0, xp.zeros_like(part), part)
            part = xp.where(part > 1, xp.ones_like(part), part)
        if self.shape == "cosine":
            part = (1 - xp.cos(math.pi * part)) / 2
        # Exact at both ends, as `interpolate` is.
        return self.first * (1 - part) + self.last * part


@dataclass(frozen=True)
class PostLocal:
    """Periods of post-local SGD: one step each for the first syncs, k after them.

    period = 1 if syncs < at else period

    Parameters
    ----------
    at : int
        Syncs at every step, before the longer period, >= 0.
    period : int
        Inner steps between syncs after that, >= 1.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Lin et al. 2020, arXiv:1808.07217.

    Examples
    --------
    >>> periods = PostLocal(at=100, period=8)
    >>> periods(99), periods(100)
    (1, 8)
    """

    at: int
    period: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", non_negative_int("at", self.at, "syncs at every step"))
        object.__setattr__(self, "period", positive_int("period", self.period, "inner steps"))

    def __call__(self, syncs: Count) -> Any:
        """The period of the cycle that follows `syncs` syncs."""
        if not is_array(syncs):
            return 1 if syncs < self.at else self.period
        xp = namespace(syncs)
        one = xp.ones_like(syncs)
        return xp.where(syncs < self.at, one, one * self.period)


@dataclass(frozen=True)
class QuadraticPeriod:
    """Periods of the quadratic synchronization rule: longer as the learning rate decays.

    period = max(least, floor((growth / lr)**2))

    Parameters
    ----------
    lr : callable, (syncs) -> float or 0-d array
        Inner learning rate at the beginning of the cycle that follows so many syncs, above 0; a
        `Ramp` for one. The same schedule sets the inner optimizer's.
    growth : float
        The paper's alpha, above 0.
    least : int
        The paper's H_base, >= 1.
    most : int
        No period is longer, >= least: at the end of a schedule the rate is near zero.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Gu et al. 2024, arXiv:2310.14423.

    Examples
    --------
    >>> periods = QuadraticPeriod(Ramp(0.1, 0.01, length=100), growth=0.2, least=4, most=100)
    >>> periods(0), periods(80), periods(1000)
    (4, 51, 100)
    """

    lr: Callable[[Count], float | Array]
    growth: float
    least: int
    most: int

    def __post_init__(self) -> None:
        if not callable(self.lr):
            raise ValueError(f"lr must be a schedule of the syncs (callable), got {self.lr!r}")
        object.__setattr__(self, "growth", positive("growth", self.growth, "times 1 / lr"))
        object.__setattr__(self, "least", positive_int("least", self.least, "shortest period"))
        most = positive_int("most", self.most, "longest period")
        if most < self.least:
            raise ValueError(f"most must be at least least={self.least}, got {most}")
        object.__setattr__(self, "most", most)

    def __call__(self, syncs: Count) -> Any:
        """The period of the cycle that follows `syncs` syncs."""
        wanted: Any = self.growth / self.lr(syncs)
        wanted = wanted * wanted
        if not is_array(wanted):
            return int(min(max(wanted, self.least), self.most))
        xp = namespace(wanted)
        wanted = xp.where(wanted < self.least, xp.ones_like(wanted) * self.least, wanted)
        wanted = xp.where(wanted > self.most, xp.ones_like(wanted) * self.most, wanted)
        return xp.astype(wanted, xp.int32)


@dataclass(frozen=True)
class PowerWeights:
    """The alpha of an average in which the n-th weights count as n**power - (n - 1)**power.

    alpha = 1 - ((n - 1) / n)**power at the n-th weights

    Parameters
    ----------
    power : float
        Above 0. 1 is the mean of all; the latest weights count more above it, and less below it.
    before : int
        Weights that count before the first sync, >= 0: 1 where those at the start count.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Karras et al. 2024, eq. 2 and appendix C, arXiv:2312.02696.

    Examples
    --------
    >>> mean = PowerWeights(1.0)
    >>> mean(0), mean(3)
    (1.0, 0.25)
    """

    power: float = 1.0
    before: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", positive("power", self.power, "of the number of weights"))
        before = non_negative_int("before", self.before, "weights that count before the first sync")
        object.__setattr__(self, "before", before)

    def __call__(self, syncs: Count) -> float | Array:
        """The alpha of the sync that follows `syncs` others."""
        older: Any = as_real(syncs) + self.before
        if self.power == 1:
            return 1 / (older + 1)
        # By logarithms: in float32, 1 - ((n - 1) / n)**power is noise after a million syncs.
        if not is_array(older):
            return -math.expm1(-self.power * math.log1p(1 / older)) if older else 1.0
        xp = namespace(older)
        some = xp.where(older > 0, older, xp.ones_like(older))
        alpha = -xp.expm1(-self.power * xp.log1p(1 / some))
        return xp.where(older > 0, alpha, xp.ones_like(alpha))


@dataclass(frozen=True)
class HalfLife:
    """The alpha of an average whose half-life is a fraction of the syncs so far.

    alpha = 1 - 2**(-1 / (fraction * n)) at the n-th sync

    Parameters
    ----------
    fraction : float
        Above 0.

    Raises
    ------
    ValueError
        If `fraction` is out of range.

    Examples
    --------
    >>> HalfLife(0.25)(3)  # the fourth sync: a half-life of one
    0.5
    """

    fraction: float

    def __post_init__(self) -> None:
        part = positive("half_life", self.fraction, "fraction of the run so far")
        object.__setattr__(self, "fraction", part)

    def __call__(self, syncs: Count) -> float | Array:
        """The alpha of the sync that follows `syncs` others."""
        rate: Any = math.log(2) / self.fraction / as_real(syncs + 1)
        return -namespace(rate).expm1(-rate) if is_array(rate) else -math.expm1(-rate)
