"""Lookahead for optax: a gradient transformation around any other, on plain parameter trees.

optax emits updates and does not write parameters, so this runs the core's one rule in the
coordinates of updates: with p the parameters before the step, the slow weights are `slow - p` and
the fast ones `u`, since every outer rule commutes with translation (clause C21). The anchor is
taken lazily, from the parameters at the first step of a cycle: after a sync the parameters *are*
the slow weights, bit for bit, whatever later transforms do to the update.
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
from lookahead_core.typing import Count, DType, Fraction

from ._optax_checks import check_arguments, check_settings, check_tree, transformation
from ._optax_inner_state import acted_on, picked, restored
from ._optax_split import SplitTransformation, split
from ._optax_state import (
    LookaheadState,
    filled,
    find_state,
    own_params,
    park,
    replaced,
    resync,
    slow_params,
    start_cycle,
    unpark,
)

__all__ = [
    "LookaheadState",
    "MetaTransformation",
    "SplitTransformation",
    "find_state",
    "lookahead",
    "meta_optimizer",
    "park",
    "resync",
    "slow_params",
    "split",
    "unpark",
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
    sync : callable, (state, params) -> (updates, state)
        Sync now, whatever the counter says, and start it again (clause C05). Takes no inner step.
        `state` may be any optax state that holds one `LookaheadState`; the updates are zero for
        parameters that are not its own.

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

    sync: Callable[[optax.OptState, optax.Params], tuple[optax.Updates, optax.OptState]]

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
    return meta_optimizer(inner, rule, slow_dtype=slow_dtype, reset_all=reset_all)


def meta_optimizer(
    inner: optax.GradientTransformation,
    rule: SyncRule,
    *,
    slow_dtype: DType | None = None,
    reset_all: bool = False,
) -> MetaTransformation:
    """Any `SyncRule` around any optax transformation.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the fast weights, which are the parameters.
    rule : SyncRule
        When to sync and how.
    slow_dtype : dtype, optional
        As in `lookahead`.
    reset_all : bool
        As in `lookahead`.

    Returns
    -------
    MetaTransformation

    Raises
    ------
    ValueError
        If an argument is not of its kind; the message names it.
    """
    check_settings(rule, slow_dtype, reset_all)
    meta = _Meta(transformation("inner", inner), rule, slow_dtype, reset_all)
    return MetaTransformation(meta.init, meta.update, meta.sync)


class _Meta(NamedTuple):
    """The functions of a transformation, and what they share."""

    inner: optax.GradientTransformationExtraArgs
    rule: SyncRule
    slow_dtype: DType | None
    reset_all: bool

    def init(self, params: optax.Params) -> LookaheadState:
        inner = self.inner.init(params)
        self._acted_on(inner)  # raises for one that the policy cannot act on
        blends = self.rule.inner_state == "interpolate"
        # Copies: an alias of the parameters cannot be donated together with them (optax#1059),
        # and zeros_like would lose their sharding under jit (jax#16080).
        return LookaheadState(
            step=jnp.zeros([], jnp.int32),
            syncs=jnp.zeros([], jnp.int32),
            slow=jax.tree.map(lambda p: widened(jnp.asarray(p), self.slow_dtype), params),
            inner=inner,
            inner_slow=jax.tree.map(jnp.copy, inner) if blends else (),
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
        if lookahead_sync is None:
            state = start_cycle(state, params)
        updates, inner = self.inner.update(updates, state.inner, params, **extra_args)
        # A moment of a shape that broadcasts would pass unseen, and grow.
        check_tree("state.inner", state.inner, "its update", inner)
        state = state._replace(inner=inner)
        if lookahead_sync is None:
            return self._moved(updates, state, params, select=True)
        if lookahead_sync:
            return self._synced(updates, state, params)
        return updates, state._replace(step=state.step + 1)

    def sync(
        self, state: optax.OptState, params: optax.Params
    ) -> tuple[optax.Updates, optax.OptState]:
        ours = find_state(state)
        owned = own_params(ours, params)
        check_arguments(owned, ours, owned, None)
        still = jax.tree.map(jnp.zeros_like, owned)
        updates, synced = self._synced(still, start_cycle(ours, owned), owned)
        return filled(updates, params), replaced(state, lambda _: synced)

    def _synced(self, updates: Any, state: LookaheadState, params: Any) -> Stepped:
        """Sync after `updates`, and take the next anchor at once: no other step will."""
        updates, synced = self._moved(updates, state, params, select=False)
        # What `reset` makes depends on no array, so jit would not know its sharding (jax#16080):
        # it is that of what it replaces. XLA drops a select that is always the same.
        inner = jax.tree.map(partial(jnp.where, True), synced.inner, state.inner)
        synced = synced._replace(inner=inner)
        return updates, start_cycle(synced, optax.apply_updates(params, updates))

    def _moved(self, updates: Any, state: LookaheadState, params: Any, *, select: bool) -> Stepped:
        """Count `updates` as a step and sync if it is the k-th (`select`), or sync in any case.

        The core's rule in the coordinates of updates: `slow - params` and `updates`.
        """
        acts_on = self._acted_on(state.inner)
        u, tree = _arrays(updates)
        slow, slow_tree = _arrays(state.slow)
        p, _ = _arrays(params)
        before = SyncState(
            slow=list(map(_relative, slow, p, u)),
            count=state.step,
            syncs=state.syncs,
            outer=(),
            inner_slow=picked(state.inner_slow, acts_on) if state.inner_slow != () else (),
        )
        due = self.rule.due(before) if select else True
        run = self.rule.step if select else self.rule.sync
        resets = self.rule.inner_state == "reset"
        initial = picked(self.inner.init(params), acts_on) if resets else None
        v, inner, after = run(u, picked(state.inner, acts_on), before, initial=initial)
        wide = [_keep_wide(due, *leaf) for leaf in zip(slow, p, u, after.slow, v, strict=True)]
        return jax.tree.unflatten(tree, [emitted for _, emitted in wide]), LookaheadState(
            step=after.count,
            syncs=after.syncs,
            slow=jax.tree.unflatten(slow_tree, [kept for kept, _ in wide]),
            inner=restored(state.inner, acts_on, inner),
            inner_slow=state.inner_slow,
        )

    def _acted_on(self, state: optax.OptState) -> list[bool]:
        return acted_on(self.inner, state, self.rule.inner_state, self.reset_all)


def _arrays(tree: Any) -> tuple[list[jax.Array], Any]:
    """Leaves as JAX arrays: NumPy's and Python's numbers are parameters too."""
    leaves, structure = jax.tree.flatten(tree)
    return list(map(jnp.asarray, leaves)), structure


def _relative(slow: jax.Array, param: jax.Array, update: jax.Array) -> jax.Array:
    """Slow weights in the coordinates of the update, in the wider of the two dtypes."""
    if not (is_averaged(param.dtype) and is_averaged(update.dtype)):
        return update  # a way of length zero: the inner transformation alone moves such a leaf
    dtype = jnp.result_type(slow, update)
    return slow.astype(dtype) - param.astype(dtype)


def _keep_wide(
    due: Any, slow: jax.Array, param: jax.Array, update: jax.Array, moved: jax.Array, emitted: Any
) -> tuple[jax.Array, jax.Array]:
    """Slow weights to keep, and what to emit.

    The parameters carry the slow weights to the next anchor, but for a wider dtype, whose bits
    they would lose.
    """
    if slow.dtype == param.dtype:
        return slow, emitted
    kept = jnp.where(due, param + moved, slow)
    dtype = jnp.result_type(param, update)
    back = kept.astype(param.dtype).astype(dtype) - param.astype(dtype)
    return kept, jnp.where(due, back.astype(update.dtype), update)
