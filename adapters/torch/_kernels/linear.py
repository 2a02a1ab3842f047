"""The linear move of an outer rule that keeps a difference of weights, for torch tensors: in place.

The formula is lookahead_core.linear's. It is rearranged so that the slow weights themselves hold
what the slot changes by for a while, and no room is needed:

    slow <- gain * (slow - fast) + (decay - 1) * slot; slot <- slot + slow
    slow <- behind * slow + (ahead - behind) * slot + fast

Where the fast weights are put back, on a CPU, three passes do it: torch's fused step of SGD with
momentum, with the slow weights for a gradient, is the second line here.

    fast <- fast - behind * slot
    slot <- (decay - gain * behind) * slot + gain * (slow - fast); fast <- fast + ahead * slot
    slow <- fast
"""

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lookahead_core.leaves import each
from lookahead_core.typing import Leaves

from .interpolation import move
from .lists import LARGE, ROOM, Lists, Row, compiled, parted, pieces, share_no_storage, sort

__all__ = ["move_both_linearly", "move_linearly"]

FUSED = (torch.float32, torch.float64)
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

    Lists take three to seven launches for each device, dtype and numbers.
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
    """One for each leaf; for those in one tensor the host waits once."""
    numbers = numbers.tolist() if isinstance(numbers, Tensor) else numbers
    return [*map(float, each(numbers, leaves))]


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
    large = [on_cpu and row[0].numel() > LARGE for row in rows]
    for row in compress(rows, large):
        _move_row(row, numbers, both)
    small = list(compress(rows, map(not_, large)))
    fused = [both and _fits_fused(row, numbers) for row in small]
    if any(fused):
        _step_fused(zip(*compress(small, fused), strict=True), *numbers)
    if not all(fused):
        others = compress(small, map(not_, fused))
        _step(tuple(zip(*others, strict=True)), *numbers, both)


def _move_row(row: Row, numbers: Numbers, both: bool) -> None:
    """On the device of the fast weights."""
    if both and _fits_fused(row, numbers):
        for piece in parted(row, ROOM):
            _step_fused(zip(piece), *numbers)
        return
    for piece in pieces(row, row[1].device, ROOM):
        _step_piece(piece, *numbers, both)


def _fits_fused(row: Row, numbers: Numbers) -> bool:
    """Whether `_step_fused` can take it, on a CPU.

    For narrower floats torch's fused step rounds the numbers, too. It takes each leaf for one
    block of memory, and without momentum it leaves the buffer, which is the slot, as it is.
    """
    decay, gain, _, behind = numbers
    slow, fast, slot = row
    if decay == gain * behind or {leaf.device.type for leaf in row} != {"cpu"}:
        return False
    # Written out: a loop takes three times as long, which is much with many small leaves.
    floats = slow.dtype in FUSED and fast.dtype in FUSED and slot.dtype in FUSED
    return floats and slow.is_contiguous() and fast.is_contiguous() and slot.is_contiguous()


def _step_fused(
    lists: Iterable[Row], decay: float, gain: float, ahead: float, behind: float
) -> None:
    """Three passes, of which the second is torch's fused step of SGD with momentum."""
    slow, fast, slot = map(list, lists)
    if behind:
        torch._foreach_sub_(fast, slot, alpha=behind)
    torch._fused_sgd_(
        fast,
        slow,
        slot,
        weight_decay=-1.0,
        momentum=decay - gain * behind,
        lr=-ahead,
        dampening=1 - gain,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    torch._foreach_copy_(slow, fast)


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
    moved = torch.sub(fast, slow, alpha=behind, out=fast if both else slow)
    if ahead != behind:
        moved.add_(slot, alpha=ahead - behind)
    if both:
        slow.copy_(fast)


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
    """As the formula is written, on lists: on a GPU they are one kernel, or few, without room."""
    if not is_compiling():  # beyond torch's limit of graphs; the lists would need room for copies
        for row in rows:
            _move_row(row, (float(decay), float(gain), float(ahead), float(behind)), both)
        return
    slow, fast, slot = map(list, zip(*rows, strict=True))
    before = torch._foreach_mul(slot, behind)
    gained = torch._foreach_mul(torch._foreach_sub(slow, fast), gain)
    torch._foreach_copy_(slot, torch._foreach_add(torch._foreach_mul(slot, decay), gained))
    change = torch._foreach_sub(torch._foreach_mul(slot, ahead), before)
    torch._foreach_copy_(slow, torch._foreach_add(fast, change))
    if both:
        torch._foreach_copy_(fast, slow)
