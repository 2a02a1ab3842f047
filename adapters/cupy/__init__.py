"""Lookahead for CuPy: the array loop on the GPU, with a kernel that is one launch a leaf.

Importing this works without a GPU, and without CuPy; `is_available()` says whether using it will.
"""

import importlib
from typing import Any

from lookahead_core.adapters import numpy as _array_loop
from lookahead_core.adapters.numpy import (
    InnerOptimizer,
    clip_by_global_norm,
    clip_by_value,
    exponential,
    global_norm,
    load,
    one_cycle,
    save,
    warmup_cosine,
)

from ._kernels.fused import FUSED

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "InnerOptimizer",
    "Lookahead",
    "MetaOptimizer",
    "clip_by_global_norm",
    "clip_by_value",
    "exponential",
    "global_norm",
    "is_available",
    "load",
    "one_cycle",
    "save",
    "warmup_cosine",
]


def is_available() -> bool:
    """Whether CuPy is installed and there is a GPU to run on; never raises."""
    return _obstacle() is None


def _obstacle() -> Exception | None:
    """What is in the way of using a GPU, None if nothing.

    Asks for the hardware: CuPy's wheels import well on machines without any, and
    `cupy.cuda.is_available()` raises there before CuPy 14.
    """
    try:
        cupy = importlib.import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return None
        return RuntimeError("no CUDA device")
    # ImportError, CUDARuntimeError, and whatever a broken driver raises: a probe only answers.
    except Exception as error:
        return error


class _OnTheGPU:
    """First base of each class: one clear error where there is no GPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if obstacle := _obstacle():
            raise RuntimeError(
                "lookahead_core.adapters.cupy needs CuPy and an NVIDIA GPU with its driver, and "
                f"there is none here: {obstacle!r}; lookahead_core.adapters.numpy has the same "
                "names for arrays on the CPU"
            ) from obstacle
        super().__init__(*args, **kwargs)


class SGD(_OnTheGPU, _array_loop.SGD):
    """As `lookahead_core.adapters.numpy.SGD`, on CuPy arrays."""


class Adam(_OnTheGPU, _array_loop.Adam):
    """As `lookahead_core.adapters.numpy.Adam`, on CuPy arrays."""


class AdamW(_OnTheGPU, _array_loop.AdamW):
    """As `lookahead_core.adapters.numpy.AdamW`, on CuPy arrays."""


class MetaOptimizer(_OnTheGPU, _array_loop.MetaOptimizer):
    """As `lookahead_core.adapters.numpy.MetaOptimizer`, with one launch a leaf and sync."""

    _kernel = FUSED


class Lookahead(_OnTheGPU, _array_loop.Lookahead):
    """As `lookahead_core.adapters.numpy.Lookahead`, with one launch a leaf and sync."""

    _kernel = FUSED
