"""The array loop: small optimizers and Lookahead on trees of arrays, of any array-API namespace.

Arrays that can be written to are updated in place (NumPy, torch tensors, CuPy); the others (JAX,
read-only NumPy) are replaced, and `optimizer.params` is the tree as it is now. Trees are lists,
dicts, nested dicts and whatever else optree knows; they are flattened anew at every call, so an
array may be exchanged for another of the same shape between steps.

This module is the list of what there is; each name's own is in a module beside it.
"""

from ._array_adam import Adam, AdamW
from ._array_checkpoint import load, save
from ._array_clipping import clip_by_global_norm, clip_by_value, global_norm
from ._array_inner import InnerOptimizer
from ._array_meta import Lookahead, MetaOptimizer
from ._array_schedules import exponential, one_cycle, warmup_cosine
from ._array_sgd import SGD

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
    "load",
    "one_cycle",
    "save",
    "warmup_cosine",
]
