"""What an outer rule keeps, on trees: its slots.

A slot is a tree like the parameters, so that whatever optax and JAX do with those (masks, shards,
`tree_map_params`) they do with it. How the weights move is the core's, and not here.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule
from lookahead_core.leaves import averaged, chosen, merged
from lookahead_core.typing import Leaves, Slots

from ._trees import arrays, like

__all__ = ["flat", "number_of_slots", "slots", "slots_like"]


def slots(new: Slots, slow: optax.Params) -> tuple[optax.Params, ...]:
    """What an outer rule keeps of the weights `slow`: MaskedNode where nothing is averaged."""
    leaves = arrays(slow)
    which = averaged(leaves)
    others = [optax.MaskedNode()] * len(leaves)

    def placed(slot: Leaves) -> optax.Params:
        pairs = zip(slot, chosen(leaves, which), strict=True)
        return like(slow, merged([_sharded_like(*pair) for pair in pairs], others, which))

    return tuple(map(placed, new))


def _sharded_like(new: Any, leaf: jax.Array) -> jax.Array:
    # Zeros depend on no array, so jit would not know their sharding (jax#16080). XLA drops a select
    # that is always the same.
    new = jnp.asarray(new)
    leaf = leaf if jnp.iscomplexobj(new) else leaf.real
    return jnp.where(True, new, leaf.astype(new.dtype)) if new.shape == leaf.shape else new


def flat(outer: Sequence[optax.Params]) -> Slots:
    """Slots as the core takes them: the arrays of the parameters that are averaged."""
    return tuple(map(arrays, outer))


def slots_like(outer: tuple[optax.Params, ...], new: Slots) -> tuple[optax.Params, ...]:
    """`new` in the place of the slots `outer`, in their dtypes; ValueError if it does not fit."""
    ours, theirs = _shapes(flat(outer)), _shapes(new)
    if ours != theirs:
        raise ValueError(
            "outer.update must return slots with the shapes of those that it was given, "
            f"{ours}, got {theirs}"
        )
    return tuple(_cast(*pair) for pair in zip(outer, new, strict=True))


def _cast(old: optax.Params, slot: Leaves) -> optax.Params:
    pairs = zip(slot, jax.tree.leaves(old), strict=True)
    return like(old, [jnp.asarray(leaf, kept.dtype) for leaf, kept in pairs])


def _shapes(outer: Slots) -> list[list[tuple[int, ...]]]:
    return [list(map(jnp.shape, slot)) for slot in outer]


def number_of_slots(rule: SyncRule) -> int:
    """How many slots the outer rule keeps."""
    return len(rule.outer.init(()))
