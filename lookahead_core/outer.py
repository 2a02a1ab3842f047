"""Outer rules: how the slow weights move at a sync.

A rule is a pair of pure functions on sequences of leaves, `init` and `update`; anything that has
them is one. No counter, no inner state, and not what the fast weights do: those are schedule.py,
inner_state.py and rule.py. The formulas are interpolation.py and momentum.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from lookahead_core.adaptive import AdaptiveAlpha
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel
from lookahead_core.leaves import zeros
from lookahead_core.namespace import namespace
from lookahead_core.settings import Scheduled, Setting
from lookahead_core.typing import Count, Fraction, Leaves, Slots
from lookahead_core.validation import below_one, boolean, fraction, non_negative

__all__ = ["Interpolate", "Momentum", "OuterRule", "SyncContext"]

ALPHA = Setting("alpha", fraction, "how far the slow weights move at a sync")
LR = Setting("lr", non_negative, "outer learning rate")
MOMENTUM = Setting("momentum", below_one, "outer momentum")


class SyncContext(NamedTuple):
    """What a sync knows beside the weights.

    Attributes
    ----------
    syncs : int or 0-d integer array
        Syncs before this one.
    kernel : Kernel
        How the arithmetic runs. A rule need not use it.
    gradient : sequence of arrays, or None
        Gradient of the last inner step, leaf by leaf like the slow weights.
    curvature : sequence of arrays, or None
        Diagonal of the curvature that the inner optimizer knows, in the same way.
    inner_lr : sequence of float or 0-d array, or None
        Learning rate of the last inner step, one for each leaf.
    """

    syncs: Count = 0
    kernel: Kernel = REFERENCE_KERNEL
    gradient: Leaves | None = None
    curvature: Leaves | None = None
    inner_lr: Sequence[Fraction] | None = None


class OuterRule(Protocol):
    """What a rule of your own must have: `init` and `update`, both pure.

    Its state is a sequence of *slots*: each slot holds one array for each leaf of `slow`, so that
    an adapter can keep, move and save it beside the parameter that it belongs to. The rule gets
    floating and complex leaves only, and must commute with translation, its state included (clause
    C21): keep differences of weights, never weights.

    Notes
    -----
    Where a rule has them, more is used. Methods: `fraction(slow, fast, state, context)` tells which
    part of the way this sync goes, in [0, 1], and `inner_state="interpolate"` needs it;
    `readout(slow, state, context)` gives the weights to evaluate and to ship, where these are not
    the slow ones; of its context only the syncs so far are known; `update_both` is `update` and the
    copy to the fast weights, where these go back whole and have the dtype of the slow ones: it is
    donated `fast` too, returns (slow', fast', state'), and is called in the place of `update` where
    the kernel writes both in one pass over memory. Attributes that are True: with `needs_gradient`,
    `context.gradient` is given, and `watch(state, gradient)` gets the gradient of the first inner
    step of each cycle and returns the state; with `needs_curvature`,
    `context.curvature` is given, and with `needs_inner_lr`, `context.inner_lr`; with `unrounded`,
    `fast` is `slow` and what the inner steps did, where the fast weights are in a narrower dtype;
    `leafwise` promises that each leaf moves by itself, and by the kernel alone; `interpolates`,
    that `update` is the interpolation by `fraction` and nothing else. An attribute `alpha` may be
    overridden for a part of the leaves. An attribute `repeats_after`: syncs after which a rule that
    looks at their number does the same. An attribute `scheduled`: the names of its fields that may
    be schedules of the syncs, or rules with such, whose numbers many workers compare. An attribute
    `momentum_slot`: which slot is a sum of the last pseudo-gradients, to compare with the next one
    (clause C91).

    Examples
    --------
    An outer rule that moves by the sign of the pseudo-gradient, and a run of it:

    >>> import numpy as np
    >>> from lookahead_core import SyncRule
    >>> class Sign:
    ...     def init(self, slow):
    ...         return ()
    ...
    ...     def update(self, slow, fast, state, context):
    ...         return [s + 0.1 * np.sign(f - s) for s, f in zip(slow, fast)], state
    >>> rule = SyncRule(sync_period=1, outer=Sign())
    >>> state = rule.init([np.zeros(2)])
    >>> fast, _, state = rule.step([np.asarray([3.0, -4.0])], (), state)
    >>> fast[0]
    array([ 0.1, -0.1])
    """

    def init(self, slow: Leaves) -> Slots:
        """Slots of state before the first sync; as many for no leaves as for any."""

    def update(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Slots]:
        """One sync: (slow', state'). `slow` and `state` are donated, `fast` is only read."""


@dataclass(frozen=True)
class Interpolate:
    """Move the slow weights the fraction `alpha` of the way to the fast ones: Lookahead's rule.

    slow' = slow + alpha * (fast - slow), computed as in `interpolate`.

    Parameters
    ----------
    alpha : float, 0-d array, callable (syncs) -> float or 0-d array, or AdaptiveAlpha
        Fraction of the way in [0, 1]; 1 is the inner optimizer itself (clause C09), 0 never moves.
        An array may be traced, so its value cannot be checked and is taken as it is; a callable is
        a schedule of the number of syncs so far (clause C51); `AdaptiveAlpha` estimates it.

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
    """

    alpha: Scheduled | AdaptiveAlpha = 0.5
    interpolates: ClassVar[bool] = True
    scheduled: ClassVar[tuple[str, ...]] = ("alpha",)

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, AdaptiveAlpha):
            object.__setattr__(self, "alpha", ALPHA.checked(self.alpha))

    @property
    def leafwise(self) -> bool:
        """Whether no leaf needs the others: an estimated alpha is one number for all of them."""
        return not self.needs_gradient

    @property
    def needs_gradient(self) -> bool:
        """Whether alpha is estimated from gradients."""
        return isinstance(self.alpha, AdaptiveAlpha)

    @property
    def needs_curvature(self) -> bool:
        """Whether alpha is estimated from the inner optimizer's curvature."""
        return isinstance(self.alpha, AdaptiveAlpha) and self.alpha.curvature == "inner"

    def init(self, slow: Leaves) -> Slots:
        """No state, but what an adaptive alpha keeps."""
        return self.alpha.init(slow) if isinstance(self.alpha, AdaptiveAlpha) else ()

    def watch(self, state: Slots, gradient: Leaves | None) -> Slots:
        """For an adaptive alpha: the first gradient of a cycle."""
        return self.alpha.watch(state, gradient) if isinstance(self.alpha, AdaptiveAlpha) else state

    def fraction(self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext) -> Fraction:
        """The alpha of this sync: a schedule becomes its value, an estimate is made."""
        if isinstance(self.alpha, AdaptiveAlpha):
            return self.alpha.estimate(slow, fast, state, context.gradient, context.curvature)
        return ALPHA.at(self.alpha, context.syncs)

    def update(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Slots]:
        """One sync: (slow', state'). Donates `slow` to the kernel."""
        alpha = self.fraction(slow, fast, state, context)
        return context.kernel.move(slow, fast, alpha), state


@dataclass(frozen=True)
class Momentum:
    """Move the slow weights by SGD with momentum on the pseudo-gradient, slow - fast.

    buffer' = momentum * buffer + (slow - fast); slow' = slow - lr * buffer', or with `nesterov`
    slow' = slow - lr * (slow - fast + momentum * buffer').

    Parameters
    ----------
    lr : float, 0-d array or callable, (syncs) -> float or 0-d array
        Outer learning rate, >= 0 and perhaps above 1. With momentum 0 it is the alpha of
        Lookahead. An array is not checked; a callable is a schedule of the syncs so far.
    momentum : float, 0-d array or callable
        In [0, 1); as `lr` otherwise.
    nesterov : bool
        Look ahead along the buffer. The heavy ball otherwise.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    The buffer is kept in the dtype of the slow weights, one for each leaf. In the long run the slow
    weights move at lr / (1 - momentum) times the pace of the inner optimizer; so does their
    variance in flat directions: this is an accelerator, not an average.

    References
    ----------
    Wang et al. 2020, SlowMo, arXiv:1910.00643; Douillard et al. 2023, DiLoCo, arXiv:2311.08105. The
    form of the update is that of torch.optim.SGD.

    Examples
    --------
    >>> Momentum(lr=0.7, momentum=0.9)
    Momentum(lr=0.7, momentum=0.9, nesterov=True)
    """

    lr: Scheduled = 0.7
    momentum: Scheduled = 0.9
    nesterov: bool = True
    leafwise: ClassVar[bool] = True
    momentum_slot: ClassVar[int] = 0
    scheduled: ClassVar[tuple[str, ...]] = ("lr", "momentum")

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", LR.checked(self.lr))
        object.__setattr__(self, "momentum", MOMENTUM.checked(self.momentum))
        boolean("nesterov", self.nesterov, "look ahead along the buffer")

    def init(self, slow: Leaves) -> Slots:
        """One slot: the momentum buffer."""
        return (zeros(slow),)

    def fraction(self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext) -> Fraction:
        """How much of its own pseudo-gradient this sync moves by, at most all of it."""
        lr, momentum = LR.at(self.lr, context.syncs), MOMENTUM.at(self.momentum, context.syncs)
        way = lr * (1 + momentum) if self.nesterov else lr
        if isinstance(way, float):
            return min(way, 1.0)
        xp = namespace(way)
        return xp.where(way < 1, way, xp.ones_like(way))

    def update(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Slots]:
        """One sync: (slow', (buffer',)). Donates `slow` and the buffer to the kernel."""
        lr, momentum = LR.at(self.lr, context.syncs), MOMENTUM.at(self.momentum, context.syncs)
        (buffer,) = state
        slow, buffer = context.kernel.momentum(slow, fast, buffer, lr, momentum, self.nesterov)
        return slow, (buffer,)
