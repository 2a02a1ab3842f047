"""All that is kept of each parameter, and on which device and in which dtype.

One record for each parameter: its slow weights, what the outer rule keeps of it, the slow copy of
its inner state, and what others keep beside these come with it and go with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookahead_core import SyncRule

from ._kernels.lists import is_plain

__all__ = ["Home", "Kept", "assign", "by_itself", "wait_for_pinned"]


@dataclass(eq=False)
class Kept:
    """What is kept of one parameter.

    Attributes
    ----------
    slow : Tensor
        Its slow weights. Read them through `SyncRule.slow`: between cycles they may be stale.
    slots : list of Tensor
        What the outer rule keeps of it, one tensor for each slot.
    inner_slow : dict
        Slow copy of its inner state by key, under `inner_state="interpolate"`.
    fast : Tensor or None
        Its fast weights, while the parameter holds the slow ones.
    residual, arriving : Tensor or None
        Where many workers stream: what a codec has left over of it, and its mean on its way.
    """

    slow: Tensor
    slots: list[Tensor]
    inner_slow: dict[str, Tensor] = field(default_factory=dict)
    fast: Tensor | None = None
    residual: Tensor | None = None
    arriving: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = {"slow": by_itself(self.slow), "slots": [*map(by_itself, self.slots)]}
        return {**vars(self), **own}


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

    def new(self, rule: SyncRule, leaf: Tensor) -> Kept:
        """What is kept of `leaf` from now on, taken from it."""
        state = rule.init([leaf], slow_dtype=self.dtype)
        first = Kept(state.slow[0], [slot for slots in state.outer for slot in slots])
        return self.settled(first, leaf)

    def settled(self, kept: Kept, leaf: Tensor) -> Kept:
        """`kept` where and as wide as it belongs now: the model may have been moved or cast.

        A slot in another dtype than that of the slow weights keeps it: a rule of the user's own has
        its reasons.
        """
        old = kept.slow
        slow = self._moved(old, leaf)
        if slow is not old:
            slots = [
                self._moved(slot, leaf) if slot.dtype == old.dtype else slot.to(slow.device)
                for slot in kept.slots
            ]
            kept.slow, kept.slots = slow, slots  # together: either tells the dtype of the other
        return kept

    def _moved(self, slow: Tensor, leaf: Tensor) -> Tensor:
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
    if values is targets:
        return
    pairs = [pair for pair in zip(targets, values, strict=True) if pair[0] is not pair[1]]
    if pairs and all(is_plain(leaf) for pair in pairs for leaf in pair):
        theirs, new = zip(*pairs, strict=True)
        torch._foreach_copy_(theirs, new)
        return
    for target, value in pairs:
        target.copy_(value)


def wait_for_pinned(kept: dict[Tensor, Kept]) -> None:
    """Wait for copies to pinned memory: the CPU may read it after that."""
    if any(own.slow.device.type == "cpu" and leaf.is_cuda for leaf, own in kept.items()):
        torch.cuda.synchronize()
