"""How the leaves of an operation are sorted, and how one that is large or far away is taken.

A row is tensors that belong together: slow weights, fast weights, and perhaps a momentum buffer.
What is computed on rows is interpolation.py and momentum.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core.typing import Leaves

__all__ = [
    "LARGE",
    "ROOM",
    "Lists",
    "Row",
    "alike",
    "compiled",
    "in_cache",
    "is_plain",
    "part_here",
    "parted",
    "pieces",
    "share_no_storage",
    "sort",
    "takes_lists",
]

Row: TypeAlias = tuple[Tensor, ...]
Lists: TypeAlias = tuple[tuple[Tensor, ...], ...]
# From so many numbers on, a pass over memory costs more than a call from Python.
LARGE = 1 << 14
# See `parted`.
PIECES, CACHED = 2, 1 << 19
# Numbers of a piece of three leaves: in float32 they are 3 MiB, which the last cache keeps over
# several passes. Smaller ones are slower: what torch does for each call costs more than that cache.
ROOM = 1 << 18


class Rows(NamedTuple):
    """Rows by how they are computed.

    Attributes
    ----------
    lists : list of Lists
        Those that torch's list operations take: for each device and dtype a tuple of all slow
        weights, one of all fast weights, and so on.
    graph : list of Row
        Those that one compiled graph takes.
    single : list of Row
        Those that go one by one.
    two_devices : list of Row
        Those whose fast weights are on another device than the rest. They go one by one, too.
    """

    lists: list[Lists]
    graph: list[Row]
    single: list[Row]
    two_devices: list[Row]


def sort(way: str, *leaves: Leaves) -> Rows:
    """Sort the rows of these leaves, of DTensors the shards, for one of `KERNELS`.

    On DTensors themselves torch 2.13 has no _foreach_copy_, and `chunk` gathers a copy of the whole
    first: what is written into its pieces is lost.
    """
    listed: list[Row] = []
    rows = Rows([], [], [], [])
    for whole in zip(*leaves, strict=True):
        row = tuple(map(part_here, whole))
        slow, fast = row[:2]
        if slow.device != fast.device:
            rows.two_devices.append(row)
        elif way == "foreach" and slow.dtype == fast.dtype and all(map(takes_lists, row)):
            listed.append(row)
        elif way == "compiled" and fits_graph(slow):
            rows.graph.append(row)
        else:
            rows.single.append(row)
    return rows._replace(lists=[tuple(zip(*own, strict=True)) for own in alike(listed)])


def alike(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows, by the device and the dtype of their fast weights."""
    found: dict[tuple[torch.device, torch.dtype], list[Row]] = {}
    for row in rows:
        found.setdefault((row[1].device, row[1].dtype), []).append(row)
    return [*found.values()]


def part_here(leaf: Tensor) -> Tensor:
    """This process' part of a DTensor, sharing its memory; a plain tensor is its own.

    Every kernel is element-wise, so shards need no other one, and their sync sends nothing.
    """
    return leaf if is_plain(leaf) or not hasattr(leaf, "to_local") else leaf.to_local()


def is_plain(leaf: Tensor) -> bool:
    """Whether `leaf` is of no subclass, which may lack some operations."""
    return type(leaf) in (Tensor, Parameter)


def takes_lists(leaf: Tensor) -> bool:
    """Whether torch's list operations take `leaf`: none that a view reads as its conjugate."""
    return is_plain(leaf) and not (leaf.is_conj() or leaf.is_neg())


def share_no_storage(leaves: Leaves) -> bool:
    """Whether they are known to: what is written to one is not in another then."""
    # A look at storage would break a graph.
    if torch.compiler.is_compiling() or not all(map(is_plain, leaves)):
        return False
    return len({leaf.untyped_storage().data_ptr() for leaf in leaves}) == len(leaves)


def fits_graph(leaf: Tensor) -> bool:
    """Whether the compiler can be given `leaf`."""
    # Inductor (torch 2.13) has no code for complex numbers, and loses what is written to a scalar.
    return leaf.dim() > 0 and not leaf.is_complex()


@cache
def compiled(step: Callable[..., None]) -> Any:
    """The graph of `step`, which is in place: beyond torch's limit of graphs it runs as written."""
    return torch.compile(step)


def in_cache(lists: Lists) -> Iterator[Lists]:
    """The lists, but for large leaves on a CPU: of these a piece after the other.

    What several calls do to a piece then reads memory once.
    """
    rows = list(zip(*lists, strict=True))
    most = ROOM if rows[0][1].device.type == "cpu" else math.inf
    if small := [row for row in rows if row[0].numel() <= most]:
        yield tuple(zip(*small, strict=True))
    for row in (row for row in rows if row[0].numel() > most):
        for piece in parted(row, ROOM):
            yield tuple((leaf,) for leaf in piece)


def pieces(row: Row, device: torch.device, most: int | None = None) -> Iterator[Row]:
    """Views that together are the row, on one device: what is written to them is in the leaves.

    Slow weights and buffers of another device are brought to this one, and go back at the end.
    Copies from or to pinned memory do not wait; those of one stream keep their order.
    """
    here = tuple(leaf.to(device, non_blocking=True) for leaf in row)
    yield from parted(here, CACHED if most is None else most)
    for result, leaf in zip((here[0], *here[2:]), (row[0], *row[2:]), strict=True):
        if result is not leaf:
            leaf.copy_(result, non_blocking=True)


def parted(row: Row, most: int) -> Iterable[Row]:
    """The row in pieces, if they are faster than the whole or need less room; else as it is.

    On a CPU a piece has no more than `most` numbers, which stay in its cache from one call to the
    next. A move needs room for a cast alone, momentum for the pseudo-gradient: the room of a piece
    is less than a leaf, and that of a small leaf is nothing.
    """
    slow = row[0]
    size = slow.numel()
    needs_room = len(row) > 2 or slow.dtype != row[1].dtype
    count = PIECES if needs_room and size > LARGE else 1
    if slow.device.type == "cpu":
        count = max(count, -(-size // most))
    if count == 1:
        return [row]
    if all(leaf.is_contiguous() for leaf in row):
        row = tuple(leaf.view(-1) for leaf in row)
    return zip(*(leaf.chunk(count) for leaf in row), strict=True)
