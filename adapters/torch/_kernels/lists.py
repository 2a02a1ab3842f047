"""Which leaves one launch can take together, and which pieces a large one goes in.

Rows of tensors that belong together (slow, fast, and perhaps a momentum buffer) are sorted; what is
computed on them is interpolation.py and momentum.py.
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core.typing import Leaves

__all__ = ["Lists", "Row", "by_device", "cut", "near", "part_here", "pieces", "sort"]

Row: TypeAlias = tuple[Tensor, ...]
Lists: TypeAlias = tuple[list[Tensor], ...]
# A leaf that needs a cast goes in so many pieces: casts then take less room than one leaf. One of
# no more than so many numbers goes whole: its room is nothing, and the calls are all its time. On a
# CPU a piece has no more than so many: they stay in its cache from one call to the next.
PIECES, WHOLE, CACHED = 2, 1 << 14, 1 << 19


def sort(*leaves: Leaves) -> tuple[Iterable[Lists], list[Row], list[Row]]:
    """Lists for one launch each, rows that go one by one, and rows on two devices."""
    groups: dict[tuple[torch.device, torch.dtype], Lists] = {}
    others = []
    close, distant = by_device(*leaves)
    for row in close:
        slow = row[0]
        # Other subclasses of Tensor may lack foreach.
        if slow.dtype != row[1].dtype or type(slow) not in (Tensor, Parameter):
            others.append(row)
            continue
        lists = groups.setdefault((slow.device, slow.dtype), tuple([] for _ in row))
        for own, leaf in zip(lists, row, strict=True):
            own.append(leaf)
    return groups.values(), others, distant


def by_device(*leaves: Leaves) -> tuple[list[Row], list[Row]]:
    """Rows whose first two leaves are on one device, and rows of two; of DTensors their shards.

    On DTensors themselves torch 2.13 has no _foreach_copy_, and `chunk` gathers a copy of the whole
    first: what is written into its pieces is lost.
    """
    close: list[Row] = []
    distant: list[Row] = []
    for whole in zip(*leaves, strict=True):
        row = tuple(map(part_here, whole))
        (close if row[0].device == row[1].device else distant).append(row)
    return close, distant


def part_here(leaf: Tensor) -> Tensor:
    """This process' part of a DTensor, sharing its memory; a plain tensor is its own.

    Every kernel is element-wise, so shards need no other one, and their sync sends nothing.
    """
    return leaf.to_local() if hasattr(leaf, "to_local") else leaf


def near(row: Row, where: torch.device) -> Row:
    """The row on one device; what is there already is not copied.

    A copy from or to pinned memory does not wait; those of one stream keep their order.
    """
    return tuple(leaf.to(where, non_blocking=True) for leaf in row)


def pieces(slow: Tensor, fast: Tensor) -> Iterator[Row]:
    """Views that together are the two leaves; the leaves themselves where no cast is needed."""
    return iter([(slow, fast)]) if slow.dtype == fast.dtype else cut(slow, fast)


def cut(*row: Tensor) -> Iterator[Row]:
    """Views that together are the leaves."""
    count = pieces_of(row[0])
    if count < 2:
        return iter([row])
    if all(leaf.is_contiguous() for leaf in row):
        row = tuple(leaf.view(-1) for leaf in row)
    return zip(*(leaf.chunk(count) for leaf in row), strict=True)


def pieces_of(leaf: Tensor) -> int:
    size = leaf.numel()
    if size <= WHOLE:
        return 1
    return max(PIECES, -(-size // CACHED)) if leaf.device.type == "cpu" else PIECES
