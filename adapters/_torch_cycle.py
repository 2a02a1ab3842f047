"""One cycle on torch tensors: the anchor, the sync, and the inner state that takes part in them.

What they mean is lookahead_core's; which tensors they are about is said here. Gradients, closures,
hooks and checkpoints are not: they are the optimizer's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule, SyncState

from ._torch_groups import Group, leaves_of, members_of, period
from ._torch_inner_state import InnerName, Kind, initial, inner_leaves, plain_entries
from ._torch_kernel import KERNELS
from ._torch_memory import Home, Memory, assign

__all__ = ["Cycle", "Parts"]

Parts: TypeAlias = dict[SyncRule, list[Group]]


@dataclass(eq=False)
class Cycle:
    """What a `MetaOptimizer` syncs, and all of it that changes.

    Lightning hands out proxies of optimizers whose attributes are their own: what is set through
    one does not reach the optimizer. Both hold this object.

    Attributes
    ----------
    inner, rule, kernel
        As the optimizer's.
    home : Home
        Where slow weights live.
    kinds : dict
        Kinds of inner state that the user has declared.
    memory : Memory
        What is carried from step to step.
    """

    inner: Optimizer
    rule: SyncRule
    kernel: str
    home: Home
    kinds: dict[str, str]
    memory: Memory = field(default_factory=Memory)

    def starting(self) -> list[Group]:
        """Groups that are between two cycles."""
        count = int(self.memory.count)
        return [g for g in self.inner.param_groups if count % period(g, self.rule) == 0]

    @torch.no_grad()
    def anchor(self, groups: list[Group]) -> None:
        """Start a cycle: capture the slow weights of the parameters that are trainable now."""
        slow = self.memory.slow
        for leaf in dict.fromkeys(leaves_of(groups)):
            old = slow.pop(leaf, None)
            if leaf.requires_grad:
                slow[leaf] = old if self.home.fits(old, leaf) else self.home.new(self.rule, leaf)
        for gone in slow.keys() - set(leaves_of(self.inner.param_groups)):
            del slow[gone]
        members = members_of(groups, slow)
        self.rule.anchor(members, self._state(members, ()), kernel=KERNELS[self.kernel])
        self.hold_inner_state(groups, live=True)

    @torch.no_grad()
    def sync(self, parts: Parts) -> None:
        """Sync the groups of each part, weights and inner state, in place."""
        memory = self.memory
        for rule, groups in parts.items():
            members = members_of(groups, memory.slow)
            for leaf in members:  # it may have moved since the cycle began
                memory.slow[leaf] = self.home.moved(memory.slow[leaf], leaf)
            self.hold_inner_state(groups)
            live = self.participating(groups)
            state = self._state(members, [name for name in live if name in memory.inner_slow])
            starts = [*self.starts(groups).values()] if rule.inner_state == "reset" else None
            before = [value for value, _ in live.values()]
            kernel = KERNELS[self.kernel]
            _, after, _ = rule.sync(members, before, state, kernel=kernel, initial=starts)
            assign(before, after)
            if rule.inner_state == "reset":
                for entries, key, value in [*self.plain_entries(groups)]:
                    entries[key] = value
        memory.syncs += 1

    def participating(self, groups: list[Group]) -> dict[InnerName, tuple[Tensor, Kind]]:
        """Live tensors of the inner state that the policy acts on; ValueError for unknown ones."""
        policy, slow = self.rule.inner_state, self.memory.slow
        return inner_leaves(self.inner, groups, slow, policy, self.kinds)

    def plain_entries(self, groups: list[Group]) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """What a reset sets beside the tensors: (where, key, value)."""
        return plain_entries(self.inner, groups, self.memory.slow, self.kinds)

    def starts(self, groups: list[Group]) -> dict[InnerName, Tensor]:
        """What each of them was before its first step."""
        owner = {leaf: group for group in groups for leaf in group["params"]}
        return {
            name: initial(value, kind, owner[name[0]])
            for name, (value, kind) in self.participating(groups).items()
        }

    @torch.no_grad()
    def hold_inner_state(self, groups: list[Group], live: bool = False) -> None:
        """Have a slow copy of all inner state that is interpolated.

        What was there when the cycle began is copied then (`live`). What the inner optimizer has
        made since began at its initial value.
        """
        if self.rule.inner_state != "interpolate":
            return
        held = self.memory.inner_slow
        named = self.participating(groups)
        starts = {} if live or named.keys() <= held.keys() else self.starts(groups)
        for name, (value, _) in named.items():
            if name not in held:
                held[name] = torch.empty_like(value).copy_(value if live else starts[name])
            held[name] = held[name].to(value.device, value.dtype)

    def undo(self) -> None:
        """Put the anchor back, and an inner state that was empty then."""
        assign(self.memory.slow, [*self.memory.slow.values()])
        self.inner.state.clear()

    @torch.no_grad()
    def count_on_device(self) -> None:
        """Make the counters tensors, beside the first parameter."""
        device = next(leaves_of(self.inner.param_groups)).device
        for name in ("count", "syncs"):
            number = torch.as_tensor(getattr(self.memory, name), dtype=torch.int64, device=device)
            setattr(self.memory, name, number)

    def _state(self, members: list[Tensor], names: Iterable[InnerName]) -> SyncState:
        slow = [self.memory.slow[leaf] for leaf in members]
        inner_slow = [self.memory.inner_slow[name] for name in names]
        return SyncState(slow, 0, self.memory.syncs, (), inner_slow)
