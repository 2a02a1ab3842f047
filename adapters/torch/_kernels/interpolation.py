"""How the arithmetic of a sync runs on torch tensors: in place, and never with a copy of the model.

Three kernels that mean the same: `foreach` launches once for all leaves of a device and dtype,
`plain` goes leaf by leaf, `compiled` is one fused graph. All use torch.lerp, which is the core's
formula with both of its branches. Their momentum is momentum.py.
"""

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from lookahead_core import Kernel
from lookahead_core.kernel import anchored
from lookahead_core.typing import Fraction, Leaves

from .lists import Lists, Row, by_device, near, pieces, sort
from .momentum import fits_graph, momentum_compiled, momentum_foreach, momentum_plain

__all__ = ["KERNELS"]


def interpolate_foreach(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists: two launches for all leaves of a device and dtype."""
    alpha = float(alpha)  # a schedule may give a 0-d tensor
    groups, others, distant = sort(slow, fast)
    move_lists(groups, alpha)
    move_each(others, alpha)
    for slows, fasts in groups:
        torch._foreach_copy_(fasts, slows)
    copy_each(others)
    move_distant(distant, alpha)
    return slow, fast


def interpolate_plain(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists, leaf by leaf."""
    alpha = float(alpha)
    close, distant = by_device(slow, fast)
    move_each(close, alpha)
    copy_each(close)
    move_distant(distant, alpha)
    return slow, fast


def interpolate_compiled(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists in one compiled graph for each set of shapes and dtypes."""
    alpha = float(alpha)
    graph, others, distant = for_graph(slow, fast, alpha)
    move_each(others, alpha)
    if graph:
        compiled(interpolate_)([s for s, _ in graph], [f for _, f in graph], alpha)
    copy_each(others)
    move_distant(distant, alpha)
    return slow, fast


def move_foreach(slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """Overwrite `slow` alone: one launch for all leaves of a device and dtype."""
    alpha = float(alpha)
    groups, others, distant = sort(slow, fast)
    move_lists(groups, alpha)
    move_each(others, alpha)
    move_distant(distant, alpha, back=False)
    return slow


def move_plain(slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """Overwrite `slow` alone, leaf by leaf."""
    alpha = float(alpha)
    close, distant = by_device(slow, fast)
    move_each(close, alpha)
    move_distant(distant, alpha, back=False)
    return slow


def move_compiled(slow: Leaves, fast: Leaves, alpha: Fraction) -> Leaves:
    """Overwrite `slow` alone, in one compiled graph for each set of shapes and dtypes."""
    alpha = float(alpha)
    graph, others, distant = for_graph(slow, fast, alpha)
    move_each(others, alpha)
    if graph:
        compiled(move_)([s for s, _ in graph], [f for _, f in graph], alpha)
    move_distant(distant, alpha, back=False)
    return slow


@cache
def compiled(step: Callable[..., None]) -> Callable[..., None]:
    """A graph that reads and writes each copy of the weights once, made when it is first needed."""
    return torch.compile(step)


# In place: beyond torch's limit of recompilations these run as they are written.
def interpolate_(slow: list[Tensor], fast: list[Tensor], alpha: float) -> None:
    move_(slow, fast, alpha)
    for s, f in zip(slow, fast, strict=True):
        f.copy_(s)


def move_(slow: list[Tensor], fast: list[Tensor], alpha: float) -> None:
    for s, f in zip(slow, fast, strict=True):
        s.lerp_(f.to(s.dtype), alpha)


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """Overwrite `slow` with `fast`, but for the extra bits of a wider leaf, and return it."""
    groups, others, distant = sort(slow, fast)
    for slows, fasts in groups:
        torch._foreach_copy_(slows, fasts)
    anchor_each([*others, *distant])
    return slow


def anchor_plain(slow: Leaves, fast: Leaves) -> Leaves:
    """As `anchor_`, leaf by leaf."""
    close, distant = by_device(slow, fast)
    anchor_each([*close, *distant])
    return slow


def for_graph(slow: Leaves, fast: Leaves, alpha: float) -> tuple[list[Row], list[Row], list[Row]]:
    """Pairs for a graph, pairs that go one by one, and pairs on two devices."""
    close, distant = by_device(slow, fast)
    inside = 0 < alpha < 1
    graph = [row for row in close if inside and fits_graph(row[0])]
    others = [row for row in close if not (inside and fits_graph(row[0]))]
    return graph, others, distant


def move_lists(groups: Iterable[Lists], alpha: float) -> None:
    for slows, fasts in groups:
        # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
        if alpha == 1:
            torch._foreach_copy_(slows, fasts)
        elif alpha > 0:
            torch._foreach_lerp_(slows, fasts, alpha)


def move_each(pairs: list[Row], alpha: float) -> None:
    """Move the slow leaves. All of them before any `copy_each`: two may share their storage."""
    for pair in pairs:
        for part, fast in pieces(*pair):
            move_one(part, fast, alpha)


def move_one(slow: Tensor, fast: Tensor, alpha: float) -> None:
    # lerp refuses a bfloat16 end for a float32 start.
    if alpha == 1:
        slow.copy_(fast)
    elif alpha > 0:
        slow.lerp_(fast.to(slow.dtype), alpha)


def move_fast_each(pairs: Iterable[Row], alpha: float) -> None:
    """Move the fast leaves; those slow ones that are no wider are left to the next anchor.

    It writes them in any case. No two fast leaves may share storage.
    """
    for s, f in pairs:
        if s.dtype == f.dtype and 0 < alpha < 1:
            torch.lerp(s, f, alpha, out=f)
            continue
        for part, fast in pieces(s, f):
            move_one(part, fast, alpha)
            fast.copy_(part)


def copy_each(pairs: list[Row]) -> None:
    for s, f in pairs:
        f.copy_(s)


def move_distant(pairs: list[Row], alpha: float, back: bool = True) -> None:
    """Leaves whose slow weights are on another device: one by one, through the fast one's.

    With `back` the fast ones follow. Without it the two may be exchanged, and the CPU waits for
    neither.
    """
    for s, f in pairs:
        here, there = near((s, f), f.device if back or s.device.type == "cpu" else s.device)
        move_each([(here, there)], alpha)
        if back:
            f.copy_(here)
        if here is not s:
            s.copy_(here, non_blocking=True)


def anchor_each(pairs: Iterable[Row]) -> None:
    for s, f in pairs:
        if s.dtype == f.dtype:
            s.copy_(f, non_blocking=True)
            continue
        here = s.to(f.device, non_blocking=True)
        for part, fast in pieces(here, f):
            if not unchanged(part, fast):
                part.copy_(anchored(part, fast))
        if here is not s:
            s.copy_(here, non_blocking=True)


def unchanged(slow: Tensor, fast: Tensor) -> bool:
    """Whether `fast` is seen to be the rounding of `slow`, as it is unless somebody edits it.

    Reads alone are half of what the anchor costs else. A GPU would make the host wait.
    """
    plain = type(fast) in (Tensor, Parameter) and fast.device.type == "cpu"
    if not plain or torch.compiler.is_compiling():
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


KERNELS = {
    "foreach": Kernel(interpolate_foreach, anchor_, move_foreach, momentum_foreach),
    "plain": Kernel(interpolate_plain, anchor_plain, move_plain, momentum_plain),
    "compiled": Kernel(interpolate_compiled, anchor_, move_compiled, momentum_compiled),
}
