"""The part of an inner state that a policy acts on. Static: no array is looked at.

`interpolate` acts on what has the shape of the parameters; `reset` on the whole of each state that
holds such a thing: Adam's count goes with its moments, a schedule's count alone goes on.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import optax

from ._trees import arrays

__all__ = ["acted_on", "picked", "restored"]

_PARAMETERS = object()  # stands for a whole parameter-shaped subtree


def acted_on(
    inner: optax.GradientTransformation, state: optax.OptState, policy: str, everything: bool
) -> list[bool]:
    """For each leaf of `state`, whether `policy` acts on it."""
    if policy == "maintain" or everything:
        return [everything] * len(jax.tree.leaves(state))
    marked = _marked(inner, state, policy)
    return _restarts(marked, state, False) if policy == "reset" else _moments(marked, state)


def _marked(
    inner: optax.GradientTransformation, state: optax.OptState, policy: str
) -> optax.OptState:
    """`state` with `_PARAMETERS` in the place of everything that has the parameters' shape."""
    try:
        return optax.tree_utils.tree_map_params(
            inner, lambda _: _PARAMETERS, state, is_leaf=lambda _: True
        )
    except Exception as error:  # whatever `inner.init` raises when it is given no arrays
        raise ValueError(
            "inner_state must be 'maintain', or 'reset' with reset_all=True, around an inner "
            f"transformation whose init does not map over trees of parameters, got {policy!r} "
            f"around one with the state {', '.join(_names(state)) or repr(state)}: "
            "optax.tree_utils.tree_map_params cannot tell what of it is parameter-shaped"
        ) from error


def _moments(marked: Any, state: Any) -> list[bool]:
    labels = jax.tree.map(
        lambda mark, node: jax.tree.map(lambda _: mark is _PARAMETERS, node),
        marked,
        state,
        is_leaf=lambda mark: mark is _PARAMETERS,
    )
    return jax.tree.leaves(labels)


def _restarts(marked: Any, state: Any, restart: bool) -> list[bool]:
    """Labels of the leaves of `state`; `restart` is that of the container that it lies in.

    A state restarts, its counts included, if it holds parameter-shaped leaves itself, in a field or
    in a container of one. A state inside of it is another: MultiSteps around a schedule.
    """
    holds = any(part is _PARAMETERS for part in _own(marked))
    restart = holds or (restart and not _is_state(state))
    parts = [] if marked is _PARAMETERS else _children(state)
    if not parts:
        return [restart or marked is _PARAMETERS] * len(jax.tree.leaves(state))
    pairs = zip(_children(marked), parts, strict=True)
    return [label for mark, part in pairs for label in _restarts(mark, part, restart)]


def _own(marked: Any) -> Iterator[Any]:
    """What a state holds itself: its fields and what is in their containers, not inner states."""
    for part in _children(marked):
        yield part
        if not _is_state(part):
            yield from _own(part)


def _is_state(node: Any) -> bool:
    """Whether `node` is somebody's class (a NamedTuple, a dataclass) and no plain container."""
    plain = isinstance(node, list | dict) or (
        isinstance(node, tuple) and not hasattr(node, "_fields")
    )
    return bool(_children(node)) and not plain


def _names(node: Any) -> list[str]:
    """Classes of the states in a tree."""
    own = [type(node).__name__] if _is_state(node) else []
    return own + [name for part in _children(node) for name in _names(part)]


def _children(node: Any) -> list[Any]:
    """The parts of a node of a tree, one level down; none of a leaf."""
    parts = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
    return [] if any(part is node for part in parts) else parts


def picked(state: optax.OptState, acts_on: list[bool]) -> list[jax.Array]:
    """Leaves of `state` that a policy acts on."""
    return [leaf for leaf, acted in zip(arrays(state), acts_on, strict=True) if acted]


def restored(
    state: optax.OptState, acts_on: list[bool], leaves: Iterable[jax.Array]
) -> optax.OptState:
    """`state` with `leaves` in the places that `acts_on` marks."""
    old, tree = jax.tree.flatten(state)
    new = iter(leaves)
    return jax.tree.unflatten(
        tree, [next(new) if acted else leaf for leaf, acted in zip(old, acts_on, strict=True)]
    )
