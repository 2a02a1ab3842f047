"""Adapters: the core in each framework's own idiom. Importing this package imports no framework.

from lookahead_core.adapters.torch import Lookahead
from lookahead_core.adapters.optax import lookahead
from lookahead_core.adapters.numpy import SGD, Lookahead
from lookahead_core.adapters.cupy import SGD, Lookahead
from lookahead_core.adapters.keras import Lookahead
from lookahead_core.adapters.mlx import Lookahead
"""

import importlib
from types import ModuleType

# A literal list: walking the package's folder finds nothing in an editable install.
_ADAPTERS = ("cupy", "keras", "mlx", "numpy", "optax", "torch")

__all__ = ["cupy", "keras", "mlx", "numpy", "optax", "torch"]


def __getattr__(name: str) -> ModuleType:
    if name not in _ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
