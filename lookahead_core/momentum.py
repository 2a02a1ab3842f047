"""The formula of a momentum outer rule, for one leaf: SGD on the pseudo-gradient, slow - fast.

    buffer' = momentum * buffer + (slow - fast)
    slow'   = slow - lr * direction              direction = buffer', the heavy ball, or
                                                 slow - fast + momentum * buffer', Nesterov's

As torch.optim.SGD writes it, whose learning rate stands outside of the buffer too. Sequences of
leaves are kernel.py.
"""

from lookahead_core.leaves import copied, in_precision_of
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array

__all__ = ["move_with_momentum"]


def move_with_momentum(
    slow: Array,
    fast: Array,
    buffer: Array,
    lr: float | Array,
    momentum: float | Array,
    nesterov: bool,
) -> tuple[Array, Array]:
    """One outer step of one leaf.

    Parameters
    ----------
    slow : array
        Slow weights; floating point, real or complex.
    fast : array
        Fast weights, of the same shape. Cast to the dtype of `slow` if they have another.
    buffer : array
        Momentum buffer, of the shape and dtype of `slow`.
    lr, momentum : float or 0-d array
        Outer learning rate and momentum. An array may be traced, and is differentiable.
    nesterov : bool
        Which direction.

    Returns
    -------
    slow : array
        New array, of the shape, dtype and device of `slow`. Within 4 eps * (1 + lr) times the
        largest of abs(slow), abs(fast) and abs(buffer) of the exact value (clause C71).
    buffer : array
        Likewise.

    References
    ----------
    Polyak 1964; Sutskever et al. 2013, eq. 3 and 4, in the form of torch.optim.SGD. On the
    pseudo-gradient: Chen and Huo 2016 (BMUF), Wang et al. 2020 (SlowMo), arXiv:1910.00643.

    Examples
    --------
    >>> import numpy as np
    >>> slow, fast, buffer = np.asarray([1.0]), np.asarray([0.0]), np.asarray([0.5])
    >>> move_with_momentum(slow, fast, buffer, lr=0.5, momentum=0.5, nesterov=False)
    (array([0.375]), array([1.25]))
    """
    xp = namespace(slow)
    fast = copied(fast, slow.dtype) if fast.dtype != slow.dtype else fast
    lr, momentum = in_precision_of(slow, lr), in_precision_of(slow, momentum)
    gradient = slow - fast
    buffer = momentum * buffer + gradient
    direction = gradient + momentum * buffer if nesterov else buffer
    # No-ops but for ml_dtypes' bfloat16 in NumPy, which a Python float promotes to float32.
    moved = xp.astype(slow - lr * direction, slow.dtype, copy=False)
    return moved, xp.astype(buffer, slow.dtype, copy=False)
