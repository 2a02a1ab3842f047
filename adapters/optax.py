"""Lookahead for optax: a gradient transformation around any other, on plain parameter trees.

optax emits updates and does not write parameters, so this runs the core's one rule in the
coordinates of updates: with p the parameters before the step, the slow weights are `slow - p` and
the fast ones `u`, since every outer rule commutes with translation (clause C21). The anchor is
taken lazily, from the parameters at the first step of a cycle: after a sync the parameters *are*
the slow weights, bit for bit, whatever later transforms do to the update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule, SyncState
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.leaves import is_averaged

__all__ = ["LookaheadState", "lookahead", "meta_optimizer", "slow_params"]


class LookaheadState(NamedTuple):
    """State of `meta_optimizer`. Read the slow weights with `slow_params`, not from here.

    Attributes
    ----------
    step : int32 array, shape ()
        Inner steps applied since the last sync, 0 .. sync_period - 1.
    syncs : int32 array, shape ()
        Syncs so far.
    slow : tree like the parameters
        Parameters at the first step of this cycle; stale while `step` is 0.
    inner : optax state
        The inner transformation's own.
    inner_slow : optax state, or ()
        The inner state at the first step of this cycle, for `inner_state="interpolate"` alone.
    """

    step: jax.Array
    syncs: jax.Array
    slow: optax.Params
    inner: optax.OptState
    inner_slow: optax.OptState


def lookahead(
    inner: optax.GradientTransformation,
    sync_period: int = 5,
    alpha: float = 0.5,
    inner_state: str = "maintain",
) -> optax.GradientTransformationExtraArgs:
    """Lookahead around any optax transformation: k steps forward, one step back.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the fast weights, which are the parameters.
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float
        How far the slow weights move at a sync, in [0, 1].
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state. `reset` restarts, as a whole, each node of it that
        holds parameter-shaped leaves (Adam's count goes with its moments) and leaves the others
        (a schedule's count goes on); `interpolate` blends the parameter-shaped leaves.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its `update` needs `params`, and hands extra arguments on to `inner`.

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
    >>> params = {"w": jnp.ones(2)}
    >>> optimizer = lookahead(optax.sgd(0.1), sync_period=5)
    >>> state = optimizer.init(params)
    >>> for _ in range(10):
    ...     gradient = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
    ...     updates, state = optimizer.update(gradient, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> slow = slow_params(state, params)
    """
    return meta_optimizer(inner, lookahead_rule(sync_period, alpha, inner_state))


def meta_optimizer(
    inner: optax.GradientTransformation, rule: SyncRule
) -> optax.GradientTransformationExtraArgs:
    """Any `SyncRule` around any optax transformation.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the fast weights, which are the parameters.
    rule : SyncRule
        When to sync and how.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    ValueError
        If an argument is not of its kind; the message names it.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise ValueError(f"inner must be an optax.GradientTransformation, got {inner!r}")
    if not isinstance(rule, SyncRule):
        raise ValueError(f"rule must be a SyncRule, got {rule!r}")
    inner = optax.with_extra_args_support(inner)
    blends = rule.inner_state == "interpolate"

    def init(params: optax.Params) -> LookaheadState:
        inner_state = inner.init(params)
        # Copies: an alias of the parameters cannot be donated together with them (optax#1059),
        # and zeros_like would lose their sharding under jit (jax#16080).
        return LookaheadState(
            step=jnp.zeros([], jnp.int32),
            syncs=jnp.zeros([], jnp.int32),
            slow=jax.tree.map(jnp.copy, params),
            inner=inner_state,
            inner_slow=jax.tree.map(jnp.copy, inner_state) if blends else (),
        )

    def update(
        updates: optax.Updates,
        state: LookaheadState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LookaheadState]:
        _check_arguments(updates, state, params)
        first = state.step == 0
        slow = _where(first, params, state.slow)
        inner_slow = _where(first, state.inner, state.inner_slow) if blends else ()
        updates, moved = inner.update(updates, state.inner, params, **extra_args)
        # A moment of a shape that broadcasts would pass unseen, and grow.
        _check_tree("state.inner", state.inner, "its update", moved)

        acts_on = _acted_on(inner, moved, rule.inner_state)
        pick = _picker(acts_on)
        u, tree = jax.tree.flatten(updates)
        before = SyncState(
            slow=[
                (s - p).astype(v.dtype) if is_averaged(v.dtype) else v
                for s, p, v in zip(jax.tree.leaves(slow), jax.tree.leaves(params), u, strict=True)
            ],
            count=state.step,
            syncs=state.syncs,
            outer=(),
            inner_slow=pick(inner_slow) if blends else (),
        )
        initial = pick(inner.init(params)) if rule.inner_state == "reset" else None
        synced, leaves, after = rule.step(u, pick(moved), before, initial=initial)
        return jax.tree.unflatten(tree, synced), LookaheadState(
            after.count, after.syncs, slow, _with(moved, acts_on, leaves), inner_slow
        )

    return optax.GradientTransformationExtraArgs(init, update)


def slow_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """Slow weights: the parameters to evaluate or ship (clause C22).

    Parameters
    ----------
    state : optax state
        A `LookaheadState`, or any optax state that holds exactly one (of a `chain`, say).
    params : tree
        The current parameters, which are the fast weights.

    Returns
    -------
    tree like `params`

    Raises
    ------
    ValueError
        If `state` does not hold exactly one `LookaheadState`.
    """
    found = [node for node in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(node)]
    if len(found) != 1:
        raise ValueError(f"state must hold exactly one LookaheadState, got {len(found)}")
    (ours,) = found
    return jax.tree.map(
        # Inside optax.masked, leaves that are not ours are MaskedNode.
        lambda s, p: p if isinstance(s, optax.MaskedNode) else jnp.where(ours.step == 0, p, s),
        ours.slow,
        params,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def _is_ours(node: Any) -> bool:
    return isinstance(node, LookaheadState)


def _where(condition: jax.Array, chosen: Any, other: Any) -> Any:
    return jax.tree.map(lambda c, o: jnp.where(condition, c, o), chosen, other)


# --- the part of the inner state that a policy acts on ---

_PARAMETERS = object()  # stands for a whole parameter-shaped subtree


def _acted_on(
    inner: optax.GradientTransformation, state: optax.OptState, policy: str
) -> list[bool]:
    """For each leaf of `state`, whether `policy` acts on it. Static: no array is looked at."""
    if policy == "maintain":
        return [False] * len(jax.tree.leaves(state))
    holds = _restarts if policy == "reset" else _is_parameters
    marked = optax.tree_utils.tree_map_params(
        inner, lambda _: _PARAMETERS, state, is_leaf=lambda _: True
    )
    labels = jax.tree.map(
        lambda mark, node: jax.tree.map(lambda _: holds(mark), node), marked, state, is_leaf=holds
    )
    return jax.tree.leaves(labels)


def _is_parameters(node: Any) -> bool:
    return node is _PARAMETERS


def _restarts(node: Any) -> bool:
    """Whether `node` is a state with parameter-shaped fields: it restarts as a whole."""
    is_state = isinstance(node, tuple) and hasattr(node, "_fields")
    return node is _PARAMETERS or (is_state and any(field is _PARAMETERS for field in node))


def _picker(acts_on: list[bool]) -> Callable[[optax.OptState], list[jax.Array]]:
    def pick(state: optax.OptState) -> list[jax.Array]:
        pairs = zip(jax.tree.leaves(state), acts_on, strict=True)
        return [leaf for leaf, acted in pairs if acted]

    return pick


def _with(state: optax.OptState, acts_on: list[bool], leaves: Any) -> optax.OptState:
    """`state` with `leaves` in the places that `acts_on` marks."""
    old, tree = jax.tree.flatten(state)
    new = iter(leaves)
    return jax.tree.unflatten(
        tree, [next(new) if acted else leaf for leaf, acted in zip(old, acts_on, strict=True)]
    )


# --- argument checks: shapes and structures are static, so these cost nothing in jit ---


def _check_arguments(updates: Any, state: Any, params: Any) -> None:
    if params is None:
        raise ValueError("params must be given: update(updates, state, params), got None")
    if not _is_ours(state):
        raise ValueError(f"state must be a LookaheadState, got {type(state).__name__}")
    _check_tree("updates", updates, "params", params)
    _check_tree("state.slow", state.slow, "params", params)


def _check_tree(name: str, tree: Any, other_name: str, other: Any) -> None:
    """Raise ValueError unless `tree` has the structure and the shapes of `other`."""
    ours, theirs = _shapes(tree), _shapes(other)
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise ValueError(
                f"{name}{path} must be what {other_name}{path} is, {_describe(theirs.get(path))}, "
                f"got {_describe(ours.get(path))}"
            )
    got: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(other)
    if got != expected:
        raise ValueError(f"{name} must have the structure of {other_name}, {expected}, got {got}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}


def _describe(shape: tuple[int, ...] | None) -> str:
    return "absent (None)" if shape is None else f"an array of shape {shape}"
