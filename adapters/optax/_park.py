"""Slow weights out of an optax state, and back in: for programs that do not use them.

What a state without them is, and who refuses it, is _state.py.
"""

from typing import TypeAlias

import optax

from ._state import PARKED, LookaheadState, is_parked, replaced, states_in

__all__ = ["park", "unpark"]

Parked: TypeAlias = tuple[tuple[optax.Params, optax.OptState, optax.OptState], ...]


def park(state: optax.OptState) -> tuple[optax.OptState, Parked]:
    """Take the slow weights out of a state, for the steps of the split form that do not sync.

    What the outer rule keeps goes with them. JAX takes some microseconds for each array that a
    compiled program is given, and those steps do not use these. No array is touched.

    Parameters
    ----------
    state : optax state
        Any that holds a `LookaheadState`, or several.

    Returns
    -------
    state, parked
        The state without them, which `split(...).update` takes and nothing else, and what
        `unpark` needs. A checkpoint needs both.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`, or was parked already.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, park, slow_params, unpark
    >>> optimizer, params = lookahead(optax.sgd(0.1)), jnp.ones(2)
    >>> state, parked = park(optimizer.init(params))
    >>> slow_params(unpark(state, parked), params)
    Array([1., 1.], dtype=float32)
    """
    found = states_in(state)
    if any(map(is_parked, found)):
        raise ValueError("state must hold slow weights to park, got one that was parked already")
    taken = tuple((ours.slow, ours.inner_slow, ours.outer) for ours in found)

    def emptied(ours: LookaheadState) -> LookaheadState:
        return ours._replace(slow=PARKED, inner_slow=PARKED, outer=PARKED)

    return replaced(state, emptied), taken


def unpark(state: optax.OptState, parked: Parked) -> optax.OptState:
    """Put the slow weights that `park` took out of a state back, before a step that syncs.

    Parameters
    ----------
    state : optax state
        As `park` or `split(...).update` returned it.
    parked : tuple
        What `park` returned beside it.

    Returns
    -------
    optax state

    Raises
    ------
    ValueError
        If `state` was not parked, or `parked` is of another one.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import find_state, lookahead, park, unpark
    >>> state = lookahead(optax.sgd(0.1)).init(jnp.ones(2))
    >>> find_state(unpark(*park(state))).slow
    Array([1., 1.], dtype=float32)
    """
    if not isinstance(parked, tuple):
        raise ValueError(f"parked must be what park returned beside the state, got {parked!r}")
    found = states_in(state)
    if len(found) != len(parked) or not all(map(is_parked, found)):
        raise ValueError(
            f"state must hold {len(parked)} LookaheadStates without slow weights, as park made it; "
            f"got {len(found)}, of which {sum(map(is_parked, found))} without"
        )
    rest = iter(parked)

    def returned(ours: LookaheadState) -> LookaheadState:
        slow, inner_slow, outer = next(rest)
        return ours._replace(slow=slow, inner_slow=inner_slow, outer=outer)

    return replaced(state, returned)
