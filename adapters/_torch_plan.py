"""The usual sync, prepared: the lists that one launch takes, kept while nothing has changed.

Building them anew takes microseconds for each parameter, which is most of a sync of many small
ones. So they are kept, and at each use every parameter is looked at: whether it is the same tensor
in the same place, of the same kind, and trained as before. What a sync means is lookahead_core's;
anything but plain Lookahead on plain tensors goes its general way (_torch_cycle.py).
"""

from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core import Interpolate, SyncRule
from lookahead_core.leaves import averaged

from ._torch_flat import Flat, flats_of
from ._torch_groups import Group, leaves_of
from ._torch_kernel import anchor_each, move_fast_each, move_lists
from ._torch_lists import Lists, Row

__all__ = ["Plan", "ids", "plan_for", "usual"]

looks = attrgetter("requires_grad", "shape")
# From so many numbers on, a pass over memory costs more than a call from Python.
LARGE = 1 << 14


class Seen(NamedTuple):
    """Parameters, and what they were like when they were looked at."""

    leaves: list[Tensor]
    kinds: list[Any]

    def same(self) -> bool:
        return [*map(looks, self.leaves)] == self.kinds


class Plan(NamedTuple):
    """What one part of the parameter groups needs for an anchor and for a sync.

    Attributes
    ----------
    leaves : list of Tensor
        All parameters of the groups.
    places : list of int
        Where the data of each of them is.
    loose, firm : Seen
        Those that a sync takes in one dimension or not at all, and those that it takes as they are.
    lists : list of (slow weights, parameters)
        Those on an accelerator, for one launch each.
    flats : list of Flat
        Small ones on a CPU, and those with wider slow weights, which no list takes: few calls in
        all.
    alone : list of (Tensor, Tensor)
        The large ones of these, which go one by one: in as few passes over memory as can be.
    """

    leaves: list[Tensor]
    places: list[int]
    loose: Seen
    firm: Seen
    lists: list[Lists]
    flats: list[Flat]
    alone: list[Row]

    def starts(self, groups: list[Group]) -> bool:
        """Whether a cycle of `groups` can start by it: nothing about their parameters is new."""
        return self.holds(groups) and self.loose.same()

    def holds(self, groups: list[Group]) -> bool:
        """Whether a sync of `groups` can go by it: the parameters are those that they were.

        Where the data is tells of one that was moved or cast, or whose data was replaced.
        """
        leaves = [leaf for group in groups for leaf in group["params"]]
        same = len(leaves) == len(self.leaves) and all(map(is_, leaves, self.leaves))
        return same and [*map(Tensor.data_ptr, leaves)] == self.places and self.firm.same()

    def anchor(self) -> None:
        """Take the slow weights from the parameters."""
        for slows, fasts in self.lists:
            torch._foreach_copy_(slows, fasts)
        for flat in self.flats:
            flat.anchor()
        anchor_each(self.alone)

    def sync(self, alpha: float) -> None:
        """Move the parameters; the slow weights are complete after the next `anchor` only.

        That writes all of them again in any case. Those that go alone are read here and not
        written, which is one of the three passes over memory that a cycle else takes.
        """
        move_lists(self.lists, alpha)
        for slows, fasts in self.lists:
            torch._foreach_copy_(fasts, slows)
        for flat in self.flats:
            flat.sync(alpha)
        move_fast_each(self.alone, alpha)


def usual(rule: SyncRule, kernel: str) -> bool:
    """Whether a sync under `rule` is one interpolation of the weights and nothing else."""
    outer = rule.outer
    return (
        type(outer) is Interpolate
        and not outer.needs_gradient
        and rule.fast_carries_slow
        and rule.inner_state == "maintain"
        and kernel == "foreach"
        and not torch.compiler.is_compiling()  # the look at storage would break the graph
    )


def ids(groups: list[Group]) -> tuple[int, ...]:
    """The key of a plan; whether it is of groups that are gone by now, `holds` tells."""
    return tuple(map(id, groups))


def plan_for(groups: list[Group], slow: dict[Tensor, Tensor]) -> Plan | None:
    """A plan for `groups`, or None where some parameter needs the general way.

    The slow weights of small leaves are laid end to end, and are views in `slow` from then on.
    """
    leaves = list(leaves_of(groups))
    members = list(dict.fromkeys(leaf for leaf in leaves if leaf in slow))
    if not members or not all(map(plain, members)) or not all(averaged(members)):
        return None
    # Those that go alone are moved in place: storage that two of them share would move twice.
    if len({leaf.untyped_storage().data_ptr() for leaf in members}) < len(members):
        return None
    pairs: list[Row] = [(slow[leaf], leaf) for leaf in members]
    if not all(s.device == f.device for s, f in pairs):
        return None
    ways: dict[str, list[Row]] = {"listed": [], "flat": [], "alone": []}
    for pair in pairs:
        ways[way(*pair)].append(pair)
    flats = [flat for rows in alike(ways["flat"]) for flat in flats_of(rows, slow)]
    lists: list[Lists] = [
        ([s for s, _ in rows], [f for _, f in rows]) for rows in alike(ways["listed"])
    ]
    places = [*map(Tensor.data_ptr, leaves)]
    taken = {leaf for _, leaf in (*ways["listed"], *ways["alone"])}
    loose, firm = [f for f in leaves if f not in taken], [f for f in leaves if f in taken]
    return Plan(leaves, places, seen(loose), seen(firm), lists, flats, ways["alone"])


def seen(leaves: list[Tensor]) -> Seen:
    return Seen(leaves, [*map(looks, leaves)])


def alike(pairs: list[Row]) -> list[list[Row]]:
    """Rows of one device and dtype of parameters, and so of slow weights."""
    found: dict[Any, list[Row]] = {}
    for slow, fast in pairs:
        found.setdefault((fast.device, fast.dtype), []).append((slow, fast))
    return [*found.values()]


def way(slow: Tensor, fast: Tensor) -> str:
    """How a pair is moved: in a list, end to end with others, or alone."""
    if not on_cpu(fast) and slow.dtype == fast.dtype:
        return "listed"
    return "flat" if fast.numel() < LARGE and fast.is_contiguous() else "alone"


def on_cpu(leaf: Tensor) -> bool:
    return leaf.device.type == "cpu"


def plain(leaf: Tensor) -> bool:
    """Whether torch's list operations take it, and it has storage that can be looked at."""
    return type(leaf) in (Tensor, Parameter) and leaf.device.type in ("cpu", "cuda")
