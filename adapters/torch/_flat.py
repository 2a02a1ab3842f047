"""Flat checkpoints: keys by the names of the model's parameters, as torchtitan makes them.

Who loads one asks the new optimizer's `state` which entries a parameter has, and takes nothing of a
group that is not in `param_groups` already. So what is ours in a group is saved a second time, as
integers beside each parameter, and the groups are filled from these. That `state` names our entries
is _checkpoint.py's `offer`.
"""

from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from lookahead_core.checkpoint import settings
from lookahead_core.validation import shown

from ._groups import ALPHA, PERIOD, PREFIX, Group, prefixed, rule_of
from ._parts import Parts

__all__ = ["AS_NEW", "NUMBERS", "check_numbers", "numbers", "with_groups"]

StateDict = dict[str, Any]

NUMBERS = "numbers"
AS_NEW = "as new"
COUNTS = ("sync_period", "elapsed", "unstepped", "count", "syncs", "phase")
INTEGERS = (*COUNTS, "fingerprint", "streams", "tensors")
# In the place of a period; what it is, the optimizer must know (C65).
A_SCHEDULE = 0
FLOATS = ("work", "alpha")  # by their bits, after the integers
SIZE = len(INTEGERS) + len(FLOATS)
# What a run cannot change: another rule has another fingerprint.
FIXED = ("outer", "inner_state", "restart", "restart_period", "start")


def numbers(ours: StateDict, tensors: int, device: torch.device) -> Tensor:
    """What is ours of a group, with the number of tensors that a parameter has, as integers."""
    streams = any(name.startswith("streaming_") for name in ours)
    counts = [n if isinstance(n := ours[name], int) else A_SCHEDULE for name in COUNTS]
    floats = [ours.get(name) for name in FLOATS]
    floats = [float(v) if isinstance(v, int | float) else torch.nan for v in floats]
    integers = [*counts, _fingerprint(ours), int(streams), tensors]
    bits = torch.tensor(floats, dtype=torch.float64, device="cpu").view(torch.int64)
    return torch.cat([torch.tensor(integers, dtype=torch.int64, device="cpu"), bits]).to(device)


def with_groups(state_dict: StateDict, parts: Parts) -> StateDict:
    """`state_dict` with what is ours in its groups, if a flat one has lost it there.

    Raises
    ------
    ValueError
        If a StreamingOptimizer or another rule made it.
    """
    groups = state_dict["param_groups"]
    names = {key for saved in groups for key in saved if str(key).startswith(PREFIX)}
    if names - {ALPHA, PERIOD}:
        return state_dict
    states = {i: _present(entries) for i, entries in state_dict["state"].items()}
    read = {i: _read(entries.get(f"{PREFIX}{NUMBERS}")) for i, entries in states.items()}
    found = {i: own for i, own in read.items() if own}
    if not found:
        return {**state_dict, "state": states}
    filled = []
    for saved, group in zip(groups, parts.inner.param_groups, strict=True):
        first = next((i for i in saved["params"] if i in found), next(iter(found)))
        ours = _of_group(found[first], group, parts)
        pairs = zip(saved["params"], group["params"], strict=True)
        new = {i: AS_NEW for i, leaf in pairs if leaf.requires_grad and not states.get(i)}
        counts = {i: own["tensors"] for i, own in found.items()}
        entries = [new.get(i, counts.get(i, 0)) for i in saved["params"]]
        filled.append({**saved, **prefixed({**ours, "entries": entries})})
    return {**state_dict, "state": states, "param_groups": filled}


def _present(entries: StateDict) -> StateDict:
    """`entries` without what torch puts where nothing was saved: empty dicts."""
    empty = {key for key, value in entries.items() if isinstance(value, dict) and not value}
    ours = {key for key in empty if str(key).startswith(PREFIX)}
    gone = entries.keys() if len(empty) == len(entries) else ours
    return {key: value for key, value in entries.items() if key not in gone}


def _of_group(read: StateDict, group: Group, parts: Parts) -> StateDict:
    """What was saved in the group that these numbers are of."""
    own = settings(rule_of(group, parts.rule))
    if read["streams"]:
        raise ValueError(
            "the checkpoint was made by a StreamingOptimizer in the flat form, which does not hold "
            "what was on its way; save state_dict() itself"
        )
    if read["fingerprint"] != _fingerprint(own):
        raise ValueError(
            "the checkpoint was made by a rule with other settings, this optimizer has "
            f"{own}; construct it with the checkpoint's"
        )
    saved = {name: read[name] for name in (*COUNTS, "work") if name in read}
    if saved["sync_period"] == A_SCHEDULE:
        saved["sync_period"] = "a schedule"
    moved = {"alpha": read["alpha"]} if isinstance(own.get("alpha"), float) else {}
    return {**own, **saved, **(moved if "alpha" in read else {})}


def check_numbers(i: Any, value: Any) -> None:
    """Raise ValueError if what a checkpoint has as the numbers of the `i`-th parameter is none."""
    if value is not None and not _are_numbers(value):
        raise ValueError(
            f"the checkpoint's {PREFIX}{NUMBERS} of parameter {i} must be {SIZE} integers in a "
            f"torch.int64 tensor, got {shown(value)}"
        )


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype, value.shape) == (torch.int64, (SIZE,))


def _read(value: Any) -> StateDict:
    """The numbers of a parameter by name; nothing if there are none, or none of ours."""
    if not _are_numbers(value):
        return {}
    value = value.cpu()
    floats = zip(FLOATS, value[len(INTEGERS) :].view(torch.float64).tolist(), strict=True)
    known = {name: number for name, number in floats if number == number}  # NaN stands for none
    return dict(zip(INTEGERS, value.tolist(), strict=False)) | known


def _fingerprint(ours: StateDict) -> int:
    return crc32(repr([ours.get(name) for name in FIXED]).encode())
