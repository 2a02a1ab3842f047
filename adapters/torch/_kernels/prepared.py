"""A kernel that keeps the lists of a part from cycle to cycle, while nothing about it changes.

To sort the parameters anew takes microseconds for each, which is most of a sync of many small ones.
So they are sorted once, and at each use every parameter is looked at: whether it is the same tensor
in the same place, of the same kind, and trained as before. It is for outer rules that move each
number by itself (`SyncRule.numberwise`). There are three ways to move a parameter:

listed : on an accelerator, in one launch for all of a dtype.
flat : small ones on a CPU, where a list operation is a loop that costs a good third of a
    microsecond a leaf; and small ones with wider slow weights, which no list operation takes. They
    are laid end to end, and are one array to the core, so that hundreds of them take a few calls.
alone : large ones of these, one by one, in a single pass over memory.
"""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate, groupby
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from lookahead_core import Kernel
from lookahead_core.leaves import averaged, each
from lookahead_core.typing import Fraction, Leaves

from .._groups import Group, leaves_of
from .._leaves import Kept
from .interpolation import anchor, anchor_rows, interpolate, move_lists, move_row
from .lists import LARGE, Lists, Row, alike, share_no_storage, takes_lists

__all__ = ["Prepared"]

# What a parameter is like, beside the place of its data.
look_at = attrgetter("requires_grad", "shape")
# So many numbers are laid end to end, and one leaf more: they stay in the cache from call to call,
# and are fewer than torch wakes its threads for. Those that go next take the same room.
ROOM = 1 << 14


class Flat:
    """Small leaves of one device and dtype, with slow weights of one dtype, laid end to end.

    Attributes
    ----------
    slow, slots : Tensor, list of Tensor
        Slow weights of all of them, in one dimension, and each slot of the outer rule likewise.
        Those in `kept` are views from then on.
    room : Tensor
        Room for their parameters; others use it too.
    fast_views, slow_views, room_views : list of Tensor
        Each parameter, and what belongs to it in `slow` and in `room`, in one dimension.
    """

    def __init__(self, rows: list[Row], room: Tensor, kept: dict[Tensor, Kept]) -> None:
        slows, fasts, *slots = zip(*rows, strict=True)
        sizes = [*map(Tensor.numel, fasts)]
        columns = (slows, *slots)
        self.slow, *self.slots = (torch.cat([x.reshape(-1) for x in own]) for own in columns)
        self.room = room[: self.slow.numel()]
        self.fast_views = [leaf.detach().view(-1) for leaf in fasts]
        self.slow_views, self.room_views, *slot_views = (
            torch.split(own, sizes) for own in (self.slow, self.room, *self.slots)
        )
        for leaf, slow, *views in zip(fasts, self.slow_views, *slot_views, strict=True):
            kept[leaf].slow = slow.view(leaf.shape)
            kept[leaf].slots = [view.view(leaf.shape) for view in views]

    def gather(self) -> None:
        """Fill the room with what the parameters are."""
        torch.cat(self.fast_views, out=self.room)

    def anchor(self) -> None:
        """Take the slow weights from the parameters."""
        if self.slow.dtype == self.room.dtype:
            torch.cat(self.fast_views, out=self.slow)
        else:
            self.gather()
            anchor_rows([(self.slow, self.room)])

    def interpolate(self, alpha: float) -> None:
        """Move the slow weights toward the parameters, and these to them."""
        self.gather()
        move_row((self.slow, self.room), alpha, both=False)
        torch._foreach_copy_(self.fast_views, self.slow_views)


class Prepared:
    """What the kernel keeps of one part.

    Attributes
    ----------
    leaves : list of Tensor
        All parameters of the part's groups.
    places : list of int
        Where the data of each of the leaves is.
    by_shape, by_data : dict
        What the leaves were like: those that are moved in their shape, and all others, which are
        moved as their data lies or not at all.
    slow, fast, slots : list of Tensor, list of Tensor, list of list of Tensor
        What the core is given for the slow weights of the parameters that take part, for the
        parameters, and for the slots. Those that lie end to end are one array: of the parameters it
        is room, which the kernel fills.
    in_shape : list of (slow weights, parameter, slots...)
        All but the flat ones.
    lists : list of (slow weights, parameters, slots...)
        The listed ones, for one launch each.
    flats : dict
        The flat ones, by their slow weights.
    alone : list of (slow weights, parameter, slots...)
        Those that go alone.
    """

    def __init__(self, groups: list[Group], rows: list[Row], kept: dict[Tensor, Kept]) -> None:
        ways: dict[str, list[Row]] = {"listed": [], "flat": [], "alone": []}
        for row in rows:
            ways[way(*row[:2])].append(row)
        self.lists: list[Lists] = [tuple(zip(*own, strict=True)) for own in alike(ways["listed"])]
        flats = [flat for own in alike(ways["flat"]) for flat in flats_of(own, kept)]
        self.flats = {flat.slow: flat for flat in flats}
        self.alone = ways["alone"]
        self.in_shape = [*ways["listed"], *self.alone]
        flat_rows = [(flat.slow, flat.room, *flat.slots) for flat in flats]
        self.slow, self.fast, *self.slots = map(list, zip(*self.in_shape, *flat_rows, strict=True))
        self.leaves = list(leaves_of(groups))
        self.places = [*map(Tensor.data_ptr, self.leaves)]
        self.by_shape = {leaf: look_at(leaf) for _, leaf, *_ in self.in_shape}
        self.by_data = {leaf: look_at(leaf) for leaf in self.leaves if leaf not in self.by_shape}

    @classmethod
    def of(
        cls, groups: list[Group], members: list[Tensor], kept: dict[Tensor, Kept]
    ) -> "Prepared | None":
        """For the members among the parameters of `groups`; None if some need the general way."""
        rows: list[Row] = [(kept[leaf].slow, leaf, *kept[leaf].slots) for leaf in members]
        return None if torch.compiler.is_compiling() or not fits(rows) else cls(groups, rows, kept)

    def starts(self, groups: list[Group]) -> bool:
        """Whether a cycle of `groups` can start by it: nothing about their parameters is new."""
        return self.holds(groups) and unchanged(self.by_data)

    def holds(self, groups: list[Group]) -> bool:
        """Whether a sync of `groups` can go by it: the parameters are those that they were.

        Where the data is tells of one that was moved or cast, or whose data was replaced.
        """
        if torch.compiler.is_compiling():  # the look at storage would break the graph
            return False
        # Not `leaves_of`: a generator is a third of the time of this, with many small leaves.
        leaves = [leaf for group in groups for leaf in group["params"]]
        same = len(leaves) == len(self.leaves) and all(map(is_, leaves, self.leaves))
        return same and [*map(Tensor.data_ptr, leaves)] == self.places and unchanged(self.by_shape)

    def over(self, kernel: Kernel) -> Kernel:
        """For the weights of this part; other lists, such as moments, go as in `kernel`."""
        return kernel._replace(
            interpolate=self.interpolate,
            anchor=self.anchor,
            move=partial(self.move, kernel.move),
            momentum=partial(self.momentum, kernel.momentum),
            linear=partial(self.linear, kernel.linear),
            linear_both=None,  # in the place of which the core calls `linear` and `move`
        )

    def anchor(self, slow: Leaves, fast: Leaves) -> Leaves:
        """Take the slow weights from the parameters: of these, which may be a part of all."""
        rows = [row for row in zip(slow, fast, strict=True) if row[0] not in self.flats]
        if rows:
            anchor("foreach", *zip(*rows, strict=True))
        for leaf in slow:
            if leaf in self.flats:
                self.flats[leaf].anchor()
        return slow

    def interpolate(self, slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
        """Move both."""
        if fast is not self.fast:
            return interpolate("foreach", slow, fast, alpha)
        alpha = float(alpha)  # a schedule may give a 0-d tensor
        for slows, fasts, *_ in self.lists:
            move_lists(slows, fasts, alpha)
            torch._foreach_copy_(fasts, slows)
        for flat in self.flats.values():
            flat.interpolate(alpha)
        for row in self.alone:
            move_row(row[:2], alpha, both=True)
        return slow, fast

    def move(self, general: Any, moved: Leaves, toward: Leaves, alpha: Fraction) -> Leaves:
        """Move the slow weights toward the parameters, or the other way round."""
        if moved is not self.fast and toward is not self.fast:
            general(moved, toward, alpha)
            return moved
        for flat, (some, others) in self.divided(moved, toward):
            general(some, others, alpha)
            if flat is not None and moved is self.fast:
                torch._foreach_copy_(flat.fast_views, flat.room_views)
        return moved

    def momentum(self, general: Any, *given: Any) -> tuple[Leaves, Leaves]:
        """Move the slow weights and the buffer."""
        return self.with_slot(general, given[:3], given[3:])

    def linear(
        self, general: Any, slow: Leaves, fast: Leaves, slot: Leaves, *numbers: Any
    ) -> tuple[Leaves, Leaves]:
        """Move the slow weights and the slot; the first two numbers may be one for each array."""
        decay, gain = (each(number, len(slow)) for number in numbers[:2])
        return self.with_slot(general, (slow, fast, slot, decay, gain), numbers[2:])

    def with_slot(self, general: Any, lists: Any, numbers: Any) -> tuple[Leaves, Leaves]:
        """By an operation that reads its second list and overwrites the first and the third."""
        slow, fast, slot, *_ = lists
        parts = [lists] if fast is not self.fast else (own for _, own in self.divided(*lists))
        for own in parts:
            general(*own, *numbers)
        return slow, slot

    def divided(self, *lists: Leaves) -> Iterator[tuple[Flat | None, list[Leaves]]]:
        """The lists of those in their shape, then of each flat, with its parameters in the room.

        The flats have one room, so each must be done with before the next is asked for.
        """
        number = len(self.in_shape)
        if number:
            yield None, [own[:number] for own in lists]
        for position, flat in enumerate(self.flats.values(), number):
            flat.gather()
            yield flat, [own[position : position + 1] for own in lists]


def fits(rows: list[Row]) -> bool:
    """Whether the rows are plain floating tensors on a CPU or CUDA, each row on one device.

    No parameter may share storage with another: those that go alone are moved in place, and would
    move twice.
    """
    leaves = [row[1] for row in rows]
    plain = all(takes_lists(leaf) and leaf.device.type in ("cpu", "cuda") for leaf in leaves)
    if not leaves or not plain or not all(averaged(leaves)):
        return False
    together = all(row[0].device == row[1].device and slots_fit(row) for row in rows)
    return together and share_no_storage(leaves)


def slots_fit(row: Row) -> bool:
    """Whether its slots are like its slow weights, in a dtype whose sums do not go by the place.

    torch (2.13) adds a multiple of a bfloat16 array otherwise at the end of a block than in it, so
    the bits would depend on what is laid before a leaf.
    """
    slow, _, *slots = row
    wide = slow.dtype in (torch.float32, torch.float64)
    return not slots or (wide and all(kind(slot) == kind(slow) for slot in slots))


def kind(leaf: Tensor) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype, leaf.device


def way(slow: Tensor, fast: Tensor) -> str:
    """How a row is moved."""
    if not on_cpu(fast) and slow.dtype == fast.dtype:
        return "listed"
    return "flat" if fast.numel() < LARGE and fast.is_contiguous() else "alone"


def on_cpu(leaf: Tensor) -> bool:
    return leaf.device.type == "cpu"


def unchanged(seen: dict[Tensor, Any]) -> bool:
    """Whether these leaves look as they did."""
    return [*map(look_at, seen)] == [*seen.values()]


def flats_of(rows: list[Row], kept: dict[Tensor, Kept]) -> list[Flat]:
    """For contiguous parameters of one device and dtype, with slow weights of one dtype."""
    ends = accumulate(row[1].numel() for row in rows)
    parted = groupby(zip(ends, rows, strict=True), key=lambda item: item[0] // ROOM)
    bundles = [[row for _, row in items] for _, items in parted]
    sizes = [sum(row[1].numel() for row in bundle) for bundle in bundles]
    room = rows[0][1].new_empty(max(sizes))
    return [Flat(bundle, room, kept) for bundle in bundles]
