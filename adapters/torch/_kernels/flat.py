"""Small leaves laid end to end, so that a sync of hundreds takes a few calls and not hundreds.

On a CPU torch's list operations are loops over the leaves: each of them costs a good third of a
microsecond, whatever its size. Wider slow weights no list operation takes, on any device. What a
sync means is lookahead_core's.
"""

from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .._leaves import Kept
from .interpolation import anchor_each, move_each
from .lists import Row

__all__ = ["Flat", "flats_of"]

# So many numbers go together, and one leaf more: they stay in the cache from call to call, and are
# fewer than torch wakes its threads for. Those that go next take the same room.
ROOM = 1 << 14


class Flat(NamedTuple):
    """Leaves of one device and dtype, with slow weights of one dtype.

    Attributes
    ----------
    slow : Tensor
        Slow weights of all of them, in one dimension.
    room : Tensor
        Room for their parameters; others use it too.
    lines : list of Tensor
        Each parameter in one dimension, on its own storage.
    held : list of Tensor
        The slow weights of each, also in one dimension: views of `slow`.
    """

    slow: Tensor
    room: Tensor
    lines: list[Tensor]
    held: list[Tensor]

    def anchor(self) -> None:
        """Take the slow weights from the parameters."""
        if self.slow.dtype == self.room.dtype:
            torch.cat(self.lines, out=self.slow)
        else:
            torch.cat(self.lines, out=self.room)
            anchor_each([(self.slow, self.room)])

    def sync(self, alpha: float) -> None:
        """Move the slow weights toward the parameters, and these to them."""
        torch.cat(self.lines, out=self.room)
        move_each([(self.slow, self.room)], alpha)
        torch._foreach_copy_(self.lines, self.held)


def flats_of(pairs: list[Row], kept: dict[Tensor, Kept]) -> list[Flat]:
    """Contiguous pairs of slow weights and parameters, of one device and two dtypes at most.

    Their slow weights are views in `kept` from then on.
    """
    ends = accumulate(fast.numel() for _, fast in pairs)
    parted = groupby(zip(ends, pairs, strict=True), key=lambda item: item[0] // ROOM)
    bundles = [[pair for _, pair in items] for _, items in parted]
    room = pairs[0][1].new_empty(max(map(size, bundles)))
    return [flat_of(bundle, room[: size(bundle)], kept) for bundle in bundles]


def size(pairs: list[Row]) -> int:
    return sum(fast.numel() for _, fast in pairs)


def flat_of(pairs: list[Row], room: Tensor, kept: dict[Tensor, Kept]) -> Flat:
    lines = [fast.detach().view(-1) for _, fast in pairs]
    numbers = [line.numel() for line in lines]
    whole = torch.cat([old.reshape(-1) for old, _ in pairs])
    held = torch.split(whole, numbers)
    for part, (_, fast) in zip(held, pairs, strict=True):
        kept[fast].slow = part.view(fast.shape)
    return Flat(whole, room, lines, [*held])
