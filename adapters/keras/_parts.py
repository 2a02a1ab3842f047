"""The variables behind one `SyncState`. All trainable variables of a model sync together."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lookahead_core import SyncRule, SyncState
from lookahead_core.typing import Leaves

from ._backend import known, read

__all__ = ["Part", "core_state", "parted"]


class Part(NamedTuple):
    """Variables, or their values, in one order.

    Attributes
    ----------
    counters : count, syncs and phase of the state
    fast, slow : weights
    inner : what of the inner optimizer's the policy acts on, its counters last
    outer : the outer rule's, slot after slot
    inner_slow : slow copies of `inner`
    taken_off : for each counter in `inner`, the steps that resets have taken off it
    """

    counters: list[Any]
    fast: list[Any]
    inner: list[Any]
    slow: list[Any]
    outer: list[Any]
    inner_slow: list[Any]
    taken_off: list[Any]

    def each(self, function: Callable[[Any], Any]) -> "Part":
        """The same of what `function` gives for each."""
        return Part(*([*map(function, group)] for group in self))

    def flat(self) -> list[Any]:
        """All in one list."""
        return [one for group in self for one in group]


def core_state(part: Part, rule: SyncRule) -> tuple[Part, SyncState]:
    """The values now, and the core's state of them."""
    now = part.each(read)
    slots = len(rule.outer.init(()))
    size = len(now.outer) // slots if slots else 0
    outer = [now.outer[slot * size : (slot + 1) * size] for slot in range(slots)]
    count, syncs, phase = map(known, now.counters)
    return now, SyncState(now.slow, count, syncs, outer, now.inner_slow, phase)


def parted(before: Part, fast: Leaves, inner: Leaves, state: SyncState) -> Part:
    """The values after a sync."""
    restarts = len(before.taken_off)
    counters = zip(before.taken_off, before.inner[-restarts:], inner[-restarts:], strict=True)
    return Part(
        counters=[state.count, state.syncs, state.phase],
        fast=[*fast],
        inner=[*inner],
        slow=[*state.slow],
        outer=[leaf for slot in state.outer for leaf in slot],
        inner_slow=[*state.inner_slow],
        taken_off=[gone + old - new for gone, old, new in counters] if restarts else [],
    )
