"""The step with its counters on the device: the same launches every time, to be captured.

What is due is an array that selects, and no array is read by the CPU. Every step reads and writes
the slow weights, so it costs more than a step that branches. Leaf by leaf where the outer rule
allows it: the selection keeps both outcomes of one leaf at a time then, not of the model.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from lookahead_core import Interpolate, SyncState
from lookahead_core.schedule import begins

from ._evidence import evidence
from ._inner_state import initial, known_kinds
from ._joint import owner
from ._leaves import assign
from ._parts import Live, Part, Parts

__all__ = ["begin", "count_and_sync"]


@torch.no_grad()
def begin(parts: Parts) -> None:
    """What a cycle starts from, selected where one begins (clauses C18, C26)."""
    for part in parts.parts:
        _start_what_is_gone(parts, part)
        for portion, live in _portions(parts, part):
            values = [value for value, _ in live.values()]
            state = portion.rule.begin(portion.members, values, parts.filled(portion, live))
            parts.store(portion, state, live)
    if parts.buffers is not None:
        first = parts.parts[0]
        parts.buffers.begin(first.rule, first.state)


def _start_what_is_gone(parts: Parts, part: Part) -> None:
    """The slow copy of inner state that is there no longer: what it is when it is made anew."""
    if part.rule.inner_state != "interpolate":
        return
    first = cast(Tensor, begins(part.state.count))
    for group in part.groups:
        known = known_kinds(owner(parts.inner, group), parts.kinds)
        for leaf in group["params"]:
            copies = parts.kept[leaf].inner_slow if leaf in parts.kept else {}
            for key in copies.keys() - parts.inner.state.get(leaf, {}).keys():
                start = initial(copies[key], known[key], group)
                copies[key].copy_(torch.where(first, start, copies[key]))


@torch.no_grad()
def count_and_sync(parts: Parts) -> None:
    """Count a step; weights and inner state change where the sync is due."""
    for part in parts.parts:  # all of them, before anything is changed
        refuse_plain_entries(parts, part)
    if parts.buffers is not None:
        first = parts.parts[0]
        parts.buffers.step(first.rule, first.state)
    for part in parts.parts:
        counters = part.state
        for portion, live in _portions(parts, part):
            counters = _stepped(parts, portion, live)
        if not part.members:  # it counts its syncs, for those that join it or thaw
            counters = replace(part.rule, outer=Interpolate()).step((), (), counters)[2]
        part.keep_counters(counters)
    parts.elapsed.add_(1)


def _stepped(parts: Parts, portion: Part, live: Live) -> SyncState:
    """Step what goes through the core together; the counters afterwards."""
    rule, values = portion.rule, [value for value, _ in live.values()]
    starts = [*parts.starts(portion, live).values()] if rule.inner_state == "reset" else None
    given = evidence(rule, parts.inner, portion.groups, portion.members)
    # A schedule that divides by an integer tensor would get a float32, also for float64 weights.
    before = parts.filled(portion, live)
    before = before._replace(syncs=before.syncs.double())
    fast, inner, after = rule.step(portion.members, values, before, initial=starts, **given)
    assign([*portion.members, *values], [*fast, *inner])
    parts.store(portion, after, live)
    return after


def refuse_plain_entries(parts: Parts, part: Part) -> None:
    """ValueError for a state that the CPU would have to set, which knows of no sync."""
    if part.rule.inner_state != "reset":
        return
    for _, key, _ in parts.plain_entries(part):
        raise ValueError(
            f"inner_state='reset' cannot restart {key!r} of {type(parts.inner).__name__} if "
            "capturable: that is no tensor; use another policy, or capturable=False"
        )


def _portions(parts: Parts, part: Part) -> Iterator[tuple[Part, Live]]:
    """What goes through the core together: one leaf, or all of a part if the rule mixes them."""
    live = parts.participating(part)
    if not part.rule.leafwise:
        if part.members:
            yield part, live
        return
    by_leaf: dict[Tensor, Live] = {leaf: {} for leaf in part.members}
    for name, value in live.items():
        by_leaf[name[0]][name] = value
    for leaf, own in by_leaf.items():
        yield replace(part, members=[leaf], prepared=None), own
