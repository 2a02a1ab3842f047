"""Parameters that are DTensors, as FSDP2 and tensor parallelism make them: who holds which part.

What workers send each other of theirs is workers.py.
"""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist

__all__ = ["groups_of_a_worker", "which_part"]


def which_part(leaf: Any) -> str:
    """Which part of `leaf` this process holds, in words; empty for all of it."""
    if not hasattr(leaf, "placements"):
        return ""
    coordinates = leaf.device_mesh.get_coordinate() or []
    told = [
        f"{placement!r} {coordinate} of {size}"
        for placement, coordinate, size in zip(
            leaf.placements, coordinates, leaf.device_mesh.shape, strict=True
        )
        if not placement.is_replicate()
    ]
    return "".join(f", {part}" for part in told)


def groups_of_a_worker(
    leaves: Iterable[Any], between: "dist.ProcessGroup"
) -> list["dist.ProcessGroup"]:
    """Groups of the processes that are one worker, by the mesh of their parameters.

    Those of its dimensions that do not lead to another worker, a member of `between`.
    """
    mesh = next((leaf.device_mesh for leaf in leaves if hasattr(leaf, "device_mesh")), None)
    groups = [] if mesh is None else mesh.get_all_groups()
    others = set(dist.get_process_group_ranks(between)) - {dist.get_rank()}
    return [g for g in groups if others.isdisjoint(dist.get_process_group_ranks(g))]
