"""Lookahead for optax: a gradient transformation around any other, on plain parameter trees.

What a sync means, and every question about time, is the core's rule; here it gets its leaves from
trees, and gives back updates. JAX communicates, not this: `average` does.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.analysis.measured import metrics
from lookahead_core.schedule import one_more
from lookahead_core.typing import Count, DType, Fraction, Leaves, Period
from lookahead_core.validation import not_wrapped
from lookahead_core.words import translated
from lookahead_core.workers import Average

from ._checks import (
    check_arguments,
    check_arrays,
    check_settings,
    check_state,
    check_tree,
    transformation,
)
from ._coordinates import coordinates
from ._evidence import evidence
from ._inner_state import acted_on, picked, restored
from ._slots import number_of_slots, slots, slots_like
from ._state import (
    LookaheadState,
    begun,
    counters,
    find_state,
    ours_in,
    own_params,
    read_out,
    readable,
    replaced,
    state_kind,
    sync_state,
)
from ._trees import arrays, filled, like
from ._workers.average import only_when_due

__all__ = ["MetaTransformation", "lookahead", "meta_optimizer"]

Stepped = tuple[optax.Updates, LookaheadState]


# optax has no types, so its class is Any to a type checker.
class MetaTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """What `meta_optimizer` returns: an optax transformation, and what its rule can do beside it.

    A tuple of two functions, as every transformation of optax, so that it can be copied and mapped
    over like one. What else there is are methods of the object whose methods these two are.

    Parameters
    ----------
    init : callable, (params) -> state
        As in optax.
    update : ``(updates, state, params, **extra_args) -> (updates, state)``
        As in optax.

    Attributes
    ----------
    sync : callable, (state, params, gradient=None) -> (updates, state)
        Sync now, whatever the counter says, and start it again (clause C05). Takes no inner step.
        `state` may be any optax state that holds one `LookaheadState`; the updates are zero for
        parameters that are not its own. `gradient`, a tree like `params`, is for an outer rule that
        asks for it.
    slow_params : callable, (state, params) -> params
        Parameters to evaluate or ship (clause C22), under any rule: what it reads out of its slow
        weights, if it reads out others. Of `state` and `params` as for `sync`.
    metrics : callable, (state, params) -> dict of str to 0-d array
        How far fast and slow weights are apart, in numbers to plot, as of
        `lookahead_core.analysis.metrics`; under jit too. Just after a sync that puts the parameters
        back both norms are 0: ask before the update.

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

    @property
    def sync(self) -> Any:
        """Sync on demand: (state, params, gradient=None) -> (updates, state)."""
        return _made_by(self).sync

    @property
    def slow_params(self) -> Any:
        """What to evaluate: (state, params) -> parameters."""
        return _made_by(self).slow_params

    @property
    def metrics(self) -> Any:
        """How far apart the weights are: (state, params) -> numbers to plot."""
        return _made_by(self).metrics


def _made_by(optimizer: MetaTransformation) -> "_Meta":
    """The object whose methods `init` and `update` are; jax.jit may be around them."""
    for function in optimizer:
        meta = getattr(inspect.unwrap(function), "__self__", None)
        if isinstance(meta, _Meta):
            return meta
    raise AttributeError(
        "sync, slow_params and metrics are those of the optimizer that init or update belongs to, "
        f"and neither of these belongs to one: {tuple(optimizer)}"
    )


@translated
def lookahead(
    inner: optax.GradientTransformation,
    sync_period: Period = 5,
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
    sync_period : int, or callable, (syncs) -> int
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


@translated
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

    Notes
    -----
    Under an average with `restart=0` the updates of `inner` go through bit for bit. Until a rule's
    start the slow weights are the parameters. Schedules are traced, and get an int64 number of
    syncs in double precision. optax does not keep Adam's b2 in its state: a rule that asks for
    curvature therefore calls `inner` once more at each step, with zeros, and its alpha is 1 where
    Adam does not move at every step, as inside `MultiSteps`.

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
    not_wrapped(inner, isinstance(inner, MetaTransformation))
    check_settings(rule, slow_dtype, reset_all, average)
    meta = _Meta(transformation("inner", inner), rule, slow_dtype, reset_all, average)
    return MetaTransformation(meta.init, meta.update)


class _Meta(NamedTuple):
    """The functions of a transformation, and what they share."""

    inner: optax.GradientTransformationExtraArgs
    rule: SyncRule
    slow_dtype: DType | None
    reset_all: bool
    average: Average | None

    def init(self, params: optax.Params) -> LookaheadState:
        check_arrays("params", params)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
            return cast(LookaheadState, jax.eval_shape(self.init, params))
        inner = self.inner.init(params)
        not_wrapped(self.inner, bool(ours_in(inner)))
        self._acted_on(inner)  # raises for one that the policy cannot act on
        # Copies: an alias of the parameters cannot be donated together with them (optax#1059),
        # and zeros_like would lose their sharding under jit (jax#16080).
        begin = self.rule.init(
            arrays(params),
            arrays(inner) if self._blends else (),
            count=jnp.zeros([], jnp.int32),
            slow_dtype=self.slow_dtype,
        )
        slow = like(params, begin.slow)
        return state_kind(self.rule, self.average)(
            step=begin.count,
            syncs=begin.syncs,
            slow=slow,
            inner=inner,
            inner_slow=like(inner, begin.inner_slow) if self._blends else (),
            outer=slots(begin.outer, slow),
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
        # The split form takes what a cycle starts from at the sync before; before the first cycle
        # of a rule with a start there is none.
        if lookahead_sync is None or self.rule.start:
            state = self._begun(state, params)
        if lookahead_sync is not None:
            state = self._watched(state, updates)
        gradient = updates
        updates, inner = self.inner.update(updates, state.inner, params, **extra_args)
        # A moment of a shape that broadcasts would pass unseen, and grow.
        check_tree("state.inner", state.inner, "its update", inner)
        state = state._replace(inner=inner)
        if lookahead_sync is False:
            return updates, state._replace(step=self.rule.count_step(counters(state)).count)
        given = evidence(self.rule, self.inner, gradient, inner, params, extra_args)
        if lookahead_sync:
            return self._synced(updates, state, params, given)
        return self._moved(updates, state, params, given, select=True)

    def sync(self, state: Any, params: Any, gradient: Any = None) -> tuple[Any, Any]:
        ours = find_state(state)
        check_arrays("params", params)
        own, still = own_params(ours, params), jax.tree.map(jnp.zeros_like, params)
        check_arguments(own, ours, own)
        check_state(self.rule, self.average, ours)
        if gradient is not None:
            gradient = own_params(ours, gradient, "gradient")
        given = evidence(self.rule, self.inner, gradient, ours.inner, own, {})
        ours = self._begun(ours, own)
        updates, synced = self._synced(own_params(ours, still), ours, own, given)
        return filled(updates, still), replaced(state, lambda _: synced)

    def slow_params(self, state: Any, params: Any) -> Any:
        ours = find_state(state)
        check_state(self.rule, self.average, ours)
        return read_out(self.rule, ours, params)

    def metrics(self, state: Any, params: Any) -> dict[str, Any]:
        ours = find_state(state)
        check_state(self.rule, self.average, ours)
        return metrics(self.rule, arrays(own_params(ours, params)), readable(ours))

    def _begun(self, state: LookaheadState, params: optax.Params, **known: int) -> LookaheadState:
        return begun(self.rule, state, params if self.average is None else None, **known)

    def _watched(self, state: LookaheadState, gradient: optax.Updates) -> LookaheadState:
        """Show the outer rule the first gradient of a cycle, if it keeps that."""
        if not self.rule.needs_gradient or not number_of_slots(self.rule):
            return state
        seen = self.rule.watch(sync_state(state), arrays(gradient))
        return state._replace(outer=slots_like(state.outer, seen.outer))

    def _synced(self, updates: Any, state: LookaheadState, params: Any, given: Any) -> Stepped:
        """Sync after `updates`, and begin the next cycle at once: no other step will."""
        updates, synced = self._moved(updates, state, params, given, select=False)
        # What `reset` makes depends on no array, so jit would not know its sharding (jax#16080):
        # it is that of what it replaces. XLA drops a select that is always the same.
        made, replaces = (synced.inner, synced.outer), (state.inner, state.outer)
        inner, outer = jax.tree.map(partial(jnp.where, True), made, replaces)
        synced = synced._replace(inner=inner, outer=outer)
        landed = optax.apply_updates(params, updates)
        return updates, self._begun(synced, landed, count=0, syncs=1)

    def _moved(
        self, updates: Any, state: LookaheadState, params: Any, given: Any, *, select: bool
    ) -> Stepped:
        """Count `updates` as a step and sync if it is the k-th (`select`), or sync in any case."""
        within = coordinates(self.rule, shared=self.average is not None)
        acts_on = self._acted_on(state.inner)
        leaves = list(zip(arrays(state.slow), arrays(params), arrays(updates), strict=True))
        pairs = [within.enter(leaf) for leaf in leaves]
        before = sync_state(state)._replace(
            slow=[slow for slow, _ in pairs],
            # Of the default width: a schedule of an int32 gives float32, in double precision too.
            syncs=state.syncs.astype(int),
            inner_slow=picked(state.inner_slow, acts_on) if self._blends else (),
        )
        due = self.rule.due(before) if select else True
        back = self.rule.puts_back(before)
        back = back if back is False else due & back
        fast: Leaves = [fast for _, fast in pairs]
        live: Leaves = picked(state.inner, acts_on)
        if self.rule.inner_state == "reset":
            given = {**given, "initial": picked(self.inner.init(params), acts_on)}
        if self.average is not None:
            given = {**given, "average": only_when_due(self.average, due, before.slow, fast)}
        run = self.rule.step if select else self.rule.sync
        fast, live, after = run(fast, live, before, **given)
        # Counted here again in 32 bits, which get full.
        one_more_sync = one_more(state.syncs, self.rule.repeats_after)
        syncs = jnp.where(after.syncs == before.syncs, state.syncs, one_more_sync)
        ends = zip(leaves, after.slow, fast, strict=True)
        out = [within.leave(back, leaf, *end) for leaf, *end in ends]
        return like(updates, [update for _, update in out]), state._replace(
            step=after.count,
            syncs=syncs,
            slow=like(state.slow, [kept for kept, _ in out]),
            inner=restored(state.inner, acts_on, live),
            outer=slots_like(state.outer, after.outer),
        )

    @property
    def _blends(self) -> bool:
        return self.rule.inner_state == "interpolate"

    def _acted_on(self, state: optax.OptState) -> list[bool]:
        return acted_on(self.inner, state, self.rule.inner_state, self.reset_all)
