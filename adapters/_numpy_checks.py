"""Argument checks of the array loop: trees of arrays, gradients, saved states.

All raise ValueError with the path of the leaf, before anything is changed.
"""

from collections.abc import Mapping
from typing import Any

import optree

from lookahead_core.leaves import is_averaged
from lookahead_core.namespace import is_array, is_writeable
from lookahead_core.typing import Array

__all__ = ["check_state", "checked_gradients", "checked_names", "names_once"]

Tree = Any
StateDict = dict[str, Any]


def checked_names(params: Tree) -> list[str]:
    """Name of each leaf, its path with slashes; ValueError unless all are writeable arrays."""
    paths, leaves, spec = optree.tree_flatten_with_path(params)
    for accessor, leaf in zip(spec.accessors(), leaves, strict=True):
        if not is_array(leaf) or not is_writeable(leaf):
            raise ValueError(f"{accessor.codify('params')} must be a writeable array, got {leaf!r}")
    if not leaves:
        raise ValueError(f"params must hold at least one array, got {params!r}")
    names = ["/".join(map(str, path)) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"params must give each leaf a name of its own, got {names}")
    return names


def names_once(params: Tree, names: list[str]) -> list[str]:
    """The name under which each array is first listed."""
    first: dict[int, str] = {}
    for name, leaf in zip(names, optree.tree_leaves(params), strict=True):
        first.setdefault(id(leaf), name)
    return list(first.values())


def checked_gradients(grads: Tree, params: Tree) -> list[Array | None]:
    """Leaves of `grads` in the order of `params`; ValueError if they do not match."""
    spec = optree.tree_structure(params)
    try:
        gradients = spec.flatten_up_to(grads)
    except ValueError as error:
        raise ValueError(f"grads must have the structure of params: {error}") from error
    if all(gradient is None for gradient in gradients):
        raise ValueError("grads must hold a gradient for at least one leaf, got None for all")
    for accessor, gradient in zip(spec.accessors(), gradients, strict=True):
        leaf = accessor(params)
        if gradient is None:
            continue
        if not is_array(gradient) or gradient.shape != leaf.shape:
            got = tuple(gradient.shape) if is_array(gradient) else repr(gradient)
            raise ValueError(
                f"{accessor.codify('grads')} must be an array of the shape of "
                f"{accessor.codify('params')}, {tuple(leaf.shape)}, or None, got {got}"
            )
        if not is_averaged(leaf.dtype):
            raise ValueError(
                f"{accessor.codify('grads')} must be None: {accessor.codify('params')} is "
                f"{leaf.dtype}, which has no gradient"
            )
    return list(gradients)


def check_state(state_dict: StateDict, arrays: Mapping[str, Array], numbers: set[str]) -> None:
    """Raise ValueError unless `state_dict` has these names, with the shapes and dtypes."""
    expected = {*arrays, *numbers}
    if expected != set(state_dict):
        missing, unknown = expected - set(state_dict), set(state_dict) - expected
        raise ValueError(
            f"state_dict must have the entries of this optimizer; missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}"
        )
    for name, leaf in arrays.items():
        saved = state_dict[name]
        if not is_array(saved) or saved.shape != leaf.shape or saved.dtype != leaf.dtype:
            got = f"{tuple(saved.shape)} {saved.dtype}" if is_array(saved) else repr(saved)
            raise ValueError(
                f"state_dict[{name!r}] must have shape and dtype {tuple(leaf.shape)} "
                f"{leaf.dtype}, got {got}"
            )
