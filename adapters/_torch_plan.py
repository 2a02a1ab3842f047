"""The usual sync, prepared: the lists that one launch takes, kept while nothing has changed.

Building them anew takes microseconds for each parameter, which is most of a sync of many small
ones. So they are kept, and at each use every parameter is looked at: whether it is the same tensor
in the same place, of the same kind, and trained as before. What a sync means is lookahead_core's;
anything but plain Lookahead on plain tensors goes its general way (_torch_cycle.py).
"""

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core import Interpolate, SyncRule
from lookahead_core.leaves import averaged

from ._torch_groups import Group, leaves_of
from ._torch_kernel import move_lists

__all__ = ["Plan", "ids", "plan_for", "usual"]

looks = attrgetter("requires_grad", "shape")
# From so many numbers on, a pass over memory costs more than a call from Python.
LARGE = 1 << 14
Lists: TypeAlias = list[tuple[list[Tensor], list[Tensor]]]


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
    small : list of (slow weights, parameters)
        Of these, what a sync moves in few calls.
    large : list of (Tensor, Tensor)
        The others, which it moves in one pass each.
    """

    leaves: list[Tensor]
    seen: list[Any]
    lists: Lists
    small: Lists
    large: list[tuple[Tensor, Tensor]]

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
        """Move the parameters; the slow weights are complete after the next `anchor` only.

        That writes all of them again in any case. For large ones on a CPU they are read here and
        not written, which is one of the three passes over memory that a cycle else takes.
        """
        # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
        if alpha == 0:
            for slows, fasts in self.lists:
                torch._foreach_copy_(fasts, slows)
        elif alpha < 1:
            move_lists(self.small, alpha)
            for slows, fasts in self.small:
                torch._foreach_copy_(fasts, slows)
            for slow, fast in self.large:
                torch.lerp(slow, fast, alpha, out=fast)


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
    # Where the data is tells of a parameter that was moved or cast, or whose data was replaced.
    return [*map(looks, leaves), *map(Tensor.data_ptr, leaves)]


def ids(groups: list[Group]) -> tuple[int, ...]:
    """The key of a plan; whether it is of groups that are gone by now, `holds` tells."""
    return tuple(map(id, groups))


def plan_for(groups: list[Group], slow: dict[Tensor, Tensor]) -> Plan | None:
    """A plan for `groups`, or None where some parameter needs the general way."""
    leaves = list(leaves_of(groups))
    members = list(dict.fromkeys(leaf for leaf in leaves if leaf in slow))
    if not members or not all(map(plain, members)) or not all(averaged(members)):
        return None
    # Large ones are interpolated in place: storage that two of them share would move twice.
    if len({leaf.untyped_storage().data_ptr() for leaf in members}) < len(members):
        return None
    pairs = [(slow[leaf], leaf) for leaf in members]
    if not all(type(s) is Tensor and (s.dtype, s.device) == (f.dtype, f.device) for s, f in pairs):
        return None
    large = [(s, f) for s, f in pairs if f.device.type == "cpu" and f.numel() >= LARGE]
    some = {id(f) for _, f in large}
    small = [(s, f) for s, f in pairs if id(f) not in some]
    return Plan(leaves, seen(leaves), listed(pairs), listed(small), large)


def listed(pairs: list[tuple[Tensor, Tensor]]) -> Lists:
    """Lists for one call each, by device and dtype."""
    lists: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for slow, fast in pairs:
        slows, fasts = lists.setdefault((slow.device, slow.dtype), ([], []))
        slows.append(slow)
        fasts.append(fast)
    return [*lists.values()]


def plain(leaf: Tensor) -> bool:
    """Whether torch's list operations take it, and it has storage that can be looked at."""
    return type(leaf) in (Tensor, Parameter) and leaf.device.type in ("cpu", "cuda")
