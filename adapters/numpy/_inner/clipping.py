"""Gradient clipping on trees of arrays: by global norm, and by value. No optimizer here."""

from functools import reduce
from operator import add

import optree

from lookahead_core.leaves import kind_of
from lookahead_core.namespace import device, namespace, to_device
from lookahead_core.typing import Array
from lookahead_core.validation import positive

from .._tree import Tree

__all__ = ["clip_by_global_norm", "clip_by_value", "global_norm"]

Gradients = list[Array | None]


def global_norm(grads: Tree) -> Array:
    """Euclidean norm of all gradients together, as one vector.

    Parameters
    ----------
    grads : tree of arrays
        Gradients, real or complex; None in the place of a leaf counts as zero.

    Returns
    -------
    0-d array
        Real, at least float32, on the device of the first gradient: nothing waits for it.

    Raises
    ------
    ValueError
        If there is no gradient at all.

    Examples
    --------
    >>> import numpy as np
    >>> float(global_norm({"w": np.asarray([3.0]), "b": np.asarray(4.0)}))
    5.0
    """
    return _norm(optree.tree_leaves(grads))


def clip_by_global_norm(grads: Tree, max_norm: float) -> Tree:
    """Scale all gradients by one factor so that their global norm is at most `max_norm`.

    grads' = grads * max_norm / max(norm, max_norm)

    Parameters
    ----------
    grads : tree of arrays
        Gradients, not changed; None in the place of a leaf stays None.
    max_norm : float
        Largest norm that is let through unchanged, > 0.

    Returns
    -------
    tree of new arrays
        In the shapes and dtypes of `grads`. With a NaN in one leaf, all are NaN.

    Raises
    ------
    ValueError
        If `max_norm` is not a number > 0, or there is no gradient at all.

    References
    ----------
    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1. torch's `clip_grad_norm_` adds 1e-6 to the norm; this does not.

    Examples
    --------
    >>> import numpy as np
    >>> clip_by_global_norm([np.asarray([3.0, 4.0])], 1.0)
    [array([0.6, 0.8])]
    """
    return optree.tree_unflatten(
        optree.tree_structure(grads), norm_clipped(optree.tree_leaves(grads), max_norm)
    )


def clip_by_value(grads: Tree, max_value: float) -> Tree:
    """Clip each element to [-max_value, max_value]; of complex ones the two parts alike.

    Parameters
    ----------
    grads : tree of arrays
        Gradients, not changed; None in the place of a leaf stays None.
    max_value : float
        Largest absolute value that is let through unchanged, > 0.

    Returns
    -------
    tree of new arrays
        In the shapes and dtypes of `grads`.

    Raises
    ------
    ValueError
        If `max_value` is not a number > 0.

    Examples
    --------
    >>> import numpy as np
    >>> clip_by_value([np.asarray([3.0, -0.5, -4.0])], 1.0)
    [array([ 1. , -0.5, -1. ])]
    """
    return optree.tree_map(lambda leaf: value_clipped([leaf], max_value)[0], grads)


def norm_clipped(gradients: Gradients, max_norm: float) -> Gradients:
    """`clip_by_global_norm` on a list."""
    max_norm = positive("max_norm", max_norm, "largest global norm of the gradients")
    norm = _norm(gradients)
    # One expression for both cases: a branch would wait for the device, and 0 / 0 never occurs.
    factor = max_norm / namespace(norm).maximum(norm, max_norm)
    return [None if g is None else _scaled(g, factor) for g in gradients]


def value_clipped(gradients: Gradients, max_value: float) -> Gradients:
    """`clip_by_value` on a list."""
    bound = positive("max_value", max_value, "largest absolute value in the gradients")
    return [None if g is None else _clipped(g, bound) for g in gradients]


def _norm(gradients: Gradients) -> Array:
    squares = [_sum_of_squares(g) for g in gradients if g is not None]
    if not squares:
        raise ValueError("grads must hold at least one gradient, got none")
    where = device(squares[0])
    total = reduce(add, (to_device(square, where) for square in squares))
    return namespace(total).sqrt(total)


def _sum_of_squares(gradient: Array) -> Array:
    xp = namespace(gradient)
    size = xp.abs(gradient)
    # Squares of float16 overflow from 256 on.
    size = xp.astype(size, xp.result_type(size.dtype, xp.float32), copy=False)
    return xp.asarray(xp.sum(size * size))


def _scaled(gradient: Array, factor: Array) -> Array:
    xp = namespace(gradient)
    factor = to_device(factor, device(gradient))
    return xp.astype(gradient * factor, gradient.dtype, copy=False)


def _clipped(gradient: Array, bound: float) -> Array:
    xp = namespace(gradient)
    if kind_of(gradient.dtype) == "complex":
        return _clipped(xp.real(gradient), bound) + 1j * _clipped(xp.imag(gradient), bound)
    # Not `clip`: array-api-compat's refuses NumPy arrays of the other byte order.
    clipped = xp.minimum(xp.maximum(gradient, -bound), bound)
    return xp.astype(clipped, gradient.dtype, copy=False)
