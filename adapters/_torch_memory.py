"""What the torch adapter remembers between steps, and on which device and in which dtype."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookahead_core import SyncRule

from ._torch_groups import Group
from ._torch_inner_state import InnerName
from ._torch_plan import Plan

__all__ = ["Home", "Memory", "assign", "by_itself", "read_pinned"]


@dataclass(eq=False)
class Memory:
    """What a `MetaOptimizer` carries from step to step.

    Attributes
    ----------
    slow : dict
        Slow weights of each parameter that takes part in this cycle.
    outer : dict
        What the outer rule keeps of each of them, one tensor for each of its slots.
    inner_slow : dict
        Slow copy of the inner state, by parameter and key, under `inner_state="interpolate"`.
    synced : list of dict
        Parameter groups that have not been stepped since their last sync.
    plans : dict
        What is prepared for the usual sync, by the identities of the groups.
    work : float
        What this worker has done since the last sync, if anybody says so.
    beside : dict
        Of streaming: averages on their way ("arriving") and what codecs have left over
        ("residual"), by name and parameter.
    streaming : dict
        Its numbers, by name; empty without it.
    count, syncs : int or 0-d Tensor
        Steps since the counter last started, negative before the first cycle; and syncs so far.
        Tensors if capturable.
    kept : dict
        Fast weights, while the parameters hold the slow ones.
    evaluating : bool
        Whether they do.
    unstepped : bool
        Whether the inner state is a mere template that no step has made (see `_torch_template`).
    """

    slow: dict[Tensor, Tensor] = field(default_factory=dict)
    outer: dict[Tensor, list[Tensor]] = field(default_factory=dict)
    inner_slow: dict[InnerName, Tensor] = field(default_factory=dict)
    synced: list[Group] = field(default_factory=list)
    plans: dict[tuple[int, ...], Plan] = field(default_factory=dict)
    work: float = 0.0
    beside: dict[str, dict[Tensor, Tensor]] = field(default_factory=dict)
    streaming: dict[str, Any] = field(default_factory=dict)
    count: Any = 0
    syncs: Any = 0
    kept: dict[Tensor, Tensor] = field(default_factory=dict)
    evaluating: bool = False
    unstepped: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # A plan is about storage that tensors share, and copies of them may not.
        slow = {leaf: by_itself(tensor) for leaf, tensor in self.slow.items()}
        return {**vars(self), "slow": slow, "plans": {}}


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

    def new(self, rule: SyncRule, leaf: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Slow weights of `leaf`, taken from it, and the slots of the outer rule."""
        state = rule.init([leaf], slow_dtype=self.dtype)
        slow = self.moved(state.slow[0], leaf)
        return slow, self.followed([slot for (slot,) in state.outer], state.slow[0], slow, leaf)

    def followed(
        self, slots: list[Tensor], old: Tensor, slow: Tensor, leaf: Tensor
    ) -> list[Tensor]:
        """Slots that were beside `old`, beside `slow`; themselves if they are there.

        One in another dtype than that of the slow weights keeps it: a rule of the user's own has
        its reasons.
        """
        if old is slow:
            return slots
        return [
            self.moved(slot, leaf) if slot.dtype == old.dtype else slot.to(slow.device)
            for slot in slots
        ]

    def moved(self, slow: Tensor, leaf: Tensor) -> Tensor:
        """`slow` where and as wide as it belongs now; itself if it is there."""
        dtype = leaf.dtype if self.dtype is None else torch.promote_types(leaf.dtype, self.dtype)
        device = leaf.device if self.device is None else self.device
        if slow.device == device and slow.dtype == dtype:
            return slow
        slow = slow.to(device, dtype)
        # A copy between a GPU and memory that is not pinned would make the GPU wait.
        return slow.pin_memory() if device.type == "cpu" and leaf.is_cuda else slow


def by_itself(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it is a part of a larger one, which would be saved with it."""
    return tensor if tensor._base is None else tensor.clone()


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
