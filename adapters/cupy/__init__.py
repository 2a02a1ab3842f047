"""Lookahead for CuPy: the array loop on the GPU, with a kernel that is one launch a leaf.

Importing this works without a GPU, and without CuPy; `is_available()` says whether using it will.
"""

from ..numpy import (
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
from ._optimizer import SGD, Adam, AdamW, Lookahead, MetaOptimizer, is_available

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
