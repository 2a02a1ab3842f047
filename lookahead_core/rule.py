"""The sync rule: when a sync happens and what it does to weights and inner state.

Everything is pure: state in, state out. How slow weights move is outer.py, what happens to the
inner state is inner_state.py, when a sync is due is schedule.py, and how the arithmetic runs is
kernel.py.
"""

from dataclasses import dataclass, field

from lookahead_core.inner_state import POLICIES
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel
from lookahead_core.leaves import check_match, widened
from lookahead_core.namespace import namespace
from lookahead_core.outer import Interpolate
from lookahead_core.schedule import advance
from lookahead_core.state import SyncState
from lookahead_core.typing import Array, Count, DType, Leaves
from lookahead_core.validation import one_of, positive_int

__all__ = ["SyncRule"]

Synced = tuple[Leaves, Leaves, SyncState]


@dataclass(frozen=True)
class SyncRule:
    """When to sync, how the slow weights move, and what happens to the inner state.

    `fast` and `inner` are flat sequences of arrays throughout: the weights that the inner
    optimizer moves, and its own moments and counts (`inner` may be empty). With the default
    kernel nothing is changed in place; another kernel may overwrite `fast`, `inner` and the
    arrays of `state` at a sync, so rebind all three and never read the old ones again.

    Parameters
    ----------
    sync_period : int
        Inner steps between syncs, k >= 1.
    outer : Interpolate
        How the slow weights move.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state.

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
    outer: Interpolate = field(default_factory=Interpolate)
    inner_state: str = "maintain"

    def __post_init__(self) -> None:
        period = positive_int("sync_period", self.sync_period, "inner steps between syncs")
        object.__setattr__(self, "sync_period", period)
        if not isinstance(self.outer, Interpolate):
            raise ValueError(f"outer must be an outer rule (Interpolate), got {self.outer!r}")
        one_of("inner_state", self.inner_state, tuple(POLICIES))

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
            The counter to use. A Python int branches: k - 1 of k steps touch no array. An array
            selects: works under jit, vmap and scan, and reads every array at every step.
        slow_dtype : dtype, optional
            Keep floating slow weights in this dtype where it is wider than the leaf's own: in
            bfloat16 a small move is rounded away (clause C15).
        """
        slow = tuple(widened(leaf, slow_dtype) for leaf in fast)
        inner_slow = POLICIES[self.inner_state].init(inner)
        return SyncState(slow, count, count * 0, self.outer.init(slow), inner_slow)

    def step(
        self,
        fast: Leaves,
        inner: Leaves,
        state: SyncState,
        *,
        kernel: Kernel = REFERENCE_KERNEL,
        initial: Leaves | None = None,
    ) -> Synced:
        """Count one applied inner step; sync if it is the sync_period-th (clause C02).

        Call it after every inner step that changed `fast`, and after no other (clause C03).
        Parameters and result are those of `sync`.
        """
        count, due = advance(state.count, self.sync_period)
        if isinstance(due, bool):
            if due:
                return self.sync(fast, inner, state, kernel=kernel, initial=initial)
            return fast, inner, state._replace(count=count)
        if kernel is not REFERENCE_KERNEL:
            raise ValueError(
                "kernel must be REFERENCE_KERNEL when state.count is an array: both outcomes are "
                "computed and one is selected, so no array may be overwritten"
            )
        synced = self.sync(fast, inner, state, initial=initial)
        return _select(due, synced, (fast, inner, state._replace(count=count)))

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

        Returns
        -------
        fast, inner, state
            As after the sync.

        Raises
        ------
        ValueError
            If `fast`, `inner` or `initial` does not match `state` in number or shape, or a
            schedule of alpha gives a number that is not in [0, 1]; nothing has been changed then.
        """
        check_match("fast", fast, "state.slow", state.slow)
        if self.inner_state == "interpolate":
            check_match("inner", inner, "state.inner_slow", state.inner_slow)
        if initial is not None:
            check_match("initial", initial, "inner", inner)
        rule = self.outer.at(state.syncs)
        slow, fast, outer = rule.update(state.slow, fast, state.outer, kernel)
        inner, inner_slow = POLICIES[self.inner_state].sync(
            inner, state.inner_slow, initial, rule.alpha, kernel
        )
        return fast, inner, SyncState(slow, state.count * 0, state.syncs + 1, outer, inner_slow)

    def slow(self, fast: Leaves, state: SyncState) -> Leaves:
        """Weights to evaluate or ship: the slow ones, in their own dtype (clause C22).

        Between a sync and the next inner step they are what `anchor` would take.
        """
        if isinstance(state.count, int):
            return state.slow if state.count else self.anchor(fast, state).slow
        anchored = self.anchor(fast, state).slow
        return _where(state.count == 0, anchored, state.slow)

    def anchor(
        self, fast: Leaves, state: SyncState, *, kernel: Kernel = REFERENCE_KERNEL
    ) -> SyncState:
        """Take the slow weights from `fast` again, where it was changed from outside.

        Call it before the first inner step of a cycle if weights may have been loaded or edited
        since the last sync (clause C26). Donates the slow weights of `state` to `kernel`.
        """
        check_match("fast", fast, "state.slow", state.slow)
        return state._replace(slow=kernel.anchor(state.slow, fast))


def _where(condition: Array, chosen: Leaves, other: Leaves) -> Leaves:
    # `where`, never `mask * x`: 0 * inf is NaN, so a masked infinity at a non-sync step would
    # poison the slow weights for good (optax.lookahead does; clause C12).
    return tuple(
        c if c is o else namespace(c).where(condition, c, o)
        for c, o in zip(chosen, other, strict=True)
    )


def _select(due: Array, synced: Synced, passed: Synced) -> Synced:
    """`synced` where a sync is due, else `passed`."""
    fast, inner, after = synced
    old_fast, old_inner, before = passed
    state = SyncState(
        slow=_where(due, after.slow, before.slow),
        count=before.count,
        syncs=namespace(before.count).where(due, after.syncs, before.syncs),
        outer=_where(due, after.outer, before.outer),
        inner_slow=_where(due, after.inner_slow, before.inner_slow),
    )
    return _where(due, fast, old_fast), _where(due, inner, old_inner), state
