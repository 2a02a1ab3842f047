"""Trees of arrays, as the array loop sees them: names, distinct arrays, new values in their places.

Arrays that can be written to keep their identity; the others are replaced, and the tree with them.
All checks raise ValueError with the path of the leaf, before anything is changed.
"""

from collections.abc import Iterable
from operator import is_
from typing import Any

import numpy as np
import optree

from lookahead_core.leaves import is_averaged
from lookahead_core.namespace import is_array, is_writeable, namespace
from lookahead_core.typing import Array

__all__ = ["Layout", "StateDict", "Tree", "checked_gradients", "written"]

Tree = Any
StateDict = dict[str, Any]


class Layout:
    """Which arrays a tree holds: the name of each, and the listings that are one array.

    Parameters
    ----------
    params : tree of arrays

    Attributes
    ----------
    names : list of str
        Of each distinct array: the path of its first listing, with slashes.
    """

    def __init__(self, params: Tree) -> None:
        paths, leaves, spec = optree.tree_flatten_with_path(params)
        for accessor, leaf in zip(spec.accessors(), leaves, strict=True):
            if not is_array(leaf):
                raise ValueError(f"{accessor.codify('params')} must be an array, got {leaf!r}")
        if not leaves:
            raise ValueError(f"params must hold at least one array, got {params!r}")
        names = ["/".join(map(str, path)) for path in paths]
        if len(set(names)) < len(names):
            raise ValueError(f"params must give each leaf a name of its own, got {names}")
        slot_of: dict[int, int] = {}
        self._slots = [slot_of.setdefault(id(leaf), len(slot_of)) for leaf in leaves]
        self._first = [self._slots.index(slot) for slot in range(len(slot_of))]
        self.names = [names[listing] for listing in self._first]
        _check_apart(self.names, self.distinct(params))

    def distinct(self, params: Tree) -> list[Array]:
        """Each array once: a tied one moves once (clause C31)."""
        leaves = optree.tree_leaves(params)
        if len(leaves) != len(self._slots):
            raise ValueError(
                f"params must keep their {len(self._slots)} leaves, got {len(leaves)} now"
            )
        arrays = [leaves[listing] for listing in self._first]
        if len(set(map(id, arrays))) < len(arrays):
            raise ValueError("params must stay as many arrays as they were, got one listed twice")
        if len(arrays) == len(leaves):
            return arrays
        for leaf, slot in zip(leaves, self._slots, strict=True):
            if leaf is not arrays[slot]:
                name = self.names[slot]
                raise ValueError(f"params[{name!r}] was tied, and its listings are two arrays now")
        return arrays

    def summed(self, gradients: Iterable[Array | None]) -> list[Array | None]:
        """The gradient of each distinct array: the sum over its listings, None if it has none."""
        sums: list[Array | None] = [None] * len(self.names)
        for slot, gradient in zip(self._slots, gradients, strict=True):
            before = sums[slot]
            if gradient is not None:
                sums[slot] = gradient if before is None else before + gradient
        return sums

    def rebuilt(self, params: Tree, arrays: list[Array]) -> Tree:
        """`params` itself if `arrays` are its own, else a new tree that holds them."""
        leaves = optree.tree_leaves(params)
        if all(map(is_, arrays, [leaves[listing] for listing in self._first])):
            return params
        return self.copied(params, arrays)

    def copied(self, params: Tree, arrays: list[Array]) -> Tree:
        """A new tree like `params` that holds `arrays`."""
        return optree.tree_unflatten(
            optree.tree_structure(params), [arrays[slot] for slot in self._slots]
        )


def written(target: Array, value: Array) -> Array:
    """`value` in the place of `target`: in its buffer if that can be written to, else a new array.

    Shape, dtype and device are those of `target`.
    """
    if value is target:
        return target
    if is_writeable(target):
        target[...] = value
        return target
    xp = namespace(target)
    new = xp.asarray(xp.astype(value, target.dtype, copy=False))  # 0-d NumPy results are no arrays
    if isinstance(new, np.ndarray):
        # Whoever made the array read-only relies on it: it is followed by read-only ones.
        new = new.view()
        new.flags.writeable = False
    return new


def checked_gradients(grads: Tree, params: Tree) -> list[Array | None]:
    """Leaves of `grads` in the order of `params`; ValueError if they do not match."""
    leaves, spec = optree.tree_flatten(params)
    try:
        gradients = spec.flatten_up_to(grads)
    except ValueError as error:
        raise ValueError(f"grads must have the structure of params: {error}") from error
    if all(gradient is None for gradient in gradients):
        raise ValueError("grads must hold a gradient for at least one leaf, got None for all")
    for index, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        if gradient is not None and (wrong := _mismatch(leaf, gradient)):
            # The paths only now: they take longer than all the checks.
            accessor, (must, because) = spec.accessors()[index], wrong
            grad, param = accessor.codify("grads"), accessor.codify("params")
            raise ValueError(f"{grad} must be {must.replace('PARAM', param)}{because}")
    return list(gradients)


def _mismatch(leaf: Array, gradient: Array) -> tuple[str, str] | None:
    """What `gradient` must be for the leaf PARAM, and what it is; None if it is so."""
    if not is_array(gradient) or gradient.shape != leaf.shape:
        got = tuple(gradient.shape) if is_array(gradient) else repr(gradient)
        return f"an array of the shape of PARAM, {tuple(leaf.shape)}, or None", f", got {got}"
    if not is_averaged(leaf.dtype):
        return "None: PARAM", f" is {leaf.dtype}, which has no gradient"
    if "complex" in str(gradient.dtype) and "complex" not in str(leaf.dtype):
        return "real as PARAM is", f", {leaf.dtype}, got {gradient.dtype}"
    return None


def _check_apart(names: list[str], arrays: list[Array]) -> None:
    """Refuse NumPy arrays that are views of one memory: a sync would pull that part twice."""
    spans = sorted(
        (*np.lib.array_utils.byte_bounds(leaf), index)
        for index, leaf in enumerate(arrays)
        if isinstance(leaf, np.ndarray) and leaf.size
    )
    open_until: list[tuple[int, int]] = []
    for low, high, index in spans:
        open_until = [(end, other) for end, other in open_until if end > low]
        for _, other in open_until:
            if np.shares_memory(arrays[other], arrays[index]):
                first, second = names[min(other, index)], names[max(other, index)]
                raise ValueError(
                    f"params must be arrays of their own, got params[{first!r}] and "
                    f"params[{second!r}], which share memory; list the same array twice to tie it"
                )
        open_until.append((high, index))
