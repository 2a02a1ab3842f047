"""What of a state is each worker's own, and what is one for all of them."""

from typing import Any

import jax
import optax

from lookahead_core.adapters.optax._state import LookaheadState, states_in

from .in_flight import InFlight

__all__ = ["worker_axes"]


def worker_axes(state: optax.OptState, own: Any, shared: Any) -> Any:
    """Which leaves of a state are each worker's own, and which are one for all of them.

    For `in_axes` and `out_axes` of `jax.vmap` (0 and None), and for `in_specs` and `out_specs` of
    `jax.shard_map` (`P("workers")` and `P()`). Counters, slow weights and what the outer rule keeps
    are shared. `vmap` refuses a program in which they might differ; `shard_map` does too, unless
    a `cond` on what is one worker's own decides.

    Parameters
    ----------
    state : optax state
        One with a `SharedState` in it, or with several for different parameters
        (`streaming_optimizer`), or its `jax.eval_shape`.
    own, shared : any
        What to write for each.

    Returns
    -------
    tree
        A prefix of `state`.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import local_sgd
    >>> from lookahead_core.adapters.optax import meta_optimizer, worker_axes
    >>> alone = meta_optimizer(optax.sgd(0.1), local_sgd(), average=lambda differences: differences)
    >>> axes = worker_axes(alone.init(jnp.ones(2)), own=0, shared=None)
    >>> axes.inner, axes.slow
    (0, None)
    """
    states_in(state)

    def axis(node: Any) -> Any:
        if isinstance(node, InFlight):
            return InFlight(axis(node.fragment), shared)
        if not isinstance(node, LookaheadState):
            return own
        return type(node)(
            step=shared, syncs=shared, slow=shared, inner=own, inner_slow=own, outer=shared
        )

    ours = (LookaheadState, InFlight)
    return jax.tree.map(axis, state, is_leaf=lambda node: isinstance(node, ours))
