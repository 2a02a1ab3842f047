"""What an outer rule asks for beside the weights: gradients, and the curvature that Adam knows."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule

from ._checks import check_tree
from ._trees import arrays

__all__ = ["evidence"]


def evidence(
    rule: SyncRule,
    inner: optax.GradientTransformationExtraArgs,
    gradient: optax.Updates | None,
    state: optax.OptState,
    params: optax.Params,
    extra_args: dict[str, Any],
) -> dict[str, list[jax.Array]]:
    """Arguments for a sync of `rule`; `state` is that of `inner` after its step."""
    if not rule.needs_gradient or gradient is None:
        return {}
    if not rule.needs_curvature:
        return {"gradient": arrays(gradient)}
    diagonal = _adam_curvature(inner, state, params, extra_args)
    check_tree("the nu of ScaleByAdamState", diagonal, "params", params)
    return {"gradient": arrays(gradient), "curvature": arrays(diagonal)}


def _adam_curvature(inner: Any, state: Any, params: Any, extra_args: Any) -> optax.Params:
    """Root of the second moment, corrected for its bias, of the one Adam inside of `inner`.

    Raises
    ------
    ValueError
        If `state` does not hold exactly one `ScaleByAdamState`.
    """
    adam = _adam(state)
    correction = 1 - _decay(inner, state, params, extra_args) ** adam.count
    return jax.tree.map(lambda nu: jnp.sqrt(nu / correction.astype(nu.dtype)), adam.nu)


def _decay(inner: Any, state: Any, params: Any, extra_args: Any) -> jax.Array:
    """Adam's b2, a 0-d array.

    optax keeps it in a closure. A second moment of one at a gradient of zero becomes b2, so that
    is asked of `inner`; all but one element of it is dead code to XLA.
    """

    def filled_with_ones(node: Any) -> Any:
        return node._replace(nu=jax.tree.map(jnp.ones_like, node.nu)) if _is_adam(node) else node

    state = jax.tree.map(filled_with_ones, state, is_leaf=_is_adam)
    still = jax.tree.map(jnp.zeros_like, params)
    _, after = inner.update(still, state, still, **extra_args)
    decayed = [nu for nu in jax.tree.leaves(_adam(after).nu) if nu.size]
    return decayed[0].ravel()[0] if decayed else jnp.zeros([])


def _adam(state: optax.OptState) -> Any:
    found = [node for node in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(node)]
    if len(found) != 1:
        raise ValueError(
            "inner must hold exactly one ScaleByAdamState for AdaptiveAlpha(curvature='inner'), "
            f"got {len(found)} in {jax.tree.structure(state)}"
        )
    return found[0]


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
