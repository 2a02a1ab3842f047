"""Momentum on the pseudo-gradient for torch tensors: in place, with room for one leaf at most.

The formula is lookahead_core.momentum's. For whole lists it is rearranged, so that the slow weights
themselves hold the pseudo-gradient for a while and no second copy of the model is needed:

    slow <- slow - fast; buffer <- momentum * buffer + slow
    slow <- slow * (1 - lr) - lr * momentum * buffer    Nesterov's; slow - lr * buffer, heavy ball
    slow <- slow + fast
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lookahead_core.typing import Fraction, Leaves

from .lists import Lists, Row, by_device, cut, near, sort

__all__ = ["fits_graph", "momentum_compiled", "momentum_foreach", "momentum_plain"]

Stepped = tuple[Leaves, Leaves]


def momentum_foreach(
    slow: Leaves, fast: Leaves, buffer: Leaves, lr: Fraction, momentum: Fraction, nesterov: bool
) -> Stepped:
    """Overwrite `slow` and `buffer`: five or six launches for all leaves of a device and dtype."""
    lr, momentum = float(lr), float(momentum)  # a schedule may give 0-d tensors
    groups, others, distant = sort(slow, fast, buffer)
    for lists in groups:
        # With lr = 0 the slow weights stay as they are, and there is no way back from slow - fast.
        if lr == 0:
            others.extend(zip(*lists, strict=True))
        else:
            step_lists(lists, lr, momentum, nesterov)
    step_each(others, lr, momentum, nesterov)
    step_distant(distant, lr, momentum, nesterov)
    return slow, buffer


def momentum_plain(
    slow: Leaves, fast: Leaves, buffer: Leaves, lr: Fraction, momentum: Fraction, nesterov: bool
) -> Stepped:
    """Overwrite `slow` and `buffer`, leaf by leaf."""
    lr, momentum = float(lr), float(momentum)
    close, distant = by_device(slow, fast, buffer)
    step_each(close, lr, momentum, nesterov)
    step_distant(distant, lr, momentum, nesterov)
    return slow, buffer


def momentum_compiled(
    slow: Leaves, fast: Leaves, buffer: Leaves, lr: Fraction, momentum: Fraction, nesterov: bool
) -> Stepped:
    """Overwrite `slow` and `buffer` in one compiled graph for each set of shapes and dtypes."""
    lr, momentum = float(lr), float(momentum)
    close, distant = by_device(slow, fast, buffer)
    if graph := [row for row in close if fits_graph(row[0])]:
        # As tensors: one graph for all values. With floats that change, torch 2.13 compiles
        # `s.sub_(g.add_(b, alpha=momentum), alpha=lr)` to something that is wrong.
        numbers = torch.tensor(lr, dtype=torch.float64), torch.tensor(momentum, dtype=torch.float64)
        compiled()(graph, *numbers, nesterov)
    step_each([row for row in close if not fits_graph(row[0])], lr, momentum, nesterov)
    step_distant(distant, lr, momentum, nesterov)
    return slow, buffer


def fits_graph(leaf: Tensor) -> bool:
    """Whether the compiler can be given `leaf`."""
    # Inductor (torch 2.13) has no code for complex numbers, and loses what is written to a scalar.
    return leaf.dim() > 0 and not leaf.is_complex()


@cache
def compiled() -> Any:
    return torch.compile(step_graph)


def step_lists(lists: Lists, lr: float, momentum: float, nesterov: bool) -> None:
    slow, fast, buffer = lists
    torch._foreach_sub_(slow, fast)
    torch._foreach_mul_(buffer, momentum)
    torch._foreach_add_(buffer, slow)
    if nesterov:
        torch._foreach_mul_(slow, 1 - lr)
    torch._foreach_add_(slow, buffer, alpha=-lr * momentum if nesterov else -lr)
    torch._foreach_add_(slow, fast)


def step_each(rows: list[Row], lr: float, momentum: float, nesterov: bool) -> None:
    for row in rows:
        for s, f, b in cut(*row):
            step_leaf(s, f, b, lr, momentum, nesterov)


def step_graph(rows: list[Row], lr: Tensor, momentum: Tensor, nesterov: bool) -> None:
    """As the formula is written: the compiler needs no room for it."""
    for slow, fast, buffer in rows:
        gradient = slow - fast
        buffer.copy_(momentum * buffer + gradient)
        slow.copy_(slow - lr * (gradient + momentum * buffer if nesterov else buffer))


def step_leaf(
    slow: Tensor, fast: Tensor, buffer: Tensor, lr: float, momentum: float, nesterov: bool
) -> None:
    """As the formula is written, with room for slow - fast."""
    gradient = slow - fast
    buffer.mul_(momentum).add_(gradient)
    slow.sub_(gradient.add_(buffer, alpha=momentum) if nesterov else buffer, alpha=lr)


def step_distant(rows: list[Row], lr: float, momentum: float, nesterov: bool) -> None:
    """Leaves whose slow weights and buffers are on another device: one by one, as moves are."""
    for row in rows:
        here = near(row, row[1].device)
        step_each([here], lr, momentum, nesterov)
        for leaf, result in ((row[0], here[0]), (row[2], here[2])):
            if result is not leaf:
                leaf.copy_(result, non_blocking=True)
