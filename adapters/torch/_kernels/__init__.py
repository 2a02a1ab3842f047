"""How the arithmetic of a sync runs on torch tensors. What it means is lookahead_core's."""

from functools import partial

from lookahead_core import Kernel

from .interpolation import anchor, interpolate, move
from .linear import move_both_linearly, move_linearly
from .momentum import move_with_momentum

__all__ = ["KERNELS"]

# An anchor is a copy, and a graph of copies is no better than a list of them.
KERNELS = {
    way: Kernel(
        partial(interpolate, way),
        partial(anchor, "plain" if way == "plain" else "foreach"),
        partial(move, way),
        partial(move_with_momentum, way),
        partial(move_linearly, way),
        partial(move_both_linearly, way),
    )
    for way in ("foreach", "plain", "compiled")
}
