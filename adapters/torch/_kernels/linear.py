"""The linear move of an outer rule that keeps a difference of weights, for torch tensors: in place.

The formula is lookahead_core.linear's. It is rearranged so that the slow weights themselves hold
what the slot changes by for a while, and no room is needed:

    slow <- gain * (slow - fast) + (decay - 1) * slot; slot <- slot + slow
    slow <- behind * slow + (ahead - behind) * slot + fast
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lookahead_core.leaves import each
from lookahead_core.typing import Leaves

from .interpolation import move
from .lists import LARGE, Lists, Row, compiled, pieces, share_no_storage, sort

__all__ = ["move_both_linearly", "move_linearly"]

# Numbers of a piece: three pieces of float32 stay in a level-2 cache of 512 KiB over six passes.
ROOM = 1 << 15
Numbers = tuple[float, float, float, float]


def move_linearly(
    way: str,
    slow: Leaves,
    fast: Leaves,
    slot: Leaves,
    decay: Any,
    gain: Any,
    *others: Any,
    both: bool = False,
) -> tuple[Leaves, Leaves]:
    """Overwrite `slow` and `slot`, and `fast` too with `both`.

    Lists take six or seven launches for each device, dtype and numbers.
    """
    ahead, behind = map(float, others)  # a schedule may give 0-d tensors
    pairs = zip(_floats(decay, len(slow)), _floats(gain, len(slow)), strict=True)
    alike: dict[tuple[float, float], list[Row]] = {}
    for pair, row in zip(pairs, zip(slow, fast, slot, strict=True), strict=True):
        alike.setdefault(pair, []).append(row)
    for pair, own in alike.items():
        _move(way, own, (*pair, ahead, behind), both)
    return slow, slot


def move_both_linearly(
    way: str, slow: Leaves, fast: Leaves, slot: Leaves, *numbers: Any
) -> tuple[Leaves, Leaves, Leaves]:
    """Overwrite all three: large leaves while a piece of them is in the cache."""
    apart = share_no_storage(fast)  # else a number would be moved, and read again as a fast weight
    move_linearly(way, slow, fast, slot, *numbers, both=apart)
    return slow, slot, fast if apart else move(way, fast, slow, 1.0)


def _floats(numbers: Any, leaves: int) -> Sequence[float]:
    """One for each leaf; for many tensors of one device the host waits once."""
    if not isinstance(numbers, list | tuple):
        return each(float(numbers), leaves)
    if len({getattr(number, "device", None) for number in numbers} - {None}) == 1:
        floats: list[float] = torch.stack([*map(torch.as_tensor, numbers)]).tolist()
        return floats
    return list(map(float, numbers))


def _move(way: str, own: list[Row], numbers: Numbers, both: bool) -> None:
    rows = sort(way, *zip(*own, strict=True))
    for lists in rows.lists:
        _move_lists(lists, numbers, both)
    if rows.graph:
        # As tensors: one graph for all values.
        compiled(_step_graph)(rows.graph, *map(_number, numbers), both)
    for row in (*rows.single, *rows.two_devices):
        _move_row(row, numbers, both)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _move_lists(lists: Lists, numbers: Numbers, both: bool) -> None:
    """Together, but for large leaves on a CPU: a piece of these stays in its cache."""
    rows = list(zip(*lists, strict=True))
    on_cpu = rows[0][0].device.type == "cpu"
    large = [row for row in rows if on_cpu and row[0].numel() > LARGE]
    for row in large:
        _move_row(row, numbers, both)
    small = [row for row in rows if not (on_cpu and row[0].numel() > LARGE)]
    if small:
        _step(tuple(zip(*small, strict=True)), *numbers, both)


def _move_row(row: Row, numbers: Numbers, both: bool) -> None:
    """On the device of the fast weights."""
    for piece in pieces(row, row[1].device, ROOM):
        _step_piece(piece, *numbers, both)


def _step_piece(
    piece: Row, decay: float, gain: float, ahead: float, behind: float, both: bool
) -> None:
    """With the signs turned: so each pass is one that torch has, four for primal averaging."""
    slow, fast, slot = piece
    torch.sub(fast, slow, out=slow)
    if gain == decay:
        slow.lerp_(slot, 1 - decay)
    else:
        slow.mul_(gain).add_(slot, alpha=1 - decay)
    slot.sub_(slow)
    torch.add(fast, slow, alpha=-behind, out=slow)
    if ahead != behind:
        slow.add_(slot, alpha=ahead - behind)
    if both:
        fast.copy_(slow)


def _step(lists: Lists, decay: float, gain: float, ahead: float, behind: float, both: bool) -> None:
    slow, fast, slot = lists
    torch._foreach_sub_(slow, fast)
    torch._foreach_mul_(slow, gain)
    torch._foreach_add_(slow, slot, alpha=decay - 1)
    torch._foreach_add_(slot, slow)
    torch._foreach_mul_(slow, behind)
    if ahead != behind:
        torch._foreach_add_(slow, slot, alpha=ahead - behind)
    torch._foreach_add_(slow, fast)
    if both:
        torch._foreach_copy_(fast, slow)


def _step_graph(
    rows: list[Row], decay: Tensor, gain: Tensor, ahead: Tensor, behind: Tensor, both: bool
) -> None:
    """As the formula is written: the compiler needs no room for it."""
    for slow, fast, slot in rows:
        moved = decay * slot + gain * (slow - fast)
        slow.copy_(fast + (ahead * moved - behind * slot))
        slot.copy_(moved)
        if both:
            fast.copy_(slow)
