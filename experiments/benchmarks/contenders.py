"""Who is measured on torch: ours, and every other Lookahead that is installed.

The others are made as their own documentation says. One that is not installed is a cell that says
so; one that is there and cannot be made is an error.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

from lookahead_core.adapters.torch import Lookahead

__all__ = ["ALPHA", "PEERS", "Still", "Wrap", "contenders", "timm_ema"]

ALPHA = 0.5
# The optimizer around an inner one, with a period.
Wrap: TypeAlias = Callable[[Optimizer, int], Any]
PEERS = ("pytorch_optimizer", "torch-optimizer", "timm")


class Still(Optimizer):
    """An inner optimizer that does nothing: what is left is the cost of what is around it.

    It counts as one of torch's own: of any other ours looks whether it has moved the parameters.
    """

    __module__ = "torch.optim.still"

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        return None


def ours(inner: Optimizer, period: int, **options: Any) -> Any:
    return Lookahead(inner, period, ALPHA, **options)


def kozistr() -> Wrap:
    from pytorch_optimizer import Lookahead as Theirs

    return lambda inner, period: Theirs(inner, k=period, alpha=ALPHA)


def jettify() -> Wrap:
    from torch_optimizer import Lookahead as Theirs

    return lambda inner, period: Theirs(inner, k=period, alpha=ALPHA)


def timm() -> Wrap:
    from experiments.peers.timm_modules import Lookahead as Theirs

    return lambda inner, period: Theirs(inner, alpha=ALPHA, k=period)


def contenders(low_precision: bool = False) -> dict[str, Wrap | None]:
    """Ours and the peers by name; None for a peer that is not installed.

    With `low_precision` ours is there twice: no peer keeps slow weights in float32.
    """
    found: dict[str, Wrap | None] = {"ours": ours}
    if low_precision:
        found = {"ours": partial(ours, slow_dtype=torch.float32), "ours, slow in bf16": ours}
    makers: list[Callable[[], Wrap]] = [kozistr, jettify, timm]
    for name, make in zip(PEERS, makers, strict=True):
        try:
            found[name] = make()
        except (ModuleNotFoundError, PackageNotFoundError):
            found[name] = None
    return found


def timm_ema() -> Any:
    """timm's `ModelEmaV3`, or None where timm is not installed."""
    try:
        from experiments.peers.timm_modules import ModelEmaV3
    except (ValueError, PackageNotFoundError):
        return None
    return ModelEmaV3
