"""Up to which learning rate a rule is stable on a quadratic, and where it is not in between.

All in units of learning_rate * curvature, so divide a limit by the largest curvature.
"""

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

from lookahead_core.rule import SyncRule
from lookahead_core.validation import positive_int

from .arguments import inner_momentum, inside
from .contraction import contraction_rate
from .rules import fixed_period

__all__ = [
    "Band",
    "inner_stability_limit",
    "limit_of",
    "sgd_stability_limit",
    "stability_limit",
    "unstable_bands",
]

# A band narrows like 1 / k: this many points for each step of a cycle see all of the known ones.
POINTS_A_STEP, LEAST_POINTS, MOST_POINTS = 200, 1000, 5000
HALVINGS = 60
GROWTH = 1.01


class Band(NamedTuple):
    """An interval of learning_rate * curvature in which a rule diverges.

    Attributes
    ----------
    low : float
        Lower end.
    high : float
        Upper end.
    rate : float
        Growth per inner step where it is worst among the points looked at.

    Examples
    --------
    >>> from lookahead_core.analysis import Band
    >>> Band(2.6, 2.9, 1.02).low
    2.6
    """

    low: float
    high: float
    rate: float


def inner_stability_limit(momentum: float = 0.0, nesterov: bool = False) -> float:
    """Largest stable learning_rate * curvature of gradient descent with momentum b.

    2 (1 + b) for the heavy ball, 2 (1 + b) / (1 + 2 b) for Nesterov's form.

    Parameters
    ----------
    momentum : float
        Momentum b in [0, 1).
    nesterov : bool
        Nesterov's momentum, in torch's form.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `momentum` is out of range.

    References
    ----------
    Polyak 1964; derived in docs/theory.md. Assumes an exact gradient of a quadratic.

    Examples
    --------
    >>> from lookahead_core.analysis import inner_stability_limit
    >>> inner_stability_limit(momentum=0.5), inner_stability_limit(momentum=0.5, nesterov=True)
    (3.0, 1.5)
    """
    momentum = inner_momentum(momentum, nesterov)
    return 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1)


def sgd_stability_limit(sync_period: int, alpha: float) -> float:
    """Largest stable learning_rate * curvature of Lookahead around plain gradient descent.

    2 for even k, 1 + (2 / alpha - 1)^(1/k) for odd k.

    Parameters
    ----------
    sync_period : int
        Inner steps k between syncs.
    alpha : float
        In (0, 1].

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md; Zhang et al. 2019, proposition 2, has 2, which is sufficient and for
    odd k not necessary. Assumes an exact gradient of a quadratic.

    Examples
    --------
    >>> from lookahead_core.analysis import sgd_stability_limit
    >>> sgd_stability_limit(1, 0.5), sgd_stability_limit(10, 0.5)
    (4.0, 2.0)
    """
    period = positive_int("sync_period", sync_period, "inner steps between syncs")
    inside("alpha", alpha, 0, 1 + 1e-12, "1 included")
    return 1 + (2 / alpha - 1) ** (1 / period) if period % 2 else 2.0


def stability_limit(rule: SyncRule, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Largest learning_rate * curvature below which a rule is stable everywhere.

    The lower end of the first unstable band; beyond the inner optimizer's own limit where there is
    none (averaging can stabilise an inner optimizer that is not).

    Parameters
    ----------
    rule : SyncRule
        Sync period, outer rule and inner-state policy.
    momentum : float
        Of the inner optimizer, in [0, 1).
    nesterov : bool
        Nesterov's momentum, in torch's form.

    Returns
    -------
    float
        Nearly 0 where no learning rate is stable.

    Raises
    ------
    ValueError
        As `contraction_rate`.

    References
    ----------
    Derived in docs/theory.md, "One cycle as a matrix". Found on a grid, its ends by bisection: a
    band narrower than 1 / min(200 k, 5000) of the inner limit may be missed.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import stability_limit
    >>> print(f"{stability_limit(lookahead(sync_period=5, alpha=0.5), momentum=0.9):.3f}")
    2.597
    """
    return limit_of(unstable_bands(rule, momentum, nesterov), rule, momentum, nesterov)


def limit_of(
    bands: tuple[Band, ...], rule: SyncRule, momentum: float = 0.0, nesterov: bool = False
) -> float:
    """`stability_limit`, where the bands are known: finding them takes the time."""
    if bands:
        return bands[0].low
    rate = _rate(rule, momentum, nesterov)
    # A hair inside the inner limit: at it, the rate is 1 within rounding, on either side.
    stable = inner_stability_limit(momentum, nesterov) * (1 - 1e-9)
    while rate(stable * GROWTH) < 1:
        stable *= GROWTH
    return _edge(rate, stable, stable * GROWTH)


def unstable_bands(
    rule: SyncRule, momentum: float = 0.0, nesterov: bool = False
) -> tuple[Band, ...]:
    """Where a rule diverges although its inner optimizer alone converges.

    Intervals of learning_rate * curvature in which radius(C) >= 1, C the matrix of one cycle.

    Parameters
    ----------
    rule : SyncRule
        Sync period, outer rule and inner-state policy.
    momentum : float
        Of the inner optimizer, in [0, 1).
    nesterov : bool
        Nesterov's momentum, in torch's form.

    Returns
    -------
    tuple of Band
        In rising order, inside (0, `inner_stability_limit`); none with `inner_state="interpolate"`,
        whatever the inner optimizer: its eigenvalues are averages of 1 and of stable ones.

    Raises
    ------
    ValueError
        As `contraction_rate`.

    References
    ----------
    Derived in docs/theory.md, "One cycle as a matrix"; resolution as in `stability_limit`.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import unstable_bands
    >>> for low, high, rate in unstable_bands(lookahead(5, 0.5), momentum=0.9):
    ...     print(f"{low:.3f} to {high:.3f}: grows by up to {rate:.3f} a step")
    2.597 to 2.900: grows by up to 1.021 a step
    3.492 to 3.800: grows by up to 1.139 a step
    """
    limit, rate = inner_stability_limit(momentum, nesterov), _rate(rule, momentum, nesterov)
    points = min(max(LEAST_POINTS, POINTS_A_STEP * fixed_period(rule)), MOST_POINTS)
    rates = [(step, rate(step)) for step in (limit * i / points for i in range(1, points))]
    bands, before = [], 0.0
    for diverges, run in groupby(rates, key=lambda point: not point[1] < 1):
        steps, found = zip(*run, strict=True)
        if diverges:
            after = steps[-1] + limit / points
            low = _edge(rate, before, steps[0])
            high = _edge(rate, after, steps[-1]) if after < limit * (1 - 1e-9) else limit
            bands.append(Band(low, high, max(*found, rate(high))))
        before = steps[-1]
    return tuple(bands)


def _rate(rule: SyncRule, momentum: float, nesterov: bool) -> Callable[[float], float]:
    return lambda step: float(contraction_rate(rule, step, 1.0, momentum, nesterov))


def _edge(rate: Callable[[float], float], stable: float, unstable: float) -> float:
    """Where between the two stability ends, by bisection."""
    for _ in range(HALVINGS):
        middle = (stable + unstable) / 2
        if rate(middle) < 1:
            stable = middle
        else:
            unstable = middle
    return stable
