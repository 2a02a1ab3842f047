"""Lookahead and its relatives for optax: gradient transformations on plain parameter trees.

from lookahead_core.adapters.optax import lookahead, slow_params
"""

from ._optimizer import MetaTransformation, lookahead, meta_optimizer
from ._park import park, unpark
from ._split import SplitTransformation, split
from ._state import LookaheadState, PersistentState, SharedState, find_state, resync, slow_params
from ._workers.average import weighted_mean
from ._workers.axes import worker_axes
from ._workers.streaming import streaming_optimizer

__all__ = [
    "LookaheadState",
    "MetaTransformation",
    "PersistentState",
    "SharedState",
    "SplitTransformation",
    "find_state",
    "lookahead",
    "meta_optimizer",
    "park",
    "resync",
    "slow_params",
    "split",
    "streaming_optimizer",
    "unpark",
    "weighted_mean",
    "worker_axes",
]
