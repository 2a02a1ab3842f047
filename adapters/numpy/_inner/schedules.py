"""Learning-rate schedules: plain functions of the step, the number of updates before this one.

A schedule is any callable `(int) -> float`; these are ready ones. No arrays, no state: the step is
counted, and saved, by the inner optimizer.
"""

import math
from collections.abc import Callable
from functools import partial

from lookahead_core.validation import below_one, fraction, non_negative, positive, positive_int

__all__ = ["Schedule", "exponential", "one_cycle", "warmup_cosine"]

Schedule = Callable[[int], float]


def warmup_cosine(
    peak_lr: float, warmup_steps: int, total_steps: int, end_lr: float = 0.0
) -> Schedule:
    """Linearly from 0 to `peak_lr` in `warmup_steps`, then half a cosine down to `end_lr`.

    Parameters
    ----------
    peak_lr : float
        Rate at step `warmup_steps`, >= 0.
    warmup_steps : int
        Steps of the warm-up, >= 1 and below `total_steps`.
    total_steps : int
        From this step on the rate is `end_lr`.
    end_lr : float
        Rate at the end, >= 0.

    Returns
    -------
    callable, (step) -> float

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Goyal et al. 2017, arXiv:1706.02677 (warm-up); Loshchilov, Hutter 2017, arXiv:1608.03983
    (cosine); as optax.warmup_cosine_decay_schedule.

    Examples
    --------
    >>> rate = warmup_cosine(1.0, warmup_steps=2, total_steps=6)
    >>> [round(rate(step), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    peak = non_negative("peak_lr", peak_lr, "rate at the end of the warm-up")
    end = non_negative("end_lr", end_lr, "rate at the end")
    warmup = positive_int("warmup_steps", warmup_steps, "steps of the warm-up")
    total = _more_than(warmup, "total_steps", total_steps)
    return partial(_warmup_cosine, peak, warmup, total, end)


def exponential(initial_lr: float, gamma: float) -> Schedule:
    """`initial_lr * gamma ** step`.

    Parameters
    ----------
    initial_lr : float
        Rate of the first step, >= 0.
    gamma : float
        Factor from each step to the next, in [0, 1].

    Returns
    -------
    callable, (step) -> float

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    As torch.optim.lr_scheduler.ExponentialLR.

    Examples
    --------
    >>> rate = exponential(0.1, gamma=0.5)
    >>> [rate(step) for step in range(3)]
    [0.1, 0.05, 0.025]
    """
    initial = non_negative("initial_lr", initial_lr, "rate of the first step")
    return partial(_exponential, initial, fraction("gamma", gamma, "factor from step to step"))


def one_cycle(
    max_lr: float,
    total_steps: int,
    warmup_fraction: float = 0.3,
    start_factor: float = 25.0,
    end_factor: float = 1e4,
) -> Schedule:
    """Half a cosine up to `max_lr`, then half a cosine down to almost nothing.

    Parameters
    ----------
    max_lr : float
        Highest rate, >= 0.
    total_steps : int
        Steps of the cycle, > 1; from the last one on the rate stays.
    warmup_fraction : float
        Part of the cycle that goes up, in [0, 1).
    start_factor : float
        The first rate is `max_lr / start_factor`, > 0.
    end_factor : float
        The last rate is the first one divided by this, > 0.

    Returns
    -------
    callable, (step) -> float

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Smith, Topin 2018, arXiv:1708.07120; as torch.optim.lr_scheduler.OneCycleLR.

    Examples
    --------
    >>> rate = one_cycle(1.0, total_steps=10)
    >>> [round(rate(step), 3) for step in (0, 1, 2, 9)]
    [0.04, 0.52, 1.0, 0.0]
    """
    peak = non_negative("max_lr", max_lr, "highest rate")
    total = _more_than(1, "total_steps", total_steps)
    part = below_one("warmup_fraction", warmup_fraction, "part of the cycle that goes up")
    first = peak / positive("start_factor", start_factor, "max_lr / first rate")
    last = first / positive("end_factor", end_factor, "first rate / last rate")
    return partial(_one_cycle, peak, total, part, first, last)


def _more_than(least: int, name: str, value: int) -> int:
    number = positive_int(name, value, "steps")
    if number <= least:
        raise ValueError(f"{name} must be > {least} (steps), got {value!r}")
    return number


def _cosine(start: float, end: float, part: float) -> float:
    """From `start` at part 0 to `end` at part 1 and after."""
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


def _warmup_cosine(peak: float, warmup: int, total: int, end: float, step: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return _cosine(peak, end, (step - warmup) / (total - warmup))


def _exponential(initial: float, gamma: float, step: int) -> float:
    return float(initial * gamma**step)


def _one_cycle(peak: float, total: int, part: float, first: float, last: float, step: int) -> float:
    top = part * total - 1  # torch's place of the peak, which need not be a whole step
    if step < top:
        return _cosine(first, peak, step / top)
    return _cosine(peak, last, (step - top) / (total - 1 - top))
