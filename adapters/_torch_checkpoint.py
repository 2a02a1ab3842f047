"""The torch adapter's checkpoint: the inner optimizer's, with `lookahead_*` entries added.

Slow copies go into `state[i]`, numbers into every entry of `param_groups`: the only layout that
torch.distributed.checkpoint takes, since it drops other top-level keys in silence. They are taken
out again before the inner optimizer loads: it would cast slow weights to the parameter's dtype,
and Adam fails on a state that is not empty and not its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule, SyncState
from lookahead_core.checkpoint import check_settings, counters, settings

from ._torch_inner_state import PARAMETER_SHAPED, InnerName

__all__ = ["Loaded", "pack", "unpack"]

PREFIX = "lookahead_"
SLOW = "lookahead_slow"

StateDict = dict[str, Any]


class Loaded(NamedTuple):
    """A checkpoint taken apart.

    Attributes
    ----------
    inner : dict
        State dict for the inner optimizer.
    fast : list of Tensor
        Parameters that `state.slow` belongs to.
    names : list of (Tensor, str)
        Parameters and keys that `state.inner_slow` belongs to.
    state : SyncState
    """

    inner: StateDict
    fast: list[Tensor]
    names: list[InnerName]
    state: SyncState


def pack(
    inner: Optimizer,
    rule: SyncRule,
    fast: Sequence[Tensor],
    names: Sequence[InnerName],
    state: SyncState,
) -> StateDict:
    """State dict of `inner` with the state of `rule` in it."""
    packed = inner.state_dict()
    number = {leaf: i for i, leaf in _numbered(packed, inner)}
    # Copies of the dicts: inner.state_dict() hands out the live ones.
    states = {i: dict(entries) for i, entries in packed["state"].items()}
    for leaf, slow in zip(fast, state.slow, strict=True):
        states.setdefault(number[leaf], {})[SLOW] = slow
    for (leaf, key), slow in zip(names, state.inner_slow, strict=True):
        states[number[leaf]][f"{SLOW}_{key}"] = slow
    numbers = {**settings(rule), "count": state.count, "syncs": state.syncs}
    ours = {f"{PREFIX}{name}": value for name, value in numbers.items()}
    groups = [{**group, **ours} for group in packed["param_groups"]]
    return {**packed, "state": states, "param_groups": groups}


@torch.no_grad()
def unpack(
    state_dict: StateDict,
    inner: Optimizer,
    rule: SyncRule,
    fast: list[Tensor],
    slow_dtype: torch.dtype | None,
) -> Loaded:
    """Take `state_dict` apart; raises ValueError before anything is changed."""
    _check_groups(state_dict, inner)
    parameters = dict(_numbered(state_dict, inner))
    _check_shapes(state_dict, parameters)
    bare = {
        **state_dict,
        "state": {i: _without(entries) for i, entries in state_dict["state"].items()},
        "param_groups": [_without(group) for group in state_dict["param_groups"]],
    }
    bare["state"] = {i: entries for i, entries in bare["state"].items() if entries}
    start = rule.init(fast, slow_dtype=slow_dtype)
    saved = _ours(state_dict["param_groups"][0])
    if not saved:
        warn(
            "the checkpoint has no lookahead_* entries, so it is one of the inner optimizer alone: "
            "slow weights are taken from the current parameters",
            stacklevel=3,
        )
        return Loaded(bare, fast, [], start)
    check_settings(saved, rule)
    count, syncs = counters(saved, rule)
    entries = {leaf: state_dict["state"].get(i, {}) for i, leaf in parameters.items()}
    names = [
        (leaf, key.removeprefix(f"{SLOW}_"))
        for leaf in fast
        for key in entries[leaf]
        if key.startswith(f"{SLOW}_")
    ]
    for index, (leaf, slow) in enumerate(zip(fast, start.slow, strict=True)):
        if SLOW not in entries[leaf]:
            raise ValueError(
                f"the checkpoint has no {SLOW} for trainable parameter {index}; it was cut short, "
                "or the parameter was frozen when it was made"
            )
        slow.copy_(entries[leaf][SLOW])
    inner_slow = [entries[leaf][f"{SLOW}_{key}"].to(leaf.device, copy=True) for leaf, key in names]
    state = start._replace(count=count, syncs=syncs, inner_slow=inner_slow)
    return Loaded(bare, fast, names, state)


def _numbered(state_dict: StateDict, inner: Optimizer) -> Iterator[tuple[int, Tensor]]:
    """Each parameter of `inner` with its number in `state_dict`."""
    for saved, group in zip(state_dict["param_groups"], inner.param_groups, strict=True):
        yield from zip(saved["params"], group["params"], strict=True)


def _without(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if not key.startswith(PREFIX)}


def _ours(entries: dict[str, Any]) -> dict[str, Any]:
    """The `lookahead_*` entries, under their names without it."""
    return {
        key.removeprefix(PREFIX): value for key, value in entries.items() if key.startswith(PREFIX)
    }


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


def _check_shapes(state_dict: StateDict, parameters: dict[int, Tensor]) -> None:
    """torch checks no shapes: a wrong moment loads, and fails at some later step or never."""
    for i, entries in state_dict["state"].items():
        if i not in parameters:
            raise ValueError(f"state_dict['state'] must hold numbers of parameters, got {i!r}")
        for key, value in entries.items():
            shaped = key in PARAMETER_SHAPED or key.startswith(SLOW)
            if shaped and isinstance(value, Tensor) and value.shape != parameters[i].shape:
                raise ValueError(
                    f"state_dict['state'][{i}][{key!r}] must have the shape of its parameter, "
                    f"{tuple(parameters[i].shape)}, got {tuple(value.shape)}"
                )
