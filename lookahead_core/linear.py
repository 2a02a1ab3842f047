"""The formula of an outer rule that keeps one difference of weights and is linear in it.

    slot' = decay * slot + gain * (slow - fast)
    slow' = fast + ahead * slot' - behind * slot

Which method this is, the four coefficients say: gradient_point.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lookahead_core.leaves import copied, in_precision_of
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Fraction, Leaves

__all__ = ["Coefficients", "linear_leaves", "move_linearly"]


class Coefficients(NamedTuple):
    """The numbers of the formula: each a float or 0-d array, or a sequence of one for each leaf.

    Attributes
    ----------
    decay : float, 0-d array or sequence
        What is left of the slot.
    gain : float, 0-d array or sequence
        How much of the pseudo-gradient, slow - fast, comes to it.
    ahead : float, 0-d array or sequence
        How far from the fast weights along the new slot the slow weights go.
    behind : float, 0-d array or sequence
        How far back along the old slot they go.
    """

    decay: Fraction | Sequence[Fraction]
    gain: Fraction | Sequence[Fraction]
    ahead: Fraction | Sequence[Fraction]
    behind: Fraction | Sequence[Fraction]

    def of_leaf(self, index: int) -> "Coefficients":
        """Those of one leaf."""
        own = (c[index] if isinstance(c, list | tuple) else c for c in self)
        return Coefficients(*own)


def move_linearly(
    slow: Array, fast: Array, slot: Array, coefficients: Coefficients
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
    coefficients : Coefficients
        A number each.

    Returns
    -------
    slow, slot : array
        New arrays, of the shape, dtype and device of `slow`. Each within 4 eps of the exact value,
        times the largest of abs(slow), abs(fast) and abs(slot), and times
        (1 + abs(decay) + abs(gain)) * (1 + abs(ahead) + abs(behind)) (clause C85).

    Examples
    --------
    >>> import numpy as np
    >>> leaves = np.asarray([1.0]), np.asarray([0.0]), np.asarray([2.0])
    >>> move_linearly(*leaves, Coefficients(decay=0.5, gain=1.0, ahead=0.5, behind=0.25))
    (array([0.5]), array([2.]))
    """
    xp = namespace(slow)
    fast = copied(fast, slow.dtype) if fast.dtype != slow.dtype else fast
    decay, gain, ahead, behind = (in_precision_of(slow, number) for number in coefficients)
    moved = decay * slot + gain * (slow - fast)
    # From `fast` and not from `slow`: with nothing in the slot the result is `fast`, to the bit.
    landed = fast + (ahead * moved - behind * slot)
    # No-ops but for ml_dtypes' bfloat16 in NumPy, which a Python float promotes to float32.
    return xp.astype(landed, slow.dtype, copy=False), xp.astype(moved, slow.dtype, copy=False)


def linear_leaves(
    slow: Leaves, fast: Leaves, slot: Leaves, coefficients: Coefficients
) -> tuple[Leaves, Leaves]:
    """Reference for `Kernel.linear`: pure, leaf by leaf."""
    leaves = enumerate(zip(slow, fast, slot, strict=True))
    moved = [move_linearly(*leaf, coefficients.of_leaf(index)) for index, leaf in leaves]
    return tuple(s for s, _ in moved), tuple(kept for _, kept in moved)
