"""Outer rules: how the slow weights move at a sync.

A rule is a pair of pure functions on sequences of leaves: `init(slow)` and
`update(slow, fast, state, kernel)`. Every rule here commutes with translation (clause C21), so
adapters may call it on weights or on updates. No schedule, no counter, no inner state: those are
schedule.py and inner_state.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lookahead_core.kernel import Kernel, move_toward
from lookahead_core.typing import Count, Fraction, Leaves
from lookahead_core.validation import fraction

__all__ = ["Interpolate"]


@dataclass(frozen=True)
class Interpolate:
    """Move the slow weights the fraction `alpha` of the way to the fast ones: Lookahead's rule.

    slow' = slow + alpha * (fast - slow), computed as in `interpolate`.

    Parameters
    ----------
    alpha : float, 0-d array or callable, (syncs) -> float or 0-d array
        Fraction of the way in [0, 1]; 1 is the inner optimizer itself (clause C09), 0 never moves.
        An array may be traced, so its value cannot be checked and is taken as it is; a callable is
        a schedule of the number of syncs so far (clause C51).

    Raises
    ------
    ValueError
        If `alpha` is a number that is not in [0, 1], or nothing of the above.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> Interpolate(alpha=0.8)
    Interpolate(alpha=0.8)
    >>> Interpolate(lambda syncs: 1 / (1 + syncs)).at(3)
    Interpolate(alpha=0.25)
    """

    alpha: Fraction | Callable[[Count], Fraction] = 0.5

    def __post_init__(self) -> None:
        if not callable(self.alpha):
            alpha = fraction("alpha", self.alpha, "how far the slow weights move at a sync")
            object.__setattr__(self, "alpha", alpha)

    def init(self, slow: Leaves) -> Leaves:
        """Leaves of state for the slow weights `slow`: none."""
        return ()

    def at(self, syncs: Count) -> "Interpolate":
        """This rule for the sync that follows `syncs` others: a schedule becomes its value."""
        return replace(self, alpha=self.alpha(syncs)) if callable(self.alpha) else self

    def update(
        self, slow: Leaves, fast: Leaves, state: Leaves, kernel: Kernel
    ) -> tuple[Leaves, Leaves, Leaves]:
        """One sync: (slow', fast', state'). Donates `slow` and `fast` to the kernel."""
        slow, fast = move_toward(slow, fast, self.alpha, kernel)
        return slow, fast, state
