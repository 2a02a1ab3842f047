"""Inner-state policies: what a sync does to the inner optimizer's own state.

The paper maintains it, and also tries resetting and interpolating (Zhang et al. 2019, appendix
D.1). Which leaves belong to the inner state is an adapter's knowledge: it passes moments and
momentum buffers, and, where a policy restarts it, the step count that belongs to them.
No weights here, and no counter: those are outer.py and schedule.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lookahead_core.kernel import Kernel, move_toward
from lookahead_core.leaves import copied
from lookahead_core.namespace import namespace
from lookahead_core.typing import Leaves

__all__ = ["POLICIES", "InnerStatePolicy"]

Pair = tuple[Leaves, Leaves]


class InnerStatePolicy(NamedTuple):
    """Three pure functions.

    Attributes
    ----------
    init : callable, (inner) -> inner_slow
        The slow copy that the policy needs, never an alias of the live state: the reference code
        of the paper aliases them, and is wrong from its second sync.
    begin : callable, (inner, inner_slow, kernel) -> inner_slow'
        The slow copy of a cycle that begins now, from the live state as it is: moments may have
        been edited, or made anew, since the last sync. Donates `inner_slow` to the kernel.
    sync : callable, (inner, inner_slow, initial, alpha, kernel) -> (inner', inner_slow')
        `initial` holds the leaves that a restart goes back to, or None for zeros. `alpha` is the
        part of the way that the sync goes, where the policy is `interpolate`.
    """

    init: Callable[[Leaves], Leaves]
    begin: Callable[[Leaves, Leaves, Kernel], Leaves]
    sync: Callable[[Leaves, Leaves, Leaves | None, Any, Kernel], Pair]


def no_copy(inner: Leaves) -> Leaves:
    return ()


def copy_of(inner: Leaves) -> Leaves:
    return tuple(copied(leaf) for leaf in inner)


def nothing_taken(inner: Leaves, inner_slow: Leaves, kernel: Kernel) -> Leaves:
    return inner_slow


def taken(inner: Leaves, inner_slow: Leaves, kernel: Kernel) -> Leaves:
    """Into the arrays of the last copy where they fit; moments come and go with their leaves."""
    looks = [(leaf.shape, leaf.dtype) for leaf in inner]
    if looks != [(leaf.shape, leaf.dtype) for leaf in inner_slow]:
        return copy_of(inner)
    return kernel.anchor(inner_slow, inner)


def maintain(
    inner: Leaves, inner_slow: Leaves, initial: Leaves | None, alpha: Any, kernel: Kernel
) -> Pair:
    """Leave the inner state alone (clause C16)."""
    return inner, inner_slow


def reset(
    inner: Leaves, inner_slow: Leaves, initial: Leaves | None, alpha: Any, kernel: Kernel
) -> Pair:
    """Start the inner state again (clause C17).

    Integers too: moments at zero under an old step count would be bias-corrected too little.
    """
    if initial is None:
        initial = tuple(namespace(leaf).zeros_like(leaf) for leaf in inner)
    return initial, inner_slow


def interpolate(
    inner: Leaves, inner_slow: Leaves, initial: Leaves | None, alpha: Any, kernel: Kernel
) -> Pair:
    """Blend the inner state like the weights; integers stay as they are (clause C18)."""
    inner_slow, inner = move_toward(inner_slow, inner, alpha, kernel)
    return inner, inner_slow


POLICIES = {
    "maintain": InnerStatePolicy(no_copy, nothing_taken, maintain),
    "reset": InnerStatePolicy(no_copy, nothing_taken, reset),
    "interpolate": InnerStatePolicy(copy_of, taken, interpolate),
}
