"""Presets: methods by name, each one setting of `SyncRule`."""

from collections.abc import Callable

from lookahead_core.outer import Interpolate
from lookahead_core.rule import SyncRule
from lookahead_core.typing import Count, Fraction

__all__ = ["lookahead"]


def lookahead(
    sync_period: int = 5,
    alpha: Fraction | Callable[[Count], Fraction] = 0.5,
    inner_state: str = "maintain",
) -> SyncRule:
    """Lookahead: k inner steps forward, then the fraction alpha of the way, and start there.

    slow' = slow + alpha * (fast - slow); fast' = slow'

    Parameters
    ----------
    sync_period : int
        Inner steps between syncs, k >= 1; the paper uses 5 and 10.
    alpha : float, 0-d array or callable, (syncs) -> float or 0-d array
        How far the slow weights move at a sync, in [0, 1]; the paper uses 0.5 and 0.8. An array is
        not checked; a callable is a schedule of the number of syncs so far.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state; the paper maintains it.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> lookahead(sync_period=10, alpha=0.8)
    SyncRule(sync_period=10, outer=Interpolate(alpha=0.8), inner_state='maintain')
    """
    return SyncRule(sync_period, Interpolate(alpha), inner_state)
