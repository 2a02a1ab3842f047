"""A kernel that keeps the lists of a part from cycle to cycle, while nothing about it changes.

To sort the parameters anew takes microseconds for each, which is most of a sync of many small ones.
So they are sorted once, and at each use every parameter is looked at: whether it is the same tensor
in the same place, of the same kind, and trained as before. Small leaves lie end to end, and are one
array to the core, so that a sync of hundreds takes a few calls; large ones go one by one in a
single pass over memory. For plain interpolation, which moves each number by itself.
"""

from collections.abc import Iterable
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core import Kernel
from lookahead_core.leaves import averaged
from lookahead_core.typing import Fraction, Leaves

from .._groups import Group, leaves_of
from .._leaves import Kept
from .flat import Flat, flats_of
from .interpolation import KERNELS, anchor_each, move_fast_each, move_lists
from .lists import Lists, Row

__all__ = ["Prepared"]

looks = attrgetter("requires_grad", "shape")
# From so many numbers on, a pass over memory costs more than a call from Python.
LARGE = 1 << 14
GENERAL = KERNELS["foreach"]


class Seen(NamedTuple):
    """Parameters, and what they were like when they were looked at."""

    leaves: list[Tensor]
    kinds: list[Any]

    def same(self) -> bool:
        return [*map(looks, self.leaves)] == self.kinds


class Prepared(NamedTuple):
    """What the kernel keeps of one part.

    Attributes
    ----------
    leaves : list of Tensor
        All parameters of the part's groups.
    fast, slow : list of Tensor
        What the core is given for the parameters that take part, and for their slow weights; those
        that lie end to end are one: of the fast weights it is room, which the kernel fills.
    places : list of int
        Where the data of each of the leaves is.
    as_data, as_shaped : Seen
        Those that a sync takes by their data in one dimension or not at all, and those that it
        takes in their shape.
    lists : list of (slow weights, parameters)
        Those on an accelerator, for one launch each.
    flats : list of Flat
        Small ones on a CPU, and those with wider slow weights, which no list takes: few calls in
        all.
    alone : list of (Tensor, Tensor)
        The large ones of these, which go one by one.
    """

    leaves: list[Tensor]
    fast: list[Tensor]
    slow: list[Tensor]
    places: list[int]
    as_data: Seen
    as_shaped: Seen
    lists: list[Lists]
    flats: list[Flat]
    alone: list[Row]

    @classmethod
    def of(
        cls, groups: list[Group], members: list[Tensor], kept: dict[Tensor, Kept]
    ) -> "Prepared | None":
        """For the members among the parameters of `groups`; None if some need the general way.

        The slow weights of small leaves are laid end to end, and are views in `kept` from then on.
        """
        leaves = list(leaves_of(groups))
        if torch.compiler.is_compiling() or not fits(members):
            return None
        pairs: list[Row] = [(kept[leaf].slow, leaf) for leaf in members]
        if not all(s.device == f.device for s, f in pairs):
            return None
        ways: dict[str, list[Row]] = {"listed": [], "flat": [], "alone": []}
        for pair in pairs:
            ways[way(*pair)].append(pair)
        flats = [flat for rows in alike(ways["flat"]) for flat in flats_of(rows, kept)]
        lists: list[Lists] = [
            ([s for s, _ in rows], [f for _, f in rows]) for rows in alike(ways["listed"])
        ]
        places = [*map(Tensor.data_ptr, leaves)]
        shaped = {leaf for _, leaf in (*ways["listed"], *ways["alone"])}
        looked_at = [seen(f for f in leaves if (f in shaped) is own) for own in (False, True)]
        rows = [*ways["listed"], *ways["alone"], *((flat.slow, flat.room) for flat in flats)]
        slow, fast = [s for s, _ in rows], [f for _, f in rows]
        return cls(leaves, fast, slow, places, *looked_at, lists, flats, ways["alone"])

    def starts(self, groups: list[Group]) -> bool:
        """Whether a cycle of `groups` can start by it: nothing about their parameters is new."""
        return self.holds(groups) and self.as_data.same()

    def holds(self, groups: list[Group]) -> bool:
        """Whether a sync of `groups` can go by it: the parameters are those that they were.

        Where the data is tells of one that was moved or cast, or whose data was replaced.
        """
        if torch.compiler.is_compiling():  # the look at storage would break the graph
            return False
        leaves = [leaf for group in groups for leaf in group["params"]]
        same = len(leaves) == len(self.leaves) and all(map(is_, leaves, self.leaves))
        return same and [*map(Tensor.data_ptr, leaves)] == self.places and self.as_shaped.same()

    @property
    def kernel(self) -> Kernel:
        """Of the weights of this part; other lists, such as moments, go the general way."""
        return GENERAL._replace(interpolate=self.interpolate, anchor=self.anchor)

    def anchor(self, slow: Leaves, fast: Leaves) -> Leaves:
        """Take the slow weights from the parameters."""
        if fast is not self.fast:
            return GENERAL.anchor(slow, fast)
        for slows, fasts in self.lists:
            torch._foreach_copy_(slows, fasts)
        for flat in self.flats:
            flat.anchor()
        anchor_each(self.alone)
        return slow

    def interpolate(self, slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
        """Move both; slow weights that go alone are left as they were, until the next cycle begins.

        `begin` takes them from the parameters in any case. So they are read here and not written,
        which is one of the three passes over memory that a cycle else takes.
        """
        if fast is not self.fast:
            return GENERAL.interpolate(slow, fast, alpha)
        alpha = float(alpha)  # a schedule may give a 0-d tensor
        move_lists(self.lists, alpha)
        for slows, fasts in self.lists:
            torch._foreach_copy_(fasts, slows)
        for flat in self.flats:
            flat.sync(alpha)
        move_fast_each(self.alone, alpha)
        return slow, fast


def fits(members: list[Tensor]) -> bool:
    """Whether they are plain floating tensors, none of which shares storage with another.

    Those that go alone are moved in place: storage that two of them share would move twice.
    """
    if not members or not all(map(plain, members)) or not all(averaged(members)):
        return False
    return len({leaf.untyped_storage().data_ptr() for leaf in members}) == len(members)


def seen(leaves: Iterable[Tensor]) -> Seen:
    leaves = list(leaves)
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
