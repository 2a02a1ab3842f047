"""Trees as the core takes them, flat lists of arrays, and back; a part of a tree and the whole."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["arrays", "by_path", "described", "filled", "like", "owned", "shapes"]


def arrays(tree: Any) -> list[jax.Array]:
    """Leaves as JAX arrays: NumPy's and Python's numbers are parameters too."""
    return list(map(jnp.asarray, jax.tree.leaves(tree)))


def like(tree: Any, leaves: Iterable[Any]) -> Any:
    """A tree like `tree` with other leaves."""
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves, by their paths as they are written in Python."""
    return {path: np.shape(leaf) for path, leaf in by_path(tree).items()}


def described(shape: tuple[int, ...] | None) -> str:
    """A leaf by its shape; None is for one that is not there."""
    return "absent (None)" if shape is None else f"an array of shape {shape}"


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves by their paths as they are written in Python."""
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def owned(params: optax.Params, slow: optax.Params) -> optax.Params:
    """The parameters that `slow` has, in a tree like it.

    By their paths: inside of `optax.masked`, `slow` has MaskedNode for the others, of an equinox
    model None for what is no array, and in flax's nnx.Optimizer variables of another class.
    """
    leaves = by_path(params)
    return like(slow, [leaves[path] for path in by_path(slow)])


def filled(tree: optax.Params, others: optax.Params) -> optax.Params:
    """`others`, with the leaves of `tree` in their places."""
    return like(others, {**by_path(others), **by_path(tree)}.values())
