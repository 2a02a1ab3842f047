"""When something is due, and which of two outcomes is taken.

A Python bool branches, an array selects. No arrays but counters and what is selected.
"""

from collections.abc import Sequence
from typing import Any

from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Count, Leaves

__all__ = ["advance", "every", "selected", "where"]


def advance(count: Count, sync_period: int) -> tuple[Count, bool | Array]:
    """Count one applied inner step.

    Parameters
    ----------
    count : int or 0-d integer array
        Inner steps applied since the last sync, before this one; negative before the first cycle
        begins, if the rule has a later start.
    sync_period : int
        Inner steps between syncs.

    Returns
    -------
    count : same kind
        0 if the sync is due, else one more.
    due : bool or 0-d bool array
        Whether this was the sync_period-th step (clause C02). A Python bool comes from a Python
        int alone, so the caller branches on that and selects on all else: `if` on a traced
        counter raises TracerBoolConversionError under jax.jit.
    """
    steps = count + 1
    due = steps == sync_period
    if isinstance(due, bool):
        return (0 if due else steps), due
    return namespace(steps).where(due, steps - sync_period, steps), due


def every(period: int, syncs: Count) -> bool | Array:
    """Whether the sync that follows `syncs` others is a period-th one."""
    return True if period == 1 else (syncs + 1) % period == 0


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
