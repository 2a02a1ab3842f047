"""Checkpoints of other people's Lookaheads: timm's, pytorch-optimizer's and pytorch-ranger's.

They are recognised by their keys and put into the layout of ours, which _checkpoint.py then reads
with all its checks. What each of them saves is said here and nowhere else.
"""

from collections.abc import Container
from typing import Any, NamedTuple
from warnings import warn

from torch.optim import Optimizer, RAdam

from lookahead_core import Interpolate, SyncRule, lookahead
from lookahead_core.checkpoint import settings
from lookahead_core.validation import int_at_least

from ._groups import Group, prefixed, rule_of
from ._layout import check_layout
from ._parts import Parts

__all__ = ["in_our_layout"]

StateDict = dict[str, Any]
PYTORCH_OPTIMIZER = {"lookahead_state", "base_optimizer"}


class Theirs(NamedTuple):
    """A checkpoint of somebody else's Lookahead, taken apart.

    Attributes
    ----------
    name : str
        Whose it is.
    inner : dict
        State dict of the inner optimizer, without anything of Lookahead.
    kept : dict
        What Lookahead keeps of each parameter, by number, under the names that we have for it.
    steps : list of int
        Steps of each group so far; those of its cycle, where no more is saved.
    own : list of dict
        Settings of each group, by our names; those that are not saved are not in it.
    remark : str
        What the warning adds.
    """

    name: str
    inner: StateDict
    kept: dict[int, StateDict]
    steps: list[int]
    own: list[StateDict]
    remark: str = ""


def in_our_layout(state_dict: StateDict, parts: Parts) -> StateDict:
    """`state_dict`, or the same in our layout, with a warning, if it is one of theirs.

    Raises
    ------
    ValueError
        If it is one of theirs, and damaged or of another inner optimizer.
    """
    if not (isinstance(state_dict, dict) and state_dict.keys() >= PYTORCH_OPTIMIZER):
        check_layout(state_dict, parts.inner)
    for taken_apart in (_pytorch_optimizer, _timm, _pytorch_ranger):
        theirs = taken_apart(state_dict, parts)
        if theirs is not None:
            return _converted(theirs, parts)
    return state_dict


def _converted(theirs: Theirs, parts: Parts) -> StateDict:
    states = {i: dict(entries) for i, entries in theirs.inner["state"].items()}
    groups, clocks, anew = [], [], 0
    # Groups and parameters too many or too few are refused later, as in a checkpoint of ours.
    pairs = zip(theirs.inner["param_groups"], parts.inner.param_groups, strict=False)
    for number, (saved, group) in enumerate(pairs):
        rule = _rule(theirs.own[number], rule_of(group, parts.rule))
        if callable(rule.sync_period):
            raise ValueError(
                f"sync_period must be a number for a checkpoint of {theirs.name}, which has one, "
                f"got {rule.sync_period!r}"
            )
        syncs, count = divmod(theirs.steps[number], rule.sync_period)
        counters = {"elapsed": theirs.steps[0], "count": count, "syncs": syncs}
        entries = {"entries": [0] * len(saved["params"])}
        groups.append({**saved, **prefixed({**settings(rule), **counters, **entries})})
        clocks.append(f"{count} of {rule.sync_period} steps with alpha={settings(rule)['alpha']}")
        for i, leaf in zip(saved["params"], group["params"], strict=False):
            if leaf.requires_grad:  # what they keep of a frozen one is where it was
                kept = theirs.kept.get(i, {})
                anew += "slow" not in kept
                ours = {"slow": leaf.detach().clone(), **kept}
                states[i] = {**states.get(i, {}), **prefixed(ours)}
    lacking = f"; slow weights of {anew} parameters, which it lacks, are the current weights"
    warn(
        f"the checkpoint is one of {theirs.name}: its slow weights and its place in the cycle are "
        f"taken ({', '.join(dict.fromkeys(clocks))}){lacking if anew else ''}{theirs.remark}",
        stacklevel=4,
    )
    return {**theirs.inner, "state": states, "param_groups": groups}


def _rule(own: StateDict, ours: SyncRule) -> SyncRule:
    """The rule that made the checkpoint; what it does not say of itself is as in ours."""
    alpha = ours.outer.alpha if isinstance(ours.outer, Interpolate) else 0.5
    known = {"sync_period": ours.sync_period, "alpha": alpha, "inner_state": "maintain"}
    return lookahead(**{**known, **own})


# --- what each of them saves ---


def _timm(saved: StateDict, _: Parts) -> Theirs | None:
    """Slow weights are in the inner state, once there was a sync; settings in the groups."""
    names = {"lookahead_alpha": "alpha", "lookahead_k": "sync_period"}
    groups = _groups_with({*names, "lookahead_step"}, saved)
    if not groups:
        return None
    inner = _without(saved, {"lookahead_slow_buff"}, {*names, "lookahead_step"})
    steps = [int_at_least(0, "lookahead_step", group["lookahead_step"]) for group in groups]
    kept = {i: _renamed(s, {"lookahead_slow_buff": "slow"}) for i, s in saved["state"].items()}
    own = [_renamed(group, names) for group in groups]
    return Theirs("timm's Lookahead", inner, kept, steps, own)


def _pytorch_optimizer(saved: StateDict, parts: Parts) -> Theirs | None:
    """The inner optimizer's, and beside it what is kept by (group, place); no settings."""
    if not saved.keys() >= PYTORCH_OPTIMIZER:
        return None
    base, theirs = saved["base_optimizer"], saved["lookahead_state"]
    check_layout(base, parts.inner, "state_dict['base_optimizer']")
    groups = base["param_groups"]
    places = {(g, p): i for g, group in enumerate(groups) for p, i in enumerate(group["params"])}
    if len(theirs) != len(places):
        raise ValueError(
            f"state_dict['lookahead_state'] must hold {len(places)} parameters, got {len(theirs)}"
        )
    if theirs.keys() != places.keys():  # before version 4 by parameter, in the same order
        theirs = dict(zip(places, theirs.values(), strict=True))
    names = {"slow_params": "slow", "backup_params": "fast"}
    policy = parts.rule.inner_state  # whether it resets the momentum it does not say
    if present := {key for entries in base["state"].values() for key in entries}:
        # It pulls back SGD's momentum, and of other optimizers nothing, or not all.
        pulled = any("slow_momentum" in entries for entries in theirs.values())
        if pulled and present == {"momentum_buffer"}:
            names["slow_momentum"], policy = "slow_momentum_buffer", "interpolate"
        elif policy == "interpolate":
            policy = "maintain"
    kept = {i: _renamed(theirs[place], names) for place, i in places.items()}
    own = [{"inner_state": policy} for _ in groups]
    steps = [int_at_least(0, "counter", group.get("counter")) for group in groups]
    remark = "; k and alpha, which it does not hold, are as here, and syncs are counted from 0"
    inner = _without(base, set(), {"counter"})
    return Theirs("pytorch-optimizer's Lookahead", inner, kept, steps, own, remark)


def _pytorch_ranger(saved: StateDict, parts: Parts) -> Theirs | None:
    """RAdam's state with slow weights in it, and all settings in the groups."""
    names = {"alpha": "alpha", "k": "sync_period"}
    dead = {*names, "N_sma_threshhold", "step_counter"}
    groups = _groups_with(dead, saved)
    if not groups or _groups_with(dead, parts.inner.state_dict()):
        return None
    _check_is_decoupled_radam(parts.inner)
    inner = _without(saved, {"slow_buffer"}, dead)
    # What RAdam has beside Ranger's settings stays as it is.
    pairs = zip(inner["param_groups"], parts.inner.param_groups, strict=False)
    inner["param_groups"] = [{**group, **bare} for bare, group in pairs]
    states = saved["state"]
    # It counts by parameter: one that had no gradient in some step is behind the others.
    of_each = [[int(states[i]["step"]) for i in g["params"] if i in states] for g in groups]
    steps = [max(steps, default=0) for steps in of_each]
    kept = {i: _renamed(entries, {"slow_buffer": "slow"}) for i, entries in states.items()}
    own = [_renamed(group, names) for group in groups]
    remark = "; N_sma_threshhold is not: it is 5 in RAdam"
    return Theirs("pytorch-ranger's Ranger", inner, kept, steps, own, remark)


def _check_is_decoupled_radam(inner: Optimizer) -> None:
    decoupled = all(group.get("decoupled_weight_decay") for group in inner.param_groups)
    if not isinstance(inner, RAdam) or not decoupled:
        raise ValueError(
            "inner must be RAdam with decoupled_weight_decay=True, as `ranger` makes it, for a "
            f"checkpoint of pytorch-ranger's Ranger, got {inner!r}"
        )


# --- entries by name ---


def _groups_with(keys: set[str], saved: StateDict) -> list[Group]:
    """The groups, if all have these entries; else none."""
    groups = saved.get("param_groups", []) if "state" in saved else []
    return list(groups) if all(keys <= group.keys() for group in groups) else []


def _without(saved: StateDict, in_states: Container[str], in_groups: Container[str]) -> StateDict:
    """`saved` without these entries of its states and groups."""
    states = {
        i: {key: value for key, value in entries.items() if key not in in_states}
        for i, entries in saved["state"].items()
    }
    groups = [
        {key: value for key, value in group.items() if key not in in_groups}
        for group in saved["param_groups"]
    ]
    return {**saved, "state": states, "param_groups": groups}


def _renamed(entries: StateDict, names: dict[str, str]) -> StateDict:
    """Those of `entries` that are in `names`, by their names there."""
    return {name: entries[key] for key, name in names.items() if key in entries}
