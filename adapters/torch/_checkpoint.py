"""The torch adapter's checkpoint: the inner optimizer's, with `lookahead_*` entries added.

Tensors go into `state[i]`, numbers into every entry of `param_groups`: the only layout that
torch.distributed.checkpoint takes, since it drops other top-level keys in silence. They are taken
out again before the inner optimizer loads: it would cast slow weights to the parameter's dtype,
and Adam fails on a state that is not empty and not its own.

The bare inner optimizer may load the file, train on and save: our entries are then still in it, and
stale. `lookahead_inner_step` tells: what the inner optimizer had counted when they were saved, in
integers, which torch makes floats of when it loads.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule, SyncState
from lookahead_core.checkpoint import check_settings, counter, counters, settings
from lookahead_core.schedule import before_first, in_phase
from lookahead_core.validation import int_at_least, non_negative, shown

from ._buffers import KEY, AveragedBuffers
from ._flat import AS_NEW, NUMBERS, check_numbers, numbers, with_groups
from ._groups import ALPHA, PERIOD, PREFIX, Group, leaves_of, prefixed, rule_of
from ._inner_state import COMMON, MOMENT, check_known, known_kinds
from ._joint import owner
from ._kernels.lists import part_here
from ._layout import check_like, number_in
from ._leaves import Kept, by_itself
from ._migration import in_our_layout
from ._parts import Part, Parts

__all__ = ["Loaded", "offer", "pack", "refuse_ours_in", "unpack"]

SLOW = "lookahead_slow"
STREAMING = "lookahead_streaming_"
SEAL = "inner_step"
BARE = "the checkpoint has no lookahead_* entries, so it is one of the inner optimizer alone"
FLAT = ", or a flat one, which loads whole into an optimizer that has not been stepped yet"
STALE = (
    "the lookahead_* entries of the checkpoint are older than the rest of it (another optimizer "
    "has loaded and saved them), so it is taken for one of the inner optimizer alone"
)
FROM_HERE = "slow weights are taken from the current parameters"

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
    elapsed, unstepped, work
        As those of `Parts`.
    streaming : dict
        What a StreamingOptimizer has saved beside that, by name; empty without one.
    buffers : AveragedBuffers or None
        What is kept of buffers of the model.
    """

    inner: StateDict
    clocks: list[SyncState]
    kept: dict[Tensor, Kept]
    elapsed: int
    unstepped: bool
    work: float
    streaming: StateDict
    buffers: AveragedBuffers | None = None

    def restore(self, parts: Parts) -> None:
        """Go on from here, once the inner optimizer has loaded its own."""
        parts.kept, parts.elapsed, parts.work = self.kept, self.elapsed, self.work
        parts.unstepped, parts.seen, parts.buffers = self.unstepped, [], self.buffers
        pairs = zip(parts.inner.param_groups, self.clocks, strict=True)
        parts.parts = [Part(rule_of(group, parts.rule), [group], clock) for group, clock in pairs]
        parts.current()
        parts.loaded(self.streaming, self.clocks)


@torch.no_grad()
def pack(parts: Parts) -> StateDict:
    """State dict of the inner optimizer with ours in it."""
    packed = parts.inner.state_dict()
    # Copies of the dicts: inner.state_dict() hands out the live ones.
    states = {i: copy(entries) for i, entries in packed["state"].items()}
    common: StateDict = {"elapsed": int(parts.elapsed), "unstepped": int(parts.unstepped)}
    if parts.work:
        common["work"] = parts.work
    common |= {f"streaming_{name}": value for name, value in parts.streaming.items()}
    entries: dict[Tensor, StateDict] = {}
    as_new: set[Tensor] = set()
    clocks: dict[Tensor, SyncState] = {}
    for part in parts.current():
        found = _saved_leaves(parts, part)
        theirs: dict[Tensor, Any] = {}
        for group in part.groups:
            theirs |= dict.fromkeys(group["params"], owner(parts.inner, group).state)
        as_new |= {
            leaf for leaf in found if _is_as_new(parts, part, leaf, found, theirs.get(leaf, {}))
        }
        entries |= {leaf: own for leaf, own in found.items() if leaf not in as_new}
        clock = part.on_host()
        clocks |= dict.fromkeys(leaves_of(part.groups), clock)
    if parts.buffers is not None:
        first = parts.parts[0]
        common["buffers"] = parts.buffers.which.names
        # Beside those of a parameter: torch.distributed.checkpoint takes nothing else.
        for beside in [*entries.values()][:1]:
            beside |= parts.buffers.saved(first.rule, first.on_host())
    groups = []
    for saved, group in _groups(packed, parts):
        clock = next((clocks[leaf] for leaf in group["params"] if leaf in clocks), clock)
        counted = {"count": clock.count, "syncs": clock.syncs, "phase": clock.phase}
        ours = {**settings(rule_of(group, parts.rule)), **common, **counted}
        for i, leaf in zip(saved["params"], group["params"], strict=True):
            if leaf in entries:
                own = states.setdefault(i, {})
                own.update(prefixed({**entries[leaf], SEAL: _seal(own)}))
                tensors = sum(isinstance(value, Tensor) for value in own.values()) + 1
                own[f"{PREFIX}{NUMBERS}"] = numbers(ours, tensors, leaf.device)
        pairs = zip(saved["params"], group["params"], strict=True)
        names = [AS_NEW if leaf in as_new else _names(states.get(i, {})) for i, leaf in pairs]
        groups.append({**saved, **prefixed({**ours, "entries": names})})
    return {**packed, "state": states, "param_groups": groups}


def offer(parts: Parts) -> None:
    """Name our entries in the state that was made for torch.distributed.checkpoint to look at.

    A flat checkpoint is taken apart by these names. They go with that state, at the first step.
    """
    saved = pack(parts)
    for names, group in _groups(saved, parts):
        state = owner(parts.inner, group).state
        for i, leaf in zip(names["params"], group["params"], strict=True):
            state[leaf].update(dict.fromkeys(prefixed(_ours(saved["state"].get(i, {})))))


def _saved_leaves(parts: Parts, part: Part) -> dict[Tensor, StateDict]:
    """What is saved of each parameter of a part, by name."""
    state, live = parts.to_save(part)
    found: dict[Tensor, StateDict] = {}
    for index, leaf in enumerate(part.members):
        kept = parts.kept[leaf]
        slots = {f"outer_{i}": by_itself(slot[index]) for i, slot in enumerate(state.outer)}
        beside = {"fast": kept.fast, "arriving": kept.arriving, "residual": kept.residual}
        present = {name: value for name, value in beside.items() if value is not None}
        found[leaf] = {"slow": by_itself(state.slow[index]), **slots, **present}
    for (leaf, key), value in zip(live, state.inner_slow, strict=False):
        found.setdefault(leaf, {})[f"slow_{key}"] = value
    return found


def _is_as_new(
    parts: Parts, part: Part, leaf: Tensor, found: dict[Tensor, StateDict], state: Any
) -> bool:
    """Whether nothing needs to be saved of `leaf`, because it has not been stepped.

    Then nothing may be: bare Adam fails on a state that is not empty and not its own. Of an
    optimizer that has no state at all this can only be known before the first step.
    """
    entries, rule = found[leaf], parts.rule
    first = int(parts.elapsed) == -rule.start and not any(int(p.state.syncs) for p in parts.parts)
    if state.get(leaf) or parts.unstepped or not (state or first):
        return False
    new = parts.home.new(part.rule, leaf)
    fresh = {"slow": new.slow, **{f"outer_{i}": slot for i, slot in enumerate(new.slots)}}
    # Of shards those that are here: to compare the others would need messages.
    return entries.keys() == fresh.keys() and all(
        value.is_meta or torch.equal(part_here(value), part_here(fresh[name]))
        for name, value in entries.items()
    )


def _seal(theirs: StateDict) -> Tensor:
    """What the inner optimizer has counted of a parameter, in integers; 0 where it counts none."""
    return torch.tensor(number_in(theirs.get("step")) or 0, dtype=torch.int64)


def _is_stale(state_dict: StateDict) -> bool:
    """Whether an optimizer of another kind has loaded our entries, and saved them again."""
    for saved in state_dict["param_groups"]:
        expected = saved.get(f"{PREFIX}entries")
        names = expected if isinstance(expected, list) else []
        for i, name in zip(saved["params"], names, strict=False):
            entries = state_dict["state"].get(i, {})
            step, seal = number_in(entries.get("step")), entries.get(f"{PREFIX}{SEAL}")
            if name == AS_NEW and entries:
                return True
            if isinstance(seal, Tensor) and (
                seal.dtype != torch.int64 or (step is not None and step != number_in(seal))
            ):
                return True
    return False


@torch.no_grad()
def unpack(state_dict: StateDict, parts: Parts) -> Loaded:
    """Take `state_dict` apart; raises ValueError before anything is changed."""
    state_dict = with_groups(in_our_layout(state_dict, parts), parts)
    every = [*state_dict["param_groups"], *state_dict["state"].values()]
    bare = not any(_ours(entries).keys() - {"alpha", "sync_period"} for entries in every)
    if anew := bare or _is_stale(state_dict):
        stepped = parts.inner.state and not parts.unstepped
        reason = f"{BARE}{FLAT if stepped else ''}" if bare else STALE
        warn(f"{reason}: {FROM_HERE}", stacklevel=3)
        state_dict = _started_anew(state_dict, parts)
    common = _common(state_dict["param_groups"], parts.rule)
    states = dict(state_dict["state"])
    groups, clocks, kept = [], [], {}
    for saved, group in _groups(state_dict, parts):
        overrides = _overrides(saved, group, parts.rule)
        groups.append({**_theirs(saved), **overrides})
        rule, own = rule_of(overrides, parts.rule), owner(parts.inner, group)
        known = known_kinds(own, parts.kinds)
        clocks.append(_clock(saved, rule, common["elapsed"]))
        expected = _expected(saved)
        for i, leaf, names in zip(saved["params"], group["params"], expected, strict=True):
            entries = state_dict["state"].get(i, {})
            _check_moments(i, entries, leaf, own)
            if parts.rule.inner_state != "maintain" and leaf.requires_grad:
                check_known(own, _theirs(entries), parts.rule.inner_state, known)
            states.pop(i, None)
            if theirs := _theirs(entries):
                states[i] = theirs
            if names == AS_NEW or (anew and leaf.requires_grad and parts.workers is None):
                kept[leaf] = parts.home.new(rule, leaf)
            elif _ours(entries):
                kept[leaf] = _loaded_leaf(i, entries, leaf, parts.home.new(rule, leaf))
            # torch.distributed.checkpoint does not carry the state of frozen parameters.
            if entries or leaf.requires_grad:
                _check_nothing_is_missing(i, entries, names)
    inner = {**state_dict, "state": states, "param_groups": groups}
    return Loaded(inner, clocks, kept, **common, buffers=_buffers(state_dict, parts))


def refuse_ours_in(inner: Optimizer) -> None:
    """RuntimeError if somebody has loaded our entries into `inner` itself: they are without effect.

    ZeroRedundancyOptimizer does, around an optimizer of this kind, and loses the counters.
    """
    entries = next(iter(inner.state.values()), None)
    for held, key in ((entries, SLOW), (inner.param_groups[0], f"{PREFIX}elapsed")):
        if isinstance(held, dict) and key in held:
            raise RuntimeError(
                f"the state of {type(inner).__name__} holds {key!r}: the checkpoint was loaded "
                "past load_state_dict() of the optimizer around it (ZeroRedundancyOptimizer does "
                "that: put it inside, and not around)"
            )


def _started_anew(state_dict: StateDict, parts: Parts) -> StateDict:
    """What was saved by the inner optimizer alone, with the numbers of a start and our settings."""
    groups = []
    for saved, group in _groups(state_dict, parts):
        start, none = -parts.rule.start, [""] * len(saved["params"])
        numbers = {"elapsed": start, "count": start, "syncs": 0, "entries": none}
        ours = {**settings(rule_of(group, parts.rule)), **numbers}
        groups.append({**_theirs(saved), **prefixed(ours)})
    states = {i: _theirs(entries) for i, entries in state_dict["state"].items()}
    return {**state_dict, "state": states, "param_groups": groups}


def _common(groups: list[Group], rule: SyncRule) -> StateDict:
    """What is the same in all groups, by the names that `Loaded` has for it."""
    ours = [_ours(saved) for saved in groups]
    # The first versions had one counter for all groups, under the name of each one's own.
    found = [own.get("elapsed", own.get("count")) for own in ours]
    elapsed = [counter(f"{PREFIX}elapsed", number, -rule.start) for number in found]
    if len({*elapsed}) > 1:
        raise ValueError(f"{PREFIX}elapsed must be the same in all groups, got {elapsed}")
    return {
        "elapsed": elapsed[0],
        "unstepped": _flag(f"{PREFIX}unstepped", ours[0].get("unstepped", 0)),
        "work": non_negative(f"{PREFIX}work", ours[0].get("work", 0.0), "done since the last sync"),
        "streaming": _ours(groups[0], STREAMING),
    }


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, int | float) or value not in (0, 1):
        raise ValueError(f"{name} must be 0 or 1, got {shown(value)}")
    return bool(value)


def _clock(saved: Group, rule: SyncRule, elapsed: int) -> SyncState:
    """The counters of a group, or ValueError if they cannot be those of `rule`."""
    ours = _ours(saved)
    if "elapsed" not in ours and not before_first(elapsed):
        ours["count"] = in_phase(elapsed, 0, rule.sync_period)
    return counters(ours, rule)


def _overrides(saved: Group, group: Group, rule: SyncRule) -> Group:
    """What a group overrides when it is loaded: as it does now, but for alpha.

    alpha is the checkpoint's, like the learning rate: a schedule of torch's may have moved it. One
    that is a function of the syncs is in the code, and the checkpoint says only that it was one.
    """
    overrides = {key: group[key] for key in (ALPHA, PERIOD) if key in group}
    alpha, ours = saved.get(ALPHA), settings(rule_of(group, rule)).get("alpha")
    if isinstance(alpha, int | float) and isinstance(ours, float):
        overrides[ALPHA] = alpha
    if ALPHA in overrides and overrides[ALPHA] == settings(rule).get("alpha"):
        del overrides[ALPHA]
    return overrides


def _loaded_leaf(i: int, entries: StateDict, leaf: Tensor, kept: Kept) -> Kept:
    """`kept`, which is new, with a copy of what is ours of the entries of the `i`-th parameter."""
    ours = {name: own for name, own in _ours(entries).items() if not name.startswith(KEY)}
    ours.pop(SEAL, None)
    check_numbers(i, ours.pop(NUMBERS, None))  # what they say, the groups say too
    slots = {f"outer_{number}": slot for number, slot in enumerate(kept.slots)}
    own = {"slow": kept.slow, **slots}
    # A slow copy is like what it is a copy of, and all else but slots like the parameter.
    likes = {f"slow_{key}": value for key, value in entries.items()} | own
    for name in own | ours:
        like = likes.get(name)
        like = like if isinstance(like, Tensor) else leaf
        check_like(i, f"{PREFIX}{name}", ours.get(name), like)
    for name, target in own.items():
        target.copy_(ours[name])
    for key, value in _ours(entries, f"{SLOW}_").items():
        kept.inner_slow[key] = value.to(leaf.device, copy=True)
    for name in ours.keys() & {"arriving", "residual"}:
        setattr(kept, name, ours[name].to(leaf.device, copy=True))
    kept.fast = ours.get("fast")
    return kept


def _buffers(state_dict: StateDict, parts: Parts) -> AveragedBuffers | None:
    """What is kept of the model's buffers: the checkpoint's, or what they are where it has none."""
    names = _ours(state_dict["param_groups"][0]).get("buffers")
    ours = [] if parts.buffers is None else parts.buffers.which.names
    if names is not None or not ours:
        check_settings({"buffers": names or []}, {"buffers": ours})
    if parts.buffers is None:
        return None
    found: StateDict = {}
    for entries in state_dict["state"].values():
        found |= {f"{KEY}{key}": value for key, value in _ours(entries, PREFIX + KEY).items()}
    if names is None and not found:
        warn("the checkpoint has no buffers: the model's are taken as they are", stacklevel=4)
    rule = parts.parts[0].rule
    return parts.buffers.loaded(rule, found) if found else parts.buffers.anew(rule)


# --- whose entries they are ---


def _groups(state_dict: StateDict, parts: Parts) -> Iterator[tuple[Group, Group]]:
    """Each saved group with the group of the inner optimizer that it belongs to."""
    return zip(state_dict["param_groups"], parts.inner.param_groups, strict=True)


def _theirs(entries: StateDict) -> StateDict:
    return {key: value for key, value in entries.items() if not str(key).startswith(PREFIX)}


def _ours(entries: StateDict, prefix: str = PREFIX) -> StateDict:
    """The entries whose names begin with `prefix`, under their names without it."""
    found = [key for key in entries if str(key).startswith(prefix)]
    return {key.removeprefix(prefix): entries[key] for key in found}


def _names(entries: StateDict) -> str:
    """The names of the tensors: None and numbers may be lost on the way, tensors may not."""
    return ", ".join(str(key) for key, value in entries.items() if isinstance(value, Tensor))


# --- what is refused ---


def _expected(saved: Group) -> list[Any]:
    """What there was of each parameter of a group when it was saved."""
    names, number = saved.get(f"{PREFIX}entries"), len(saved["params"])
    if not isinstance(names, list) or len(names) != number:
        raise ValueError(f"{PREFIX}entries must be a list of {number} strings, got {names!r}")
    return names


def _check_nothing_is_missing(i: int, entries: StateDict, names: Any) -> None:
    """Without a slow copy the next sync would blend with whatever was there before."""
    present = [str(key) for key, value in entries.items() if value is not None]
    if isinstance(names, str):
        wanted = [] if names == AS_NEW else names.split(", ")
        missing = [name for name in wanted if name and name not in present]
    else:  # the first versions only said how many tensors there were; `step` may be a number now
        least = int_at_least(0, f"{PREFIX}entries", names)
        found = sum(isinstance(v, Tensor) or key == "step" for key, v in entries.items())
        missing = [] if found >= least else [f"{least} tensors"]
    if missing:
        raise ValueError(
            f"state_dict['state'][{i}] must hold {', '.join(missing)}, got "
            f"{', '.join(present) or 'nothing'}: the checkpoint was cut short"
        )


def _check_moments(i: int, entries: StateDict, leaf: Tensor, inner: Optimizer) -> None:
    """torch checks no shapes: a wrong moment loads, and fails at some later step or never."""
    # Others may keep moments of a lower rank under the same names.
    if type(inner).__module__.startswith("torch.optim"):
        for key, value in entries.items():
            if COMMON.get(key) is MOMENT and isinstance(value, Tensor):
                check_like(i, key, value, leaf)
