"""Parameters that are DTensors, as FSDP2 and tensor parallelism make them: the part that is here.

Every kernel is element-wise, so a shard needs no other one, and a sync of shards sends nothing.
What workers send each other of theirs is _torch_workers.py.
"""

from torch import Tensor

__all__ = ["part_here"]


def part_here(leaf: Tensor) -> Tensor:
    """This process' part of `leaf`, sharing its memory; a plain tensor is its own."""
    return leaf.to_local() if hasattr(leaf, "to_local") else leaf
