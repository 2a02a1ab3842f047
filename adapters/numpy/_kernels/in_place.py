"""The kernel of the array loop: it moves NumPy arrays in place, block by block.

A block of both arrays stays in cache while the operations of the formula run over it, and they
need no temporary arrays: each array is read and written once, and nothing of the size of a leaf is
allocated. Arrays that cannot be overwritten (JAX, read-only ones) or that overlap go through the
reference formula.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy import add, multiply, ndarray, subtract

from lookahead_core import Kernel, interpolate, move_with_momentum
from lookahead_core.kernel import anchored
from lookahead_core.leaves import copied
from lookahead_core.typing import Array, Fraction, Leaves

from .._tree import written
from .machine import level_2_cache, side_by_side, threads_for

__all__ = ["IN_PLACE"]

# Bytes of a block: those of both arrays are half of a core's level-2 cache. Of the powers of two it
# was the fastest on the machines of docs/array.md.
BLOCK = level_2_cache() // 4
Pair = tuple[Array, Array]


class Factor:
    """The factor of the formula in each dtype: alpha below one half, else 1 - alpha."""

    def __init__(self, alpha: float) -> None:
        self.near_slow = alpha < 0.5
        self.value = alpha if self.near_slow else 1.0 - alpha
        self.arrays: dict[np.dtype, Array] = {}

    def of(self, dtype: np.dtype) -> Array:
        """As an array, because NumPy converts a Python float anew at every call."""
        if dtype not in self.arrays:
            self.arrays[dtype] = np.asarray(self.value, dtype)
        return self.arrays[dtype]


def interpolate_(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """`Kernel.interpolate` in the buffers of both lists, where they can be written to."""
    alpha = float(alpha)  # a schedule may give a 0-d array
    factor = Factor(alpha)
    slow, fast = list(slow), list(fast)
    for index, (s, f) in enumerate(zip(slow, fast, strict=True)):
        if not (_moved_as_one_block(s, f, factor) or _moved_in_blocks(s, f, alpha, factor)):
            slow[index], fast[index] = _moved_by_reference(s, f, alpha)
    return slow, fast


def move_(slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """`Kernel.move` in the buffers of `slow`, where they can be written to."""
    alpha = float(alpha)
    factor = Factor(alpha)
    return [_slow_moved(s, f, alpha, factor) for s, f in zip(slow, fast, strict=True)]


def momentum_(
    slow: Leaves, fast: Leaves, buffer: Leaves, lr: Fraction, momentum: Fraction, nesterov: bool
) -> tuple[Leaves, Leaves]:
    """`Kernel.momentum` in the buffers of `slow` and `buffer`, where they can be written to."""
    numbers = float(lr), float(momentum), nesterov
    leaves = zip(slow, fast, buffer, strict=True)
    moved = [_moved_with_momentum(*leaf, *numbers) for leaf in leaves]
    return [s for s, _ in moved], [b for _, b in moved]


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """`Kernel.anchor` in the buffers of `slow`, where they can be written to."""
    return [_anchored(s, f) for s, f in zip(slow, fast, strict=True)]


IN_PLACE = Kernel(interpolate_, anchor_, move_, momentum_)


def _moved_by_reference(slow: Array, fast: Array, alpha: float) -> Pair:
    """Both by the reference formula, written into their buffers unless these overlap."""
    moved = interpolate(slow, fast, alpha)
    same = copied(moved, fast.dtype)
    if isinstance(slow, np.ndarray) and np.shares_memory(slow, fast):
        return moved, same
    return written(slow, moved), written(fast, same)


def _moved_as_one_block(slow: Array, fast: Array, factor: Factor) -> bool:
    """Move a small leaf whose dtype `factor` has already; False for any other.

    `_moved_in_blocks` would do the same: this saves half a microsecond for each of the many small
    leaves of a model.
    """
    if not (type(slow) is type(fast) is ndarray) or slow is fast:
        return False
    dtype, slow_flags, fast_flags = slow.dtype, slow.flags, fast.flags
    value = factor.arrays.get(dtype)
    if value is None or fast.dtype is not dtype or slow.nbytes > BLOCK:
        return False
    if not (slow_flags.owndata and fast_flags.owndata):
        return False
    if not (slow_flags.writeable and fast_flags.writeable):
        return False
    _move(slow, fast, value, factor.near_slow)
    return True


def _moved_in_blocks(slow: Array, fast: Array, alpha: float, factor: Factor) -> bool:
    """Move both; False, with nothing changed, where they cannot be overwritten block by block."""
    if not (_can_be_overwritten(slow, fast) and fast.flags.writeable):
        return False
    if slow.dtype.kind not in "fc":
        # ml_dtypes' bfloat16 becomes float32 when it is multiplied by the factor, which the
        # reference formula avoids.
        for s, f in _blocks(slow, fast):
            s[...] = interpolate(s, f, alpha)
            f[...] = s
    elif alpha in (0, 1):
        np.copyto(*((slow, fast) if alpha else (fast, slow)))
    else:
        value = factor.of(slow.dtype)
        parts = [(s, f, value, factor.near_slow) for s, f in _parts(slow, fast)]
        side_by_side(_move_block_by_block, parts)
    return True


def _move_block_by_block(slow: Array, fast: Array, factor: Array, near_slow: bool) -> None:
    for s, f in _blocks(slow, fast):
        wide = f.astype(s.dtype, copy=False)
        _move(s, wide, factor, near_slow)
        if wide is not f:
            f[...] = s


def _slow_moved(slow: Array, fast: Array, alpha: float, factor: Factor) -> Array:
    """The formula, written into `slow` alone."""
    alike = slow.dtype == fast.dtype and _can_be_overwritten(slow, fast)
    if not (alike and slow.dtype.kind in "fc") or alpha in (0, 1):
        return written(slow, slow if alpha == 0 else interpolate(slow, fast, alpha))
    value = factor.of(slow.dtype)
    for s, f in _blocks(slow, fast):
        _move(s, f.copy(), value, factor.near_slow)
    return slow


def _moved_with_momentum(
    slow: Array, fast: Array, buffer: Array, lr: float, momentum: float, nesterov: bool
) -> Pair:
    """The formula of `momentum.move_with_momentum`, in blocks where arrays can be overwritten."""
    pairs = (slow, fast), (buffer, fast), (buffer, slow)
    if not all(_can_be_overwritten(*pair) for pair in pairs):
        new = move_with_momentum(slow, fast, buffer, lr, momentum, nesterov)
        return written(slow, new[0]), written(buffer, new[1])
    for s, f, b in _blocks(slow, fast, buffer):  # the formula's temporaries stay in cache
        s[...], b[...] = move_with_momentum(s, f, b, lr, momentum, nesterov)
    return slow, buffer


def _move(slow: Array, fast: Array, factor: Array, near_slow: bool) -> None:
    """The formula of `interpolation.interpolate`, operation by operation, without temporaries.

    The difference is kept in the array whose old values the formula does not need any longer.
    """
    difference = fast if near_slow else slow
    subtract(fast, slow, difference)
    multiply(difference, factor, difference)
    if near_slow:
        add(slow, difference, slow)
    else:
        subtract(fast, difference, slow)
    fast[...] = slow


def _anchored(slow: Array, fast: Array) -> Array:
    if not _can_be_overwritten(slow, fast):
        return written(slow, anchored(slow, fast))
    if slow.dtype == fast.dtype:
        slow[...] = fast
    else:
        for s, f in _blocks(slow, fast):
            s[...] = anchored(s, f)
    return slow


def _can_be_overwritten(slow: Array, fast: Array) -> bool:
    """Whether `slow` can be overwritten block by block while `fast` is read."""
    if not (isinstance(slow, np.ndarray) and isinstance(fast, np.ndarray)):
        return False
    slow_flags, fast_flags = slow.flags, fast.flags
    # Two arrays that own their memory share none. Asking that takes a third of the time of
    # `may_share_memory`.
    apart = slow_flags.owndata and fast_flags.owndata and slow is not fast
    return slow_flags.writeable and (apart or not np.may_share_memory(slow, fast))


def _parts(*arrays: Array) -> list[tuple[Array, ...]]:
    """The same part of each array, for each thread that is to move one."""
    count, size = threads_for(arrays[0].nbytes), arrays[0].size
    if count == 1 or not all(array.flags.c_contiguous for array in arrays):
        return [arrays]
    flat = [array.reshape(-1) for array in arrays]
    ends = pairwise(size * part // count for part in range(count + 1))
    return [tuple(array[start:end] for array in flat) for start, end in ends]


def _blocks(*arrays: Array) -> Iterable[tuple[Array, ...]]:
    """The same piece of each array, of at most BLOCK bytes; writing to it writes the array."""
    if not all(array.flags.c_contiguous for array in arrays):
        return _strided_blocks(arrays)
    flat = [array.reshape(-1) for array in arrays]
    length = BLOCK // arrays[0].itemsize
    starts = range(0, arrays[0].size, length)
    return (tuple(array[start : start + length] for array in flat) for start in starts)


def _strided_blocks(arrays: tuple[Array, ...]) -> Iterator[tuple[Array, ...]]:
    # `nditer` takes any strides and several layouts at once; what does not lie in a row in memory
    # it copies to a buffer and back. `Any`, because NumPy's stubs want literals.
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    access: Any = [["readwrite" if array.flags.writeable else "readonly"] for array in arrays]
    with np.nditer(
        arrays, flags, access, order="K", buffersize=BLOCK // arrays[0].itemsize
    ) as pieces:
        yield from pieces
