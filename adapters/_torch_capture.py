"""The step with its counter on the device: the same launches every time, to be captured.

What is due is an array that selects, and no array is read by the CPU. Every step reads and writes
the slow weights, so it costs more than a step that branches. Leaf by leaf where the outer rule
allows it: the selection keeps both outcomes of one leaf at a time then, not of the model.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lookahead_core import SyncRule, SyncState

from ._torch_cycle import Cycle
from ._torch_groups import Group, Parts, members_of
from ._torch_memory import assign
from ._torch_outer import by_leaf, evidence, slots_of

__all__ = ["anchor", "count_and_sync"]


@torch.no_grad()
def anchor(cycle: Cycle, parts: Parts) -> None:
    """Take the slow weights from the parameters where a cycle starts (clause C26)."""
    for rule, _, leaves in _portions(cycle, parts):
        slow = rule.slow(leaves, _state(cycle, rule, leaves, ()))
        assign([cycle.memory.slow[leaf] for leaf in leaves], slow)


@torch.no_grad()
def count_and_sync(cycle: Cycle, parts: Parts) -> None:
    """Count a step; weights and inner state change where the sync is due."""
    memory = cycle.memory
    groups = [group for _, own in parts for group in own]
    cycle.hold_inner_state(groups)
    live = cycle.participating(groups)
    starts = cycle.starts(groups) if cycle.rule.inner_state == "reset" else None
    if starts is not None:
        refuse_plain_entries(cycle, groups)
    for rule, own, leaves in _portions(cycle, parts):
        members = dict.fromkeys(leaves)
        names = [name for name in live if name[0] in members]
        inner_slow = [memory.inner_slow[name] for name in names if name in memory.inner_slow]
        inner = [live[name][0] for name in names]
        before = _state(cycle, rule, leaves, inner_slow)
        initial = None if starts is None else [starts[name] for name in names]
        given = evidence(rule, cycle.inner, own, leaves)
        fast, after, state = rule.step(leaves, inner, before, initial=initial, **given)
        assign([*leaves, *inner], [*fast, *after])
        assign(_tensors(before), _tensors(state))
    memory.count.add_(1)
    due = [(_phase(cycle, rule) == 0).long() for rule, _ in parts]
    memory.syncs.add_(torch.stack(due).amax() * (memory.count > 0))


def refuse_plain_entries(cycle: Cycle, groups: list[Group]) -> None:
    """ValueError for a state that the CPU would have to set, which knows of no sync."""
    for _, key, _ in cycle.plain_entries(groups):
        raise ValueError(
            f"inner_state='reset' cannot restart {key!r} of {type(cycle.inner).__name__} if "
            "capturable: that is no tensor; use another policy, or capturable=False"
        )


def _portions(cycle: Cycle, parts: Parts) -> Iterator[tuple[SyncRule, list[Group], list[Tensor]]]:
    """What goes through the core together: one leaf, or all of a part if the rule mixes them."""
    for rule, groups in parts:
        members = members_of(groups, cycle.memory.slow)
        if by_leaf(rule.outer):
            yield from ((rule, groups, [leaf]) for leaf in members)
        elif members:
            yield rule, groups, members


def _state(
    cycle: Cycle, rule: SyncRule, leaves: list[Tensor], inner_slow: Sequence[Tensor]
) -> SyncState:
    memory = cycle.memory
    slow = [memory.slow[leaf] for leaf in leaves]
    outer = slots_of(memory.outer[leaf] for leaf in leaves)
    # A schedule that divides by an integer tensor would get a float32, also for float64 weights.
    return SyncState(slow, _phase(cycle, rule), memory.syncs.double(), outer, inner_slow)


def _phase(cycle: Cycle, rule: SyncRule) -> Tensor:
    """Steps of this cycle so far; negative before the first one."""
    count = cycle.memory.count
    return torch.where(count < 0, count, count % rule.sync_period)


def _tensors(state: SyncState) -> list[Tensor]:
    slots = [leaf for slot in state.outer for leaf in slot]
    return [*state.slow, *slots, *state.inner_slow]
