"""The clock: every question about when, and which of two outcomes is taken.

Whether a step begins a cycle, lies in one or ends one is said here, once for all adapters. A Python
int branches, so that k - 1 of k steps touch no array; a 0-d array selects, as a traced program
must. No arrays but counters and what is selected.
"""

from collections.abc import Sequence
from typing import Any

from lookahead_core.leaves import kind_of
from lookahead_core.namespace import is_array, namespace
from lookahead_core.typing import Array, Count, Leaves, Period
from lookahead_core.validation import positive_int

__all__ = ["INT32_MAX", "advance", "before_first", "begins", "between", "every", "in_phase"]
__all__ += ["length", "one_more", "phases", "remaining", "selected", "where"]

INT32_MAX = 2**31 - 1


def begins(count: Count) -> bool | Array:
    """Whether the next inner step is the first of a cycle."""
    return count == 0


def between(count: Count) -> bool | Array:
    """Whether no cycle is under way: after a sync and before the next step, or before the start."""
    return count <= 0


def before_first(count: Count) -> bool | Array:
    """Whether the first cycle has not begun, because the rule has a later start."""
    return count < 0


def length(sync_period: Period, syncs: Count, count: Count) -> Count:
    """Inner steps of the cycle that follows `syncs` syncs (clause C90).

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int or 0-d integer array
        The same for every cycle, or a schedule.
    syncs : int or 0-d array
        Syncs so far.
    count : int or 0-d integer array
        The counter of the steps, whose kind decides how a schedule is asked: by a Python int, whose
        answer is checked, or by a 0-d array of int32, whose answer may be traced.

    Returns
    -------
    int or 0-d integer array

    Raises
    ------
    ValueError
        If a schedule gives something else, or a Python int below 1.
    """
    if not callable(sync_period):
        return sync_period
    # Counters may be floating, as Keras' are; a schedule is given whole numbers and gives some.
    xp = namespace(count) if is_array(count) else None
    period = sync_period(syncs if xp is None else xp.astype(syncs, xp.int32))
    is_whole = is_array(period) and period.shape == () and kind_of(period.dtype) == "int"
    if xp is not None and is_whole:
        return xp.astype(period, count.dtype)
    return positive_int("sync_period", period, "inner steps between syncs")


def advance(count: Count, sync_period: Count, phase: Count = 0) -> tuple[Count, bool | Array]:
    """Count one applied inner step.

    Parameters
    ----------
    count : int or 0-d integer array
        Inner steps applied since the last sync, before this one; negative before the first cycle
        begins, if the rule has a later start.
    sync_period : int or 0-d integer array
        Inner steps of this cycle (`length`).
    phase : int or 0-d integer array
        By how many steps this cycle is shorter than a whole one (`in_phase`).

    Returns
    -------
    count : same kind
        0 if the sync is due, else one more.
    due : bool or 0-d bool array
        Whether this step ends the cycle (clause C02). A Python bool comes from Python ints alone,
        so the caller branches on that and selects on all else: `if` on a traced counter raises
        TracerBoolConversionError under jax.jit.
    """
    steps = count + 1
    due = remaining(count, sync_period, phase) <= 1  # a schedule that is traced may give 0
    if isinstance(due, bool):
        return (0 if due else steps), due
    return namespace(due).where(due, steps * 0, steps), due


def remaining(count: Count, sync_period: Count, phase: Count = 0) -> Count:
    """Inner steps from here to the sync, the one that it follows included; as `advance` counts."""
    return sync_period - phase - count


def in_phase(elapsed: Count, count: Count, sync_period: Period) -> Count:
    """The phase that lets a cycle end where those do that began with the clock.

    A part of the leaves that joins in mid-cycle, or whose period was changed, stays in phase with
    the others: if its period divides theirs, it syncs whenever they do (clause C42). Where it has
    a schedule there is nothing to divide, and a whole cycle begins here.

    Parameters
    ----------
    elapsed : int or 0-d integer array
        Inner steps since the clock was started, by the first cycle or by a forced sync.
    count : int or 0-d integer array
        Those of them that this cycle has had.
    sync_period : int or callable
        Inner steps between syncs of this part, or a schedule.
    """
    waits = before_first(elapsed)
    phase = (0 if callable(sync_period) else elapsed % sync_period) - count
    if isinstance(waits, bool):
        return 0 if waits else phase
    return namespace(phase).where(waits, 0, phase)


def phases(parts: int, sync_period: int) -> list[int]:
    """By how many steps the first cycle of each of `parts` is shorter, to spread their syncs.

    The last one has a whole cycle; no two sync at the same step if there are at most `sync_period`
    of them (clause C82).
    """
    return [sync_period - sync_period * (index + 1) // parts for index in range(parts)]


def every(period: int, syncs: Count) -> bool | Array:
    """Whether the sync that follows `syncs` others is a period-th one."""
    return True if period == 1 else syncs % period == period - 1


def one_more(number: Count, repeats_after: int = 1) -> Count:
    """One more of what is counted without an end; a counter of 32 bits or fewer never wraps.

    It stays as high as it can, one below the largest number, so that a schedule may add one to it.
    There it goes back by `repeats_after` at a time: what happens at every so many syncs goes on.
    """
    if isinstance(number, int) or kind_of(number.dtype) != "int":
        return number + 1  # a float64 that counts cannot wrap
    xp = namespace(number)
    largest = int(xp.iinfo(number.dtype).max)
    if largest > INT32_MAX:
        return number + 1  # 64 bits: at a million syncs a second it takes 292,000 years
    # By arithmetic and not by a selection: between syncs a traced program selects nothing.
    below = xp.astype(number < largest - 1, number.dtype)
    return number + (below * repeats_after - (repeats_after - 1))


def selected(due: bool | Array, outcome: Sequence[Leaves], other: Sequence[Leaves]) -> Any:
    """`outcome` where it is due, else `other`: sequences of sequences of leaves."""
    if isinstance(due, bool):
        return outcome if due else other
    return tuple(where(due, *pair) for pair in zip(outcome, other, strict=True))


def where(condition: Array, chosen: Leaves, other: Leaves) -> Leaves:
    """`chosen` where the condition holds, else `other`, leaf by leaf."""
    # `where`, never `mask * x`: 0 * inf is NaN, so a masked infinity at a non-sync step would
    # poison the slow weights for good (optax.lookahead does; clause C12).
    return tuple(
        c if c is o else namespace(c).where(condition, c, o)
        for c, o in zip(chosen, other, strict=True)
    )
