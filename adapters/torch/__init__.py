"""Lookahead and its relatives for torch: a `torch.optim.Optimizer` around any other.

`Lookahead` and `ranger` by name, and `MetaOptimizer` for any rule of the family.
`StreamingOptimizer` is the same for many workers on a slow network.
"""

from ._buffers import Buffers
from ._optimizer import Lookahead, MetaOptimizer
from ._ranger import ranger
from ._streaming.codecs import Codec, TopK
from ._streaming.optimizer import StreamingOptimizer
from ._workers.quorum import Quorum

__all__ = [
    "Buffers",
    "Codec",
    "Lookahead",
    "MetaOptimizer",
    "Quorum",
    "StreamingOptimizer",
    "TopK",
    "ranger",
]
