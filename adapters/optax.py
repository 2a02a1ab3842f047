"""Lookahead for optax: a gradient transformation around any other, on plain parameter trees.

optax emits updates and does not write parameters, so this runs the core's one rule in the
coordinates of updates: with p the parameters before the step, the slow weights are `slow - p` and
the fast ones `u`, since every outer rule commutes with translation (clause C21). The anchor is
taken lazily, from the parameters at the first step of a cycle: after a sync the parameters *are*
the slow weights, bit for bit, whatever later transforms do to the update. Where a sync does not put
them back whole (averages), the slow weights persist, and the rule runs on weights. So it does
for many workers: `params + updates` rounds, to other bits on each, and slow weights that were taken
from it would be another set on each (clause C81). JAX communicates, not this: `average` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule, SyncState
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.leaves import is_averaged, widened
from lookahead_core.schedule import every
from lookahead_core.typing import Count, DType, Fraction, Leaves
from lookahead_core.workers import Average

from ._optax_checks import (
    check_arguments,
    check_average,
    check_settings,
    check_tree,
    transformation,
)
from ._optax_curvature import adam_curvature
from ._optax_inner_state import acted_on, picked, restored
from ._optax_outer import (
    check_state,
    flat,
    number_of_slots,
    slots,
    slots_like,
    state_kind,
)
from ._optax_park import park, unpark
from ._optax_split import SplitTransformation, split
from ._optax_state import (
    LookaheadState,
    PersistentState,
    SharedState,
    filled,
    find_state,
    own_params,
    refuse_parked,
    replaced,
    resync,
    slow_params,
    start_cycle,
)
from ._optax_weights import emitted, on_weights
from ._optax_workers import only_when_due, worker_axes

__all__ = [
    "LookaheadState",
    "MetaTransformation",
    "PersistentState",
    "SharedState",
    "SplitTransformation",
    "find_state",
    "lookahead",
    "meta_optimizer",
    "park",
    "resync",
    "slow_params",
    "split",
    "unpark",
    "worker_axes",
]


Stepped = tuple[optax.Updates, LookaheadState]


# optax has no types, so its class is Any to a type checker.
class MetaTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """What `meta_optimizer` returns: an optax transformation, with a sync on demand beside it.

    Parameters
    ----------
    init : callable, (params) -> state
        As in optax.
    update : callable, (updates, state, params, **extra_args) -> (updates, state)
        As in optax.
    sync : callable, (state, params, gradient=None) -> (updates, state)
        Sync now, whatever the counter says, and start it again (clause C05). Takes no inner step.
        `state` may be any optax state that holds one `LookaheadState`; the updates are zero for
        parameters that are not its own. `gradient`, a tree like `params`, is for an outer rule that
        asks for it.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead
    >>> params = jnp.ones(2)
    >>> optimizer = lookahead(optax.sgd(0.5), sync_period=5, alpha=0.5)
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> updates, state = optimizer.sync(state, params)
    >>> optax.apply_updates(params, updates), state.step
    (Array([0.75, 0.75], dtype=float32), Array(0, dtype=int32))
    """

    sync: Callable[..., tuple[optax.Updates, optax.OptState]]

    def __new__(
        cls, init: Callable[..., Any], update: Callable[..., Any], sync: Callable[..., Any]
    ) -> "MetaTransformation":
        transformation: MetaTransformation = super().__new__(cls, init, update)
        transformation.sync = sync
        return transformation


def lookahead(
    inner: optax.GradientTransformation,
    sync_period: int = 5,
    alpha: Fraction | Callable[[Count], Fraction] = 0.5,
    inner_state: str = "maintain",
    *,
    slow_dtype: DType | None = None,
    reset_all: bool = False,
    average: Average | None = None,
) -> MetaTransformation:
    """Lookahead around any optax transformation: k steps forward, one step back.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the fast weights, which are the parameters.
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float, 0-d array or callable, (syncs) -> float or 0-d array
        How far the slow weights move at a sync, in [0, 1]. An array may be traced and is not
        checked; a callable is a schedule of the number of syncs so far, any of optax's for one.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state. `reset` restarts, as a whole, each state in it that
        holds parameter-shaped leaves (Adam's count goes with its moments) and leaves the others
        (a schedule's count goes on); `interpolate` blends the parameter-shaped leaves.
    slow_dtype : dtype, optional
        Keep floating slow weights in this dtype where it is wider than the parameter's: in
        bfloat16 a small move is rounded away (clause C15).
    reset_all : bool
        With `inner_state="reset"`: restart the whole inner state, schedules' counts included.
    average : callable, (differences) -> mean differences, optional
        For many workers, as in `meta_optimizer`.

    Returns
    -------
    MetaTransformation
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`, and hands extra
        arguments on to `inner`.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, slow_params
    >>> params = {"w": jnp.ones(2)}
    >>> optimizer = lookahead(optax.sgd(0.1), sync_period=5)
    >>> state = optimizer.init(params)
    >>> for _ in range(10):
    ...     gradient = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
    ...     updates, state = optimizer.update(gradient, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> slow = slow_params(state, params)
    """
    rule = lookahead_rule(sync_period, alpha, inner_state)
    return meta_optimizer(inner, rule, slow_dtype=slow_dtype, reset_all=reset_all, average=average)


def meta_optimizer(
    inner: optax.GradientTransformation,
    rule: SyncRule,
    *,
    slow_dtype: DType | None = None,
    reset_all: bool = False,
    average: Average | None = None,
) -> MetaTransformation:
    """Any `SyncRule` around any optax transformation: averages, outer momentum, rules of your own.

    An average (restart below 1) and a rule for many workers (`average`) see `params + updates`, so
    nothing that changes the updates may come after them in a chain. A rule that asks for gradients
    gets the updates that come in; one that asks for curvature, the root of the corrected second
    moment of the one Adam in `inner`.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the fast weights, which are the parameters.
    rule : SyncRule
        When to sync and how: a preset of `lookahead_core`, or one made by hand.
    slow_dtype : dtype, optional
        As in `lookahead`.
    reset_all : bool
        As in `lookahead`.
    average : callable, (differences) -> mean differences, optional
        For many workers: the mean over them of a list of arrays, one for each floating parameter,
        in float32 or wider; `partial(jax.lax.pmean, axis_name=...)` in a `shard_map` or `vmap` over
        that axis. `update` calls it in a branch that runs at syncs alone, `split(...).update` not
        at all. The state is a `SharedState`, and `init` must be given the same parameters for all.

    Returns
    -------
    MetaTransformation

    Raises
    ------
    ValueError
        If an argument is not of its kind, or `average` is given to a rule that asks for gradients
        or has a start, both of which differ between workers; the message names it. From `update`,
        if `state` is that of a rule of another kind, `average` returns other shapes, or the
        curvature is asked for and `inner` has not exactly one Adam.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import ema
    >>> from lookahead_core.adapters.optax import meta_optimizer, slow_params
    >>> optimizer, params = meta_optimizer(optax.sgd(0.5), ema(decay=0.5)), jnp.ones(2)
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> params, slow_params(state, params)
    (Array([0.5, 0.5], dtype=float32), Array([0.75, 0.75], dtype=float32))
    """
    check_settings(rule, slow_dtype, reset_all)
    check_average(average, rule)
    meta = _Meta(transformation("inner", inner), rule, slow_dtype, reset_all, average)
    return MetaTransformation(meta.init, meta.update, meta.sync)


class _Meta(NamedTuple):
    """The functions of a transformation, and what they share."""

    inner: optax.GradientTransformationExtraArgs
    rule: SyncRule
    slow_dtype: DType | None
    reset_all: bool
    average: Average | None

    def init(self, params: optax.Params) -> LookaheadState:
        inner = self.inner.init(params)
        self._acted_on(inner)  # raises for one that the policy cannot act on
        blends = self.rule.inner_state == "interpolate"
        # Copies: an alias of the parameters cannot be donated together with them (optax#1059),
        # and zeros_like would lose their sharding under jit (jax#16080).
        slow = jax.tree.map(lambda p: widened(jnp.asarray(p), self.slow_dtype), params)
        return state_kind(self.rule, self.average)(
            step=jnp.full([], -self.rule.start, jnp.int32),
            syncs=jnp.zeros([], jnp.int32),
            slow=slow,
            inner=inner,
            inner_slow=jax.tree.map(jnp.copy, inner) if blends else (),
            outer=slots(self.rule.outer, slow),
        )

    def update(
        self,
        updates: optax.Updates,
        state: LookaheadState,
        params: optax.Params | None = None,
        *,
        lookahead_sync: bool | None = None,
        **extra_args: Any,
    ) -> Stepped:
        """One step. `lookahead_sync` is for `split` alone: None asks the counter."""
        check_arguments(updates, state, params, lookahead_sync)
        check_state(self.rule, self.average, state)
        state, gradient = self._begun(state, updates, params, lookahead_sync), updates
        updates, inner = self.inner.update(updates, state.inner, params, **extra_args)
        # A moment of a shape that broadcasts would pass unseen, and grow.
        check_tree("state.inner", state.inner, "its update", inner)
        state = state._replace(inner=inner)
        if lookahead_sync is False:
            return updates, state._replace(step=state.step + 1)
        evidence = self._evidence(gradient, state, params, extra_args)
        if lookahead_sync:
            return self._synced(updates, state, params, evidence)
        return self._moved(updates, state, params, evidence, select=True)

    def sync(
        self,
        state: optax.OptState,
        params: optax.Params,
        gradient: optax.Updates | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        ours = find_state(state)
        owned = own_params(ours, params)
        check_arguments(owned, ours, owned, None)
        check_state(self.rule, self.average, ours)
        if gradient is not None:
            gradient = own_params(ours, gradient)
            check_tree("gradient", gradient, "params", owned)
        evidence = self._evidence(gradient, ours, owned, {})
        still = jax.tree.map(jnp.zeros_like, owned)
        updates, synced = self._synced(still, start_cycle(ours, owned), owned, evidence)
        return filled(updates, params), replaced(state, lambda _: synced)

    def _begun(
        self, state: LookaheadState, updates: Any, params: Any, sync: bool | None
    ) -> LookaheadState:
        """What the first step of a cycle does before the inner step."""
        if sync is None:
            return start_cycle(state, params)
        if self.rule.start:  # no step that syncs comes before the first cycle, to take its anchor
            refuse_parked(state)
            state = start_cycle(state, params)
        return self._watched(state, updates)

    def _watched(self, state: LookaheadState, gradient: optax.Updates) -> LookaheadState:
        """Show the outer rule the first gradient of a cycle, if it keeps that."""
        if not self.rule.needs_gradient or not number_of_slots(self.rule):
            return state
        refuse_parked(state)
        slow, outer = jax.tree.leaves(state.slow), flat(state.outer)
        before = SyncState(slow, state.step, state.syncs, outer, ())
        seen = self.rule.watch(before, _arrays(gradient)[0])
        return state._replace(outer=slots_like(state.outer, seen.outer))

    def _evidence(
        self, gradient: Any, state: LookaheadState, params: Any, extra_args: dict[str, Any]
    ) -> dict[str, list[jax.Array]]:
        """What the outer rule asks for beside the weights."""
        if not self.rule.needs_gradient or gradient is None:
            return {}
        evidence = {"gradient": _arrays(gradient)[0]}
        if self.rule.needs_curvature:
            diagonal = adam_curvature(self.inner, state.inner, params, extra_args)
            check_tree("the nu of ScaleByAdamState", diagonal, "params", params)
            evidence["curvature"] = jax.tree.leaves(diagonal)
        return evidence

    def _synced(self, updates: Any, state: LookaheadState, params: Any, evidence: Any) -> Stepped:
        """Sync after `updates`, and take the next anchor at once: no other step will."""
        updates, synced = self._moved(updates, state, params, evidence, select=False)
        # What `reset` makes depends on no array, so jit would not know its sharding (jax#16080):
        # it is that of what it replaces. XLA drops a select that is always the same.
        made, replaces = (synced.inner, synced.outer), (state.inner, state.outer)
        inner, outer = jax.tree.map(partial(jnp.where, True), made, replaces)
        synced = synced._replace(inner=inner, outer=outer)
        return updates, start_cycle(synced, optax.apply_updates(params, updates))

    def _moved(
        self, updates: Any, state: LookaheadState, params: Any, evidence: Any, *, select: bool
    ) -> Stepped:
        """Count `updates` as a step and sync if it is the k-th (`select`), or sync in any case.

        The core's rule in the coordinates of updates, `slow - params` and `updates`, or of weights.
        """
        acts_on = self._acted_on(state.inner)
        u, tree = _arrays(updates)
        slow, slow_tree = _arrays(state.slow)
        p, _ = _arrays(params)
        pairs = list(map(_on_updates if self._carried else on_weights, slow, p, u))
        before = SyncState(
            slow=[slow for slow, _ in pairs],
            count=state.step,
            # Of the default width: a schedule of an int32 gives float32, in double precision too.
            syncs=state.syncs.astype(int),
            outer=flat(state.outer),
            inner_slow=picked(state.inner_slow, acts_on) if state.inner_slow != () else (),
        )
        due = self.rule.due(before) if select else True
        run = self.rule.step if select else self.rule.sync
        resets = self.rule.inner_state == "reset"
        initial = picked(self.inner.init(params), acts_on) if resets else None
        fast: Leaves = [fast for _, fast in pairs]
        live = picked(state.inner, acts_on)
        if self.average is not None:
            evidence = {**evidence, "average": only_when_due(self.average, due, before.slow, fast)}
        fast, inner, after = run(fast, live, before, initial=initial, **evidence)
        out = self._out(due, state.syncs, slow, p, u, after.slow, fast)
        return jax.tree.unflatten(tree, [update for _, update in out]), state._replace(
            step=after.count,
            syncs=after.syncs.astype(state.syncs.dtype),
            slow=jax.tree.unflatten(slow_tree, [kept for kept, _ in out]),
            inner=restored(state.inner, acts_on, inner),
            outer=slots_like(state.outer, after.outer),
        )

    def _out(
        self, due: Any, syncs: jax.Array, slow: Any, p: Any, u: Any, moved: Any, fast: Any
    ) -> list[tuple[jax.Array, jax.Array]]:
        """For each leaf, the slow weights to keep and the update to emit."""
        rule = self.rule
        if self._carried:
            return [_keep_wide(due, *leaf) for leaf in zip(slow, p, u, moved, fast, strict=True)]
        back = due & every(rule.restart_period, syncs) if rule.restart else False
        leaves = zip(moved, p, u, fast, strict=True)
        # Where they land rounds on each worker in its own way: the slow weights stay what they are.
        lands = rule.restart == 1 and self.average is None
        return [emitted(lands, back, *leaf) for leaf in leaves]

    @property
    def _carried(self) -> bool:
        """Whether the parameters are the slow weights, to the bit, after each sync."""
        return self.rule.fast_carries_slow and self.average is None

    def _acted_on(self, state: optax.OptState) -> list[bool]:
        return acted_on(self.inner, state, self.rule.inner_state, self.reset_all)


def _arrays(tree: Any) -> tuple[list[jax.Array], Any]:
    """Leaves as JAX arrays: NumPy's and Python's numbers are parameters too."""
    leaves, structure = jax.tree.flatten(tree)
    return list(map(jnp.asarray, leaves)), structure


def _on_updates(
    slow: jax.Array, param: jax.Array, update: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Slow weights in the coordinates of the update, in the wider of the two dtypes, and it."""
    if not (is_averaged(param.dtype) and is_averaged(update.dtype)):
        # A way of length zero, of the parameter's kind: the outer rule has a place for each that
        # is averaged. The inner transformation alone moves such a leaf.
        still = jnp.zeros_like(slow)
        return still, still
    dtype = jnp.result_type(slow, update)
    return slow.astype(dtype) - param.astype(dtype), update


def _keep_wide(
    due: Any, slow: jax.Array, param: jax.Array, update: jax.Array, moved: jax.Array, back: Any
) -> tuple[jax.Array, jax.Array]:
    """Slow weights to keep, and what to emit.

    The parameters carry the slow weights to the next anchor, but for a wider dtype, whose bits
    they would lose.
    """
    if not (is_averaged(param.dtype) and is_averaged(update.dtype)):
        return slow, update
    if slow.dtype == param.dtype:
        return slow, back
    kept = jnp.where(due, param + moved, slow)
    dtype = jnp.result_type(param, update)
    way = kept.astype(param.dtype).astype(dtype) - param.astype(dtype)
    return kept, jnp.where(due, way.astype(update.dtype), update)
