"""The formula of an outer rule that keeps one difference of weights and is linear in it.

    slot' = decay * slot + gain * (slow - fast)
    slow' = fast + ahead * slot' - behind * slot

Which method this is, the four coefficients say: outer_rules/gradient_point.py. Sequences of leaves
are kernel.py.
"""

from lookahead_core.leaves import copied, in_precision_of
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Fraction

__all__ = ["move_linearly"]


def move_linearly(
    slow: Array,
    fast: Array,
    slot: Array,
    decay: Fraction,
    gain: Fraction,
    ahead: Fraction,
    behind: Fraction,
) -> tuple[Array, Array]:
    """One outer step of one leaf.

    Parameters
    ----------
    slow : array
        Slow weights; floating point, real or complex.
    fast : array
        Fast weights, of the same shape. Cast to the dtype of `slow` if they have another.
    slot : array
        Difference of weights that the rule keeps, of the shape and dtype of `slow`.
    decay, gain : float or 0-d array
        What is left of the slot, and how much of the pseudo-gradient, slow - fast, comes to it.
    ahead, behind : float or 0-d array
        How far from the fast weights the slow ones go along the new slot, and back along the old.

    Returns
    -------
    slow : array
        New array, of the shape, dtype and device of `slow`.
    slot : array
        Likewise. Both are within 4 eps of the exact values, times the largest of abs(slow),
        abs(fast) and abs(slot), and times (1 + abs(decay) + abs(gain)) and
        (1 + abs(ahead) + abs(behind)) (clause C85).

    Examples
    --------
    >>> import numpy as np
    >>> slow, fast, slot = np.asarray([1.0]), np.asarray([0.0]), np.asarray([2.0])
    >>> move_linearly(slow, fast, slot, decay=0.5, gain=1.0, ahead=0.5, behind=0.25)
    (array([0.5]), array([2.]))
    """
    xp = namespace(slow)
    fast = copied(fast, slow.dtype) if fast.dtype != slow.dtype else fast
    decay, gain = in_precision_of(slow, decay), in_precision_of(slow, gain)
    moved = decay * slot + gain * (slow - fast)
    # From `fast` and not from `slow`: with nothing in the slot the result is `fast`, to the bit.
    change = in_precision_of(slow, ahead) * moved - in_precision_of(slow, behind) * slot
    # No-ops but for ml_dtypes' bfloat16 in NumPy, which a Python float promotes to float32.
    moved = xp.astype(moved, slow.dtype, copy=False)
    return xp.astype(fast + change, slow.dtype, copy=False), moved
