"""The sync rule: what begins a cycle, what a sync does to weights and inner state.

Everything is pure: state in, state out. How slow weights move is outer.py, what happens to the
inner state is inner_state.py, when a cycle begins and ends is schedule.py, and how the arithmetic
runs is kernel.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from lookahead_core import schedule as clock
from lookahead_core.inner_state import POLICIES
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel, anchor_leaves, live_copies
from lookahead_core.leaves import (
    averaged,
    check_arrays,
    check_match,
    chosen,
    each,
    merged,
    unrounded,
    widened,
)
from lookahead_core.outer import Interpolate, OuterRule, SyncContext
from lookahead_core.own_rule import check_outer, check_slots, check_updated
from lookahead_core.schedule import INT32_MAX, selected, where
from lookahead_core.state import SyncState, check_state
from lookahead_core.typing import Array, Count, DType, Fraction, Leaves, Period, Slots
from lookahead_core.validation import fraction, non_negative_int, one_of, positive_int
from lookahead_core.workers import Average, check_alike, seen_by_all

__all__ = ["SyncRule", "check_rule"]

Synced = tuple[Leaves, Leaves, SyncState]


@dataclass(frozen=True)
class SyncRule:
    """When to sync, how the slow weights move, what the fast weights do, and the inner state.

    `fast` and `inner` are flat sequences of arrays throughout: the weights that the inner
    optimizer moves, and its own moments and counts (`inner` may be empty). With the default
    kernel nothing is changed in place; another kernel may overwrite `fast`, `inner` and the
    arrays of `state` at a sync, so rebind all three and never read the old ones again.

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int or 0-d integer array
        Inner steps between syncs, k >= 1. A callable is a schedule of the number of syncs so far:
        the length of the cycle that follows them (clause C90), `PostLocal` for one. The same
        number of syncs is to give the same length, because it is asked for at every step.
    outer : OuterRule
        How the slow weights move: `Interpolate`, `Momentum`, or one of your own.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state, where it puts the fast weights back. `interpolate`
        needs an outer rule with a fraction of the way, and fast weights put back at every sync.
    restart : float
        How far the fast weights go back to the slow ones after a sync, in [0, 1]: 1 is Lookahead, 0
        leaves them alone, so that the slow ones are an average that nothing feeds on.
    restart_period : int
        Syncs between two that put the fast weights back, >= 1.
    start : int
        Inner steps before the first cycle, >= 0. The slow weights are taken from the fast ones
        there, and the slow copy of the inner state; until then they are the fast ones, and a sync
        that is forced moves nothing (clause C73).

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import numpy as np
    >>> rule = SyncRule(sync_period=2, outer=Interpolate(0.5))
    >>> fast, inner = [np.asarray([0.0])], []
    >>> state = rule.init(fast, inner)
    >>> for _ in range(2):
    ...     state = rule.begin(fast, inner, state)
    ...     fast = [leaf - 1.0 for leaf in fast]  # the inner optimizer: any step of yours
    ...     fast, inner, state = rule.step(fast, inner, state)
    >>> fast[0], state.count, state.syncs
    (array([-1.]), 0, 1)
    """

    sync_period: Period = 5
    outer: OuterRule = field(default_factory=Interpolate)
    inner_state: str = "maintain"
    restart: float = 1.0
    restart_period: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        check_outer(self.outer)
        one_of("inner_state", self.inner_state, tuple(POLICIES))
        checks = {
            "sync_period": (positive_int, "inner steps between syncs"),
            "restart": (fraction, "how far the fast weights go back after a sync"),
            "restart_period": (positive_int, "syncs between restarts"),
            "start": (non_negative_int, "inner steps before the first cycle"),
        }
        if callable(self.sync_period):  # what it gives is checked when it is used
            del checks["sync_period"]
        for name, (check, meaning) in checks.items():
            object.__setattr__(self, name, check(name, getattr(self, name), meaning))
        self._check_inner_state()

    def _check_inner_state(self) -> None:
        policy = self.inner_state
        if policy != "maintain" and self.restart == 0:
            raise ValueError(
                f"inner_state must be 'maintain' with restart=0 (no sync puts the fast weights "
                f"back), got {policy!r}"
            )
        if policy == "interpolate" and not (
            self.fast_carries_slow and hasattr(self.outer, "fraction")
        ):
            raise ValueError(
                "inner_state='interpolate' needs restart=1, restart_period=1 and an outer rule "
                f"with a fraction of the way, got {self!r}"
            )

    @property
    def fast_carries_slow(self) -> bool:
        """Whether each sync puts the fast weights back onto the slow ones, whole.

        Between two cycles the fast weights are the slow ones then, and the next cycle takes them
        from there (clause C26). Else the slow weights are what the last sync left, whatever the
        fast ones are.
        """
        return self.restart == 1 and self.restart_period == 1

    @property
    def leafwise(self) -> bool:
        """Whether each leaf moves by itself, and by what the kernel does alone.

        Leaves may be given one at a time then. Other outer rules get all of a part's together.
        """
        return bool(getattr(self.outer, "leafwise", False))

    @property
    def interpolates(self) -> bool:
        """Whether a sync is Lookahead's: one interpolation, and the fast weights put back.

        A kernel moves both copies at once then, and reads and writes each of them once.
        """
        return bool(getattr(self.outer, "interpolates", False)) and self.fast_carries_slow

    @property
    def numberwise(self) -> bool:
        """Whether each number moves by itself, by what the kernel does alone, and is told nothing.

        Leaves may be cut into pieces or laid end to end then.
        """
        told = self.unrounded or self.needs_gradient or self.needs_curvature or self.needs_inner_lr
        return self.leafwise and not told

    @property
    def unrounded(self) -> bool:
        """Whether the outer rule sees the inner steps as if the fast weights had been as wide."""
        return bool(getattr(self.outer, "unrounded", False))

    @property
    def needs_gradient(self) -> bool:
        """Whether the outer rule asks for gradients; `step` and `sync` must be given them then."""
        return bool(getattr(self.outer, "needs_gradient", False))

    @property
    def needs_curvature(self) -> bool:
        """Whether it asks for the curvature that the inner optimizer has; likewise."""
        return bool(getattr(self.outer, "needs_curvature", False))

    @property
    def needs_inner_lr(self) -> bool:
        """Whether it asks for the learning rate of the inner optimizer; likewise."""
        return bool(getattr(self.outer, "needs_inner_lr", False))

    @property
    def has_readout(self) -> bool:
        """Whether the weights to evaluate are others than the slow ones (`OuterRule`)."""
        return hasattr(self.outer, "readout")

    @property
    def repeats_after(self) -> int:
        """Syncs after which what is done at some of them alone comes round again."""
        return self.restart_period * int(getattr(self.outer, "repeats_after", 1))

    def check_counts(self) -> None:
        """ValueError for numbers that an int32 cannot count to: for adapters that have such."""
        numbers = {name: getattr(self, name) for name in ("sync_period", "restart_period", "start")}
        numbers["syncs of the first rule between two of the second"] = self.repeats_after
        for name, number in numbers.items():
            if not callable(number) and number > INT32_MAX:
                raise ValueError(
                    f"{name} must be at most {INT32_MAX}, as far as an int32 counts, got {number}"
                )

    def with_alpha(self, alpha: Any) -> "SyncRule":
        """The same rule with another alpha.

        Parameters
        ----------
        alpha : float, 0-d array, callable (syncs) -> float or 0-d array, or AdaptiveAlpha
            As of `Interpolate`.

        Raises
        ------
        ValueError
            If the outer rule has no alpha, or this one is out of range.
        """
        if not hasattr(self.outer, "alpha"):
            raise ValueError(f"alpha needs an outer rule that has one, got {self.outer!r}")
        return replace(self, outer=replace(cast(Any, self.outer), alpha=alpha))

    def init(
        self,
        fast: Leaves,
        inner: Leaves = (),
        *,
        count: Count = 0,
        slow_dtype: DType | None = None,
    ) -> SyncState:
        """Start: the slow weights are a copy of `fast` (clause C01).

        Parameters
        ----------
        fast, inner : sequence of arrays
            Weights and inner state before the first inner step.
        count : int or 0-d integer array, equal to 0
            The counter to use; it begins `start` below. A Python int branches: k - 1 of k steps
            touch no array. An array selects: works under jit, vmap and scan, and reads every array
            at every step.
        slow_dtype : dtype, optional
            Keep floating slow weights in this dtype where it is wider than the leaf's own: in
            bfloat16 a small move is rounded away (clause C15).

        Raises
        ------
        ValueError
            If `fast` or `inner` is no sequence of arrays, or the outer rule gives no state.
        """
        check_arrays("fast", fast)
        slow = tuple(widened(leaf, slow_dtype) for leaf in fast)
        inner_slow = POLICIES[self.inner_state].init(inner)
        moving = chosen(slow, averaged(slow))
        outer = self.outer.init(moving)
        check_slots(outer, len(moving))
        return SyncState(slow, count - self.start, count * 0, outer, inner_slow)

    def begin(
        self, fast: Leaves, inner: Leaves, state: SyncState, *, kernel: Kernel = REFERENCE_KERNEL
    ) -> SyncState:
        """Take what a cycle starts from, if the next inner step is the first of one.

        Call it before every inner step; at the others it touches no array. The slow weights are
        taken from `fast`, so that weights which were loaded or edited since the last sync are
        honoured (clause C26), and the slow copy of the inner state from `inner` (clause C18). Where
        a sync does not put the fast weights back whole, the first cycle alone takes them.

        Parameters
        ----------
        fast, inner : sequence of arrays
            Weights and inner state before the inner step.
        state : SyncState
            What `init` or the last call returned; what it takes anew is donated to `kernel`.
        kernel : Kernel, optional
            How the arithmetic runs.

        Returns
        -------
        SyncState

        Raises
        ------
        ValueError
            If `fast` does not match `state` in number or shape, or `state` is not one; nothing has
            been changed.
        """
        check_state(state)
        return self._taken(clock.begins(state.count), fast, inner, state, kernel)

    def takes(self, state: SyncState) -> bool | Array:
        """Whether `begin` would take anything now; a 0-d bool array if the counter is an array.

        For loops that branch by themselves, as `due` is: where it holds, `begin` with the counters
        at 0 takes without selecting.
        """
        return self._takes(clock.begins(state.count), state)

    def _takes(self, first: bool | Array, state: SyncState) -> bool | Array:
        """`first`, but where a sync does not put the fast weights back whole only at the start."""
        if first is False or self.fast_carries_slow:
            return first
        return (state.syncs == 0) & first  # MLX has no `True & array`

    def _taken(
        self,
        first: bool | Array,
        fast: Leaves,
        inner: Leaves | None,
        state: SyncState,
        kernel: Kernel,
    ) -> SyncState:
        """The slow weights and the slow copy of the inner state from the live ones, if `first`."""
        first = self._takes(first, state)
        if first is False:
            return state
        check_match("fast", fast, "state.slow", state.slow)
        # A selection reads the old ones too: nothing may be overwritten.
        kernel = kernel if first is True else REFERENCE_KERNEL
        inner_slow = state.inner_slow
        if inner is not None:
            inner_slow = POLICIES[self.inner_state].begin(inner, inner_slow, kernel)
        taken = kernel.anchor(state.slow, fast), inner_slow
        slow, inner_slow = selected(first, taken, (state.slow, state.inner_slow))
        return state._replace(slow=slow, inner_slow=inner_slow)

    def step(
        self,
        fast: Leaves,
        inner: Leaves,
        state: SyncState,
        *,
        kernel: Kernel = REFERENCE_KERNEL,
        initial: Leaves | None = None,
        gradient: Leaves | None = None,
        curvature: Leaves | None = None,
        inner_lr: Sequence[Fraction] | Fraction | None = None,
        average: Average | None = None,
    ) -> Synced:
        """Count one applied inner step; sync if it is the sync_period-th (clause C02).

        Call it after every inner step that changed `fast`, and after no other (clause C03).
        Parameters and result are those of `sync`.
        """
        check_state(state)
        state = self.watch(state, gradient)
        count, due = clock.advance(state.count, self.period(state), state.phase)
        evidence: Any = {"initial": initial, "gradient": gradient, "curvature": curvature}
        evidence |= {"inner_lr": inner_lr, "average": average}
        if due is True:
            return self.sync(fast, inner, state, kernel=kernel, **evidence)
        passed = state._replace(count=count)
        if self.start:  # for loops that do not call `begin`
            passed = self.begin(fast, inner, passed, kernel=kernel)
        if due is False:
            return fast, inner, passed
        if kernel is not REFERENCE_KERNEL:
            raise ValueError(
                "kernel must be REFERENCE_KERNEL when state.count is an array: both outcomes are "
                "computed and one is selected, so no array may be overwritten"
            )
        synced = self.sync(fast, inner, state, **evidence)
        return _select(due, synced, (fast, inner, passed))

    def period(self, state: SyncState) -> Count:
        """Inner steps of the cycle that `state` is in, or that comes next (clause C90).

        Its `phase` is not taken off. A 0-d array if the period is a schedule that gives one.
        """
        return clock.length(self.sync_period, state.syncs, state.count)

    def due(self, state: SyncState) -> bool | Array:
        """Whether the next `step` will sync; a 0-d bool array if the counter is an array."""
        return clock.advance(state.count, self.period(state), state.phase)[1]

    def count_step(self, state: SyncState) -> SyncState:
        """Count one applied inner step that is known not to be `due`; touches no other array.

        For loops that branch by themselves: `step` does this itself, but with an array as the
        counter it computes a sync at every step. `jax.lax.cond(rule.due(state), ...)` chooses
        between `sync` and this one, which selects nothing.
        """
        count = clock.one_more(state.count)
        return SyncState(state.slow, count, *state[2:])  # a third of `_replace`'s time

    def puts_back(self, state: SyncState) -> bool | Array:
        """Whether a sync now would put the fast weights back; a 0-d bool array likewise."""
        return clock.every(self.restart_period, state.syncs) if self.restart else False

    def sync(
        self,
        fast: Leaves,
        inner: Leaves,
        state: SyncState,
        *,
        kernel: Kernel = REFERENCE_KERNEL,
        initial: Leaves | None = None,
        gradient: Leaves | None = None,
        curvature: Leaves | None = None,
        inner_lr: Sequence[Fraction] | Fraction | None = None,
        average: Average | Leaves | None = None,
    ) -> Synced:
        """Sync now, whatever the counter says, and start it again (clause C05).

        Parameters
        ----------
        fast, inner : sequence of arrays
            Weights and inner state after the inner step; donated to `kernel`.
        state : SyncState
            What `init` or the last call returned; donated to `kernel`.
        kernel : Kernel, optional
            How the arithmetic runs.
        initial : sequence of arrays, optional
            Inner state to go back to under `inner_state="reset"`; zeros if not given.
        gradient : sequence of arrays, optional
            Gradient of the last inner step, like `fast`; for an outer rule that asks for it.
        curvature : sequence of arrays, optional
            Diagonal of the curvature that the inner optimizer has, like `fast`; likewise.
        inner_lr : float or 0-d array, or sequence of one for each leaf, optional
            Learning rate of the last inner step; likewise.
        average : callable, (leaves) -> leaves, or sequence of arrays, optional
            Mean over workers that have the same slow weights, of slow - fast of the averaged
            leaves, in float32 or wider: the outer rule sees slow less that mean (clause C81).
            With an array counter it is called at every step. May overwrite what it gets. Or that
            mean itself, where it is there already.

        Returns
        -------
        fast, inner, state
            As after the sync.

        Raises
        ------
        ValueError
            If `fast`, `inner` or `initial` does not match `state` in number or shape, a schedule of
            alpha gives a number that is not in [0, 1], or `average` is given to a rule that asks
            for gradients or learning rates or has a start, which differ between workers; nothing
            has been changed.
        """
        check_state(state)
        check_match("fast", fast, "state.slow", state.slow)
        if self.inner_state == "interpolate":
            check_match("inner", inner, "state.inner_slow", state.inner_slow)
        if initial is not None:
            check_match("initial", initial, "inner", inner)
        if average is not None:
            check_alike(self)
        if self.start:
            state = self._taken(clock.before_first(state.count), fast, inner, state, kernel)
        which = averaged(fast)
        slow, moving = chosen(state.slow, which), chosen(fast, which)
        rates = None if inner_lr is None else each(inner_lr, len(fast))
        given = (g if g is None else chosen(g, which) for g in (gradient, curvature, rates))
        context = SyncContext(state.syncs, kernel, *given)
        alpha = self._fraction(slow, moving, state.outer, context)
        back = self.puts_back(state)
        slow, moving, outer = self._moved(slow, moving, average, state.outer, alpha, back, context)
        inner_slow = state.inner_slow
        if back is not False:
            policy = POLICIES[self.inner_state]
            synced = policy.sync(inner, inner_slow, initial, alpha, kernel)
            inner, inner_slow = selected(back, synced, (inner, inner_slow))
        slow = merged(slow, live_copies(fast, which), which)
        counters = state.count * 0, clock.one_more(state.syncs, self.repeats_after)
        state = SyncState(slow, *counters, outer, inner_slow, state.phase * 0)
        return merged(moving, fast, which), inner, state

    def _fraction(self, slow: Leaves, fast: Leaves, outer: Slots, context: SyncContext) -> Any:
        """The part of the way of this sync, where it is asked for before the weights move."""
        if self.inner_state == "interpolate" or self.interpolates:
            return cast(Any, self.outer).fraction(slow, fast, outer, context)
        return None

    def _moved(
        self,
        slow: Leaves,
        fast: Leaves,
        average: Average | Leaves | None,
        outer: Slots,
        alpha: Any,
        back: bool | Array,
        context: SyncContext,
    ) -> tuple[Leaves, Leaves, Slots]:
        """Weights after the outer rule and, where they go `back`, the restart; the rule's state."""
        kernel = context.kernel
        if self.interpolates and average is None:
            return *kernel.interpolate(slow, fast, alpha), outer
        if kernel.linear_both and average is None and self._updates_both(slow, fast):
            both = cast(Any, self.outer).update_both(slow, fast, outer, context)
            check_updated((both[0], both[2]), slow, outer)
            return cast(tuple[Leaves, Leaves, Slots], both)
        seen = unrounded(slow, fast) if self.unrounded else fast
        seen = seen if average is None else seen_by_all(slow, seen, average)
        updated = self.outer.update(slow, seen, outer, context)
        check_updated(updated, slow, outer)
        slow, outer = updated
        if back is not False:
            restarted = kernel.move(fast, slow, self.restart)
            (fast,) = selected(back, (restarted,), (fast,))
        return slow, fast, outer

    def _updates_both(self, slow: Leaves, fast: Leaves) -> bool:
        """Whether the outer rule can put the fast weights back in the pass that moves the slow."""
        pairs = zip(slow, fast, strict=True)
        possible = self.fast_carries_slow and hasattr(self.outer, "update_both")
        return possible and all(s.dtype == f.dtype for s, f in pairs)

    def slow(self, fast: Leaves, state: SyncState) -> Leaves:
        """Weights to evaluate or ship, in the dtype of the slow ones (clause C22).

        The slow weights, which between cycles are those that `begin` would take from `fast`; or
        what the outer rule reads out of them.
        """
        slow = self.anchored(fast, state)
        if not self.has_readout:
            return slow
        which = averaged(slow)
        context = SyncContext(state.syncs)
        read = cast(Any, self.outer).readout(chosen(slow, which), state.outer, context)
        return merged(read, slow, which)

    def anchored(self, fast: Leaves, state: SyncState) -> Leaves:
        """The slow weights, also where a rule ships others than these."""
        if (are_fast := self.fast_is_slow(state)) is False:
            return state.slow
        return cast(Leaves, selected(are_fast, [anchor_leaves(state.slow, fast)], [state.slow])[0])

    def fast_is_slow(self, state: SyncState) -> bool | Array:
        """Whether the fast weights are the slow ones now, and what `state.slow` holds is stale.

        So between two cycles where each sync puts the fast weights back, and always before the
        first cycle. A 0-d bool array if the counter is an array.
        """
        outside = clock.between(state.count)
        if self.fast_carries_slow or outside is False:
            return outside
        return outside & (state.syncs == 0)

    def watch(self, state: SyncState, gradient: Leaves | None) -> SyncState:
        """Show the outer rule the gradient of the first inner step of a cycle, if it asks for it.

        `step` does this itself; it is for loops that count themselves and call `sync`.
        """
        first = clock.begins(state.count)
        if first is False or not (self.needs_gradient and hasattr(self.outer, "watch")):
            return state
        if gradient is not None:
            gradient = chosen(gradient, averaged(state.slow))
        seen = cast(Any, self.outer).watch(state.outer, gradient)
        return state._replace(outer=selected(first, seen, state.outer))

    def anchor(
        self, fast: Leaves, state: SyncState, *, kernel: Kernel = REFERENCE_KERNEL
    ) -> SyncState:
        """Take the slow weights from `fast` now, whatever the counter says; as `begin` does.

        For weights that were edited in mid-cycle and are to be kept. The slow copy of the inner
        state stays. Donates the slow weights of `state` to `kernel`.
        """
        return self._taken(True, fast, None, state, kernel)


def check_rule(rule: Any, *untold: str) -> None:
    """ValueError unless `rule` is a `SyncRule` that counts in 32 bits, and asks for nothing untold.

    For adapters whose counters are arrays, and whose inner optimizers do not tell their "gradient"
    or "curvature".
    """
    if not isinstance(rule, SyncRule):
        raise ValueError(f"rule must be a SyncRule, got {rule!r}")
    rule.check_counts()
    for name in untold:
        if getattr(rule, f"needs_{name}"):
            raise ValueError(f"rule must not ask for the {name}, which is untold, got {rule!r}")


def _select(due: Array, synced: Synced, passed: Synced) -> Synced:
    """`synced` where a sync is due, else `passed`."""
    fast, inner, after = synced
    old_fast, old_inner, before = passed
    syncs, phase = where(due, (after.syncs, after.phase), (before.syncs, before.phase))
    outer = selected(due, after.outer, before.outer)
    slow = where(due, after.slow, before.slow)
    inner_slow = where(due, after.inner_slow, before.inner_slow)
    state = SyncState(slow, before.count, syncs, outer, inner_slow, phase)
    return where(due, fast, old_fast), where(due, inner, old_inner), state
