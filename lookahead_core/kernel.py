"""Kernels: how the arithmetic of a sync runs, on whole lists of leaves. What it means is rule.py.

The default is pure array-API code and the reference for every other. An adapter passes its own to
work in place or to launch once for many leaves (`torch._foreach_*`). The contract of each
operation is a set of clauses in docs/spec.md; `lookahead_core.conformance` runs it on any kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

from lookahead_core.interpolation import interpolate
from lookahead_core.leaves import copied, is_averaged
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Fraction, Leaves

__all__ = ["REFERENCE_KERNEL", "Kernel", "anchored", "move_toward"]


def interpolate_leaves(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Reference for `Kernel.interpolate`: pure, leaf by leaf."""
    moved = tuple(interpolate(s, f, alpha) for s, f in zip(slow, fast, strict=True))
    return moved, tuple(copied(s, f.dtype) for s, f in zip(moved, fast, strict=True))


def anchor_leaves(slow: Leaves, fast: Leaves) -> Leaves:
    """Reference for `Kernel.anchor`: pure, leaf by leaf."""
    return tuple(anchored(s, f) for s, f in zip(slow, fast, strict=True))


def anchored(slow: Array, fast: Array) -> Array:
    """One leaf of `Kernel.anchor`."""
    if slow.dtype == fast.dtype:
        return copied(fast)
    unchanged = copied(slow, fast.dtype) == fast
    return namespace(slow).where(unchanged, slow, copied(fast, slow.dtype))


class Kernel(NamedTuple):
    """List-level arithmetic of a sync.

    Both lists are *donated*: a kernel may overwrite and return the arrays that it was given, and
    the caller never reads the old ones again. The reference kernel overwrites nothing.

    Attributes
    ----------
    interpolate : callable, (slow, fast, alpha) -> (slow', fast')
        `slow'` is `interpolation.interpolate` leaf by leaf; `fast'` is `slow'` in the dtype of
        `fast`, in buffers of its own (clauses C07, C08, C10, C23). Gets floating and complex
        leaves only, perhaps of several dtypes and devices, perhaps none.
    anchor : callable, (slow, fast) -> slow'
        The slow weights taken from `fast` again; donates `slow` alone. A leaf in a wider dtype
        keeps its extra bits where `fast` still is its rounding (clause C26). Gets all leaves.

    Examples
    --------
    >>> import numpy as np
    >>> REFERENCE_KERNEL.interpolate([np.asarray([0.0])], [np.asarray([2.0])], 0.5)
    ((array([1.]),), (array([1.]),))
    """

    interpolate: Callable[[Leaves, Leaves, Fraction], tuple[Leaves, Leaves]] = interpolate_leaves
    anchor: Callable[[Leaves, Leaves], Leaves] = anchor_leaves


REFERENCE_KERNEL = Kernel()


def move_toward(
    slow: Leaves, fast: Leaves, alpha: Fraction, kernel: Kernel
) -> tuple[Leaves, Leaves]:
    """Interpolate leaves of any kind: the averaged ones by `kernel`, the others by leaf policy.

    A leaf that is not averaged keeps its live value, and `slow` takes a copy of it (clause C14).
    """
    # Once a dtype, not once a leaf: NumPy takes 2 microseconds for the name of a dtype.
    kinds = {dtype: is_averaged(dtype) for dtype in {leaf.dtype for leaf in fast}}
    averaged = [kinds[leaf.dtype] for leaf in fast]
    if all(averaged):
        return kernel.interpolate(slow, fast, alpha)
    moved_slow, moved_fast = kernel.interpolate(
        [leaf for leaf, kind in zip(slow, averaged, strict=True) if kind],
        [leaf for leaf, kind in zip(fast, averaged, strict=True) if kind],
        alpha,
    )
    rest_slow, rest_fast = iter(moved_slow), iter(moved_fast)
    return (
        tuple(next(rest_slow) if a else copied(f) for f, a in zip(fast, averaged, strict=True)),
        tuple(next(rest_fast) if a else f for f, a in zip(fast, averaged, strict=True)),
    )
