"""What a rule carries from step to step."""

from typing import NamedTuple

from lookahead_core.typing import Count, Leaves, Slots

__all__ = ["SyncState"]


class SyncState(NamedTuple):
    """State of a `SyncRule`. Arrays and integers only: it checkpoints as it is.

    Attributes
    ----------
    slow : sequence of arrays
        The slow weights as the last sync left them, theta_0 before the first (clause C01).
    count : int or 0-d integer array
        Inner steps applied since then, 0 .. sync_period - 1; negative until the first cycle begins,
        if the rule has a later start.
    syncs : int or 0-d integer array
        Syncs so far.
    outer : sequence of slots
        State of the outer rule (its momentum): each slot has an array for each averaged leaf of
        `slow`. Empty for interpolation.
    inner_slow : sequence of arrays
        Slow copy of the inner state; empty unless `inner_state="interpolate"`.
    """

    slow: Leaves
    count: Count
    syncs: Count
    outer: Slots
    inner_slow: Leaves
