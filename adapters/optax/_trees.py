"""Trees as the core takes them, flat lists of arrays, and back; a part of a tree and the whole."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["arrays", "filled", "like", "owned"]


def arrays(tree: Any) -> list[jax.Array]:
    """Leaves as JAX arrays: NumPy's and Python's numbers are parameters too."""
    return list(map(jnp.asarray, jax.tree.leaves(tree)))


def like(tree: Any, leaves: Iterable[Any]) -> Any:
    """A tree like `tree` with other leaves."""
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def owned(params: optax.Params, slow: optax.Params) -> optax.Params:
    """The parameters that `slow` has; inside of `optax.masked` it has MaskedNode for others."""
    return jax.tree.map(lambda s, p: s if _is_masked(s) else p, slow, params, is_leaf=_is_masked)


def filled(tree: optax.Params, others: optax.Params) -> optax.Params:
    """`tree`, with those of `others` where it has MaskedNode."""
    return jax.tree.map(lambda t, o: o if _is_masked(t) else t, tree, others, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
