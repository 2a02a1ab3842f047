"""What a state dict must be made of, asked before any of it is read: torch itself asks little."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core.validation import shown

from ._joint import each

__all__ = ["check_layout", "check_like", "number_in", "unchanged_if_refused"]


def check_layout(state_dict: Any, inner: Optimizer, name: str = "state_dict") -> None:
    """ValueError unless it has entries by parameter, and the groups of `inner`."""
    _check(isinstance(state_dict, dict), name, "a dict", state_dict)
    for key in ("state", "param_groups"):
        if key not in state_dict:
            found = shown(list(state_dict))
            raise ValueError(f"{name} must have the key {key!r}, got {found}")
    states, groups = state_dict["state"], state_dict["param_groups"]
    _check(isinstance(states, dict), f"{name}['state']", "a dict", states)
    _check(isinstance(groups, list | tuple), f"{name}['param_groups']", "a list", groups)
    for number, group in enumerate(groups):
        where = f"{name}['param_groups'][{number}]"
        _check(isinstance(group, dict), where, "a dict", group)
        _check("params" in group, where, "a dict with the key 'params'", group)
        _check_params(f"{where}['params']", group["params"])
    saved = [len(group["params"]) for group in groups]
    sizes = [len(group["params"]) for group in inner.param_groups]
    if saved != sizes:
        raise ValueError(
            f"{name}['param_groups'] must hold groups of {sizes} parameters, got {saved}"
        )
    numbers = [i for group in groups for i in group["params"]]
    known = set(numbers)
    if len(known) < len(numbers):
        raise ValueError(
            f"{name}['param_groups'] must hold each parameter once, got {shown(numbers)}"
        )
    for i, entries in states.items():
        if i in known:
            _check(isinstance(entries, dict), f"{name}['state'][{i!r}]", "a dict", entries)
        elif isinstance(i, int):  # what is no parameter's has a name
            raise ValueError(f"{name}['state'] must hold numbers of parameters, got {i!r}")


def _check_params(where: str, params: Any) -> None:
    numbered = isinstance(params, list | tuple) and all(isinstance(i, int | str) for i in params)
    _check(numbered, where, "a list of the numbers of parameters", params)


def _check(right: bool, where: str, expected: str, got: Any) -> None:
    if not right:
        raise ValueError(f"{where} must be {expected}, got {shown(got)}")


def number_in(value: Any) -> int | None:
    """The whole number that `value` is or holds, as torch's step counts do; None if it is none."""
    if type(value) is Tensor and value.dim() == 0 and not (value.is_complex() or value.is_meta):
        value = value.item()
    whole = isinstance(value, int | float) and abs(value) < 2**63 and value == int(value)
    return int(value) if whole else None


def check_like(i: Any, key: str, value: Any, like: Tensor) -> None:
    """ValueError unless an entry of the `i`-th parameter can be copied into a tensor like this."""
    tensor = isinstance(value, Tensor)
    if (
        tensor
        and value.shape == like.shape
        and value.layout == like.layout
        and torch.can_cast(value.dtype, like.dtype)
        and not (value.is_meta and not like.is_meta)
    ):
        return
    got = f"{tuple(value.shape)} {value.dtype} on {value.device}" if tensor else shown(value)
    raise ValueError(
        f"state_dict['state'][{i}][{key!r}] must be a Tensor of shape {tuple(like.shape)} that "
        f"can be cast to {like.dtype}, got {got}"
    )


@contextmanager
def unchanged_if_refused(inner: Optimizer, ours: Any) -> Iterator[None]:
    """Put `inner` and the attributes of `ours` back, if they cannot be loaded whole (clause C06).

    Raises
    ------
    ValueError
        For whatever the inner optimizer raises: torch's Adam has a KeyError for a state without
        `step`, after it has taken moments and settings.
    """
    held = [(one, one.state, one.param_groups) for one in each(inner)]
    states = [{leaf: dict(entries) for leaf, entries in state.items()} for _, state, _ in held]
    groups = [[dict(group) for group in own] for _, _, own in held]
    attributes = dict(vars(ours))
    try:
        yield
    except BaseException as error:
        for (one, state, own), entries, before in zip(held, states, groups, strict=True):
            one.state, one.param_groups = state, own
            state.clear()
            state.update(entries)
            for group, settings in zip(own, before, strict=True):
                group.clear()
                group.update(settings)
        vars(ours).update(attributes)
        if isinstance(error, Exception):
            raise ValueError(
                f"{type(inner).__name__} cannot load its part of state_dict ({error!r}); nothing "
                "is changed"
            ) from error
        raise
