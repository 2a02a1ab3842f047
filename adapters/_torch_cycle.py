"""One cycle on torch tensors: the anchor, the sync, and the inner state that takes part in them.

What they mean is lookahead_core's; which tensors they are about is said here. Gradients, closures,
hooks and checkpoints are not: they are the optimizer's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import Interpolate, SyncRule, SyncState
from lookahead_core.outer import SyncContext
from lookahead_core.schedule import every
from lookahead_core.workers import Average

from ._torch_groups import Group, Parts, by_rule, leaves_of, members_of, period, told_count
from ._torch_inner_state import InnerName, Kind, initial, inner_leaves, plain_entries
from ._torch_kernel import KERNELS
from ._torch_memory import Home, Memory, assign
from ._torch_outer import by_leaf, evidence, gradients, slots_of
from ._torch_plan import Plan, ids, plan_for, usual
from ._torch_workers import Workers

__all__ = ["Cycle"]


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
    workers : Workers or None
        Those that sync together, if there are others.
    memory : Memory
        What is carried from step to step.
    """

    inner: Optimizer
    rule: SyncRule
    kernel: str
    home: Home
    kinds: dict[str, str]
    workers: Workers | None = None
    memory: Memory = field(default_factory=Memory)

    def between(self) -> list[Group]:
        """Groups that are in no cycle: between two, or before the first."""
        count = int(self.memory.count)
        return [g for g in self.inner.param_groups if not self._in_cycle(g, count)]

    def starting(self) -> list[Group]:
        """Groups whose slow weights are to be taken now; all of them before the first step too."""
        count = int(self.memory.count)
        return [] if -self.rule.start < count < 0 else self.between()

    def apart(self) -> list[Group]:
        """Groups whose parameters are not their slow weights."""
        if not self.rule.fast_carries_slow and int(self.memory.syncs):
            return self.inner.param_groups
        count = int(self.memory.count)
        return [g for g in self.inner.param_groups if self._in_cycle(g, count)]

    def _in_cycle(self, group: Group, count: int) -> bool:
        """Whether it has been stepped since its last sync, which its period may not tell by now."""
        stepped = count > 0 and count % period(group, self.rule) > 0
        return stepped and not any(group is synced for synced in self.memory.synced)

    @torch.no_grad()
    def anchor(self, groups: list[Group]) -> None:
        """Start a cycle: capture the slow weights of the parameters that are trainable now."""
        memory = self.memory
        for rule, own in by_rule(groups, self.rule):
            if (plan := self._plan(rule, own)) and plan.starts(own):
                plan.anchor()
                continue
            for leaf in dict.fromkeys(leaves_of(own)):
                self._hold(rule, leaf)
            if members := members_of(own, memory.slow):
                state = self._state(rule, members, ())
                self._keep(members, rule.anchor(members, state, kernel=KERNELS[self.kernel]))
            self._prepare(rule, own)
        memory.synced = [s for s in memory.synced if not any(s is g for g in groups)]
        if len(memory.slow) > sum(len(group["params"]) for group in self.inner.param_groups):
            self._forget_gone()
        self.hold_inner_state(groups, live=True)

    @torch.no_grad()
    def watch(self, groups: list[Group]) -> None:
        """Show the outer rule the gradients of the first step of a cycle, if it asks for them."""
        for rule, own in by_rule(groups, self.rule):
            if rule.needs_gradient and (members := members_of(own, self.memory.slow)):
                state = self._state(rule, members, ())
                self._keep(members, rule.watch(state, gradients(own, members)))

    def meet(self, parts: Parts) -> Average | None:
        """Meet the other workers, if there are any, before a sync; how it averages over them."""
        if self.workers is None or not parts:
            return None
        memory = self.memory
        count = told_count(int(memory.count), self.inner.param_groups, self.rule)
        numbers = {"the counter": count, "the number of syncs": int(memory.syncs)}
        share = self.workers.share(parts, memory.slow, memory.work, **numbers)
        return partial(self.workers.mean, share=share)

    @torch.no_grad()
    def sync(self, parts: Parts, average: Average | None = None) -> None:
        """Sync the groups of each part, weights and inner state, in place."""
        for rule, groups in parts:
            if (plan := self._plan(rule, groups)) and plan.holds(groups):
                context = SyncContext(int(self.memory.syncs), KERNELS[self.kernel])
                alpha = cast(Interpolate, rule.outer).fraction((), (), (), context)
                plan.sync(float(alpha))
            elif members := members_of(groups, self.memory.slow):
                self._sync(rule, groups, members, average)
            self.memory.synced += groups
        self.memory.syncs += 1
        self.memory.work = 0.0

    def _sync(
        self, rule: SyncRule, groups: list[Group], members: list[Tensor], average: Average | None
    ) -> None:
        memory = self.memory
        for leaf in members:
            self._settle(leaf)
        self.hold_inner_state(groups)
        live = self.participating(groups)
        state = self._state(rule, members, [name for name in live if name in memory.inner_slow])
        starts = [*self.starts(groups).values()] if rule.inner_state == "reset" else None
        before = [value for value, _ in live.values()]
        given = evidence(rule, self.inner, groups, members)
        kernel = KERNELS[self.kernel]
        fast, after, state = rule.sync(
            members, before, state, kernel=kernel, initial=starts, average=average, **given
        )
        assign([*members, *before], [*fast, *after])
        self._keep(members, state)
        if rule.inner_state == "reset" and every(rule.restart_period, int(memory.syncs)):
            for entries, key, value in [*self.plain_entries(groups)]:
                entries[key] = value

    @torch.no_grad()
    def catch_up(self) -> None:
        """Take the slow weights of groups between two cycles from the parameters.

        The next anchor does it in any case, but a plan's sync leaves them to it.
        """
        if not self.rule.fast_carries_slow:
            return
        slow, members = self.memory.slow, members_of(self.memory.synced, self.memory.slow)
        members = [leaf for leaf in members if leaf.shape == slow[leaf].shape]
        KERNELS[self.kernel].anchor([slow[leaf] for leaf in members], members)

    def _plan(self, rule: SyncRule, groups: list[Group]) -> Plan | None:
        """What is prepared for these groups, if it is all that they need."""
        return self.memory.plans.get(ids(groups)) if self._usual(rule) else None

    def _prepare(self, rule: SyncRule, groups: list[Group]) -> None:
        """Make a plan. Others of these parameters are void: slow weights may lie elsewhere now."""
        memory, leaves = self.memory, set(leaves_of(groups))
        kept = {key: p for key, p in memory.plans.items() if leaves.isdisjoint(p.leaves)}
        plan = plan_for(groups, memory.slow) if self._usual(rule) else None
        memory.plans = kept if plan is None else {**kept, ids(groups): plan}

    def _usual(self, rule: SyncRule) -> bool:
        return self.workers is None and usual(rule, self.kernel)

    def _forget_gone(self) -> None:
        """Drop what is kept of parameters that are no longer there."""
        memory = self.memory
        for gone in memory.slow.keys() - set(leaves_of(self.inner.param_groups)):
            del memory.slow[gone], memory.outer[gone]
        memory.plans.clear()

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

        What was there when the cycle began is copied then (`live`), where the first one begins in
        the place of what was saved before. What the inner optimizer has made since began at its
        initial value.
        """
        if self.rule.inner_state != "interpolate":
            return
        held = self.memory.inner_slow
        named = self.participating(groups)
        begins = live and int(self.memory.count) <= 0
        starts = {} if live or named.keys() <= held.keys() else self.starts(groups)
        for name, (value, _) in named.items():
            if name not in held:
                held[name] = torch.empty_like(value).copy_(value if live else starts[name])
            elif begins:
                held[name].copy_(value)
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

    def _hold(self, rule: SyncRule, leaf: Tensor) -> None:
        """Keep slow weights and slots of `leaf` in the next cycle if it is trained, and only then.

        Its slow weights go on from the last cycle, if its shape is the same.
        """
        memory = self.memory
        old, slots = memory.slow.pop(leaf, None), memory.outer.pop(leaf, [])
        if not leaf.requires_grad:
            return
        if old is None or old.shape != leaf.shape:
            old, slots = self.home.new(rule, leaf)
        elif rule.needs_gradient and not slots:  # its group had an alpha of its own until now
            _, slots = self.home.new(rule, leaf)
        memory.slow[leaf], memory.outer[leaf] = old, slots
        self._settle(leaf)

    def _settle(self, leaf: Tensor) -> None:
        """Bring what is kept of `leaf` to where it belongs: the model may have moved."""
        memory = self.memory
        old = memory.slow[leaf]
        slow = memory.slow[leaf] = self.home.moved(old, leaf)
        if slow is not old:
            memory.plans.clear()
        memory.outer[leaf] = self.home.followed(memory.outer[leaf], old, slow, leaf)

    def _state(
        self, rule: SyncRule, members: list[Tensor], names: Iterable[InnerName]
    ) -> SyncState:
        """The core's state of `members`, at the start of a cycle."""
        memory = self.memory
        slow = [memory.slow[leaf] for leaf in members]
        outer = slots_of(memory.outer[leaf] for leaf in members)
        if not by_leaf(rule.outer) or self.workers is not None:
            slow = [s.to(leaf.device) for s, leaf in zip(slow, members, strict=True)]
            outer = [
                [s.to(leaf.device) for s, leaf in zip(slot, members, strict=True)] for slot in outer
            ]
        inner_slow = [memory.inner_slow[name] for name in names]
        return SyncState(slow, 0, int(memory.syncs), outer, inner_slow)

    def _keep(self, members: list[Tensor], state: SyncState) -> None:
        """Write slow weights and slots of a rule's own into ours; a kernel's are ours already."""
        memory = self.memory
        slots = [[memory.outer[leaf][i] for leaf in members] for i in range(len(state.outer))]
        targets = [memory.slow[leaf] for leaf in members]
        targets += [tensor for slot in slots for tensor in slot]
        assign(targets, [*state.slow, *(tensor for slot in state.outer for tensor in slot)])
