"""Which tensors of a torch optimizer's state a policy acts on. What it does to them is the core's.

torch has no list of them, so this one is by name. A key that is not on it is an error, never a
silent no-op: peers know `momentum_buffer` alone, and do nothing for Adam.
"""

from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["PARAMETER_SHAPED", "InnerName", "inner_leaves"]

# Of the parameter's shape, and zero at the start.
PARAMETER_SHAPED = frozenset(
    {
        "momentum_buffer",  # SGD, RMSprop, Muon
        "exp_avg",  # Adam, AdamW, RAdam, Adamax
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",  # Adamax
        "square_avg",  # RMSprop, Adadelta
        "grad_avg",
        "acc_delta",  # Adadelta
    }
)
# Steps behind the bias correction. They restart with the moments, and are never blended: torch
# keeps them as floating tensors, so the core cannot tell by dtype.
STEP_COUNTS = frozenset({"step"})

InnerName: TypeAlias = tuple[Tensor, str]


def inner_leaves(
    inner: Optimizer, parameters: Iterable[Tensor], policy: str
) -> dict[InnerName, Tensor]:
    """Live state tensors that `policy` acts on, by parameter and key.

    Raises
    ------
    ValueError
        If the state holds something that this module does not know, under a policy that would
        have to act on it.
    """
    if policy == "maintain":
        return {}
    acts_on = PARAMETER_SHAPED | STEP_COUNTS if policy == "reset" else PARAMETER_SHAPED
    leaves = {}
    for parameter in parameters:
        for key, value in inner.state.get(parameter, {}).items():
            if value is None:  # SGD's momentum_buffer before the first gradient
                continue
            if key not in PARAMETER_SHAPED | STEP_COUNTS or not isinstance(value, Tensor):
                raise ValueError(
                    f"inner_state={policy!r} does not know the state {key!r} of "
                    f"{type(inner).__name__}; it knows "
                    f"{', '.join(sorted(PARAMETER_SHAPED | STEP_COUNTS))}. "
                    "Use inner_state='maintain'"
                )
            if key in acts_on:
                leaves[parameter, key] = value
    return leaves
