"""The kernel of the torch adapter: in place, a few launches for all leaves (`torch._foreach_*`)."""

import torch

from lookahead_core import Kernel
from lookahead_core.kernel import anchored
from lookahead_core.typing import Leaves

__all__ = ["IN_PLACE"]


def interpolate_(slow: Leaves, fast: Leaves, alpha: float) -> tuple[Leaves, Leaves]:
    """Overwrite both lists with the interpolated weights and return them."""
    if not slow:
        return slow, fast  # torch._foreach_lerp_ refuses empty lists
    targets = list(slow)
    # _foreach_lerp_ refuses a bfloat16 end for a float32 start.
    ends = [f if f.dtype == s.dtype else f.to(s.dtype) for s, f in zip(slow, fast, strict=True)]
    # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
    if alpha == 1:
        torch._foreach_copy_(targets, ends)
    elif alpha > 0:
        torch._foreach_lerp_(targets, ends, alpha)
    torch._foreach_copy_(list(fast), targets)
    return slow, fast


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """Overwrite `slow` with `fast`, but for the extra bits of a wider leaf, and return it."""
    pairs = list(zip(slow, fast, strict=True))
    same = [(s, f) for s, f in pairs if s.dtype == f.dtype]
    if same:
        torch._foreach_copy_([s for s, _ in same], [f for _, f in same])
    for s, f in pairs:
        if s.dtype != f.dtype:
            s.copy_(anchored(s, f))
    return slow


IN_PLACE = Kernel(interpolate=interpolate_, anchor=anchor_)
