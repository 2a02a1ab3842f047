"""The adaptive alpha of the paper: where the quadratic model is smallest between slow and fast.

With d = slow - fast, g the gradient at the fast weights and A the curvature,

    alpha* = (slow - best)' A d / d' A d,  best = fast - A^-1 g      Zhang et al. 2019, Prop. 1
           = 1 + <g, d> / <d, A d>                                   the inverse cancels

A need not be known: on a quadratic A d is the difference of the gradients at both ends,

    alpha* = 1 + <g, d> / <first - g, d>                             the secant form

One number for all leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lookahead_core.leaves import copied, inner_product, zeros
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Leaves, Slots
from lookahead_core.validation import fraction

__all__ = ["AdaptiveAlpha"]


@dataclass(frozen=True)
class AdaptiveAlpha:
    """An alpha that each sync estimates: `Interpolate(alpha=AdaptiveAlpha())`.

    Around Adam the estimate is nearly always clipped to 1, which is Adam itself: it is off by
    default for that reason, and no headline (docs/family.md).

    Parameters
    ----------
    low : float
        The estimate is clipped to [low, 1]; above 0, says the paper, for stability.
    curvature : {"secant", "inner"} or callable, (direction) -> sequence of arrays
        "secant" needs no curvature, and keeps the first gradient of each cycle, one array a leaf.
        "inner" takes the diagonal that the inner optimizer has (Adam's: the root of the corrected
        second moment). A callable gives A d for the leaves d.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    Products are added up in float32 or wider, and nothing is read by the host: the estimate is a
    0-d array. The gradient is that of the last inner step, taken before it moved the weights.
    Where the curvature along the way is not positive, alpha is 1.

    References
    ----------
    Zhang et al. 2019, Proposition 1 and section 3.1, arXiv:1907.08610.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive = AdaptiveAlpha(low=0.1, curvature=lambda d: [np.asarray([1.0, 3.0]) * d[0]])
    >>> slow, fast = [np.asarray([1.0, 1.0])], [np.asarray([0.5, -0.5])]
    >>> gradient = [np.asarray([0.5, -1.5])]  # of (x**2 + 3 * y**2) / 2 at the fast weights
    >>> round(float(adaptive.estimate(slow, fast, (), gradient, None)), 6)
    0.714286
    """

    low: float = 0.1
    curvature: str | Callable[[Leaves], Leaves] = "secant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", fraction("low", self.low, "least alpha"))
        if not (callable(self.curvature) or self.curvature in ("secant", "inner")):
            raise ValueError(
                f"curvature must be 'secant', 'inner' or a callable, got {self.curvature!r}"
            )

    def init(self, slow: Leaves) -> Slots:
        """One slot for the secant form: the first gradient of the cycle."""
        return (zeros(slow),) if self.curvature == "secant" else ()

    def watch(self, state: Slots, gradient: Leaves | None) -> Slots:
        """Keep the gradient of the first inner step of a cycle, if the form needs it."""
        if self.curvature != "secant":
            return state
        pairs = zip(state[0], self._given("gradient", gradient), strict=True)
        return (tuple(copied(g, kept.dtype) for kept, g in pairs),)

    def estimate(
        self,
        slow: Leaves,
        fast: Leaves,
        state: Slots,
        gradient: Leaves | None,
        curvature: Leaves | None,
    ) -> Array:
        """The alpha of this sync, a 0-d array.

        Parameters
        ----------
        slow, fast : sequence of arrays
            Weights before the sync; at least one leaf.
        state : sequence of slots
            From `init` and `watch`.
        gradient : sequence of arrays
            Gradient of the last inner step.
        curvature : sequence of arrays or None
            Diagonal of the inner optimizer's, for the form that needs it.

        Raises
        ------
        ValueError
            If `gradient` or `curvature` is needed and None, or there is no leaf.
        """
        if not slow:
            raise ValueError("an adaptive alpha needs at least one floating leaf, got none")
        gradient = self._given("gradient", gradient)
        way = [copied(s) - copied(f, s.dtype) for s, f in zip(slow, fast, strict=True)]
        if callable(self.curvature):
            curved = self.curvature(way)
        elif self.curvature == "inner":
            diagonal = self._given("curvature", curvature)
            curved = [a * d for a, d in zip(diagonal, way, strict=True)]
        else:
            curved = [f - copied(g, f.dtype) for f, g in zip(state[0], gradient, strict=True)]
        slope, bend = inner_product(gradient, way), inner_product(curved, way)
        xp = namespace(bend)
        straight = xp.ones_like(bend)
        bent = bend > 0
        alpha = 1 + slope / xp.where(bent, bend, straight)
        alpha = xp.where(alpha < self.low, straight * self.low, alpha)
        return xp.where(bent & (alpha < 1), alpha, straight)

    def _given(self, name: str, leaves: Leaves | None) -> Leaves:
        if leaves is None:
            raise ValueError(
                f"{name} must be given to a sync with AdaptiveAlpha(curvature={self.curvature!r}),"
                " got None"
            )
        return leaves
