"""What the torch adapter accepts: each argument is checked before anything is changed."""

import os
import reprlib
from typing import Any
from warnings import warn

import torch
import torch.distributed as dist
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lookahead_core import SyncRule
from lookahead_core.validation import one_of

from ._buffers import AveragedBuffers
from ._evidence import check_evidence
from ._groups import Group, rule_of
from ._inner_state import DECLARED
from ._joint import each
from ._kernels import KERNELS
from ._leaves import Home
from ._parts import Parts

__all__ = ["check_group", "check_wrapped", "held_by", "parts_of", "warn_of_no_group"]


def parts_of(
    inner: Any,
    rule: Any,
    kernel: str,
    slow_dtype: Any,
    slow_device: Any,
    kinds: Any,
    buffers: Any,
    workers: Any,
) -> Parts:
    """The parts of an optimizer with these settings, or ValueError."""
    check_wrapped(inner, rule)
    one_of("kernel", kernel, tuple(KERNELS))
    home = Home(_floating(slow_dtype), _device(slow_device))
    kinds = dict(kinds or {})
    for key, kind in kinds.items():
        one_of(f"state_kinds[{key!r}]", kind, tuple(DECLARED))
    averaged = AveragedBuffers.of(buffers, rule, home)
    return Parts(inner, rule, kernel, home, kinds, workers, averaged, elapsed=-rule.start)


def check_wrapped(inner: Any, rule: Any) -> None:
    """ValueError unless `rule` can be put around `inner`."""
    if not isinstance(inner, Optimizer):
        # Not its repr as a whole: of a list of parameters that is every weight.
        raise ValueError(
            f"inner must be a torch.optim.Optimizer, got {reprlib.repr(inner)} (or a list of "
            "some; of parameters, make one first)"
        )
    if not isinstance(rule, SyncRule):
        raise ValueError(f"rule must be a SyncRule, got {rule!r}")
    for one in each(inner):
        _check_zero(one, rule)
        _check_around(one)
        _check_form(one)
        for group in one.param_groups:
            check_group(group, rule)
            check_evidence(rule_of(group, rule), one)


def check_group(group: Group, rule: SyncRule) -> None:
    """ValueError unless the settings of a parameter group are in range."""
    if group.get("differentiable"):
        raise ValueError(
            "differentiable must be False in the inner optimizer (a sync writes into the "
            "parameters in place, and no gradient flows through that), got True"
        )
    for number, leaf in enumerate(group["params"]):
        if is_lazy(leaf):
            raise ValueError(
                f"params[{number}] must have a shape, got an {type(leaf).__name__} of a lazy "
                "module: run one forward of the model first"
            )
    rule_of(group, rule)


def held_by(inner: Any) -> Any:
    """What a wrapper, such as accelerate's, is around; None for an optimizer that is none."""
    return getattr(inner, "optimizer", None)


def _check_around(inner: Optimizer) -> None:
    """ValueError where nobody can tell whether `inner` has stepped what it is around."""
    held = held_by(inner)
    if hasattr(held, "step") and not isinstance(held, Optimizer):
        raise ValueError(
            f"inner must not be around a {type(held).__name__}, whose steps nobody sees, got "
            f"{type(inner).__name__}: put that around and not inside, "
            "accelerator.prepare(Lookahead(inner))"
        )


def _check_form(inner: Optimizer) -> None:
    """ValueError where a checkpoint of `inner` has another form than torch's."""
    # Not of torch's own: hooks of the user's would see it.
    if type(inner).state_dict is Optimizer.state_dict:
        return
    try:
        saved = inner.state_dict()
    except RuntimeError:  # it is to be consolidated first
        return
    found = sorted(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
    if not isinstance(saved, dict) or not saved.keys() >= {"state", "param_groups"}:
        raise ValueError(
            "inner must have a state_dict() with 'state' and 'param_groups', as torch's have, or "
            f"no checkpoint can be made; that of {type(inner).__name__} is {found}"
        )


def warn_of_no_group() -> None:
    """Warn under torchrun: `dist.group.WORLD` is None before there is a group, and passes for none.

    Some run many programs of one process so: it is no error.
    """
    size = os.environ.get("WORLD_SIZE", "")
    if size.isdigit() and int(size) > 1 and not (dist.is_available() and dist.is_initialized()):
        warn(
            f"WORLD_SIZE is {size} and process_group is None, so every worker trains by itself. "
            "If they are to sync together, call torch.distributed.init_process_group() before "
            "this: dist.group.WORLD is None until then",
            stacklevel=3,
        )


def _check_zero(inner: Optimizer, rule: SyncRule) -> None:
    """ValueError where ZeroRedundancyOptimizer, which hides its state, is asked for that."""
    # By name: to import it takes half a second.
    if all(base.__name__ != "ZeroRedundancyOptimizer" for base in type(inner).__mro__):
        return
    if rule.inner_state != "maintain" or rule.needs_curvature:
        policy = f"inner_state={rule.inner_state!r}"
        wanted = "AdaptiveAlpha(curvature='inner')" if rule.needs_curvature else policy
        raise ValueError(
            f"inner must not be a ZeroRedundancyOptimizer with {wanted}: its state is not to be "
            "had; use inner_state='maintain', or shard by torch's fully_shard instead"
        )
    if getattr(inner, "_overlap_with_ddp", False):
        raise ValueError(
            "overlap_with_ddp must be False in a ZeroRedundancyOptimizer that is the inner "
            "optimizer: its weights move before step(), got True"
        )


def _floating(dtype: Any) -> torch.dtype | None:
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise ValueError(f"slow_dtype must be a floating torch.dtype, got {dtype!r}")


def _device(device: Any) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"slow_device must be a torch.device or its name, got {device!r}"
        ) from error
