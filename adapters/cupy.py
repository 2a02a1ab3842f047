"""Lookahead for CuPy: the loop of numpy.py on GPU arrays, which are writeable in place as well.

No kernel of its own yet: it runs the reference formula, a few launches a leaf.
"""

import cupy

from .numpy import SGD, InnerOptimizer, Lookahead, MetaOptimizer

__all__ = ["SGD", "InnerOptimizer", "Lookahead", "MetaOptimizer", "is_available"]


def is_available() -> bool:
    """Whether there is a GPU to run on; never raises.

    Asks for the hardware: CuPy's wheels import well on machines without any, and
    `cupy.cuda.is_available()` raises there before CuPy 14.
    """
    try:
        return bool(cupy.cuda.runtime.getDeviceCount() > 0)
    except cupy.cuda.runtime.CUDARuntimeError:
        return False
