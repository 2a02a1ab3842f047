"""The step with its counter on the device: the same launches every time, to be captured.

What is due is an array that selects, and no array is read by the CPU. Every step reads and writes
the slow weights, so it costs more than a step that branches. Leaf by leaf: the selection keeps
both outcomes of one leaf at a time, not of the model.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lookahead_core import SyncRule, SyncState

from ._torch_cycle import Cycle, Parts
from ._torch_groups import Group, members_of
from ._torch_memory import assign

__all__ = ["anchor", "count_and_sync"]


@torch.no_grad()
def anchor(cycle: Cycle, parts: Parts) -> None:
    """Take the slow weights from the parameters where a cycle starts (clause C26)."""
    slow = cycle.memory.slow
    for rule, leaf in _leaves(cycle, parts):
        assign([slow[leaf]], rule.slow([leaf], _state(cycle, rule, leaf, ())))


@torch.no_grad()
def count_and_sync(cycle: Cycle, parts: Parts) -> None:
    """Count a step; weights and inner state change where the sync is due."""
    memory = cycle.memory
    groups = [group for own in parts.values() for group in own]
    cycle.hold_inner_state(groups)
    live = cycle.participating(groups)
    starts = cycle.starts(groups) if cycle.rule.inner_state == "reset" else None
    if starts is not None:
        refuse_plain_entries(cycle, groups)
    for rule, leaf in _leaves(cycle, parts):
        names = [name for name in live if name[0] is leaf]
        inner_slow = [memory.inner_slow[name] for name in names if name in memory.inner_slow]
        inner = [live[name][0] for name in names]
        state = _state(cycle, rule, leaf, inner_slow)
        initial = None if starts is None else [starts[name] for name in names]
        fast, after, state = rule.step([leaf], inner, state, initial=initial)
        targets = [leaf, memory.slow[leaf], *inner, *inner_slow]
        assign(targets, [*fast, *state.slow, *after, *state.inner_slow])
    memory.count.add_(1)
    due = [(memory.count % rule.sync_period == 0).long() for rule in parts]
    memory.syncs.add_(torch.stack(due).amax())


def refuse_plain_entries(cycle: Cycle, groups: list[Group]) -> None:
    """ValueError for a state that the CPU would have to set, which knows of no sync."""
    for _, key, _ in cycle.plain_entries(groups):
        raise ValueError(
            f"inner_state='reset' cannot restart {key!r} of {type(cycle.inner).__name__} if "
            "capturable: that is no tensor; use another policy, or capturable=False"
        )


def _leaves(cycle: Cycle, parts: Parts) -> Iterator[tuple[SyncRule, Tensor]]:
    for rule, groups in parts.items():
        for leaf in members_of(groups, cycle.memory.slow):
            yield rule, leaf


def _state(cycle: Cycle, rule: SyncRule, leaf: Tensor, inner_slow: Sequence[Tensor]) -> SyncState:
    phase = cycle.memory.count % rule.sync_period
    return SyncState([cycle.memory.slow[leaf]], phase, cycle.memory.syncs, (), inner_slow)
