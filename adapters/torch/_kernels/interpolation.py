"""How the arithmetic of a sync runs on torch tensors: in place, and never with a copy of the model.

Three kernels that mean the same: `foreach` launches once for all leaves of a device and dtype,
`plain` goes leaf by leaf, `compiled` is one fused graph. All use torch.lerp, which is the core's
formula with both of its branches. Their momentum is momentum.py, and their table `__init__.py`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lookahead_core.kernel import anchored
from lookahead_core.typing import Fraction, Leaves

from .lists import Row, compiled, is_plain, pieces, sort

__all__ = ["anchor", "anchor_rows", "interpolate", "move", "move_lists", "move_row"]


def interpolate(
    way: str, slow: Leaves, fast: Leaves, alpha: Fraction, both: bool = True
) -> tuple[Leaves, Leaves]:
    """Overwrite both lists, or `slow` alone.

    Leaves that torch's list operations take need two launches for each device and dtype, or one.
    """
    alpha = float(alpha)  # a schedule may give a 0-d tensor
    if way == "compiled" and not 0 < alpha < 1:
        way = "plain"  # the graph has no branch for the ends
    rows = sort(way, slow, fast)
    for slows, fasts in rows.lists:
        move_lists(slows, fasts, alpha)
    for row in rows.single:
        move_row(row, alpha, both=False)
    if rows.graph:
        # As a tensor: one graph for all values of a schedule. Which branch is a graph of its own.
        number = torch.tensor(alpha, dtype=torch.float64)
        compiled(move_graph)(rows.graph, number, alpha < 0.5, both)
    if both:  # after all moves: two fast leaves may share their storage
        for slows, fasts in rows.lists:
            torch._foreach_copy_(fasts, slows)
        for s, f in rows.single:
            f.copy_(s)
    for row in rows.two_devices:
        move_row(row, alpha, both)
    return slow, fast


def move(way: str, slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """Overwrite `slow` alone."""
    return interpolate(way, slow, fast, alpha, both=False)[0]


def move_graph(rows: list[Row], alpha: Tensor, near: bool, both: bool) -> None:
    """The lists are one kernel on a GPU, or few, in which both copies are read and written once.

    The formula is torch.lerp's, with `near` for alpha < 0.5.
    """
    slows, fasts = map(list, zip(*rows, strict=True))
    if is_compiling():
        ends = [fast.to(slow.dtype) for slow, fast in rows]
        way = torch._foreach_mul(torch._foreach_sub(ends, slows), alpha if near else 1 - alpha)
        moved = torch._foreach_add(slows, way) if near else torch._foreach_sub(ends, way)
        torch._foreach_copy_(slows, moved)
    else:  # beyond torch's limit of graphs; the lists would need room for a copy of the model
        for row in rows:
            move_row(row, float(alpha), both=False)
    if both:
        torch._foreach_copy_(fasts, slows)


def move_lists(slows: Row, fasts: Row, alpha: float) -> None:
    # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
    if alpha == 1:
        torch._foreach_copy_(slows, fasts)
    elif alpha > 0:
        torch._foreach_lerp_(slows, fasts, alpha)


def move_row(row: Row, alpha: float, both: bool) -> None:
    """Move the slow leaf toward the fast one, and this to it if both are to be written."""
    slow, fast = row
    # If the slow one alone is written, the two may have been exchanged: then what the CPU has goes
    # to the other device, so that the CPU does not wait.
    device = fast.device if both or slow.device.type == "cpu" else slow.device
    for s, f in pieces(row, device):
        if alpha == 1:
            s.copy_(f)
        elif alpha > 0:
            s.lerp_(f.to(s.dtype), alpha)  # lerp refuses a bfloat16 end for a float32 start
        if both:
            f.copy_(s)


def anchor(way: str, slow: Leaves, fast: Leaves) -> Leaves:
    """Overwrite `slow` with `fast`, but for the extra bits of a wider leaf, and return it."""
    rows = sort(way, slow, fast)
    for slows, fasts in rows.lists:
        torch._foreach_copy_(slows, fasts)
    anchor_rows([*rows.single, *rows.two_devices])
    return slow


def anchor_rows(rows: Iterable[Row]) -> None:
    for slow, fast in rows:
        if slow.dtype == fast.dtype:
            slow.copy_(fast, non_blocking=True)
            continue
        for s, f in pieces((slow, fast), fast.device):
            if not unchanged(s, f):
                s.copy_(anchored(s, f))


def unchanged(slow: Tensor, fast: Tensor) -> bool:
    """Whether `fast` is seen to be the rounding of `slow`, as it is unless somebody edits it.

    Reads alone are half of what the anchor costs else. A GPU would make the host wait.
    """
    if fast.device.type != "cpu" or not is_plain(fast) or is_compiling():
        return False
    rounded = slow.to(fast.dtype)
    if all(map(whole_words, (rounded, fast))):
        # torch.equal goes number by number: of bfloat16 it takes six times as long.
        return torch.equal(*(leaf.view(-1).view(torch.int64) for leaf in (rounded, fast)))
    return torch.equal(rounded, fast)


def whole_words(leaf: Tensor) -> bool:
    """Whether it can be looked at as numbers of 64 bits."""
    ends = leaf.storage_offset(), leaf.numel()
    return leaf.is_contiguous() and not any(n * leaf.itemsize % 8 for n in ends)
