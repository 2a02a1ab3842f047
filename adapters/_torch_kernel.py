"""How the arithmetic of a sync runs on torch tensors: in place, and never with a copy of the model.

Three kernels that mean the same: `foreach` launches once for all leaves of a device and dtype,
`plain` goes leaf by leaf, `compiled` is one fused graph. All use torch.lerp, which is the core's
formula with both of its branches.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lookahead_core import Kernel
from lookahead_core.kernel import anchored
from lookahead_core.typing import Fraction, Leaves

__all__ = ["KERNELS"]

Pair: TypeAlias = tuple[Tensor, Tensor]
Pairs: TypeAlias = list[Pair]
# A leaf that needs a cast goes in so many pieces: casts then take less room than one leaf.
PIECES = 4


def interpolate_foreach(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists: two launches for all leaves of a device and dtype."""
    alpha = float(alpha)  # a schedule may give a 0-d tensor
    groups, others, distant = sort(slow, fast)
    for slows, fasts in groups:
        # The ends of [0, 1] are copies, as in the reference: 0 * inf is NaN.
        if alpha == 1:
            torch._foreach_copy_(slows, fasts)
        elif alpha > 0:
            torch._foreach_lerp_(slows, fasts, alpha)
    move_each(others, alpha)
    for slows, fasts in groups:
        torch._foreach_copy_(fasts, slows)
    copy_each(others)
    move_distant(distant, alpha)
    return slow, fast


def interpolate_plain(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists, leaf by leaf."""
    alpha = float(alpha)
    near, distant = by_device(slow, fast)
    move_each(near, alpha)
    copy_each(near)
    move_distant(distant, alpha)
    return slow, fast


def interpolate_compiled(slow: Leaves, fast: Leaves, alpha: Fraction) -> tuple[Leaves, Leaves]:
    """Overwrite both lists in one compiled graph for each set of shapes and dtypes."""
    alpha = float(alpha)
    near, distant = by_device(slow, fast)
    # Inductor (torch 2.13) has no code for complex numbers, and loses what is written to a scalar.
    fit = [0 < alpha < 1 and s.dim() > 0 and not s.is_complex() for s, _ in near]
    graph = [pair for pair, fits in zip(near, fit, strict=True) if fits]
    others = [pair for pair, fits in zip(near, fit, strict=True) if not fits]
    move_each(others, alpha)
    if graph:
        compiled()([s for s, _ in graph], [f for _, f in graph], alpha)
    copy_each(others)
    move_distant(distant, alpha)
    return slow, fast


@cache
def compiled() -> Callable[..., None]:
    """A graph that reads and writes each copy of the weights once, made when it is first needed."""

    def interpolate_(slow: list[Tensor], fast: list[Tensor], alpha: float) -> None:
        # In place: beyond torch's limit of recompilations this runs as it is written.
        for s, f in zip(slow, fast, strict=True):
            s.lerp_(f.to(s.dtype), alpha)
        for s, f in zip(slow, fast, strict=True):
            f.copy_(s)

    return torch.compile(interpolate_)


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """Overwrite `slow` with `fast`, but for the extra bits of a wider leaf, and return it."""
    groups, others, distant = sort(slow, fast)
    for slows, fasts in groups:
        torch._foreach_copy_(slows, fasts)
    anchor_each([*others, *distant])
    return slow


def anchor_plain(slow: Leaves, fast: Leaves) -> Leaves:
    """As `anchor_`, leaf by leaf."""
    anchor_each(zip(slow, fast, strict=True))
    return slow


def move_each(pairs: Pairs, alpha: float) -> None:
    """Move the slow leaves. All of them before any `copy_each`: two may share their storage."""
    for pair in pairs:
        for s, f in pieces(*pair):
            # lerp refuses a bfloat16 end for a float32 start.
            if alpha == 1:
                s.copy_(f)
            elif alpha > 0:
                s.lerp_(f.to(s.dtype), alpha)


def copy_each(pairs: Pairs) -> None:
    for s, f in pairs:
        f.copy_(s)


def move_distant(pairs: Pairs, alpha: float) -> None:
    """Leaves whose slow weights are on another device: one by one, through the fast one's.

    A copy from or to pinned memory does not wait; those of one stream keep their order.
    """
    for s, f in pairs:
        here = s.to(f.device, non_blocking=True)
        near = [(here, f)]
        move_each(near, alpha)
        copy_each(near)
        s.copy_(here, non_blocking=True)


def anchor_each(pairs: Iterable[Pair]) -> None:
    for s, f in pairs:
        if s.dtype == f.dtype:
            s.copy_(f, non_blocking=True)
            continue
        here = s.to(f.device, non_blocking=True)
        for part, fast in pieces(here, f):
            part.copy_(anchored(part, fast))
        if here is not s:
            s.copy_(here, non_blocking=True)


def sort(slow: Leaves, fast: Leaves) -> tuple[Iterable[tuple[Any, Any]], Pairs, Pairs]:
    """Lists for one launch each, pairs that go one by one, and pairs on two devices."""
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    others = []
    near, distant = by_device(slow, fast)
    for s, f in near:
        # A subclass may lack foreach: DTensor has no strategy for _foreach_copy_ (torch 2.13).
        if s.dtype != f.dtype or type(s) is not Tensor:
            others.append((s, f))
            continue
        slows, fasts = groups.setdefault((s.device, s.dtype), ([], []))
        slows.append(s)
        fasts.append(f)
    return groups.values(), others, distant


def by_device(slow: Leaves, fast: Leaves) -> tuple[Pairs, Pairs]:
    """Pairs of leaves on one device, and pairs on two."""
    near: Pairs = []
    distant: Pairs = []
    for s, f in zip(slow, fast, strict=True):
        (near if s.device == f.device else distant).append((s, f))
    return near, distant


def pieces(slow: Tensor, fast: Tensor) -> Iterator[Pair]:
    """Views that together are the two leaves; the leaves themselves where no cast is needed."""
    if slow.dtype == fast.dtype or slow.dim() == 0:
        return iter([(slow, fast)])
    if slow.is_contiguous() and fast.is_contiguous():
        slow, fast = slow.view(-1), fast.view(-1)
    return zip(slow.chunk(PIECES), fast.chunk(PIECES), strict=True)


KERNELS = {
    "foreach": Kernel(interpolate=interpolate_foreach, anchor=anchor_),
    "plain": Kernel(interpolate=interpolate_plain, anchor=anchor_plain),
    "compiled": Kernel(interpolate=interpolate_compiled, anchor=anchor_),
}
