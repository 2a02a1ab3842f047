"""The torch adapter's checkpoint: the inner optimizer's, with `lookahead_*` entries added.

Tensors go into `state[i]`, numbers into every entry of `param_groups`: the only layout that
torch.distributed.checkpoint takes, since it drops other top-level keys in silence. They are taken
out again before the inner optimizer loads: it would cast slow weights to the parameter's dtype,
and Adam fails on a state that is not empty and not its own.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule, SyncState
from lookahead_core.checkpoint import check_settings, counters, settings
from lookahead_core.schedule import before_first, in_phase
from lookahead_core.validation import non_negative

from ._groups import ALPHA, PERIOD, Group, leaves_of, rule_of
from ._inner_state import COMMON, MOMENT
from ._leaves import Home, Kept, by_itself
from ._parts import Part, Parts

__all__ = ["Loaded", "pack", "refuse_ours_in", "unpack"]

PREFIX = "lookahead_"
SLOW = "lookahead_slow"
OUTER = "lookahead_outer_"
FAST = "lookahead_fast"
BESIDE = ("arriving", "residual")
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
    clocks : list of SyncState
        The counters of each parameter group.
    kept : dict
        What is kept of each parameter; with its fast weights, if the parameters held the slow ones
        when it was saved.
    elapsed : int
        Inner steps since the clock was started.
    unstepped : bool
        Whether the inner state is a mere template.
    work : float
        What this worker had done since the last sync.
    streaming : dict
        What a StreamingOptimizer has saved beside that, by name; empty without one.
    """

    inner: StateDict
    clocks: list[SyncState]
    kept: dict[Tensor, Kept]
    elapsed: int = 0
    unstepped: bool = False
    work: float = 0.0
    streaming: StateDict = {}  # noqa: RUF012 (never changed)

    @torch.no_grad()
    def restore(self, parts: Parts) -> None:
        """Go on from here, once the inner optimizer has loaded its own."""
        for leaf, kept in self.kept.items():
            if kept.fast is not None:
                leaf.copy_(kept.fast)
                kept.fast = None
        parts.kept, parts.elapsed, parts.work = self.kept, self.elapsed, self.work
        parts.unstepped, parts.evaluating, parts.seen = self.unstepped, False, []
        pairs = zip(parts.inner.param_groups, self.clocks, strict=True)
        parts.parts = [Part(rule_of(group, parts.rule), [group], clock) for group, clock in pairs]
        for part in parts.parts:
            part.members = parts.members_of(part)
        parts.current()
        parts.loaded(self.streaming, self.clocks)


def pack(parts: Parts) -> StateDict:
    """State dict of the inner optimizer with ours in it."""
    inner = parts.inner
    packed = inner.state_dict()
    number = {leaf: i for i, leaf in _numbered(packed, inner)}
    # Copies of the dicts: inner.state_dict() hands out the live ones.
    states = {i: copy(entries) for i, entries in packed["state"].items()}
    numbers: dict[Tensor, dict[str, int]] = {}
    for part in parts.current():
        for leaf, entries in _saved_leaves(parts, part):
            if leaf in number:  # trainers may put other parameters into a group
                states.setdefault(number[leaf], {}).update(entries)
        own = part.on_host()
        clock = {"count": own.count, "syncs": own.syncs, "phase": own.phase}
        numbers |= dict.fromkeys(leaves_of(part.groups), clock)
    common = {
        "elapsed": int(parts.elapsed),
        "unstepped": int(parts.unstepped),
        **({"work": parts.work} if parts.work else {}),
        **{f"{STREAMING}{name}": value for name, value in parts.streaming.items()},
    }
    groups = []
    for saved, group in _groups(packed, inner):
        clock = numbers.get(next(iter(group["params"]), None), clock)
        ours = {**settings(rule_of(group, parts.rule)), **common, **clock}
        entries = [_tensors(states.get(i, {})) for i in saved["params"]]
        groups.append({**saved, **_prefixed(ours), ENTRIES: entries})
    return {**packed, "state": states, "param_groups": groups}


def _saved_leaves(parts: Parts, part: Part) -> Iterator[tuple[Tensor, StateDict]]:
    """What is saved of each parameter of a part."""
    state, live = parts.to_save(part)
    for index, leaf in enumerate(part.members):
        kept = parts.kept[leaf]
        beside = {f"{PREFIX}{name}": getattr(kept, name) for name in ("fast", *BESIDE)}
        slots = {f"{OUTER}{number}": slot[index] for number, slot in enumerate(state.outer)}
        entries = {SLOW: by_itself(state.slow[index]), **beside, **slots}
        yield leaf, {name: value for name, value in entries.items() if value is not None}
    for (leaf, key), value in zip(live, state.inner_slow, strict=False):
        yield leaf, {f"{SLOW}_{key}": value}


@torch.no_grad()
def unpack(state_dict: StateDict, parts: Parts) -> Loaded:
    """Take `state_dict` apart; raises ValueError before anything is changed."""
    inner, rule = parts.inner, parts.rule
    _check_groups(state_dict, inner)
    parameters = dict(_numbered(state_dict, inner))
    _check_states(state_dict, parameters, inner)
    if not _is_ours(state_dict):
        warn(
            "the checkpoint has no lookahead_* entries, so it is one of the inner optimizer alone: "
            "slow weights are taken from the current parameters",
            stacklevel=3,
        )
        return _bare(state_dict, parts)
    overrides = [_overrides(saved, group, rule) for saved, group in _groups(state_dict, inner)]
    rules = [rule_of(override, rule) for override in overrides]
    first = _common(state_dict)
    clocks = [
        _clock(_ours(saved), own, first["elapsed"])
        for saved, own in zip(state_dict["param_groups"], rules, strict=True)
    ]
    _check_nothing_is_missing(state_dict, parameters)
    kept = {}
    # Some optimizers have state that belongs to no parameter, under names.
    states = {i: own for i, own in state_dict["state"].items() if i not in parameters}
    for saved, own in zip(state_dict["param_groups"], rules, strict=True):
        for i in saved["params"]:
            entries = state_dict["state"].get(i, {})
            if theirs := _without(entries):
                states[i] = theirs
            if SLOW in entries:
                kept[parameters[i]] = _loaded(i, parameters[i], entries, own, parts.home)
    pairs = zip(state_dict["param_groups"], overrides, strict=True)
    groups = [{**_without(saved), **override} for saved, override in pairs]
    return Loaded({**state_dict, "state": states, "param_groups": groups}, clocks, kept, **first)


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


def _bare(state_dict: StateDict, parts: Parts) -> Loaded:
    """What was saved by the inner optimizer alone: a new start, with our own overrides."""
    groups, clocks, kept = [], [], {}
    start = -parts.rule.start
    for saved, group in _groups(state_dict, parts.inner):
        groups.append({**saved, **_prefixed(_ours(group))})
        clocks.append(SyncState((), start, 0, (), ()))
        own = rule_of(group, parts.rule)
        for leaf in group["params"]:
            if leaf.requires_grad:
                kept[leaf] = parts.home.new(own, leaf)
    return Loaded({**state_dict, "param_groups": groups}, clocks, kept, start)


def _loaded(i: int, leaf: Tensor, entries: StateDict, rule: SyncRule, home: Home) -> Kept:
    """A copy of what is ours of the entries of one parameter, the `i`-th."""
    kept = home.new(rule, leaf)
    for index, slot in enumerate(kept.slots):
        value = entries.get(f"{OUTER}{index}")
        if value is None or value.shape != slot.shape:
            got = "none" if value is None else tuple(value.shape)
            raise ValueError(
                f"state_dict['state'][{i}]['{OUTER}{index}'] must have the shape "
                f"{tuple(slot.shape)}, got {got}"
            )
        slot.copy_(value)
    kept.slow.copy_(entries[SLOW])
    for key, value in entries.items():
        if str(key).startswith(f"{SLOW}_"):
            kept.inner_slow[key.removeprefix(f"{SLOW}_")] = value.to(leaf.device, copy=True)
    kept.fast = entries.get(FAST)
    for name in BESIDE:
        if (value := entries.get(f"{PREFIX}{name}")) is not None:
            setattr(kept, name, value.to(leaf.device, copy=True))
    return kept


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
    if ours.outer != rule.outer:  # two that are made from one rule differ in their alpha alone
        override[ALPHA] = ours.outer.alpha  # type: ignore[attr-defined]
    return override


def _common(state_dict: StateDict) -> dict[str, Any]:
    """The numbers that are the same in all groups, by the names that `Loaded` has for them.

    The first versions had one counter for all groups, under the name of each one's own.
    """
    first, *others = [_ours(group) for group in state_dict["param_groups"]]
    elapsed = "elapsed" if "elapsed" in first else "count"
    for index, other in enumerate(others, start=1):
        for name in (elapsed, "unstepped"):
            if other.get(name) != first.get(name):
                raise ValueError(
                    f"state_dict['param_groups'][{index}]['{PREFIX}{name}'] must be that of the "
                    f"first group, {first.get(name)!r}, got {other.get(name)!r}"
                )
    streaming = {
        name.removeprefix(STREAMING): value
        for name, value in first.items()
        if name.startswith(STREAMING)
    }
    number = first.get(elapsed)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"the checkpoint's {elapsed} must be an int, got {number!r}")
    return {
        "elapsed": number,
        "unstepped": bool(first.get("unstepped")),
        "work": non_negative(f"{PREFIX}work", first.get("work", 0.0), WORK),
        "streaming": streaming,
    }


def _clock(saved: StateDict, rule: SyncRule, elapsed: int) -> SyncState:
    """The counters of a group, or ValueError if they cannot be those of `rule`."""
    phase = saved.get("phase", 0)
    if isinstance(phase, bool) or not isinstance(phase, int):
        raise ValueError(f"the checkpoint's phase must be an int, got {phase!r}")
    if "elapsed" not in saved and not before_first(elapsed):
        saved = {**saved, "count": in_phase(elapsed, 0, rule.sync_period)}
    count, syncs = counters(saved, rule)
    return SyncState((), count, syncs, (), (), phase)


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
            is_copy = ours and key not in (SLOW, FAST, *(f"{PREFIX}{name}" for name in BESIDE))
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
