"""The usual sync, prepared: the lists that one launch takes, kept while nothing has changed.

Building them anew takes microseconds for each parameter, which is most of a sync of many small
ones. So they are kept, and at each use every parameter is looked at: whether it is the same tensor
in the same place, of the same kind, and trained as before. What a sync means is lookahead_core's;
anything but plain Lookahead on plain tensors goes its general way (_torch_cycle.py).
"""

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core import Interpolate, SyncRule
from lookahead_core.leaves import averaged

from ._torch_groups import Group, leaves_of

__all__ = ["Plan", "ids", "plan_for", "usual"]

looks = attrgetter("requires_grad", "dtype", "device", "shape")


class Plan(NamedTuple):
    """What one part of the parameter groups needs for an anchor and for a sync.

    Attributes
    ----------
    leaves : list of Tensor
        All parameters of the groups.
    seen : list
        What each of them was like when the plan was made.
    lists : list of (slow weights, parameters)
        Those that take part, by device and dtype.
    """

    leaves: list[Tensor]
    seen: list[Any]
    lists: list[tuple[list[Tensor], list[Tensor]]]

    def holds(self, groups: list[Group]) -> bool:
        """Whether the parameters of `groups` are those of the plan, and as they were."""
        leaves = [leaf for group in groups for leaf in group["params"]]
        same = len(leaves) == len(self.leaves) and all(map(is_, leaves, self.leaves))
        return same and seen(leaves) == self.seen

    def anchor(self) -> None:
        """Take the slow weights from the parameters."""
        for slows, fasts in self.lists:
            torch._foreach_copy_(slows, fasts)

    def sync(self, alpha: float) -> None:
        """Interpolate into the parameters alone: the next `anchor` brings the slow weights along.

        The same formula as `slow.lerp_(fast, alpha)` with its ends exchanged. Writing the slow
        weights here too would be done twice in each cycle, since a cycle begins with an anchor.
        """
        for slows, fasts in self.lists:
            # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
            if alpha == 0:
                torch._foreach_copy_(fasts, slows)
            elif alpha < 1:
                torch._foreach_lerp_(fasts, slows, 1 - alpha)


def usual(rule: SyncRule, kernel: str) -> bool:
    """Whether a sync under `rule` is one interpolation of the weights and nothing else."""
    outer = rule.outer
    return (
        type(outer) is Interpolate
        and not outer.needs_gradient
        and rule.restarts_always
        and rule.inner_state == "maintain"
        and kernel == "foreach"
        and not torch.compiler.is_compiling()  # the look at storage would break the graph
    )


def seen(leaves: Sequence[Tensor]) -> list[Any]:
    # The pointer tells of a parameter whose data has been replaced.
    return [*map(looks, leaves), *(leaf.data_ptr() for leaf in leaves)]


def ids(groups: list[Group]) -> tuple[int, ...]:
    """The key of a plan; whether it is of groups that are gone by now, `holds` tells."""
    return tuple(map(id, groups))


def plan_for(groups: list[Group], slow: dict[Tensor, Tensor]) -> Plan | None:
    """A plan for `groups`, or None where some parameter needs the general way."""
    leaves = list(leaves_of(groups))
    members = list(dict.fromkeys(leaf for leaf in leaves if leaf in slow))
    if not members or not all(map(plain, members)) or not all(averaged(members)):
        return None
    # Interpolated in place, storage that two parameters share would move twice.
    if len({leaf.untyped_storage().data_ptr() for leaf in members}) < len(members):
        return None
    lists: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for leaf in members:
        own = slow[leaf]
        if type(own) is not Tensor or own.dtype != leaf.dtype or own.device != leaf.device:
            return None
        slows, fasts = lists.setdefault((own.device, own.dtype), ([], []))
        slows.append(own)
        fasts.append(leaf)
    return Plan(leaves, seen(leaves), [*lists.values()])


def plain(leaf: Tensor) -> bool:
    """Whether torch's list operations take it, and it has storage that can be looked at."""
    return type(leaf) in (Tensor, Parameter) and leaf.device.type in ("cpu", "cuda")
