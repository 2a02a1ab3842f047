"""The kernel of the CuPy loop: one launch a leaf, which reads and writes each array once.

On the device of the arrays and on its current stream; nothing waits for it. Dtypes that the fused
code does not have (float16, bfloat16, slow weights in a wider dtype) take the reference formula.
"""

import importlib
from functools import cache
from typing import Any

from lookahead_core import Kernel, interpolate
from lookahead_core.kernel import anchored
from lookahead_core.leaves import copied
from lookahead_core.typing import Array, Fraction, Leaves

from ...numpy._tree import written

__all__ = ["FUSED"]

FUSED_DTYPES = {"float32", "float64", "complex64", "complex128"}
# The formula of `interpolation.interpolate`, by whether alpha is below a half.
FORMULA = {True: "slow + factor * (fast - slow)", False: "fast - factor * (fast - slow)"}
# `slow` and `fast` are outputs that are read as well. The compiler must take it that they share
# memory: of complex leaves, `fast = slow` would read half of what was just written once more.
CODE = "const T moved = {}; slow = moved; fast = moved;"


def interpolate_(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """`Kernel.interpolate` in the buffers of both lists."""
    alpha = float(alpha)  # a schedule may give a 0-d array; one on the device is waited for
    pairs = [_moved(s, f, alpha) for s, f in zip(slow, fast, strict=True)]
    return [s for s, _ in pairs], [f for _, f in pairs]


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """`Kernel.anchor` in the buffers of `slow`."""
    return [_anchored(s, f) for s, f in zip(slow, fast, strict=True)]


FUSED = Kernel(interpolate=interpolate_, anchor=anchor_)


def _moved(slow: Array, fast: Array, alpha: float) -> tuple[Array, Array]:
    with slow.device:
        if slow.dtype != fast.dtype or str(slow.dtype) not in FUSED_DTYPES:
            moved = interpolate(slow, fast, alpha)
            return written(slow, moved), written(fast, copied(moved, fast.dtype))
        if alpha in (0, 1):
            target, source = (slow, fast) if alpha else (fast, slow)
            target[...] = source
        else:
            near_slow = alpha < 0.5
            # A real factor for complex leaves too, in the precision of the leaf.
            factor = slow.real.dtype.type(alpha if near_slow else 1.0 - alpha)
            fused(near_slow)(factor, slow, fast)
    return slow, fast


def _anchored(slow: Array, fast: Array) -> Array:
    with slow.device:
        if slow.dtype != fast.dtype:
            return written(slow, anchored(slow, fast))
        slow[...] = fast
    return slow


@cache
def fused(near_slow: bool) -> Any:
    """The compiled branch of the formula; CuPy compiles it once for each dtype."""
    return importlib.import_module("cupy").ElementwiseKernel(
        "R factor",
        "T slow, T fast",
        CODE.format(FORMULA[near_slow]),
        "lookahead_interpolate",
        # Multiply and add are rounded one after the other, as the reference does.
        options=("--fmad=false",),
    )
