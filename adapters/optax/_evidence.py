"""What an outer rule asks for beside the weights: gradients, curvature, the learning rate."""

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
) -> dict[str, Any]:
    """Arguments for a sync of `rule`; `state` is that of `inner` after its step."""
    given: dict[str, Any] = {}
    if rule.needs_inner_lr:
        given["inner_lr"] = _learning_rate(state, extra_args)
    if not rule.needs_gradient or gradient is None:
        return given
    given["gradient"] = arrays(gradient)
    if rule.needs_curvature:
        diagonal = _adam_curvature(inner, state, params, extra_args)
        check_tree("the nu of ScaleByAdamState", diagonal, "params", params)
        given["curvature"] = arrays(diagonal)
    return given


def _learning_rate(state: Any, extra_args: dict[str, Any]) -> Any:
    """The rate of the last inner step: an extra argument, or what inject_hyperparams keeps.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    if "learning_rate" in extra_args:
        return extra_args["learning_rate"]
    nodes = jax.tree.leaves(state, is_leaf=_has_rate)
    found = [node.hyperparams["learning_rate"] for node in nodes if _has_rate(node)]
    if len(found) != 1:
        raise ValueError(
            "inner must tell its learning rate, because the weights of the rule go by it: make it "
            "with optax.inject_hyperparams, one for all parameters, or call update(..., "
            "learning_rate=...); or let all steps weigh the same (weight_lr_power=0); got "
            f"{len(found)} in {jax.tree.structure(state)}"
        )
    return jnp.real(found[0])  # it has the dtype of the parameters, which may be complex


def _has_rate(node: Any) -> bool:
    return "learning_rate" in getattr(node, "hyperparams", ())


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
