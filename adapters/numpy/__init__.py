"""The array loop: small optimizers and Lookahead on trees of arrays, of any array-API namespace.

Arrays that can be written to are updated in place (NumPy, torch tensors, CuPy); the others (JAX,
read-only NumPy) are replaced, and `optimizer.params` is the tree as it is now. Trees are lists,
dicts, nested dicts and whatever else optree knows; they are flattened anew at every call, so an
array may be exchanged for another of the same shape between steps.
"""

from ._files import load, save
from ._inner.adam import Adam, AdamW
from ._inner.clipping import clip_by_global_norm, clip_by_value, global_norm
from ._inner.protocol import InnerOptimizer
from ._inner.schedules import exponential, one_cycle, warmup_cosine
from ._inner.sgd import SGD
from ._optimizer import Lookahead, MetaOptimizer

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
