"""Kernels: how the arithmetic of a sync runs, on whole lists of leaves. What it means is rule.py.

The default is pure array-API code and the reference for every other. An adapter passes its own to
work in place or to launch once for many leaves (`torch._foreach_*`). The contract of each
operation is a set of clauses in docs/spec.md; `lookahead_core.conformance` runs it on any kernel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lookahead_core.interpolation import interpolate
from lookahead_core.leaves import averaged, chosen, copied, each, merged
from lookahead_core.linear import move_linearly
from lookahead_core.momentum import move_with_momentum
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Fraction, Leaves

__all__ = ["REFERENCE_KERNEL", "Kernel", "anchored", "live_copies", "move_toward"]


def interpolate_leaves(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Reference for `Kernel.interpolate`: pure, leaf by leaf."""
    moved = tuple(interpolate(s, f, alpha) for s, f in zip(slow, fast, strict=True))
    return moved, tuple(copied(s, f.dtype) for s, f in zip(moved, fast, strict=True))


def move_leaves(slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """Reference for `Kernel.move`: pure, leaf by leaf."""
    return tuple(interpolate(s, f, alpha) for s, f in zip(slow, fast, strict=True))


def momentum_leaves(
    slow: Leaves, fast: Leaves, buffer: Leaves, lr: Fraction, momentum: Fraction, nesterov: bool
) -> tuple[Leaves, Leaves]:
    """Reference for `Kernel.momentum`: pure, leaf by leaf."""
    leaves = zip(slow, fast, buffer, strict=True)
    moved = [move_with_momentum(*leaf, lr, momentum, nesterov) for leaf in leaves]
    return tuple(s for s, _ in moved), tuple(b for _, b in moved)


def linear_leaves(
    slow: Leaves, fast: Leaves, slot: Leaves, decay: Any, gain: Any, ahead: Any, behind: Any
) -> tuple[Leaves, Leaves]:
    """Reference for `Kernel.linear`: pure, leaf by leaf."""
    numbers = each(decay, len(slow)), each(gain, len(slow))
    leaves = zip(slow, fast, slot, *numbers, strict=True)
    moved = [move_linearly(*leaf, ahead, behind) for leaf in leaves]
    return tuple(s for s, _ in moved), tuple(kept for _, kept in moved)


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

    What is *donated* a kernel may overwrite and return, and the caller never reads the old arrays
    again. The reference kernel overwrites nothing. An operation that is not given is the reference.

    Attributes
    ----------
    interpolate : callable, (slow, fast, alpha) -> (slow', fast')
        `slow'` is `interpolation.interpolate` leaf by leaf; `fast'` is `slow'` in the dtype of
        `fast`, in buffers of its own (clauses C07, C08, C10, C23). Donates both. Gets floating and
        complex leaves only, perhaps of several dtypes and devices, perhaps none. One that works in
        place may leave a leaf of `slow` as it was where it has the dtype of `fast`: the result is
        in `fast`, and `anchor` takes it from there when the next cycle begins.
    move : callable, (slow, fast, alpha) -> slow'
        The first half of that: donates `slow` alone, and changes nothing in `fast` (C07, C08, C23).
        With the two exchanged it brings the fast weights back to the slow ones, in their own dtype.
    momentum : callable, (slow, fast, buffer, lr, momentum, nesterov) -> (slow', buffer')
        `momentum.move_with_momentum` leaf by leaf (clauses C71, C23). Donates `slow` and `buffer`,
        and changes nothing in `fast`.
    anchor : callable, (slow, fast) -> slow'
        The slow weights taken from `fast` again; donates `slow` alone. A leaf in a wider dtype
        keeps its extra bits where `fast` still is its rounding (clause C26). Gets all leaves.
    linear : callable, (slow, fast, slot, decay, gain, ahead, behind) -> (slow', slot')
        `linear.move_linearly` leaf by leaf (clauses C85, C23). Donates `slow` and `slot`, and
        changes nothing in `fast`. `decay` and `gain` may be a list, or an array in one dimension,
        of one number for each leaf.
    linear_both : callable, (slow, fast, slot, decay, gain, ahead, behind) -> (slow', slot', fast')
        That, and `fast'` is `slow'` in buffers of its own (C10), in one pass over memory; donates
        all three. Gets leaves whose fast weights have the dtype of the slow ones. If it is None,
        `linear` and then `move` do it.

    Examples
    --------
    >>> import numpy as np
    >>> REFERENCE_KERNEL.interpolate([np.asarray([0.0])], [np.asarray([2.0])], 0.5)
    ((array([1.]),), (array([1.]),))
    """

    interpolate: Callable[[Leaves, Leaves, Fraction], tuple[Leaves, Leaves]] = interpolate_leaves
    anchor: Callable[[Leaves, Leaves], Leaves] = anchor_leaves
    move: Callable[[Leaves, Leaves, Fraction], Leaves] = move_leaves
    momentum: Callable[..., tuple[Leaves, Leaves]] = momentum_leaves
    linear: Callable[..., tuple[Leaves, Leaves]] = linear_leaves
    linear_both: Callable[..., tuple[Leaves, Leaves, Leaves]] | None = None


REFERENCE_KERNEL = Kernel()


def move_toward(
    slow: Leaves, fast: Leaves, alpha: Fraction, kernel: Kernel
) -> tuple[Leaves, Leaves]:
    """Interpolate leaves of any kind: the averaged ones by `kernel`, the others by leaf policy.

    A leaf that is not averaged keeps its live value, and `slow` takes a copy of it (clause C14).
    """
    which = averaged(fast)
    moved, back = kernel.interpolate(chosen(slow, which), chosen(fast, which), alpha)
    return merged(moved, live_copies(fast, which), which), merged(back, fast, which)


def live_copies(fast: Leaves, which: Sequence[bool]) -> Leaves:
    """`fast`, with copies of the leaves that `which` does not mark."""
    if all(which):
        return fast
    return [f if mark else copied(f) for f, mark in zip(fast, which, strict=True)]
