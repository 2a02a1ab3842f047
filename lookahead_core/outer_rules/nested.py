"""Two rules in one: the slow weights of the first are the fast weights of the second.

Multilayer Lookahead (Pushkin and Barba 2021, arXiv:2110.14254), and the super-slow copy of
Lookahead-minimax (Chavdarova et al. 2021, arXiv:2006.14567).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from lookahead_core.kernel import REFERENCE_KERNEL
from lookahead_core.leaves import zeros
from lookahead_core.namespace import namespace
from lookahead_core.outer import OuterRule, SyncContext
from lookahead_core.rule import SyncRule
from lookahead_core.schedule import every, selected
from lookahead_core.typing import Array, Leaves, Slots

__all__ = ["Nested", "nested"]


@dataclass(frozen=True)
class Nested:
    """Sync by `first`; at every `period`-th sync, `second` syncs a super-slow copy with the result.

    Keeps the slots of `first`, those of `second`, and last one slot for the super-slow copy: its
    distance from the slow weights, so that the whole commutes with translation (clause C21).

    Parameters
    ----------
    first, second : OuterRule
        How the slow and the super-slow weights move.
    period : int
        Syncs of the first between two of the second, >= 1.
    restart : float
        How far the slow weights go back to the super-slow ones then, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core import lookahead, nested
    >>> rule = nested(lookahead(1, 0.5), lookahead(2, 0.5))
    >>> fast, state = [np.zeros(1)], rule.init([np.zeros(1)])
    >>> for _ in range(2):
    ...     fast, _, state = rule.step([leaf + 4.0 for leaf in fast], (), state)
    >>> fast[0]
    array([2.])
    """

    first: OuterRule
    second: OuterRule
    period: int
    restart: float = 1.0
    scheduled: ClassVar[tuple[str, ...]] = ("first", "second")

    @property
    def needs_gradient(self) -> bool:
        """Whether the first rule asks for gradients; the second sees none."""
        return bool(getattr(self.first, "needs_gradient", False))

    @property
    def needs_curvature(self) -> bool:
        """Whether the first rule asks for the inner optimizer's curvature."""
        return bool(getattr(self.first, "needs_curvature", False))

    @property
    def needs_inner_lr(self) -> bool:
        """Whether one of the rules asks for the inner learning rate."""
        return any(getattr(rule, "needs_inner_lr", False) for rule in (self.first, self.second))

    @property
    def unrounded(self) -> bool:
        """Whether the first rule is to see the inner steps without rounding."""
        return bool(getattr(self.first, "unrounded", False))

    @property
    def repeats_after(self) -> int:
        """Syncs of the first rule after which both begin their patterns again."""
        first, second = (getattr(rule, "repeats_after", 1) for rule in (self.first, self.second))
        return int(first * self.period * second)

    def init(self, slow: Leaves) -> Slots:
        """Slots of both rules, and a distance of zero."""
        return (*self.first.init(slow), *self.second.init(slow), zeros(slow))

    def watch(self, state: Slots, gradient: Leaves | None) -> Slots:
        """Hand the gradient on to the first rule."""
        if not hasattr(self.first, "watch"):
            return state
        number = len(self.first.init(()))
        return (*self.first.watch(state[:number], gradient), *state[number:])

    def update(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Slots]:
        """One sync: (slow', state')."""
        number = len(self.first.init(()))
        first, second, deep = state[:number], state[number:-1], self.super_slow(slow, state)
        due = every(self.period, context.syncs)
        # The second rule may refuse a setting, and nothing may have been overwritten then (C75).
        kernel = context.kernel if due is False else REFERENCE_KERNEL
        slow, first = self.first.update(slow, fast, first, context._replace(kernel=kernel))
        if due is not False:
            syncs = context.syncs // self.period
            above = context._replace(syncs=syncs, gradient=None, curvature=None)
            moved, after = self.second.update(deep, slow, second, above)
            back = context.kernel.move(slow, moved, self.restart)
            slow, deep, *second = selected(due, (back, moved, *after), (slow, deep, *second))
        distance = tuple(_like(s, d - s) for d, s in zip(deep, slow, strict=True))
        return slow, (*first, *second, distance)

    def readout(self, slow: Leaves, state: Slots, context: SyncContext) -> Leaves:
        """The super-slow weights that belong to these slow ones, or what their rule reads out."""
        deep, second = self.super_slow(slow, state), state[len(self.first.init(())) : -1]
        above = context._replace(syncs=context.syncs // self.period)
        read = getattr(self.second, "readout", None)
        return deep if read is None else tuple(read(deep, second, above))

    def super_slow(self, slow: Leaves, state: Slots) -> Leaves:
        """The slow weights of the second rule."""
        return tuple(_like(s, s + distance) for s, distance in zip(slow, state[-1], strict=True))


def _like(leaf: Array, value: Array) -> Array:
    """`value` in the dtype of `leaf`: NumPy's operators turn the byte order into the machine's."""
    return namespace(leaf).astype(value, leaf.dtype, copy=False)


def nested(first: SyncRule, second: SyncRule) -> SyncRule:
    """Two rules: the slow weights of the first are the fast weights of the second.

    Each sync of `second` follows one of `first`, with its result in the place of the fast weights.

    Parameters
    ----------
    first : SyncRule
        The faster rule; what happens to the inner state is its decision.
    second : SyncRule
        The slower one. Its period is a multiple of that of the first.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Pushkin and Barba 2021, Multilayer Lookahead, arXiv:2110.14254; the super-slow copy of
    Chavdarova et al. 2021, arXiv:2006.14567.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> rule = nested(lookahead(5, 0.5), lookahead(50, 0.5))
    >>> rule.sync_period, rule.outer.period
    (5, 10)
    """
    if callable(first.sync_period) or callable(second.sync_period):
        raise ValueError(
            "sync_period must be a number in nested rules, of which one divides the other, got "
            f"{first!r} for {second!r}"
        )
    period, rest = divmod(second.sync_period, first.sync_period)
    if rest or not first.fast_carries_slow:
        raise ValueError(
            "first must have a period that divides that of second and put the fast weights back, "
            f"got {first!r} for {second!r}"
        )
    if (second.inner_state, second.restart_period, second.start) != ("maintain", 1, 0):
        raise ValueError(
            "second must leave the inner state, the restart's period and the start to first, "
            f"got {second!r}"
        )
    return replace(first, outer=Nested(first.outer, second.outer, period, second.restart))
