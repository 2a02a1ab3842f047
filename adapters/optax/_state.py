"""The state of the optax adapter, and how it is found and read inside any other optax state.

Nothing here moves weights: that is _optimizer.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lookahead_core.kernel import anchored

__all__ = [
    "PARKED",
    "LookaheadState",
    "PersistentState",
    "SharedState",
    "filled",
    "find_state",
    "is_parked",
    "own_params",
    "refuse_parked",
    "replaced",
    "resync",
    "slow_params",
    "start_cycle",
    "states_in",
]


class LookaheadState(NamedTuple):
    """State of `meta_optimizer`. Read the slow weights with `slow_params`, not from here.

    Attributes
    ----------
    step : int32 array, shape ()
        Inner steps applied since the last sync, 0 .. sync_period - 1; it begins at -start, if the
        rule has a start.
    syncs : int32 array, shape ()
        Syncs so far; a schedule of alpha reads it.
    slow : tree like the parameters
        Parameters at the first step of this cycle; stale while `step` is not above 0. In the wider
        dtype where `slow_dtype` was given.
    inner : optax state
        The inner transformation's own.
    inner_slow : optax state, or ()
        The inner state at the first step of this cycle, for `inner_state="interpolate"` alone.
    outer : tuple of trees like the parameters
        Slots of the outer rule (its momentum), with MaskedNode for a parameter that is not
        averaged; () for a rule that keeps nothing.
    """

    step: jax.Array
    syncs: jax.Array
    slow: optax.Params
    inner: optax.OptState
    inner_slow: optax.OptState
    outer: tuple[optax.Params, ...] = ()


class PersistentState(LookaheadState):
    """State of a rule that does not put the parameters back whole at every sync.

    The parameters do not carry the slow weights then, and the class is what tells `slow_params` so.

    Attributes
    ----------
    step : int32 array, shape ()
        As in `LookaheadState`, like all that is not said here.
    syncs : int32 array, shape ()
        Syncs so far.
    slow : tree like the parameters
        What the last sync left; never stale once the first cycle has begun.
    inner : optax state
        The inner transformation's own.
    inner_slow : optax state
        Always ().
    outer : tuple of trees like the parameters
        Slots of the outer rule.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import ema
    >>> from lookahead_core.adapters.optax import meta_optimizer
    >>> type(meta_optimizer(optax.sgd(0.1), ema()).init(jnp.ones(2))).__name__
    'PersistentState'
    """

    __slots__ = ()


class SharedState(PersistentState):
    """State of a rule for many workers: `slow` and `outer` are the same bits on all of them.

    `slow` is what `init` was given and syncs made of it, and is never taken from the parameters,
    which are each worker's own; but `resync` takes it from those that it is given.

    Attributes
    ----------
    step : int32 array, shape ()
        As in `LookaheadState`, like all that is not said here; the same on all workers.
    syncs : int32 array, shape ()
        Syncs so far; the same on all workers.
    slow : tree like the parameters
        What the last sync left; never stale. The same on all workers.
    inner : optax state
        Each worker's own.
    inner_slow : optax state, or ()
        Each worker's own.
    outer : tuple of trees like the parameters
        Slots of the outer rule; the same on all workers.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import local_sgd
    >>> from lookahead_core.adapters.optax import meta_optimizer
    >>> alone = meta_optimizer(optax.sgd(0.1), local_sgd(), average=lambda differences: differences)
    >>> type(alone.init(jnp.ones(2))).__name__
    'SharedState'
    """

    __slots__ = ()


class _Parked(NamedTuple):
    """Stands for what `park` took out: a tree without leaves."""


PARKED = _Parked()


def slow_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """Slow weights: the parameters to evaluate or ship (clause C22).

    Parameters
    ----------
    state : optax state
        A `LookaheadState`, or any optax state that holds one, or several for different parameters
        (`optax.partition`).
    params : tree
        The current parameters, which are the fast weights.

    Returns
    -------
    tree like `params`
        New arrays, in `slow_dtype` where that is wider. Parameters that no Lookahead moves are
        returned as they are.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`, or several for one parameter.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, slow_params
    >>> optimizer, params = lookahead(optax.sgd(0.5)), {"w": jnp.ones(2)}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> slow_params(state, optax.apply_updates(params, updates))
    {'w': Array([1., 1.], dtype=float32)}
    """
    found = states_in(state)
    for ours in found:
        refuse_parked(ours)
    owned = [path for ours in found for path, _ in jax.tree_util.tree_leaves_with_path(ours.slow)]
    if twice := [path for path in owned if owned.count(path) > 1]:
        raise ValueError(
            "state must hold one LookaheadState for each parameter, got several for "
            f"params{jax.tree_util.keystr(twice[0])}"
        )
    for ours in found:
        params = _map_owned(_read(_are_slow(ours)), ours.slow, params)
    return params


def find_state(state: optax.OptState) -> LookaheadState:
    """The `LookaheadState` inside any optax state: of `chain`, `masked`, `MultiSteps` and so on.

    Parameters
    ----------
    state : optax state
        What `init` or `update` of the whole optimizer returned.

    Returns
    -------
    LookaheadState

    Raises
    ------
    ValueError
        If `state` does not hold exactly one.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import find_state, lookahead
    >>> optimizer = optax.chain(optax.clip(1.0), lookahead(optax.sgd(0.1)))
    >>> find_state(optimizer.init(jnp.ones(2))).step
    Array(0, dtype=int32)
    """
    found = states_in(state)
    if len(found) != 1:
        raise ValueError(f"state must hold exactly one LookaheadState, got {len(found)}")
    return found[0]


def resync(state: optax.OptState, params: optax.Params | None = None) -> optax.OptState:
    """Start a cycle here: the parameters as they are become the slow weights.

    For weights that are loaded or edited in mid-cycle. Between cycles it is not needed (clause
    C26), but for the split form (`split`), which must be given `params`. An average that training
    does not feed on (restart below 1) begins again at `params`, which must be given too; so must
    they for many workers, the same to each. A rule's start is over then.

    Parameters
    ----------
    state : optax state
        Any that holds a `LookaheadState`, or several.
    params : tree, optional
        The parameters, copied at once; without them the next `update` takes them.

    Returns
    -------
    optax state
        As `state`, with the counter at 0.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`, or `params` is needed and None.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, resync
    >>> optimizer, params = lookahead(optax.sgd(0.1)), jnp.ones(2)
    >>> _, state = optimizer.update(params, optimizer.init(params), params)
    >>> state.step, resync(state).step
    (Array(1, dtype=int32), Array(0, dtype=int32))
    """
    states_in(state)

    def restarted(ours: LookaheadState) -> LookaheadState:
        refuse_parked(ours)
        if params is None and isinstance(ours, PersistentState):
            raise ValueError(
                "params must be given to resync under a rule for many workers, or one that does "
                "not put them back at every sync: its next update does not take slow weights from "
                "them; got None"
            )
        ours = ours._replace(step=jnp.zeros_like(ours.step))
        return ours if params is None else jax.tree.map(jnp.copy, _taken(ours, params, True, True))

    return replaced(state, restarted)


def is_parked(state: LookaheadState) -> bool:
    """Whether the slow weights are elsewhere."""
    return isinstance(state.slow, _Parked)


def refuse_parked(state: LookaheadState) -> None:
    """ValueError if the slow weights are elsewhere."""
    if is_parked(state):
        raise ValueError(
            "state must hold its slow weights here, got one that `park` made: unpark it"
        )


def start_cycle(state: LookaheadState, params: optax.Params) -> LookaheadState:
    """`state`, with the anchor taken from the parameters if this is the first step of a cycle."""
    return _taken(state, params, _are_slow(state), state.step <= 0)


def _taken(
    state: LookaheadState,
    params: optax.Params,
    are_slow: bool | jax.Array,
    first: bool | jax.Array,
) -> LookaheadState:
    inner_slow = state.inner_slow
    if inner_slow != ():
        inner_slow = jax.tree.map(lambda i, s: jnp.where(first, i, s), state.inner, inner_slow)
    slow = _map_owned(_read(are_slow), state.slow, params)
    return state._replace(slow=slow, inner_slow=inner_slow)


def _are_slow(state: LookaheadState) -> bool | jax.Array:
    """Whether the slow weights are the parameters: between cycles, before the first, or never."""
    if isinstance(state, SharedState):
        return False
    between = state.step <= 0
    return between & (state.syncs == 0) if isinstance(state, PersistentState) else between


def replaced(
    state: optax.OptState, change: Callable[[LookaheadState], LookaheadState]
) -> optax.OptState:
    """`state`, with `change` made to every `LookaheadState` in it."""
    return jax.tree.map(
        lambda node: change(node) if _is_ours(node) else node, state, is_leaf=_is_ours
    )


def own_params(state: LookaheadState, params: optax.Params) -> optax.Params:
    """The parameters that `state` has, with MaskedNode where it has it."""
    refuse_parked(state)
    return jax.tree.map(
        lambda s, p: s if _is_masked(s) else p, state.slow, params, is_leaf=_is_masked
    )


def filled(updates: optax.Updates, params: optax.Params) -> optax.Updates:
    """`updates` for all parameters: zero where it has MaskedNode."""
    return jax.tree.map(
        lambda u, p: jax.tree.map(jnp.zeros_like, p) if _is_masked(u) else u,
        updates,
        params,
        is_leaf=_is_masked,
    )


def states_in(state: optax.OptState) -> list[LookaheadState]:
    found = [node for node in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(node)]
    if not found:
        raise ValueError(f"state must hold a LookaheadState, got none in {type(state).__name__}")
    return found


def _is_ours(node: Any) -> bool:
    return isinstance(node, LookaheadState)


def _read(are_slow: bool | jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Slow weights of a leaf: at the start of a cycle they are what the anchor will be."""

    def read(slow: jax.Array, param: jax.Array) -> jax.Array:
        if are_slow is False:  # no select: JAX would take it for another one on each worker
            return jnp.copy(slow)
        anchor = anchored(jnp.asarray(slow), jnp.asarray(param))
        return jnp.where(are_slow, anchor, slow)

    return read


def _map_owned(function: Callable[..., Any], slow: Any, params: Any) -> Any:
    """Map over the parameters that `slow` has; inside optax.masked the others are MaskedNode."""
    return jax.tree.map(
        lambda s, p: p if _is_masked(s) else function(s, p), slow, params, is_leaf=_is_masked
    )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
