"""The formula of the project, for one leaf: a point between the slow and the fast weights.

    slow' = slow + alpha * (fast - slow)            Zhang et al. 2019, eq. 1

Sequences of leaves are kernel.py; what is averaged at all is leaves.py.
"""

from lookahead_core.leaves import copied, in_precision_of
from lookahead_core.namespace import is_array, namespace
from lookahead_core.typing import Array, Fraction

__all__ = ["interpolate"]


def interpolate(slow: Array, fast: Array, alpha: Fraction) -> Array:
    """Move `slow` the fraction `alpha` of the way to `fast`, exactly at both ends.

    Parameters
    ----------
    slow : array
        Where to start; floating point, real or complex.
    fast : array
        Where to go, of the same shape. Cast to the dtype of `slow` if it has another.
    alpha : float or 0-d array
        Fraction of the way, 0 <= alpha <= 1. An array may be traced; it is not checked, and
        differentiable.

    Returns
    -------
    array
        New array, shape, dtype and device of `slow`. For finite arguments whose difference is
        finite, within 2 eps * max(abs(slow), abs(fast)) of the exact value (clause C08). At
        alpha = 0 it is `slow` and at alpha = 1 it is `fast`, bit for bit (clause C07); for an array
        `alpha` but for the sign of a zero (clause C51).

    References
    ----------
    Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", eq. 1,
    arXiv:1907.08610.

    Examples
    --------
    >>> import numpy as np
    >>> interpolate(np.asarray([0.0, 1e8]), np.asarray([1.0, 1.0]), 0.25)
    array([2.50000000e-01, 7.50000002e+07])
    """
    if is_array(alpha):
        return _selected(slow, fast, alpha)
    # The ends are copies: 0 * inf is NaN, -0.0 + 0.0 is 0.0, and `fast - slow` may overflow.
    if alpha == 0:
        return copied(slow)
    fast = copied(fast, slow.dtype) if fast.dtype != slow.dtype or alpha == 1 else fast
    if alpha == 1:
        return fast
    # Two branches, each exact at its own end: with one, 1e8 + 1.0 * (1 - 1e8) is 0 in float32.
    # This is also the form of torch.lerp, to which it is equal bit for bit at alpha = 0.5.
    if alpha < 0.5:
        moved = slow + alpha * (fast - slow)
    else:
        moved = fast - (1.0 - alpha) * (fast - slow)
    # A no-op but for ml_dtypes' bfloat16 in NumPy, which a Python float promotes to float32.
    return namespace(moved).astype(moved, slow.dtype, copy=False)


def _selected(slow: Array, fast: Array, alpha: Array) -> Array:
    """Both branches, and `where` between them: a traced `alpha` cannot be asked."""
    xp = namespace(slow)
    fast = xp.astype(fast, slow.dtype, copy=False)
    alpha = in_precision_of(slow, alpha)
    way = fast - slow
    # At the ends there is no way to go, and 0 * inf is NaN. Selected here and not afterwards: the
    # derivative at the ends is `way` too, and one of a NaN that was not selected would be NaN.
    at_an_end = (alpha == 0) | (alpha == 1)
    way = xp.where(at_an_end & ~xp.isfinite(way), xp.zeros_like(way), way)
    moved = xp.where(alpha < 0.5, slow + alpha * way, fast - (1.0 - alpha) * way)
    return xp.astype(moved, slow.dtype, copy=False)
