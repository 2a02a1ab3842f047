"""How the arithmetic of a sync runs on torch tensors. What it means is lookahead_core's."""

from .interpolation import KERNELS
from .prepared import Prepared

__all__ = ["KERNELS", "Prepared"]
