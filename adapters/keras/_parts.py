"""The variables behind one `SyncState`. All trainable variables of a model sync together."""

from typing import Any, NamedTuple

from lookahead_core import SyncState
from lookahead_core.state import each_of, named

from ._backend import known, read

__all__ = ["Part"]


class Part(NamedTuple):
    """Variables, or their values.

    Attributes
    ----------
    fast : the weights
    inner : what of the inner optimizer's the policy acts on, its counters last
    taken_off : for each of those counters, the steps that resets have taken off it
    state : slow weights and whatever else is ours, as the core has it
    """

    fast: list[Any]
    inner: list[Any]
    taken_off: list[Any]
    state: SyncState

    def counted(self, state: SyncState) -> SyncState:
        """`state` with the counters of now, as ints where they are known; nothing else is read."""
        names = ("count", "syncs", "phase")
        return state._replace(**{n: known(read(getattr(self.state, n))) for n in names})

    def values(self) -> "Part":
        """All arrays of now, and the counters likewise."""
        fast, inner, taken_off = ([*map(read, group)] for group in self[:3])
        return Part(fast, inner, taken_off, self.counted(each_of(self.state, read)))

    def flat(self) -> list[Any]:
        """All in one list."""
        return [*self.fast, *self.inner, *self.taken_off, *named(self.state).values()]

    def synced(self, fast: Any, inner: Any, state: SyncState) -> "Part":
        """After a sync of these values: what it took off a counter is kept."""
        counters = [*zip(self.inner, inner, strict=True)][len(inner) - len(self.taken_off) :]
        pairs = zip(self.taken_off, counters, strict=True)
        return Part(fast, inner, [gone + old - new for gone, (old, new) in pairs], state)
