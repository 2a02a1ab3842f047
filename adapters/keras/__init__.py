"""Lookahead and its relatives as a `keras.optimizers.Optimizer` around any other one.

On each backend of Keras 3: TensorFlow, JAX and torch. Importing this registers TensorFlow's tensors
with the core, if that is the backend.
"""

from ._callbacks import SlowWeights
from ._optimizer import Lookahead, MetaOptimizer

__all__ = ["Lookahead", "MetaOptimizer", "SlowWeights"]
