"""Lookahead and its relatives as an `mlx.optimizers.Optimizer` around any other one.

Importing this registers MLX's arrays with the core, which then computes on them.
"""

import mlx.core as mx

from lookahead_core.namespace import register

from ._namespace import NAMESPACE
from ._optimizer import Lookahead, MetaOptimizer

__all__ = ["Lookahead", "MetaOptimizer"]

register(mx.array, NAMESPACE)
