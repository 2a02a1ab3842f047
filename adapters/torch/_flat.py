"""Flat checkpoints: keys by the names of the model's parameters, as torchtitan makes them.

Who loads one asks `optimizer.state` which entries a parameter has, and takes nothing of a group
that is not in `param_groups` already. So what is ours in a group is saved a second time, as
integers beside each parameter, and the groups are filled from these. What `optimizer.state` shows
is _shown.py.
"""

import struct
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from lookahead_core.checkpoint import settings

from ._groups import ALPHA, PERIOD, PREFIX, Group, prefixed, rule_of
from ._parts import Parts

__all__ = ["AS_NEW", "NUMBERS", "numbers", "with_groups"]

StateDict = dict[str, Any]

NUMBERS = "numbers"
AS_NEW = "as new"
# The first ones are integers; the last two are floats, by their bits.
NAMES = ("sync_period", "elapsed", "unstepped", "count", "syncs", "phase")
FLOATS = ("work", "alpha")
NONE = struct.unpack("<q", struct.pack("<d", float("nan")))[0]


def numbers(ours: StateDict, tensors: int, device: torch.device) -> Tensor:
    """What is ours of a group, with the number of tensors that a parameter has, as integers."""
    integers = [int(ours[name]) for name in NAMES]
    floats = [_bits(ours.get(name)) for name in FLOATS]
    streams = int(any(name.startswith("streaming_") for name in ours))
    found = [*integers, *floats, _fingerprint(ours), streams, tensors]
    return torch.tensor(found, dtype=torch.int64, device=device)


def with_groups(state_dict: StateDict, parts: Parts) -> StateDict:
    """`state_dict` with what is ours in its groups, if a flat one has lost it there.

    Raises
    ------
    ValueError
        If a StreamingOptimizer or another rule made it.
    """
    groups = state_dict["param_groups"]
    names = {key for saved in groups for key in saved if key.startswith(PREFIX)}
    if names - {ALPHA, PERIOD}:
        return state_dict
    states = {i: _present(entries) for i, entries in state_dict["state"].items()}
    read = {i: _read(entries) for i, entries in states.items()}
    found = {i: own for i, own in read.items() if own}
    if not found:
        return {**state_dict, "state": states}
    filled = []
    for saved, group in zip(groups, parts.inner.param_groups, strict=True):
        first = next((i for i in saved["params"] if i in found), next(iter(found)))
        ours = _of_group(found[first], group, parts)
        pairs = zip(saved["params"], group["params"], strict=True)
        entries = [_of_parameter(i, leaf, states, found) for i, leaf in pairs]
        filled.append({**saved, **prefixed({**ours, "entries": entries})})
    return {**state_dict, "state": states, "param_groups": filled}


def _present(entries: StateDict) -> StateDict:
    """`entries` without what torch puts for those that were not saved: empty dicts."""
    left = {key: v for key, v in entries.items() if v != {} or not str(key).startswith(PREFIX)}
    return left if any(isinstance(v, Tensor) or v != {} for v in left.values()) else {}


def _of_parameter(i: Any, leaf: Tensor, states: StateDict, found: StateDict) -> int | str:
    """What there was of a parameter: so many tensors, or nothing because it was never stepped."""
    if i in found:
        return int(found[i]["tensors"])
    return AS_NEW if leaf.requires_grad and not states.get(i) else 0


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
    saved = {name: read[name] for name in NAMES}
    alpha = read["alpha"]
    own |= {} if alpha is None or not isinstance(own.get("alpha"), float) else {"alpha": alpha}
    return {**own, **saved, "work": read["work"] or 0.0}


def _read(entries: StateDict) -> StateDict:
    """The numbers of a parameter by name; nothing if there are none, or none of ours."""
    value = entries.get(f"{PREFIX}{NUMBERS}")
    names = (*NAMES, *FLOATS, "fingerprint", "streams", "tensors")
    if not isinstance(value, Tensor) or (value.dtype, value.shape) != (torch.int64, (len(names),)):
        return {}
    read = dict(zip(names, value.tolist(), strict=True))
    for name in FLOATS:
        number = struct.unpack("<d", struct.pack("<q", read[name]))[0]
        read[name] = None if read[name] == NONE else number
    return read


def _bits(value: Any) -> int:
    number: int = (
        struct.unpack("<q", struct.pack("<d", value))[0] if isinstance(value, int | float) else NONE
    )
    return number


def _fingerprint(ours: StateDict) -> int:
    """Of the settings that a run cannot change: another rule has another one."""
    fixed = ("outer", "inner_state", "restart", "restart_period", "start")
    return crc32(repr([ours.get(name) for name in fixed]).encode())
