"""The torch adapter's checkpoint: the inner optimizer's, with `lookahead_*` entries added.

Tensors go into `state[i]`, numbers into every entry of `param_groups`: the only layout that
torch.distributed.checkpoint takes, since it drops other top-level keys in silence. They are taken
out again before the inner optimizer loads: it would cast slow weights to the parameter's dtype,
and Adam fails on a state that is not empty and not its own.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import Interpolate, SyncRule
from lookahead_core.checkpoint import check_settings, counters, settings
from lookahead_core.validation import non_negative

from ._torch_groups import ALPHA, PERIOD, Group, round_of, rule_of, told_count
from ._torch_inner_state import COMMON, MOMENT
from ._torch_memory import Home, Memory, by_itself

__all__ = ["Loaded", "pack", "refuse_ours_in", "unpack"]

PREFIX = "lookahead_"
SLOW = "lookahead_slow"
OUTER = "lookahead_outer_"
FAST = "lookahead_fast"
BESIDE = ("lookahead_arriving", "lookahead_residual")
STREAMING = "streaming_"
ENTRIES = "lookahead_entries"
WORK = "done since the last sync"

StateDict = dict[str, Any]


class Loaded(NamedTuple):
    """A checkpoint taken apart.

    Attributes
    ----------
    inner : dict
        State dict for the inner optimizer.
    memory : Memory
        What this one remembers.
    fast : dict
        Fast weights by parameter, if the parameters held the slow ones when it was saved.
    """

    inner: StateDict
    memory: Memory
    fast: dict[Tensor, Tensor]


def pack(inner: Optimizer, rule: SyncRule, memory: Memory) -> StateDict:
    """State dict of `inner` with the state of `rule` in it."""
    packed = inner.state_dict()
    number = {leaf: i for i, leaf in _numbered(packed, inner)}
    # Copies of the dicts: inner.state_dict() hands out the live ones.
    states = {i: copy(entries) for i, entries in packed["state"].items()}
    beside = {f"{PREFIX}{name}": tensors for name, tensors in memory.beside.items()}
    for name, tensors in {SLOW: memory.slow, FAST: memory.kept, **beside}.items():
        for leaf, tensor in tensors.items():
            if leaf in number:  # trainers may put other parameters into a group
                states.setdefault(number[leaf], {})[name] = by_itself(tensor)
    for leaf, slots in memory.outer.items():
        if leaf in number:
            own = {f"{OUTER}{index}": slot for index, slot in enumerate(slots)}
            states.setdefault(number[leaf], {}).update(own)
    for (leaf, key), tensor in memory.inner_slow.items():
        if leaf in memory.slow and leaf in number:
            states[number[leaf]][f"{SLOW}_{key}"] = tensor
    numbers = {
        "count": told_count(int(memory.count), inner.param_groups, rule),
        "syncs": int(memory.syncs),
        "unstepped": int(memory.unstepped),
        **({"work": memory.work} if memory.work else {}),
        **{f"{STREAMING}{name}": value for name, value in memory.streaming.items()},
    }
    groups = []
    for saved, group in _groups(packed, inner):
        ours = _prefixed({**settings(rule_of(group, rule)), **numbers})
        entries = [_tensors(states.get(i, {})) for i in saved["params"]]
        groups.append({**saved, **ours, ENTRIES: entries})
    return {**packed, "state": states, "param_groups": groups}


@torch.no_grad()
def unpack(state_dict: StateDict, inner: Optimizer, rule: SyncRule, home: Home) -> Loaded:
    """Take `state_dict` apart; raises ValueError before anything is changed."""
    _check_groups(state_dict, inner)
    parameters = dict(_numbered(state_dict, inner))
    _check_states(state_dict, parameters, inner)
    if not _is_ours(state_dict):
        warn(
            "the checkpoint has no lookahead_* entries, so it is one of the inner optimizer alone: "
            "slow weights are taken from the current parameters",
            stacklevel=3,
        )
        return _bare(state_dict, inner, rule, home)
    overrides = [_overrides(saved, group, rule) for saved, group in _groups(state_dict, inner)]
    count, syncs, unstepped = _counters(state_dict, overrides, rule)
    _check_nothing_is_missing(state_dict, parameters)
    first = _ours(state_dict["param_groups"][0])
    work = non_negative(f"{PREFIX}work", first.get("work", 0.0), WORK)
    streaming = {
        name.removeprefix(STREAMING): value
        for name, value in first.items()
        if name.startswith(STREAMING)
    }
    memory = Memory(work=work, streaming=streaming, count=count, syncs=syncs, unstepped=unstepped)
    fast = {}
    # Some optimizers have state that belongs to no parameter, under names.
    states = {i: own for i, own in state_dict["state"].items() if i not in parameters}
    for saved, override in zip(state_dict["param_groups"], overrides, strict=True):
        own = rule_of(override, rule)
        for i in saved["params"]:
            entries = state_dict["state"].get(i, {})
            if theirs := _without(entries):
                states[i] = theirs
            if FAST in entries:
                fast[parameters[i]] = entries[FAST]
            _remember(memory, i, parameters[i], entries, own, home)
    pairs = zip(state_dict["param_groups"], overrides, strict=True)
    groups = [{**_without(saved), **override} for saved, override in pairs]
    return Loaded({**state_dict, "state": states, "param_groups": groups}, memory, fast)


def refuse_ours_in(inner: Optimizer) -> None:
    """RuntimeError if somebody has loaded our entries into `inner` itself: they are without effect.

    ZeroRedundancyOptimizer does, around an optimizer of this kind, and loses the counters.
    """
    entries = next(iter(inner.state.values()), None)
    if isinstance(entries, dict) and SLOW in entries:
        raise RuntimeError(
            f"the state of {type(inner).__name__} holds {SLOW!r}: the checkpoint was loaded past "
            "load_state_dict() of the optimizer around it (ZeroRedundancyOptimizer does that: put "
            "it inside, and not around)"
        )


def _bare(state_dict: StateDict, inner: Optimizer, rule: SyncRule, home: Home) -> Loaded:
    """What was saved by the inner optimizer alone: a new start, with our own overrides."""
    memory, groups = Memory(count=-rule.start), []
    for saved, group in _groups(state_dict, inner):
        groups.append({**saved, **_prefixed(_ours(group))})
        own = rule_of(group, rule)
        for leaf in group["params"]:
            if leaf.requires_grad:
                memory.slow[leaf], memory.outer[leaf] = home.new(own, leaf)
    return Loaded({**state_dict, "param_groups": groups}, memory, {})


def _remember(
    memory: Memory, i: int, leaf: Tensor, entries: StateDict, rule: SyncRule, home: Home
) -> None:
    """Copy what is ours of the entries of one parameter, the `i`-th, into `memory`."""
    for key, value in entries.items():
        if str(key).startswith(f"{SLOW}_"):
            name = (leaf, key.removeprefix(f"{SLOW}_"))
            memory.inner_slow[name] = value.to(leaf.device, copy=True)
        if key in BESIDE:
            own = memory.beside.setdefault(key.removeprefix(PREFIX), {})
            own[leaf] = value.to(leaf.device, copy=True)
    if SLOW not in entries:
        return
    slow, slots = home.new(rule, leaf)
    for index, slot in enumerate(slots):
        value = entries.get(f"{OUTER}{index}")
        if value is None or value.shape != slot.shape:
            got = "none" if value is None else tuple(value.shape)
            raise ValueError(
                f"state_dict['state'][{i}]['{OUTER}{index}'] must have the shape "
                f"{tuple(slot.shape)}, got {got}"
            )
        slot.copy_(value)
    memory.slow[leaf], memory.outer[leaf] = slow.copy_(entries[SLOW]), slots


# --- what a checkpoint is made of ---


def _groups(state_dict: StateDict, inner: Optimizer) -> Iterator[tuple[Group, Group]]:
    """Each saved group with the group of `inner` that it belongs to."""
    return zip(state_dict["param_groups"], inner.param_groups, strict=True)


def _numbered(state_dict: StateDict, inner: Optimizer) -> Iterator[tuple[int, Tensor]]:
    """Each parameter of `inner` with its number in `state_dict`."""
    for saved, group in _groups(state_dict, inner):
        yield from zip(saved["params"], group["params"], strict=True)


def _without(entries: StateDict) -> StateDict:
    return {key: value for key, value in entries.items() if not str(key).startswith(PREFIX)}


def _ours(entries: StateDict) -> StateDict:
    """The `lookahead_*` entries, under their names without it."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in entries.items()
        if str(key).startswith(PREFIX)
    }


def _prefixed(entries: StateDict) -> StateDict:
    return {f"{PREFIX}{name}": value for name, value in entries.items()}


def _tensors(entries: StateDict) -> int:
    """How many tensors there are: None and numbers may be lost on the way, tensors may not."""
    return sum(isinstance(value, Tensor) for value in entries.values())


def _is_ours(state_dict: StateDict) -> bool:
    """Whether anything in it but the user's own overrides is a `lookahead_*` entry."""
    groups = [set(group) - {ALPHA, PERIOD} for group in state_dict["param_groups"]]
    keys = [*groups, *(entries for entries in state_dict["state"].values() if entries)]
    return any(str(key).startswith(PREFIX) for entries in keys for key in entries)


# --- what is refused ---


def _overrides(saved: Group, group: Group, rule: SyncRule) -> Group:
    """What a group keeps of the checkpoint's settings; ValueError unless the others are ours.

    alpha is the checkpoint's, like the learning rate: a schedule of torch's may have moved it. One
    that is a function of the syncs is in the code, and the checkpoint says only that it was one.
    """
    found = {name: saved.get(f"{PREFIX}{name}") for name in settings(rule)}
    ours = rule_of(group, rule)
    number = isinstance(settings(ours).get("alpha"), float)
    if number and found["outer"] in ("Interpolate", None) and not isinstance(found["alpha"], str):
        ours = rule_of({**group, ALPHA: found["alpha"]}, rule)
    check_settings(found, ours)
    override: Group = {}
    if ours.sync_period != rule.sync_period:
        override[PERIOD] = ours.sync_period
    if isinstance(ours.outer, Interpolate) and ours.outer != rule.outer:
        override[ALPHA] = ours.outer.alpha
    return override


def _counters(
    state_dict: StateDict, overrides: list[Group], rule: SyncRule
) -> tuple[int, int, bool]:
    first, *others = [_ours(group) for group in state_dict["param_groups"]]
    names = ("count", "syncs", "unstepped")
    for index, other in enumerate(others, start=1):
        for name in names:
            if other.get(name) != first.get(name):
                raise ValueError(
                    f"state_dict['param_groups'][{index}]['{PREFIX}{name}'] must be that of the "
                    f"first group, {first.get(name)!r}, got {other.get(name)!r}"
                )
    whole = replace(rule, sync_period=round_of(overrides, rule))
    return *counters(first, whole), bool(first.get("unstepped"))


def _check_groups(state_dict: StateDict, inner: Optimizer) -> None:
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f"state_dict must have the key {key!r}, got {sorted(state_dict)}")
    saved = [len(group["params"]) for group in state_dict["param_groups"]]
    sizes = [len(group["params"]) for group in inner.param_groups]
    if saved != sizes:
        raise ValueError(
            f"state_dict['param_groups'] must hold groups of {sizes} parameters, got {saved}"
        )


def _check_states(state_dict: StateDict, parameters: dict[int, Tensor], inner: Optimizer) -> None:
    """torch checks no shapes: a wrong moment loads, and fails at some later step or never."""
    # Others may keep moments of a lower rank under the same names.
    torchs = type(inner).__module__.startswith("torch.optim")
    moments = {key for key, kind in COMMON.items() if torchs and kind is MOMENT}
    for i, entries in state_dict["state"].items():
        if i not in parameters and not isinstance(i, int):
            continue  # no parameter's
        if i not in parameters:
            raise ValueError(f"state_dict['state'] must hold numbers of parameters, got {i!r}")
        for key, value in entries.items():
            name = f"state_dict['state'][{i}][{key!r}]"
            ours = str(key).startswith(PREFIX)
            if ours and not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a Tensor, got {value!r}")
            if key not in moments and (not ours or str(key).startswith(OUTER)):
                continue  # slots are compared with new ones
            # A slow copy is of the shape of what it is a copy of, all else of the parameter's.
            is_copy = ours and key not in (SLOW, FAST, *BESIDE)
            like = entries.get(key.removeprefix(f"{SLOW}_")) if is_copy else None
            like = like if isinstance(like, Tensor) else parameters[i]
            if isinstance(value, Tensor) and value.shape != like.shape:
                raise ValueError(
                    f"{name} must have the shape {tuple(like.shape)}, got {tuple(value.shape)}"
                )


def _check_nothing_is_missing(state_dict: StateDict, parameters: dict[int, Tensor]) -> None:
    """Without a slow copy the next sync would blend with whatever was there before."""
    for group in state_dict["param_groups"]:
        entries = group.get(ENTRIES)
        number = len(group["params"])
        if not isinstance(entries, list) or len(entries) != number:
            raise ValueError(f"{ENTRIES} must be a list of {number} ints, got {entries!r}")
        for i, expected in zip(group["params"], entries, strict=True):
            present = state_dict["state"].get(i, {})
            # torch.distributed.checkpoint does not carry the state of frozen parameters.
            dropped = not present and not parameters[i].requires_grad
            if _tensors(present) < expected and not dropped:
                raise ValueError(
                    f"state_dict['state'][{i}] must hold {expected} tensors, got "
                    f"{_tensors(present)} ({', '.join(map(str, present)) or 'none'}): "
                    "the checkpoint was cut short"
                )
