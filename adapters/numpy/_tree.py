"""Trees of arrays: what each array is called, and how new values get into their places.

Arrays that can be written to stay the arrays that they are; the others are replaced, and the tree
with them. All checks raise ValueError with the path of the leaf, before anything is changed.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from operator import is_
from typing import Any

import numpy as np

try:
    import optree
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "lookahead_core.adapters.numpy needs the package optree, which reads trees of arrays: "
        "pip install optree"
    ) from error

from lookahead_core.leaves import copied, is_averaged, kind_of
from lookahead_core.namespace import is_array, is_writeable, namespace
from lookahead_core.typing import Array

__all__ = ["Layout", "StateDict", "Tree", "checked_gradients", "copies", "written"]

Tree = Any
StateDict = dict[str, Any]
PLAIN_KEYS = (str, bytes, int, float, type(None), Enum)


class Layout:
    """The arrays of a tree and their names. An array may have several places in it (tied weights).

    Parameters
    ----------
    params : tree of arrays

    Attributes
    ----------
    names : list of str
        Of each distinct array: the path of the place where it is listed first, with slashes.
    """

    def __init__(self, params: Tree) -> None:
        paths, leaves, spec = _flattened(params)
        for index, leaf in enumerate(leaves):
            if not is_array(leaf):
                path = spec.accessors()[index].codify("params")
                raise ValueError(f"{path} must be an array, got {leaf!r}")
        if not leaves:
            raise ValueError(f"params must hold at least one array, got {params!r}")
        _check_keys(paths)
        names = ["/".join(map(str, path)) for path in paths]
        if len(set(names)) < len(names):
            raise ValueError(f"params must give each leaf a name of its own, got {names}")
        # For each array its number and the place that it has first; for each place the number.
        found: dict[int, tuple[int, int]] = {}
        for place, leaf in enumerate(leaves):
            found.setdefault(id(leaf), (len(found), place))
        self._numbers = [found[id(leaf)][0] for leaf in leaves]
        self._first = [place for _, place in found.values()]
        self.names = [names[place] for place in self._first]
        _check_apart(self.names, self.distinct(params))

    def distinct(self, params: Tree) -> list[Array]:
        """Each array once: a tied one moves once (clause C31)."""
        leaves = optree.tree_leaves(params)
        if len(leaves) != len(self._numbers):
            raise ValueError(
                f"params must keep their {len(self._numbers)} leaves, got {len(leaves)} now"
            )
        arrays = [leaves[place] for place in self._first]
        if len(set(map(id, arrays))) < len(arrays):
            raise ValueError("params must stay as many arrays as they were, got one listed twice")
        if len(arrays) == len(leaves):
            return arrays
        for leaf, number in zip(leaves, self._numbers, strict=True):
            if leaf is not arrays[number]:
                name = self.names[number]
                raise ValueError(f"params[{name!r}] was tied, and its listings are two arrays now")
        return arrays

    def summed(self, gradients: Iterable[Array | None]) -> list[Array | None]:
        """The gradient of each distinct array: the sum over its places, None if it has none."""
        sums: list[Array | None] = [None] * len(self.names)
        for number, gradient in zip(self._numbers, gradients, strict=True):
            before = sums[number]
            if gradient is not None:
                sums[number] = gradient if before is None else before + gradient
        return sums

    def rebuilt(self, params: Tree, arrays: list[Array]) -> Tree:
        """`params` itself if `arrays` are its own, else a new tree that holds them."""
        leaves = optree.tree_leaves(params)
        if all(map(is_, arrays, [leaves[place] for place in self._first])):
            return params
        return self.copied(params, arrays)

    def copied(self, params: Tree, arrays: list[Array]) -> Tree:
        """A new tree like `params` that holds `arrays`."""
        return optree.tree_unflatten(
            optree.tree_structure(params), [arrays[number] for number in self._numbers]
        )


def copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """New arrays with the values of `arrays`, under the same names."""
    # `copied` asks for the namespace, which takes ten times as long as the copy of a small array.
    return {
        name: leaf.copy(order="K") if type(leaf) is np.ndarray else copied(leaf)
        for name, leaf in arrays.items()
    }


def written(target: Array, value: Array) -> Array:
    """`value` in the place of `target`: in its buffer if that can be written to, else a new array.

    Shape, dtype and device are those of `target`.
    """
    if value is target:
        return target
    # For a small array the question to the namespace would take longest.
    if target.flags.writeable if type(target) is np.ndarray else is_writeable(target):
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
        if gradient is not None and _mismatch(leaf, gradient):
            path = spec.accessors()[index]  # asked for here alone: it takes longer than all checks
            names = path.codify("grads"), path.codify("params")
            raise ValueError(_mismatch(leaf, gradient, *names))
    return list(gradients)


def _flattened(params: Tree) -> tuple[list[tuple[Any, ...]], list[Any], optree.PyTreeSpec]:
    """Paths, leaves and structure of `params`."""
    try:
        return optree.tree_flatten_with_path(params)
    except RecursionError as error:
        raise ValueError(
            f"params must be nested less than {optree.MAX_RECURSION_DEPTH} deep, got a deeper tree"
        ) from error


def _check_keys(paths: list[tuple[Any, ...]]) -> None:
    """Refuse keys that print as something else in the next run: a checkpoint has their texts."""
    kinds = {type(key) for path in paths for key in path}
    if all(issubclass(kind, PLAIN_KEYS) for kind in kinds):
        return
    for path in paths:
        for key in path:
            if not _is_plain(key):
                raise ValueError(
                    "params must have keys that are texts or numbers, or tuples of them: they name "
                    f"the leaves in a checkpoint; got the key {key!r}"
                )


def _is_plain(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_plain, key))
    return isinstance(key, PLAIN_KEYS)


def _mismatch(leaf: Array, gradient: Array, grad: str = "", param: str = "") -> str | None:
    """What is wrong with `gradient` for `leaf`, under the names of both; None if nothing is."""
    if not is_array(gradient) or gradient.shape != leaf.shape:
        got = tuple(gradient.shape) if is_array(gradient) else repr(gradient)
        shape = tuple(leaf.shape)
        return f"{grad} must be an array of the shape of {param}, {shape}, or None, got {got}"
    if not is_averaged(leaf.dtype):
        return f"{grad} must be None: {param} is {leaf.dtype}, which has no gradient"
    if kind_of(gradient.dtype) == "complex" and kind_of(leaf.dtype) != "complex":
        return f"{grad} must be real as {param} is, {leaf.dtype}, got {gradient.dtype}"
    return None


def _check_apart(names: list[str], arrays: list[Array]) -> None:
    """Refuse NumPy arrays that are views of one memory: a sync would pull that part twice."""
    # An array that owns its numbers shares them with views alone.
    if all(isinstance(leaf, np.ndarray) and leaf.flags.owndata for leaf in arrays):
        return
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
