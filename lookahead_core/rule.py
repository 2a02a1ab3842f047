"""The sync rule: when a sync happens and what it does to weights and inner state.

Everything is pure: state in, state out. How slow weights move is outer.py, what happens to the
inner state is inner_state.py, when a sync is due is schedule.py, and how the arithmetic runs is
kernel.py.
"""

from dataclasses import dataclass, field
from typing import Any, cast

from lookahead_core.inner_state import POLICIES
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel, live_copies
from lookahead_core.leaves import averaged, check_match, chosen, merged, widened
from lookahead_core.namespace import namespace
from lookahead_core.outer import Interpolate, OuterRule, SyncContext
from lookahead_core.schedule import advance, every, selected, where
from lookahead_core.state import SyncState
from lookahead_core.typing import Array, Count, DType, Leaves, Slots
from lookahead_core.validation import fraction, non_negative_int, one_of, positive_int
from lookahead_core.workers import Average, check_alike, seen_by_all

__all__ = ["SyncRule"]

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
    sync_period : int
        Inner steps between syncs, k >= 1.
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
    ...     fast = [leaf - 1.0 for leaf in fast]  # the inner optimizer: any step of yours
    ...     fast, inner, state = rule.step(fast, inner, state)
    >>> fast[0], state.count, state.syncs
    (array([-1.]), 0, 1)
    """

    sync_period: int = 5
    outer: OuterRule = field(default_factory=Interpolate)
    inner_state: str = "maintain"
    restart: float = 1.0
    restart_period: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        missing = [name for name in ("init", "update") if not hasattr(self.outer, name)]
        if missing or isinstance(self.outer, type):
            raise ValueError(
                f"outer must be an outer rule (init and update, see OuterRule), got {self.outer!r}"
            )
        one_of("inner_state", self.inner_state, tuple(POLICIES))
        checks = {
            "sync_period": (positive_int, "inner steps between syncs"),
            "restart": (fraction, "how far the fast weights go back after a sync"),
            "restart_period": (positive_int, "syncs between restarts"),
            "start": (non_negative_int, "inner steps before the first cycle"),
        }
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
            self.restarts_always and hasattr(self.outer, "fraction")
        ):
            raise ValueError(
                "inner_state='interpolate' needs restart=1, restart_period=1 and an outer rule "
                f"with a fraction of the way, got {self!r}"
            )

    @property
    def restarts_always(self) -> bool:
        """Whether each sync puts the fast weights back onto the slow ones, whole.

        The slow weights of the next cycle can be taken from them then, and are (clause C26). Else
        they are what the last sync left, whatever the fast weights are.
        """
        return self.restart == 1 and self.restart_period == 1

    @property
    def needs_gradient(self) -> bool:
        """Whether the outer rule asks for gradients; `step` and `sync` must be given them then."""
        return bool(getattr(self.outer, "needs_gradient", False))

    @property
    def needs_curvature(self) -> bool:
        """Whether it asks for the curvature that the inner optimizer has; likewise."""
        return bool(getattr(self.outer, "needs_curvature", False))

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
        """
        slow = tuple(widened(leaf, slow_dtype) for leaf in fast)
        inner_slow = POLICIES[self.inner_state].init(inner)
        outer = self.outer.init(chosen(slow, averaged(slow)))
        return SyncState(slow, count - self.start, count * 0, outer, inner_slow)

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
        average: Average | None = None,
    ) -> Synced:
        """Count one applied inner step; sync if it is the sync_period-th (clause C02).

        Call it after every inner step that changed `fast`, and after no other (clause C03).
        Parameters and result are those of `sync`.
        """
        state = self.watch(state, gradient)
        count, due = advance(state.count, self.sync_period)
        evidence: Any = {"initial": initial, "gradient": gradient, "curvature": curvature}
        evidence["average"] = average
        if isinstance(due, bool):
            if due:
                return self.sync(fast, inner, state, kernel=kernel, **evidence)
            state = state._replace(count=count)
            return fast, inner, self._begun(count == 0, fast, inner, state, kernel)
        if kernel is not REFERENCE_KERNEL:
            raise ValueError(
                "kernel must be REFERENCE_KERNEL when state.count is an array: both outcomes are "
                "computed and one is selected, so no array may be overwritten"
            )
        synced = self.sync(fast, inner, state, **evidence)
        passed = self._begun(count == 0, fast, inner, state._replace(count=count), kernel)
        return _select(due, synced, (fast, inner, passed))

    def _begun(
        self, begins: bool | Array, fast: Leaves, inner: Leaves, state: SyncState, kernel: Kernel
    ) -> SyncState:
        """Take what is slow where the first cycle begins, if that is later than the run."""
        if not self.start or begins is False:
            return state
        # A selection reads the old ones too: nothing may be overwritten.
        anchor = kernel.anchor if begins is True else REFERENCE_KERNEL.anchor
        taken = anchor(state.slow, fast), POLICIES[self.inner_state].init(inner)
        slow, inner_slow = selected(begins, taken, (state.slow, state.inner_slow))
        return state._replace(slow=slow, inner_slow=inner_slow)

    def due(self, state: SyncState) -> bool | Array:
        """Whether the next `step` will sync; a 0-d bool array if the counter is an array."""
        return advance(state.count, self.sync_period)[1]

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
        average: Average | None = None,
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
        average : callable, (leaves) -> leaves, optional
            Mean over workers that have the same slow weights, of slow - fast of the averaged
            leaves, in float32 or wider: the outer rule sees slow less that mean (clause C81).
            With an array counter it is called at every step. May overwrite what it gets.

        Returns
        -------
        fast, inner, state
            As after the sync.

        Raises
        ------
        ValueError
            If `fast`, `inner` or `initial` does not match `state` in number or shape, a schedule of
            alpha gives a number that is not in [0, 1], or `average` is given to a rule that asks
            for gradients or has a start, which differ between workers; nothing has been changed.
        """
        check_match("fast", fast, "state.slow", state.slow)
        if self.inner_state == "interpolate":
            check_match("inner", inner, "state.inner_slow", state.inner_slow)
        if initial is not None:
            check_match("initial", initial, "inner", inner)
        if average is not None:
            check_alike(self)
        state = self._begun(state.count < 0, fast, inner, state, kernel)
        which = averaged(fast)
        slow, moving = chosen(state.slow, which), chosen(fast, which)
        gradient, curvature = (g if g is None else chosen(g, which) for g in (gradient, curvature))
        context = SyncContext(state.syncs, kernel, gradient, curvature)
        alpha = self._fraction(slow, moving, state.outer, context)
        back = every(self.restart_period, state.syncs) if self.restart else False
        seen = None if average is None else seen_by_all(slow, moving, average)
        slow, moving, outer = self._moved(slow, moving, seen, state.outer, alpha, back, context)
        inner_slow = state.inner_slow
        if back is not False:
            policy = POLICIES[self.inner_state]
            synced = policy.sync(inner, inner_slow, initial, alpha, kernel)
            inner, inner_slow = selected(back, synced, (inner, inner_slow))
        slow = merged(slow, live_copies(fast, which), which)
        state = SyncState(slow, state.count * 0, state.syncs + 1, outer, inner_slow)
        return merged(moving, fast, which), inner, state

    def _fraction(self, slow: Leaves, fast: Leaves, outer: Slots, context: SyncContext) -> Any:
        """The part of the way of this sync, where it is asked for before the weights move."""
        if self.inner_state == "interpolate" or self._at_once:
            return cast(Any, self.outer).fraction(slow, fast, outer, context)
        return None

    def _moved(
        self,
        slow: Leaves,
        fast: Leaves,
        seen: Leaves | None,
        outer: Slots,
        alpha: Any,
        back: bool | Array,
        context: SyncContext,
    ) -> tuple[Leaves, Leaves, Slots]:
        """Weights after the outer rule and, where they go `back`, the restart; the rule's state."""
        kernel = context.kernel
        if self._at_once and seen is None:
            return *kernel.interpolate(slow, fast, alpha), outer
        slow, outer = self.outer.update(slow, fast if seen is None else seen, outer, context)
        if back is not False:
            restarted = kernel.move(fast, slow, self.restart)
            (fast,) = selected(back, (restarted,), (fast,))
        return slow, fast, outer

    @property
    def _at_once(self) -> bool:
        """Lookahead itself: a kernel moves both copies, and reads and writes each of them once."""
        return isinstance(self.outer, Interpolate) and self.restarts_always

    def slow(self, fast: Leaves, state: SyncState) -> Leaves:
        """Weights to evaluate or ship: the slow ones, in their own dtype (clause C22).

        Between a sync and the next inner step they are what `anchor` would take.
        """
        if isinstance(state.count, int):
            return state.slow if state.count > 0 else self.anchor(fast, state).slow
        anchored = self.anchor(fast, state).slow
        return where(state.count <= 0, anchored, state.slow)

    def watch(self, state: SyncState, gradient: Leaves | None) -> SyncState:
        """Show the outer rule the gradient of the first inner step of a cycle, if it asks for it.

        `step` does this itself; it is for loops that count themselves and call `sync`.
        """
        if not self.needs_gradient or not hasattr(self.outer, "watch"):
            return state
        if isinstance(state.count, int) and state.count != 0:
            return state
        if gradient is not None:
            gradient = chosen(gradient, averaged(state.slow))
        seen = self.outer.watch(state.outer, gradient)
        first = True if isinstance(state.count, int) else state.count == 0
        return state._replace(outer=selected(first, seen, state.outer))

    def anchor(
        self, fast: Leaves, state: SyncState, *, kernel: Kernel = REFERENCE_KERNEL
    ) -> SyncState:
        """Take the slow weights from `fast` again, where it was changed from outside.

        Call it before the first inner step of a cycle if weights may have been loaded or edited
        since the last sync (clause C26). Where a sync does not put the fast weights back whole, it
        takes nothing after the first cycle has begun: the slow weights are not to be had from them.
        Donates the slow weights of `state` to `kernel`.
        """
        check_match("fast", fast, "state.slow", state.slow)
        if self.restarts_always:
            return state._replace(slow=kernel.anchor(state.slow, fast))
        if isinstance(state.syncs, int):
            return state if state.syncs else state._replace(slow=kernel.anchor(state.slow, fast))
        anchored = REFERENCE_KERNEL.anchor(state.slow, fast)
        return state._replace(slow=where(state.syncs == 0, anchored, state.slow))


def _select(due: Array, synced: Synced, passed: Synced) -> Synced:
    """`synced` where a sync is due, else `passed`."""
    fast, inner, after = synced
    old_fast, old_inner, before = passed
    state = SyncState(
        slow=where(due, after.slow, before.slow),
        count=before.count,
        syncs=namespace(before.count).where(due, after.syncs, before.syncs),
        outer=selected(due, after.outer, before.outer),
        inner_slow=where(due, after.inner_slow, before.inner_slow),
    )
    return where(due, fast, old_fast), where(due, inner, old_inner), state
