"""The classes of the array loop on CuPy arrays, and whether there is a GPU to use them on."""

import importlib
from functools import wraps
from typing import Any, TypeVar

from .. import numpy as _array_loop
from ._kernels.fused import FUSED

__all__ = ["SGD", "Adam", "AdamW", "Lookahead", "MetaOptimizer", "is_available"]

Class = TypeVar("Class")


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


def _needs_a_gpu(made: type[Class]) -> type[Class]:
    """The class, which refuses to be used where there is no GPU. Its signature is what it was."""
    cls: Any = made  # a type checker takes `__init__` of a class for that of a subclass
    inherited = cls.__init__

    @wraps(inherited)
    def init(self: Class, *args: Any, **kwargs: Any) -> None:
        if obstacle := _obstacle():
            raise RuntimeError(
                "lookahead_core.adapters.cupy needs CuPy and an NVIDIA GPU with its driver, and "
                f"there is none here: {obstacle!r}; lookahead_core.adapters.numpy has the same "
                "names for arrays on the CPU"
            ) from obstacle
        inherited(self, *args, **kwargs)

    cls.__init__ = init
    return made


@_needs_a_gpu
class SGD(_array_loop.SGD):
    """As `lookahead_core.adapters.numpy.SGD`, on CuPy arrays."""


@_needs_a_gpu
class Adam(_array_loop.Adam):
    """As `lookahead_core.adapters.numpy.Adam`, on CuPy arrays."""


@_needs_a_gpu
class AdamW(_array_loop.AdamW):
    """As `lookahead_core.adapters.numpy.AdamW`, on CuPy arrays."""


@_needs_a_gpu
class MetaOptimizer(_array_loop.MetaOptimizer):
    """As `lookahead_core.adapters.numpy.MetaOptimizer`, with one launch a leaf and sync."""

    _kernel = FUSED


@_needs_a_gpu
class Lookahead(_array_loop.Lookahead):
    """As `lookahead_core.adapters.numpy.Lookahead`, with one launch a leaf and sync."""

    _kernel = FUSED
