"""What an outer rule is told beside the weights: gradients, Adam's curvature, learning rates.

What a rule does with them is lookahead_core's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule

from ._groups import Group

__all__ = ["check_evidence", "evidence", "gradients", "owners"]

SECOND_MOMENTS = ("max_exp_avg_sq", "exp_avg_sq")  # amsgrad divides by the first


def evidence(
    rule: SyncRule, inner: Optimizer, groups: list[Group], members: list[Tensor]
) -> dict[str, Any]:
    """Gradients, curvature and learning rates of `members`, if `rule` asks for them."""
    given: dict[str, Any] = {}
    if rule.needs_inner_lr:
        owner = owners(groups)
        given["inner_lr"] = [owner[leaf]["lr"] for leaf in members]
    if rule.needs_gradient:
        given["gradient"] = gradients(groups, members)
    if rule.needs_curvature:
        owner = owners(groups)
        given["curvature"] = [curvature(inner, owner[leaf], leaf) for leaf in members]
    return given


def gradients(groups: list[Group], members: list[Tensor]) -> list[Tensor]:
    """Gradients of what is minimized; zeros where there is none."""
    owner = owners(groups)
    found = []
    for leaf in members:
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        found.append(-gradient if owner[leaf].get("maximize") else gradient)
    return found


def curvature(inner: Optimizer, group: Group, leaf: Tensor) -> Tensor:
    """Root of Adam's corrected second moment, without its eps; zeros for what never moved."""
    state = inner.state.get(leaf)
    if not state:
        return torch.zeros_like(leaf)
    for key in SECOND_MOMENTS:
        if key in state:
            # In float64, where float32 has 1 - 0.999 to four digits; and of a tensor the host
            # reads nothing.
            step = torch.as_tensor(state["step"], dtype=torch.float64)
            corrected: Tensor = state[key] / (1 - group["betas"][1] ** step)
            return corrected.sqrt()
    raise no_curvature(inner, ", ".join(map(str, state)))


def check_evidence(rule: SyncRule, inner: Optimizer) -> None:
    """ValueError where a rule asks for what `inner` cannot have."""
    if rule.needs_curvature and "betas" not in inner.defaults:
        raise no_curvature(inner, "no betas")
    if rule.needs_inner_lr and any("lr" not in group for group in inner.param_groups):
        raise ValueError(
            "inner must have an 'lr' in its parameter groups, because the weights of the rule go "
            f"by it (weight_lr_power=0 needs none), got {type(inner).__name__}"
        )


def no_curvature(inner: Optimizer, found: str) -> ValueError:
    return ValueError(
        "AdaptiveAlpha(curvature='inner') needs an inner optimizer that keeps exp_avg_sq, such as "
        f"Adam; got {type(inner).__name__} ({found})"
    )


def owners(groups: list[Group]) -> dict[Any, Group]:
    """The group of each parameter."""
    return {leaf: group for group in groups for leaf in group["params"]}
