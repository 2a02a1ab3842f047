"""Momentum on the pseudo-gradient for torch tensors: in place, with room for one leaf at most.

The formula is lookahead_core.momentum's. For whole lists it is rearranged, so that the slow weights
themselves hold the pseudo-gradient for a while and no second copy of the model is needed:

    slow <- slow - fast; buffer <- momentum * buffer + slow
    slow <- slow * (1 - lr) - lr * momentum * buffer    Nesterov's; slow - lr * buffer, heavy ball
    slow <- slow + fast
"""

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lookahead_core.typing import Leaves

from .lists import Lists, Row, compiled, in_cache, pieces, sort

__all__ = ["move_with_momentum"]


def move_with_momentum(
    way: str, slow: Leaves, fast: Leaves, buffer: Leaves, lr: Any, momentum: Any, nesterov: bool
) -> tuple[Leaves, Leaves]:
    """Overwrite `slow` and `buffer`. Lists take five or six launches for each device and dtype."""
    lr, momentum = float(lr), float(momentum)  # a schedule may give 0-d tensors
    if way == "foreach" and lr == 0:
        way = "plain"  # the slow weights stay as they are: there is no way back from slow - fast
    rows = sort(way, slow, fast, buffer)
    for lists in rows.lists:
        for some in in_cache(lists):
            step_lists(some, lr, momentum, nesterov)
    if rows.graph:
        # As tensors: one graph for all values. With floats that change, torch 2.13 compiles
        # `s.sub_(g.add_(b, alpha=momentum), alpha=lr)` to something that is wrong.
        numbers = torch.tensor(lr, dtype=torch.float64), torch.tensor(momentum, dtype=torch.float64)
        compiled(step_graph)(rows.graph, *numbers, nesterov)
    for row in (*rows.single, *rows.two_devices):
        step_row(row, lr, momentum, nesterov)
    return slow, buffer


def step_lists(lists: Lists, lr: float, momentum: float, nesterov: bool) -> None:
    slow, fast, buffer = lists
    torch._foreach_sub_(slow, fast)
    torch._foreach_mul_(buffer, momentum)
    torch._foreach_add_(buffer, slow)
    if nesterov:
        torch._foreach_mul_(slow, 1 - lr)
    torch._foreach_add_(slow, buffer, alpha=-lr * momentum if nesterov else -lr)
    torch._foreach_add_(slow, fast)


def step_graph(rows: list[Row], lr: Tensor, momentum: Tensor, nesterov: bool) -> None:
    """As the formula is written, on lists: on a GPU they are one kernel, or few, without room."""
    if not is_compiling():  # beyond torch's limit of graphs; the lists would need room for copies
        for row in rows:
            step_row(row, float(lr), float(momentum), nesterov)
        return
    slow, fast, buffer = map(list, zip(*rows, strict=True))
    gradient = torch._foreach_sub(slow, fast)
    torch._foreach_copy_(buffer, torch._foreach_add(torch._foreach_mul(buffer, momentum), gradient))
    step: Any = buffer
    if nesterov:
        step = torch._foreach_add(gradient, torch._foreach_mul(buffer, momentum))
    torch._foreach_sub_(slow, torch._foreach_mul(step, lr))


def step_row(row: Row, lr: float, momentum: float, nesterov: bool) -> None:
    """As the formula is written, on the device of the fast weights."""
    for piece in pieces(row, row[1].device):
        step_piece(piece, lr, momentum, nesterov)


def step_piece(piece: Row, lr: float, momentum: float, nesterov: bool) -> None:
    """With room for slow - fast, which is free again before the next piece needs its own."""
    slow, fast, buffer = piece
    gradient = slow - fast
    buffer.mul_(momentum).add_(gradient)
    slow.sub_(gradient.add_(buffer, alpha=momentum) if nesterov else buffer, alpha=lr)
