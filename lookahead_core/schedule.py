"""When a sync is due. No arrays but the counter itself, no branch on it: rule.py branches."""

from lookahead_core.typing import Array, Count

__all__ = ["advance"]


def advance(count: Count, sync_period: int) -> tuple[Count, bool | Array]:
    """Count one applied inner step.

    Parameters
    ----------
    count : int or 0-d integer array
        Inner steps applied since the last sync, before this one.
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
    return steps % sync_period, steps == sync_period
