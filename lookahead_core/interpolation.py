"""The formula of the project, for one leaf: a point between the slow and the fast weights.

    slow' = slow + alpha * (fast - slow)            Zhang et al. 2019, eq. 1

Sequences of leaves are kernel.py; what is averaged at all is leaves.py.
"""

from lookahead_core.leaves import copied
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array

__all__ = ["interpolate"]


def interpolate(slow: Array, fast: Array, alpha: float) -> Array:
    """Move `slow` the fraction `alpha` of the way to `fast`, exactly at both ends.

    Parameters
    ----------
    slow : array
        Where to start; floating point, real or complex.
    fast : array
        Where to go, of the same shape. Cast to the dtype of `slow` if it has another.
    alpha : float
        Fraction of the way, 0 <= alpha <= 1.

    Returns
    -------
    array
        New array, shape, dtype and device of `slow`. For finite arguments whose difference is
        finite, within 2 eps * max(abs(slow), abs(fast)) of the exact value (clause C08). At
        alpha = 0 it is `slow` and at alpha = 1 it is `fast`, bit for bit (clause C07).

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
