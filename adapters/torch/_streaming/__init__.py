"""Many workers on a slow network: syncs in fragments, behind the steps, and in few bits."""

from .codecs import Codec
from .optimizer import StreamingOptimizer

__all__ = ["Codec", "StreamingOptimizer"]
