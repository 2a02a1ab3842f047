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
from lookahead_core.outer import OuterRule
from lookahead_core.typing import Leaves, Slots
from lookahead_core.workers import Average

from ._optax_state import LookaheadState, PersistentState, SharedState, is_parked

__all__ = ["check_state", "flat", "number_of_slots", "slots", "slots_like", "state_kind"]


def slots(outer: OuterRule, slow: optax.Params) -> tuple[optax.Params, ...]:
    """What `outer` keeps before the first sync: trees with MaskedNode where nothing is averaged."""
    leaves, tree = jax.tree.flatten(slow)
    which = averaged(leaves)
    others = [optax.MaskedNode()] * len(leaves)

    def placed(slot: Leaves) -> optax.Params:
        pairs = zip(slot, chosen(leaves, which), strict=True)
        return jax.tree.unflatten(tree, merged([_sharded_like(*p) for p in pairs], others, which))

    return tuple(map(placed, outer.init(chosen(leaves, which))))


def _sharded_like(new: Any, leaf: jax.Array) -> jax.Array:
    # Zeros depend on no array, so jit would not know their sharding (jax#16080). XLA drops a select
    # that is always the same.
    new = jnp.asarray(new)
    return jnp.where(True, new, leaf.astype(new.dtype)) if new.shape == leaf.shape else new


def flat(outer: Sequence[optax.Params]) -> Slots:
    """Slots as the core takes them: the arrays of the parameters that are averaged."""
    return tuple(list(map(jnp.asarray, jax.tree.leaves(slot))) for slot in outer)


def slots_like(outer: tuple[optax.Params, ...], new: Slots) -> tuple[optax.Params, ...]:
    """`new` in the place of the slots `outer`, in their dtypes; ValueError if it does not fit."""
    ours, theirs = _shapes(flat(outer)), _shapes(new)
    if ours != theirs:
        raise ValueError(
            "outer.update must return slots with the shapes of those that it was given, "
            f"{ours}, got {theirs}"
        )
    return tuple(
        jax.tree.unflatten(jax.tree.structure(old), [_cast(*pair) for pair in _pairs(old, slot)])
        for old, slot in zip(outer, new, strict=True)
    )


def _pairs(old: optax.Params, slot: Leaves) -> Any:
    return zip(slot, jax.tree.leaves(old), strict=True)


def _cast(new: Any, old: jax.Array) -> jax.Array:
    return jnp.asarray(new, old.dtype)


def _shapes(outer: Slots) -> list[list[tuple[int, ...]]]:
    return [list(map(jnp.shape, slot)) for slot in outer]


def number_of_slots(rule: SyncRule) -> int:
    """How many slots the outer rule keeps."""
    return len(rule.outer.init(()))


def state_kind(rule: SyncRule, average: Average | None) -> type[LookaheadState]:
    """The class of the state, which tells whether the parameters carry the slow weights."""
    if average is not None:
        return SharedState
    return LookaheadState if rule.fast_carries_slow else PersistentState


def check_state(rule: SyncRule, average: Average | None, state: LookaheadState) -> None:
    """ValueError if `state` is that of a rule of another kind (clause C06)."""
    expected = state_kind(rule, average)
    if type(state) is not expected:
        raise ValueError(
            f"state must be a {expected.__name__}, as restart={rule.restart}, restart_period="
            f"{rule.restart_period} and average={average!r} make it, got {type(state).__name__}"
        )
    number = number_of_slots(rule)
    if not is_parked(state) and len(state.outer) != number:
        raise ValueError(
            f"state.outer must hold the {number} slots that {type(rule.outer).__name__} keeps, "
            f"got {len(state.outer)}"
        )
