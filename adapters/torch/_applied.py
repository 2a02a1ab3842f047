"""Whether the inner optimizer has applied a step: some skip one without a word (clause C03).

torch's own never do. Of one that calls others, such as accelerate's, their step hooks tell. Of any
other the version counters of the parameters do, which every write in place moves, but for writes
through `.data`: an optimizer that has never moved one is believed.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter, ne
from typing import Any

import torch
from torch.optim import Optimizer

from ._groups import leaves_of
from ._joint import each
from ._parts import Parts

__all__ = ["inside", "step"]

# In a row; who accumulates gradients skips some, and not so many.
MANY = 100
VERSION = attrgetter("_version")


def step(parts: Parts, closure: Callable[[], Any] | None) -> tuple[Any, bool]:
    """Step the inner optimizer; what it returns, and whether it has applied the step."""
    inner = parts.inner
    call = inner.step if closure is None else partial(inner.step, closure)
    if all(map(_is_torchs_own, each(inner))) or torch.compiler.is_compiling():
        return call(), True
    stepped: list[bool] = []
    handles = [
        one.register_step_post_hook(lambda *_: stepped.append(True))
        for one in inside(inner)
        if hasattr(one, "_optimizer_step_post_hooks")
    ]
    before = [*map(VERSION, leaves_of(inner.param_groups))]
    try:
        loss = call()
    finally:
        for handle in handles:
            handle.remove()
    # It ends at the first that has moved.
    moved = any(map(ne, map(VERSION, leaves_of(inner.param_groups)), before))
    parts.versions_move |= moved
    applied = bool(stepped) or moved or not (handles or parts.versions_move)
    parts.skipped = 0 if applied else parts.skipped + 1
    if parts.skipped == (MANY if handles else 1):
        parts.warn_once(_message(inner, bool(handles)), stacklevel=6)
    return loss, applied


def inside(inner: Optimizer) -> list[Optimizer]:
    """The optimizers that `inner` calls, where these call no others."""
    several = each(inner)
    held = [one for own in several for one in vars(own).values() if isinstance(one, Optimizer)]
    return [last for one in held for last in inside(one) or [one]]


def _is_torchs_own(one: Optimizer) -> bool:
    return type(one).__module__.startswith("torch.optim.") and "step" not in vars(one)


def _message(inner: Optimizer, around: bool) -> str:
    name = type(inner).__name__
    if not around:
        return (
            f"{name}.step() has changed no parameter, as it did before: it has skipped the step, "
            "which is not counted (clause C03)"
        )
    return (
        f"{name} has not stepped the optimizer inside it in the last {MANY} steps, so none was "
        "counted and nothing syncs. If it steps elsewhere, put it around and not inside: "
        "accelerator.prepare(Lookahead(inner))"
    )
