"""A rule on the weights themselves, leaf by leaf: for what a sync does not put back whole.

The slow weights persist then, and the parameters do not carry them. Rules that always restart run
in the coordinates of updates: _optimizer.py.
"""

import jax
import jax.numpy as jnp

from lookahead_core.kernel import anchored
from lookahead_core.leaves import is_averaged

__all__ = ["emitted", "on_weights"]


def on_weights(slow: jax.Array, param: jax.Array, update: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slow weights, and the fast ones as `optax.apply_updates` will make them."""
    return slow, jnp.asarray(param + update).astype(param.dtype)


def emitted(
    lands: bool,
    back: bool | jax.Array,
    slow: jax.Array,
    param: jax.Array,
    update: jax.Array,
    fast: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Slow weights to keep, and what to emit: the update itself, unless the fast weights go back.

    `param + (fast - param)` is `fast` within rounding. Where that is to be the slow weights
    (`lands`), they become what results, so that both are the same bits (clause C10).
    """
    if back is False or not (is_averaged(param.dtype) and is_averaged(update.dtype)):
        return slow, update
    dtype = jnp.result_type(param, update)
    way = fast.astype(dtype) - param.astype(dtype)
    update = jnp.where(back, way.astype(update.dtype), update)
    if not lands:
        return slow, update
    _, landed = on_weights(slow, param, update)
    return jnp.where(back, anchored(slow, landed), slow), update
