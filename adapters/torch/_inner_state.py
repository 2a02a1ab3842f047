"""Which parts of a torch optimizer's state a policy acts on, and where each of them starts.

torch has no list of them, so this one is by name. What is not on it is an error, never a silent
no-op: peers know `momentum_buffer` alone, and do nothing for Adam. What a policy does with them is
the core's.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._groups import Group
from ._joint import owner

__all__ = [
    "DECLARED",
    "InnerName",
    "Kind",
    "check_known",
    "initial",
    "inner_leaves",
    "known_kinds",
    "plain_entries",
]

InnerName: TypeAlias = tuple[Tensor, str]
Declared: TypeAlias = Mapping[str, str]


class Kind(NamedTuple):
    """What one key of the inner state is.

    Attributes
    ----------
    blended : bool
        Whether `interpolate` blends it. A count is kept: blended, it would correct wrongly.
    initial : callable, (group) -> number or 0-d Tensor
        Its value before the first step, from the hyperparameters of its group.
    kept : bool
        Whether every policy leaves it alone.
    """

    blended: bool
    initial: Callable[[Group], Any]
    kept: bool = False


MOMENT = Kind(True, lambda group: 0.0)
COUNT = Kind(False, lambda group: 0.0)
PRODUCT = Kind(False, lambda group: 1.0)
# What users may declare (`state_kinds`), in words.
DECLARED = {"moment": MOMENT, "count": COUNT, "keep": Kind(False, lambda group: 0.0, kept=True)}

# The same in all optimizers of torch, and usual elsewhere.
COMMON = {
    "momentum_buffer": MOMENT,  # SGD, RMSprop, Muon
    "exp_avg": MOMENT,  # Adam and its relatives
    "exp_avg_sq": MOMENT,
    "max_exp_avg_sq": MOMENT,
    "exp_inf": MOMENT,  # Adamax
    "square_avg": MOMENT,  # RMSprop, Adadelta
    "grad_avg": MOMENT,
    "acc_delta": MOMENT,  # Adadelta
    "step": COUNT,  # behind the bias correction: it restarts with the moments
}
# Names that mean this in one class alone.
OWN: dict[str, dict[str, Kind]] = {
    "Adagrad": {"sum": Kind(True, lambda group: group["initial_accumulator_value"])},
    # Factored second moments: not of the parameter's shape.
    "Adafactor": {"row_var": MOMENT, "col_var": MOMENT, "variance": MOMENT},
    "ASGD": {"ax": MOMENT, "eta": Kind(False, lambda group: group["lr"]), "mu": PRODUCT},
    "NAdam": {"mu_product": PRODUCT},
    "Rprop": {"prev": MOMENT, "step_size": Kind(True, lambda group: group["lr"])},
}


def inner_leaves(
    inner: Optimizer, groups: list[Group], members: Container[Tensor], policy: str, kinds: Declared
) -> dict[InnerName, tuple[Tensor, Kind]]:
    """Live tensors of the state of `members` that `policy` acts on, by parameter and key.

    Raises
    ------
    ValueError
        If the state holds something that nobody has declared, under a policy that would have to
        act on it.
    """
    if policy == "maintain":
        return {}
    return {
        (leaf, key): (value, kind)
        for _, leaf, key, value, kind in known_entries(inner, groups, members, policy, kinds)
        if isinstance(value, Tensor) and (kind.blended or policy == "reset")
    }


def plain_entries(
    inner: Optimizer, groups: list[Group], members: Container[Tensor], kinds: Declared
) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """What a reset must set and the core cannot, since it is no array: (where, key, value)."""
    for group, leaf, key, value, kind in known_entries(inner, groups, members, "reset", kinds):
        if not isinstance(value, Tensor):  # SparseAdam's step
            yield inner.state[leaf], key, type(value)(kind.initial(group))
        elif key == "momentum_buffer" and group.get("dampening"):
            # SGD does not dampen the first gradient, and sees by None that it is the first.
            yield inner.state[leaf], key, None
    for group in groups:
        if isinstance(group.get("step"), int):  # pytorch-optimizer and others count here
            yield group, "step", 0


def initial(value: Tensor, kind: Kind, group: Group) -> Tensor:
    """What `value` was before the first step: one number, expanded, so that it takes no room."""
    if type(value) is not Tensor:  # DTensor does not mix with plain ones
        return torch.full_like(value, float(kind.initial(group)))
    start, dtype = kind.initial(group), value.real.dtype
    if isinstance(start, Tensor):  # a learning rate may be one
        start = start.to(value.device, dtype)
    else:
        start = torch.full((), start, dtype=dtype, device=value.device)
    if value.is_complex():
        start = torch.complex(start, start)  # as in Adagrad and Rprop
    return start.expand(value.shape)


def known_entries(
    inner: Optimizer, groups: list[Group], members: Container[Tensor], policy: str, kinds: Declared
) -> Iterator[tuple[Group, Tensor, str, Any, Kind]]:
    """Entries that are not nothing and not to be kept, or ValueError for an unknown one."""
    for group in groups:
        one = owner(inner, group)
        known = known_kinds(one, kinds)
        for leaf in group["params"]:
            # Not inner.state[leaf]: a defaultdict would make an entry.
            entries = inner.state.get(leaf, {}) if leaf in members else {}
            check_known(one, entries, policy, known)
            for key, value in entries.items():
                if value is not None and not known[key].kept:
                    yield group, leaf, key, value, known[key]


def check_known(
    inner: Optimizer, entries: Mapping[str, Any], policy: str, known: Mapping[str, Kind]
) -> None:
    """ValueError if one of the entries is none that `policy`, which acts on all, can act on."""
    for key, value in entries.items():
        kind, number = known.get(key), isinstance(value, int | float)
        acted_on = kind and (isinstance(value, Tensor) or (number and not kind.blended))
        if value is not None and not acted_on:  # SGD's momentum_buffer is None at first
            raise ValueError(
                f"inner_state={policy!r} does not know the state {key!r} of "
                f"{type(inner).__name__}; it knows {', '.join(sorted(known))}. Declare it, "
                f"state_kinds={{{key!r}: 'moment'}} (or 'count', or 'keep'), or use "
                "inner_state='maintain'"
            )


def known_kinds(inner: Optimizer, kinds: Declared) -> dict[str, Kind]:
    """The kind of each key of the state of this optimizer that somebody knows."""
    own: dict[str, Kind] = {}
    for base in type(inner).__mro__:
        if base.__module__.startswith("torch.optim"):
            own |= OWN.get(base.__name__, {})
    return {**COMMON, **own, **{key: DECLARED[kind] for key, kind in kinds.items()}}
