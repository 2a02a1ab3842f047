"""What a rule carries from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lookahead_core.leaves import told
from lookahead_core.typing import Count, Leaves, Slots

__all__ = ["SyncState", "check_state", "each_of", "named"]


class SyncState(NamedTuple):
    """State of a `SyncRule`. Arrays and integers only: it checkpoints as it is.

    Attributes
    ----------
    slow : sequence of arrays
        The slow weights as the last sync left them, theta_0 before the first (clause C01). Read
        them with `SyncRule.slow`: between two cycles the fast weights are the slow ones, and a
        kernel may leave these as they were until the next cycle begins.
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
    phase : int or 0-d integer array
        By how many steps this cycle is shorter than a whole one: 0 but for leaves that joined
        others in mid-cycle, or whose period was changed (`schedule.in_phase`). A sync sets it to 0.
    """

    slow: Leaves
    count: Count
    syncs: Count
    outer: Slots
    inner_slow: Leaves
    phase: Count = 0


def check_state(state: Any) -> None:
    """Raise ValueError unless `state` is one: that tells arguments in the wrong order too."""
    if not isinstance(state, SyncState):
        raise ValueError(
            "state must be the SyncState that rule.init or the last call returned, as the third "
            f"argument after fast and inner (which may be ()), got {told(state)}"
        )


def each_of(state: SyncState, function: Callable[[Any], Any]) -> SyncState:
    """What `function` gives for each array and counter, in their places."""
    # In the order of `named`: in Keras the function makes variables, which have places in a list.
    counters = {name: function(getattr(state, name)) for name in ("count", "syncs", "phase")}
    leaves = {name: [*map(function, getattr(state, name))] for name in ("slow", "inner_slow")}
    slots = [[*map(function, slot)] for slot in state.outer]
    return SyncState(outer=slots, **leaves, **counters)


def named(state: SyncState) -> dict[str, Any]:
    """Each array and counter by a name of its own, always in the same order."""
    lists = {"slow": state.slow, "inner_slow": state.inner_slow}
    lists |= {f"outer_{number}": slot for number, slot in enumerate(state.outer)}
    arrays = {f"{name}_{i}": leaf for name, own in lists.items() for i, leaf in enumerate(own)}
    return {"count": state.count, "syncs": state.syncs, "phase": state.phase} | arrays
