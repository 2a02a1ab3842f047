"""Argument checks of the optax adapter: shapes and structures are static, so jit pays nothing."""

from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule
from lookahead_core.leaves import is_averaged
from lookahead_core.workers import Average, check_alike

from ._slots import number_of_slots
from ._state import LookaheadState, is_parked, name_of, ours_in, refuse_parked, state_kind
from ._trees import by_path, described, shapes

__all__ = [
    "check_arguments",
    "check_arrays",
    "check_settings",
    "check_state",
    "check_tree",
    "transformation",
]


def transformation(name: str, value: Any) -> optax.GradientTransformationExtraArgs:
    """`value` as a transformation that takes extra arguments, or ValueError."""
    if isinstance(value, optax.MultiSteps):
        # Its own gradient_transformation() would drop the extra arguments that its update takes.
        return optax.GradientTransformationExtraArgs(value.init, value.update)
    if not isinstance(value, optax.GradientTransformation):
        several = " (of several make one: optax.chain(*them))"
        way_out = several if isinstance(value, list | tuple) else ""
        raise ValueError(f"{name} must be an optax.GradientTransformation{way_out}, got {value!r}")
    return optax.with_extra_args_support(value)


def check_settings(rule: Any, slow_dtype: Any, reset_all: Any, average: Any) -> None:
    """Raise ValueError unless these can make an optimizer."""
    if not isinstance(rule, SyncRule):
        raise ValueError(f"rule must be a SyncRule, got {rule!r}")
    rule.check_counts()
    if slow_dtype is not None and not _is_floating(slow_dtype):
        raise ValueError(f"slow_dtype must be a floating dtype, got {slow_dtype!r}")
    if not isinstance(reset_all, bool) or (reset_all and rule.inner_state != "reset"):
        raise ValueError(
            "reset_all must be a bool, and True for inner_state='reset' alone, "
            f"got {reset_all!r} with {rule.inner_state!r}"
        )
    if not (average is None or callable(average)):
        raise ValueError(
            f"average must be a callable, (differences) -> mean differences, got {average!r}"
        )
    if average is not None:
        check_alike(rule)


def _is_floating(dtype: Any) -> bool:
    try:
        return is_averaged(jnp.dtype(dtype))
    except TypeError:
        return False


def check_arguments(updates: Any, state: Any, params: Any, sync: bool | None = None) -> None:
    """Raise ValueError unless `update` can take these; `sync` is its `lookahead_sync`."""
    if not (sync is None or isinstance(sync, bool)):
        raise ValueError(f"lookahead_sync must be True, False or None, got {sync!r}: use split()")
    if params is None:
        raise ValueError("params must be given: update(updates, state, params), got None")
    if not isinstance(state, LookaheadState):
        way_out = ""
        if ours_in(state):
            way_out = " with one inside: call the optimizer that made all of it, of the whole chain"
        raise ValueError(
            f"state must be the {name_of(LookaheadState)} that this optimizer's init or update "
            f"returned, got {name_of(type(state))}{way_out}"
        )
    if not jax.tree_util.all_leaves([state.step]):
        raise ValueError(
            "state must be one of arrays (of flax's nnx.Optimizer nnx.as_pure(optimizer.opt_state)"
            f"), got {name_of(type(state.step))} in it"
        )
    check_arrays("params", params)
    check_tree("updates", updates, "params", params)
    if sync is False and is_parked(state):
        return  # the step does not use them
    refuse_parked(state)
    check_tree("state.slow", state.slow, "params", params)


def check_state(rule: SyncRule, average: Average | None, state: LookaheadState) -> None:
    """Raise ValueError if `state` is that of a rule of another kind (clause C06)."""
    expected, got = state_kind(rule, average), type(state)
    if got is not expected:
        way_out = ""
        if rule.has_readout:
            way_out = "; of what an older version saved: type(optimizer.init(params))(*state)"
        raise ValueError(
            f"state must be a {expected.__name__}, as {rule.outer!r}, restart={rule.restart}, "
            f"restart_period={rule.restart_period} and average={average!r} make it, "
            f"got {got.__name__}{way_out}"
        )
    number = number_of_slots(rule)
    if not is_parked(state) and len(state.outer) != number:
        raise ValueError(
            f"state.outer must hold the {number} slots that {rule.outer!r} keeps, "
            f"got {len(state.outer)}"
        )


def check_arrays(name: str, tree: Any) -> None:
    """Raise ValueError unless all leaves of `tree` are arrays or numbers."""
    for path, leaf in by_path(tree).items():
        kind = getattr(getattr(leaf, "dtype", None), "kind", "")
        if kind in ("O", "S", "U") or not (hasattr(leaf, "dtype") or isinstance(leaf, Number)):
            raise ValueError(
                f"{name} must be a tree of arrays and numbers (of an equinox model "
                f"eqx.filter(model, eqx.is_inexact_array)), got {leaf!r} as {name}{path}"
            )


def check_tree(name: str, tree: Any, other_name: str, other: Any) -> None:
    """Raise ValueError unless `tree` has the structure and the shapes of `other`."""
    ours, theirs = shapes(tree), shapes(other)
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise ValueError(
                f"{name}{path} must be what {other_name}{path} is, {described(theirs.get(path))}, "
                f"got {described(ours.get(path))}"
            )
    got: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(other)
    if got != expected:
        raise ValueError(f"{name} must have the structure of {other_name}, {expected}, got {got}")
