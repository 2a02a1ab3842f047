"""Which processes are one worker, and which part of a parameter each of them holds.

What workers send each other of theirs is workers.py.
"""

from collections.abc import Iterable
from math import prod
from typing import Any

import torch.distributed as dist

__all__ = ["groups_of_a_worker", "groups_within", "which_part"]


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


def groups_within(worker: Any, between: "dist.ProcessGroup") -> list["dist.ProcessGroup"]:
    """The groups of a `worker` that the user has named, a group or a mesh, or ValueError."""
    groups = [worker] if isinstance(worker, dist.ProcessGroup) else None
    if hasattr(worker, "get_all_groups"):
        groups = worker.get_all_groups()
    if groups is None:
        raise ValueError(
            "worker must be a torch.distributed.ProcessGroup or a DeviceMesh of the processes that "
            f"are one worker, got {worker!r}"
        )
    for group in groups:
        if not _others(between).isdisjoint(_ranks(group)):
            raise ValueError(
                "worker must be the processes that are one worker, and have no other rank of "
                f"process_group {_ranks(between)}, got one of ranks {_ranks(group)}"
            )
    return groups


def groups_of_a_worker(
    leaves: Iterable[Any], between: "dist.ProcessGroup"
) -> list["dist.ProcessGroup"] | None:
    """Groups of the processes that are one worker, by the meshes of their parameters.

    All dimensions of all meshes that do not lead to another worker, a member of `between`; without
    those that lie within another one. None if these leave processes out that may belong to a worker
    as well: plain parameters, as under DistributedDataParallel, do not say who has copies of them.
    """
    meshes = dict.fromkeys(leaf.device_mesh for leaf in leaves if hasattr(leaf, "device_mesh"))
    every = {tuple(_ranks(group)): group for mesh in meshes for group in mesh.get_all_groups()}
    others = _others(between)
    inside = {ranks: group for ranks, group in every.items() if others.isdisjoint(ranks)}
    found = [
        group for ranks, group in inside.items() if not any(set(ranks) < set(o) for o in inside)
    ]
    known = prod(map(len, map(_ranks, found))) * dist.get_world_size(between)
    return found if known == dist.get_world_size() else None


def _ranks(group: "dist.ProcessGroup") -> list[int]:
    return list(dist.get_process_group_ranks(group))


def _others(between: "dist.ProcessGroup") -> set[int]:
    return set(_ranks(between)) - {dist.get_rank()}
