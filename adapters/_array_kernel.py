"""The kernel of the array loop: NumPy arrays block by block in cache, all others by the reference.

A block of both arrays, and one scratch block, stay in cache for the three operations of the
formula: each array is read and written once, and nothing of the size of a leaf is allocated. What
cannot be overwritten (JAX, read-only arrays) or overlaps goes through the reference formula.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from lookahead_core import Kernel, interpolate
from lookahead_core.kernel import anchored
from lookahead_core.leaves import copied
from lookahead_core.typing import Array, Leaves

from ._array_tree import written

__all__ = ["IN_PLACE"]

# Elements of a block: three blocks of float32 are 768 KiB, of a level-2 cache of 1 MiB. The best
# of 2**13 to 2**17 in benchmarks/array_sync.py.
BLOCK = 65536
Pair = tuple[Array, Array]
# Scratch block and factor (alpha, or 1 - alpha) for each dtype that was met.
Scratch = dict[np.dtype, Pair]


def interpolate_(slow: Leaves, fast: Leaves, alpha: float) -> tuple[Leaves, Leaves]:
    """`Kernel.interpolate` in the buffers of both lists, where they can be written to."""
    scratch: Scratch = {}
    pairs = [_moved(s, f, alpha, scratch) for s, f in zip(slow, fast, strict=True)]
    return [s for s, _ in pairs], [f for _, f in pairs]


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """`Kernel.anchor` in the buffers of `slow`, where they can be written to."""
    return [_anchored(s, f) for s, f in zip(slow, fast, strict=True)]


IN_PLACE = Kernel(interpolate=interpolate_, anchor=anchor_)


def _moved(slow: Array, fast: Array, alpha: float, scratch: Scratch) -> Pair:
    if not (_can_take(slow, fast) and fast.flags.writeable):
        moved = interpolate(slow, fast, alpha)
        # From `moved`, not from what it was written to: overlapping views would differ already.
        return written(slow, moved), written(fast, copied(moved, fast.dtype))
    if slow.dtype != fast.dtype or slow.dtype.kind not in "fc":
        # Mixed dtypes and ml_dtypes' bfloat16: the reference formula, block by block.
        for s, f in _blocks(slow, fast):
            s[...] = interpolate(s, f, alpha)
            f[...] = s
    elif alpha in (0, 1):
        np.copyto(*((slow, fast) if alpha else (fast, slow)))
    else:
        _move(slow, fast, alpha, scratch)
    return slow, fast


def _move(slow: Array, fast: Array, alpha: float, scratch: Scratch) -> None:
    """The formula of `interpolation.interpolate`, operation by operation, without temporaries."""
    dtype, near_slow = slow.dtype, alpha < 0.5
    if dtype not in scratch:
        # An array, because NumPy converts a Python float anew at every call.
        factor = np.asarray(alpha if near_slow else 1.0 - alpha, dtype)
        scratch[dtype] = np.empty(BLOCK, dtype), factor
    room, factor = scratch[dtype]
    for s, f in _blocks(slow, fast):
        step = room[: s.size]
        np.subtract(f, s, step)
        np.multiply(step, factor, step)
        if near_slow:
            np.add(s, step, s)
        else:
            np.subtract(f, step, s)
        f[...] = s


def _anchored(slow: Array, fast: Array) -> Array:
    if not _can_take(slow, fast):
        return written(slow, anchored(slow, fast))
    if slow.dtype == fast.dtype:
        slow[...] = fast
    else:
        for s, f in _blocks(slow, fast):
            s[...] = anchored(s, f)
    return slow


def _can_take(slow: Array, fast: Array) -> bool:
    """Whether `slow` can be overwritten block by block while `fast` is read."""
    return (
        isinstance(slow, np.ndarray)
        and isinstance(fast, np.ndarray)
        and slow.flags.writeable
        and not np.may_share_memory(slow, fast)
    )


def _blocks(slow: Array, fast: Array) -> Iterable[Pair]:
    """Flat pieces of both, of at most BLOCK elements, which write through."""
    if not (slow.flags.c_contiguous and fast.flags.c_contiguous):
        return _strided_blocks(slow, fast)
    slow, fast = slow.reshape(-1), fast.reshape(-1)
    if slow.size <= BLOCK:
        return ((slow, fast),)
    starts = range(0, slow.size, BLOCK)
    return ((slow[start : start + BLOCK], fast[start : start + BLOCK]) for start in starts)


def _strided_blocks(slow: Array, fast: Array) -> Iterator[Pair]:
    # Any strides, and two layouts at once: pieces that are no plain memory pass through buffers.
    flags = ["external_loop", "buffered", "zerosize_ok"]
    access = [["readwrite"], ["readwrite" if fast.flags.writeable else "readonly"]]
    with np.nditer([slow, fast], flags, access, order="K", buffersize=BLOCK) as pieces:
        yield from pieces
