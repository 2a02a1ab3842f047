"""What the torch adapter remembers between steps, and on which device and in which dtype."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from lookahead_core import SyncRule

from ._torch_inner_state import InnerName

__all__ = ["Home", "Memory", "assign", "read_pinned"]


@dataclass(eq=False)
class Memory:
    """What a `MetaOptimizer` carries from step to step.

    Attributes
    ----------
    slow : dict
        Slow weights of each parameter that takes part in this cycle.
    inner_slow : dict
        Slow copy of the inner state, by parameter and key, under `inner_state="interpolate"`.
    count, syncs : int or 0-d Tensor
        Steps since the counter last started, and syncs so far; tensors if capturable.
    kept : dict
        Fast weights, while the parameters hold the slow ones.
    evaluating : bool
        Whether they do.
    unstepped : bool
        Whether the inner state is a mere template that no step has made (see `_torch_template`).
    """

    slow: dict[Tensor, Tensor] = field(default_factory=dict)
    inner_slow: dict[InnerName, Tensor] = field(default_factory=dict)
    count: Any = 0
    syncs: Any = 0
    kept: dict[Tensor, Tensor] = field(default_factory=dict)
    evaluating: bool = False
    unstepped: bool = False


class Home(NamedTuple):
    """Where slow weights live.

    Attributes
    ----------
    dtype : torch.dtype or None
        At least this wide (clause C15).
    device : torch.device or None
        There, or with their parameters.
    """

    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def new(self, rule: SyncRule, leaf: Tensor) -> Tensor:
        """Slow weights of `leaf`, taken from it."""
        (slow,) = rule.init([leaf], slow_dtype=self.dtype).slow
        return self.moved(slow, leaf)

    def fits(self, slow: Tensor | None, leaf: Tensor) -> TypeGuard[Tensor]:
        """Whether `slow` can hold the slow weights of `leaf`."""
        return slow is not None and slow.shape == leaf.shape and self.moved(slow, leaf) is slow

    def moved(self, slow: Tensor, leaf: Tensor) -> Tensor:
        """`slow` where and as wide as it belongs now; itself if it is there."""
        dtype = leaf.dtype if self.dtype is None else torch.promote_types(leaf.dtype, self.dtype)
        device = leaf.device if self.device is None else self.device
        if slow.device == device and slow.dtype == dtype:
            return slow
        slow = slow.to(device, dtype)
        # A copy between a GPU and memory that is not pinned would make the GPU wait.
        return slow.pin_memory() if device.type == "cpu" and leaf.is_cuda else slow


@torch.no_grad()
def assign(targets: Iterable[Tensor], values: Sequence[Tensor]) -> None:
    """Copy each value into its target, unless it is the target."""
    for target, value in zip(targets, values, strict=True):
        if value is not target:
            target.copy_(value)


def read_pinned(memory: Memory) -> None:
    """Wait for copies to pinned memory: the CPU may read it after that."""
    if any(slow.device.type == "cpu" and leaf.is_cuda for leaf, slow in memory.slow.items()):
        torch.cuda.synchronize()
