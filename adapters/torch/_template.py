"""The step that torch.distributed.checkpoint takes to learn what an optimizer's state looks like.

Where `state` is empty, `get/set_optimizer_state_dict` calls `step(closure=None)` with gradients and
learning rates of zero, also in mid-training around a stateless SGD, and before the first step of
any other (pytorch#164929). Here that step makes the state and nothing else: no weight moves, no
counter counts, and the state that it made is dropped before the first real step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._groups import Group, leaves_of
from ._leaves import assign
from ._parts import Parts

__all__ = ["drop", "is_asked_for", "make", "restore_groups"]


def is_asked_for(inner: Optimizer, closure: Any) -> bool:
    """Whether this step is such a one: no state yet, and nothing in it that could move a weight."""
    if inner.state or closure is not None:
        return False
    for group in inner.param_groups:
        lr = group.get("lr", 0.0)
        # A rate on a GPU is the user's: theirs is made on the CPU, and reading one would wait.
        on_host = isinstance(lr, Tensor) and lr.device.type == "cpu" and lr.dim() == 0
        # A third party's may be anything else (Adafactor of transformers has None).
        if not (on_host or isinstance(lr, int | float)) or lr != 0:
            return False
    gradients = [leaf.grad for leaf in leaves_of(inner.param_groups) if leaf.grad is not None]
    # Asked of arrays only in a step with a learning rate of zero and without any state.
    return bool(gradients) and not any(map(_anywhere, gradients))


def _anywhere(gradient: Any) -> bool:
    """Whether it is not zero; of a DTensor, on any process: all have to take the same step."""
    if hasattr(gradient, "full_tensor"):  # torch 2.13 asks the shard alone for `any`
        return bool(gradient.abs().sum().full_tensor())
    return bool(gradient.any())


@torch.no_grad()
def make(parts: Parts) -> None:
    """Let the inner optimizer make its state, and put back everything else."""
    inner = parts.inner
    leaves = list(dict.fromkeys(leaves_of(inner.param_groups)))
    weights = [leaf.clone() for leaf in leaves]
    groups = [dict(group) for group in inner.param_groups]
    inner.step()
    assign(leaves, weights)
    restore_groups(inner.param_groups, groups)
    parts.unstepped = True


def drop(parts: Parts) -> None:
    """Forget a state that no real step has made: the first one makes its own."""
    if parts.unstepped:
        parts.inner.state.clear()
        for kept in parts.kept.values():
            kept.inner_slow.clear()
        parts.unstepped = False


def restore_groups(groups: Sequence[Group], saved: Sequence[Group]) -> None:
    """Put the entries of `saved` back, and take out what was not there: some count in them."""
    for group, old in zip(groups, saved, strict=True):
        for key in group.keys() - old.keys():
            del group[key]
        group.update(old)
