"""Outer rules that average where gradients are taken: Schedule-Free, GPA and EMA-Nesterov.

Their papers hold two sets of weights, train at a point between or beyond them, and ship one of the
two. Here the slow weights are the point where gradients are taken, one slot is the difference of
the papers' two sets, and the read-out gives what is shipped. docs/theory.md derives the mapping.
The inner step must not depend on where it stands but through its gradient and its weight decay:
L-BFGS, and whatever else compares weights of several steps, is not for these rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from lookahead_core.leaves import each, in_precision_of, kind_of, zeros
from lookahead_core.namespace import device, namespace
from lookahead_core.outer import SyncContext
from lookahead_core.rule import SyncRule
from lookahead_core.settings import Scheduled, Setting, as_real
from lookahead_core.typing import Array, Count, Fraction, Leaves, Period, Slots
from lookahead_core.validation import below_one, finite, fraction, non_negative

__all__ = [
    "EmaNesterov",
    "PrimalAveraging",
    "RateWeights",
    "ema_nesterov",
    "gpa",
    "schedule_free",
]

MU_X = Setting("mu_x", fraction, "weight of the old average")
STEP_SIZE = Setting("step_size", finite, "how far ahead along the mean of the moves")


@dataclass(frozen=True)
class RateWeights:
    """Weights of the steps in the average by the inner learning rate: Schedule-Free's.

    weight of the n-th step = n**r * (largest inner learning rate so far)**power

    `PrimalAveraging` takes it in the place of a number for `mu_x`, which is then the weights before
    this step over those with it. Each leaf has the rate of its own parameter group. Where the rate
    is not to be known, `power=0` needs none, and is the same where the rate is constant.

    Parameters
    ----------
    power : float
        Of the learning rate, >= 0: steps of a warm-up count less. 0 asks for no rate.
    r : float
        Of the number of the step, >= 0: late steps count more.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Defazio et al. 2024, Algorithm 1, arXiv:2405.15682; `weight_lr_power` and `r` of `schedulefree`.

    Examples
    --------
    >>> RateWeights()
    RateWeights(power=2.0, r=0.0)
    """

    power: float = 2.0
    r: float = 0.0

    def __post_init__(self) -> None:
        for name in ("power", "r"):
            object.__setattr__(self, name, non_negative(name, getattr(self, name), "exponent"))

    def init(self, slow: Leaves) -> Slots:
        """One slot, of two numbers for each leaf: the sum of its weights, and its largest rate."""
        return (tuple(map(_two_numbers, slow)),)

    def after(self, slot: Leaves, context: SyncContext) -> tuple[Array | list[Array], Leaves]:
        """The mu_x of each leaf at this sync, if possible in one array, and the slot after it."""
        rates = context.inner_lr if self.power else [0.0] * len(slot)
        if rates is None:
            raise ValueError(f"inner_lr must be given to {self!r} (power=0 needs none), got None")
        grown = as_real(context.syncs + 1) ** self.r
        # Together: a leaf's own two numbers are little work, and many calls.
        if len(groups := _alike(slot)) == 1:
            return self._weighed(slot, rates, grown)
        moved: dict[int, tuple[Fraction, Array]] = {}
        for places in groups:
            own = [slot[i] for i in places], [rates[i] for i in places]
            mu_x, after = self._weighed(*own, grown)
            moved |= zip(places, zip(each(mu_x, len(places)), after, strict=True), strict=True)
        return [moved[i][0] for i in range(len(slot))], [moved[i][1] for i in range(len(slot))]

    def _weighed(
        self, slot: Leaves, rates: Sequence[Fraction], grown: Fraction
    ) -> tuple[Array, Leaves]:
        """The mu_x of leaves whose numbers are alike, and their two numbers after this step."""
        xp = namespace(*slot)
        numbers = xp.stack(slot)
        total, largest = numbers[:, 0], numbers[:, 1]
        rate = xp.zeros_like(largest) + _one_for_each(rates, slot)
        largest = xp.where(largest < rate, rate, largest)
        after = total + in_precision_of(total, grown) * largest**self.power
        # While all rates were zero there is nothing to average: the average stays.
        mu_x = xp.where(after > 0, total / xp.where(after > 0, after, 1.0), 1.0)
        both = xp.stack([after, largest], axis=1)
        return xp.astype(mu_x, numbers.dtype), xp.unstack(both)


class _Linear:
    """What the rules of this file share: `linear.move_linearly`, by four numbers of each rule."""

    leafwise: ClassVar[bool] = True
    unrounded: ClassVar[bool] = True

    def _numbers(self, state: Slots, context: SyncContext) -> tuple[tuple[Any, ...], Slots]:
        """decay, gain, ahead and behind at this sync, and the slots after the first."""
        raise NotImplementedError

    def update(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Slots]:
        """One sync: (slow', state'). Donates `slow` and the difference to the kernel."""
        numbers, others = self._numbers(state, context)
        slow, difference = context.kernel.linear(slow, fast, state[0], *numbers)
        return slow, (difference, *others)

    def update_both(
        self, slow: Leaves, fast: Leaves, state: Slots, context: SyncContext
    ) -> tuple[Leaves, Leaves, Slots]:
        """One sync that puts the fast weights back: (slow', fast', state'). Donates `fast` too."""
        numbers, others = self._numbers(state, context)
        move = cast(Callable[..., Any], context.kernel.linear_both)
        slow, difference, fast = move(slow, fast, state[0], *numbers)
        return slow, fast, (difference, *others)


@dataclass(frozen=True)
class PrimalAveraging(_Linear):
    """Train at a point between an average and the iterates that it is of; ship the average.

    The papers' lines, with z the iterates, x the average, and y where gradients are taken:
    y = mu_y * x + (1 - mu_y) * z; z' = z - step(y); x' = mu_x * x + (1 - mu_x) * z'.

    With y as the slow weights and D = x - z: D' = mu_x * (D + slow - fast);
    slow' = fast + mu_y * (D' - D). The read-out is x = slow + (1 - mu_y) * D.

    Parameters
    ----------
    mu_x : float, 0-d array, callable (syncs) -> float or 0-d array, or RateWeights
        Weight of the old average, in [0, 1]. 0 is the inner optimizer itself. A number is GPA's, a
        schedule like 1 - 1 / (syncs + 1), or `RateWeights`, Schedule-Free's.
    mu_y : float
        How near the average gradients are taken, in [0, 1]: 0 at the iterates, so that the average
        is one that training does not see; 1 at the average, which is the heavy ball.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    Use it with `sync_period=1`, as the papers do; with a longer one it is a method of its own. It
    keeps one difference for each leaf, and with `RateWeights` two numbers. The inner step must not
    depend on where it stands but through its gradient and its weight decay, so L-BFGS is not for
    it.

    References
    ----------
    Defazio et al. 2024, Schedule-Free, arXiv:2405.15682; GPA, arXiv:2512.17131.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core import SyncRule
    >>> rule = SyncRule(1, PrimalAveraging(mu_x=0.5, mu_y=0.5))
    >>> fast, state = [np.zeros(1)], rule.init([np.zeros(1)])
    >>> fast, _, state = rule.step([np.ones(1)], (), state)  # an inner step from 0 to 1
    >>> fast[0], rule.slow(fast, state)[0]
    (array([0.75]), array([0.5]))
    """

    mu_x: Scheduled | RateWeights = 0.9967
    mu_y: float = 0.7
    scheduled: ClassVar[tuple[str, ...]] = ("mu_x",)

    def __post_init__(self) -> None:
        if not isinstance(self.mu_x, RateWeights):
            object.__setattr__(self, "mu_x", MU_X.checked(self.mu_x))
        object.__setattr__(self, "mu_y", fraction("mu_y", self.mu_y, "nearness to the average"))

    @property
    def needs_inner_lr(self) -> bool:
        """Whether the weights of the steps go by the inner learning rate."""
        return isinstance(self.mu_x, RateWeights) and self.mu_x.power > 0

    def init(self, slow: Leaves) -> Slots:
        """The slot of the difference, and that of weights that go by the rate."""
        weights = self.mu_x.init(slow) if isinstance(self.mu_x, RateWeights) else ()
        return (zeros(slow), *weights)

    def _numbers(self, state: Slots, context: SyncContext) -> tuple[tuple[Any, ...], Slots]:
        if isinstance(self.mu_x, RateWeights):
            mu_x, weights = self.mu_x.after(state[1], context)
            return (mu_x, mu_x, self.mu_y, self.mu_y), (weights,)
        at = MU_X.at(self.mu_x, context.syncs)
        return (at, at, self.mu_y, self.mu_y), ()

    def readout(self, slow: Leaves, state: Slots, context: SyncContext) -> Leaves:
        """The average."""
        return _along(slow, state[0], 1 - self.mu_y)


@dataclass(frozen=True)
class EmaNesterov(_Linear):
    """Train ahead of the weights along the mean of their moves; ship the weights.

    The paper's lines: x' = x + step_size * m - step(x + step_size * m);
    m' = decay * m + (1 - decay) * (x' - x).

    With x + step_size * m as the slow weights: the move is step_size * m - (slow - fast), and
    slow' = fast + step_size' * m'. The read-out is x = slow - step_size * m.

    Parameters
    ----------
    step_size : float, 0-d array or callable, (syncs) -> float or 0-d array
        How far ahead, usually in [0, 1). A callable is a schedule of the number of syncs so far;
        the records that use it have zero in the warm-up and at the end.
    decay : float
        Of the mean of the moves, in [0, 1).

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    Use it with `sync_period=1`, as the paper does. Keeps one difference for each leaf. The inner
    step must not depend on where it stands but through its gradient and its weight decay, so L-BFGS
    is not for it.

    References
    ----------
    EMA-Nesterov 2026, arXiv:2605.25395.

    Examples
    --------
    >>> EmaNesterov()
    EmaNesterov(step_size=0.3, decay=0.99)
    """

    step_size: Scheduled = 0.3
    decay: float = 0.99
    scheduled: ClassVar[tuple[str, ...]] = ("step_size",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", STEP_SIZE.checked(self.step_size))
        object.__setattr__(self, "decay", below_one("decay", self.decay, "of the mean of moves"))

    def init(self, slow: Leaves) -> Slots:
        """One slot: the mean of the moves."""
        return (zeros(slow),)

    def _numbers(self, state: Slots, context: SyncContext) -> tuple[tuple[Any, ...], Slots]:
        step_size, fresh = STEP_SIZE.at(self.step_size, context.syncs), 1 - self.decay
        decay = self.decay + fresh * self._last(context.syncs)
        return (decay, -fresh, step_size, 0.0), ()

    def readout(self, slow: Leaves, state: Slots, context: SyncContext) -> Leaves:
        """The weights that the last sync went ahead of."""
        return _along(slow, state[0], -self._last(context.syncs))

    def _last(self, syncs: Count) -> Any:
        """The step size of the last sync; before the first one any will do, as the mean is zero."""
        return STEP_SIZE.at(self.step_size, abs(syncs - 1))


def schedule_free(
    beta: float = 0.9, weight_lr_power: float = 2.0, r: float = 0.0, sync_period: Period = 1
) -> SyncRule:
    """Schedule-Free: gradients at a point between the iterates and their average, which is shipped.

    y = beta * x + (1 - beta) * z; z' = z - step(y); x' = (1 - c) * x + c * z', where c is the part
    that this step's weight, n**r * (largest inner learning rate so far)**weight_lr_power, has of
    all weights so far. The model's weights are y, the read-out is x.

    Parameters
    ----------
    beta : float
        How near the average gradients are taken, in [0, 1]; the momentum of `SGDScheduleFree` and
        the first beta of `AdamWScheduleFree`. The inner optimizer has no momentum of its own: SGD
        without, AdamW with betas (0, 0.999).
    weight_lr_power : float
        How much less the steps of a warm-up count, >= 0. Where the inner learning rate is not to
        be known it is refused, and 0, the mean of all iterates, is the same but for the warm-up.
    r : float
        How much more late steps count, >= 0.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; with another than 1 this is a method of its own.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    A warm-up is the inner optimizer's: any schedule of its learning rate. The inner step must not
    depend on where it stands but through its gradient and its weight decay: no L-BFGS. A leaf
    without a gradient is one with a gradient of zero (clause C11); `schedulefree` passes it over.

    References
    ----------
    Defazio et al. 2024, Algorithm 1, arXiv:2405.15682; defaults of `schedulefree`.

    Examples
    --------
    >>> rule = schedule_free()
    >>> rule.sync_period, rule.outer
    (1, PrimalAveraging(mu_x=RateWeights(power=2.0, r=0.0), mu_y=0.9))
    """
    return SyncRule(sync_period, PrimalAveraging(RateWeights(weight_lr_power, r), beta))


def gpa(mu_x: Scheduled = 0.9967, mu_y: float = 0.7, sync_period: Period = 1) -> SyncRule:
    """GPA: gradients at a point between the iterates and a moving average, which is shipped.

    y = mu_y * x + (1 - mu_y) * z; z' = z - step(y); x' = mu_x * x + (1 - mu_x) * z'. The model's
    weights are y, the read-out is x.

    Parameters
    ----------
    mu_x : float, 0-d array or callable, (syncs) -> float or 0-d array
        Weight of the old average, in [0, 1]; 0.9**(1 / H) stands for DiLoCo's momentum of 0.9 at
        every H steps, and the default for H = 32.
    mu_y : float
        How near the average gradients are taken, in [0, 1].
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; with another than 1 this is a method of its own.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    The inner step must not depend on where it stands but through its gradient and its weight decay:
    no L-BFGS. Its momentum stays: the paper's inner optimizer is AdamW.

    References
    ----------
    GPA, Generalized Primal Averaging, 2025, arXiv:2512.17131; defaults of its code,
    facebookresearch/optimizers.

    Examples
    --------
    >>> rule = gpa()
    >>> rule.sync_period, rule.outer
    (1, PrimalAveraging(mu_x=0.9967, mu_y=0.7))
    """
    return SyncRule(sync_period, PrimalAveraging(mu_x, mu_y))


def ema_nesterov(
    step_size: Scheduled = 0.3, decay: float = 0.99, sync_period: Period = 1
) -> SyncRule:
    """EMA-Nesterov: gradients ahead of the weights, along the mean of their moves.

    y = x + step_size * m; x' = y - step(y); m' = decay * m + (1 - decay) * (x' - x). The model's
    weights are y, the read-out is x.

    Parameters
    ----------
    step_size : float, 0-d array or callable, (syncs) -> float or 0-d array
        How far ahead. A schedule of the syncs so far may follow the learning rate, with zero in its
        warm-up and at its end, as in the records that use it; these have 0.3 and 0.6 between.
    decay : float
        Of the mean of the moves, in [0, 1).
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; with another than 1 this is a method of its own.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    The inner step must not depend on where it stands but through its gradient and its weight decay:
    no L-BFGS.

    References
    ----------
    EMA-Nesterov 2026, arXiv:2605.25395; numbers of the modded-nanogpt records #308 and #309.

    Examples
    --------
    >>> rule = ema_nesterov()
    >>> rule.sync_period, rule.outer
    (1, EmaNesterov(step_size=0.3, decay=0.99))
    """
    return SyncRule(sync_period, EmaNesterov(step_size, decay))


def _along(slow: Leaves, difference: Leaves, part: Any) -> Leaves:
    """`slow`, and a part of `difference` more, in the dtypes of `slow`."""
    pairs = zip(slow, difference, strict=True)
    return tuple(
        namespace(s).astype(s + in_precision_of(s, part) * d, s.dtype, copy=False) for s, d in pairs
    )


def _two_numbers(leaf: Array) -> Array:
    """Two zeros beside a leaf, real, and in float32 or wider: small numbers are summed in it."""
    xp = namespace(leaf)
    real = xp.real(leaf) if kind_of(leaf.dtype) == "complex" else leaf
    return xp.zeros(2, dtype=xp.result_type(real.dtype, xp.float32), device=device(leaf))


def _alike(slot: Leaves) -> list[list[int]]:
    """The places of the leaves that can be stacked: of one dtype on one device."""
    found: dict[Any, list[int]] = {}
    for index, leaf in enumerate(slot):
        # Not namespace.device: a profile of many small leaves showed what it looks up for each.
        found.setdefault((leaf.dtype, getattr(leaf, "device", None)), []).append(index)
    return [*found.values()]


def _one_for_each(rates: Sequence[Fraction], slot: Leaves) -> Fraction:
    """The rates of the leaves as one array, or as one number where they have the same."""
    if all(rate is rates[0] for rate in rates):
        return in_precision_of(slot[0], rates[0])
    xp = namespace(*slot)
    if all(type(rate) is float for rate in rates):
        return xp.asarray(rates, dtype=slot[0].dtype, device=device(slot[0]))
    zero = xp.zeros_like(slot[0][0])
    own = [zero + in_precision_of(leaf, rate) for leaf, rate in zip(slot, rates, strict=True)]
    return xp.stack(own)
