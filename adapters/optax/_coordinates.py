"""The core's rule on updates or on weights, leaf by leaf: what goes in, and what comes out of it.

optax emits updates and does not write parameters. If each sync puts the parameters back onto the
slow weights, the rule runs on updates, else on weights. No question about time is answered here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lookahead_core import SyncRule
from lookahead_core.kernel import anchored
from lookahead_core.leaves import is_averaged

__all__ = ["OnUpdates", "OnWeights", "coordinates"]

Pair = tuple[jax.Array, jax.Array]
# Slow weights, the parameter before the step, and its update.
Leaf = tuple[jax.Array, jax.Array, jax.Array]


class OnUpdates(NamedTuple):
    """With p the parameters before the step, slow weights are `slow - p` and fast ones the update.

    Every outer rule commutes with translation (clause C21). After a sync the parameters *are* the
    slow weights, bit for bit, whatever later transforms do to the update.

    Attributes
    ----------
    unrounded : bool
        Whether what wider slow weights have beyond the parameters is part of the fast weights too.
    """

    unrounded: bool

    def enter(self, leaf: Leaf) -> Pair:
        """Slow and fast weights for the core, in the wider of the two dtypes."""
        slow, param, update = leaf
        if not _moves(param, update):
            # The inner transformation alone moves such a leaf. But the outer rule has a slot for
            # each parameter that is averaged, so it gets slow and fast weights that are the same.
            still = jnp.zeros_like(slow)
            return still, still
        dtype = jnp.result_type(slow, update)
        beyond = slow.astype(dtype) - param.astype(dtype)
        wide = self.unrounded and slow.dtype != param.dtype
        return beyond, update.astype(dtype) + beyond if wide else update

    def leave(self, back: Any, leaf: Leaf, moved: jax.Array, fast: jax.Array) -> Pair:
        """Slow weights to keep, and what to emit.

        The next cycle takes the slow weights from the parameters, so they are kept only where they
        have a wider dtype, whose bits the parameters would lose.
        """
        slow, param, update = leaf
        if not _moves(param, update):
            return slow, update
        if slow.dtype == param.dtype:
            return slow, fast
        kept = jnp.where(back, param + moved, slow)
        return kept, jnp.where(back, _way(param, kept.astype(param.dtype), update), update)


class OnWeights(NamedTuple):
    """Slow and fast weights as they are: the next cycle does not take them from the parameters.

    Attributes
    ----------
    lands : bool
        Whether the parameters of a sync that puts them back are to be the slow weights to the bit
        (clause C10). For many workers they are not: rounding differs from one to the next.
    """

    lands: bool

    def enter(self, leaf: Leaf) -> Pair:
        """Slow weights, and the fast ones as `optax.apply_updates` will make them."""
        slow, param, update = leaf
        return slow, jnp.asarray(param + update).astype(param.dtype)

    def leave(self, back: Any, leaf: Leaf, moved: jax.Array, fast: jax.Array) -> Pair:
        """Slow weights to keep, and what to emit: the update, unless the fast weights go back.

        `param + (fast - param)` is `fast` within rounding. If both are to be the same bits, the
        slow weights become what the parameters will be: but for those that are not finite, which
        no update brings back (clause C13).
        """
        slow, param, update = leaf
        if back is False or not _moves(param, update):
            return moved, update
        update = jnp.where(back, _way(param, fast, update), update)
        if not self.lands:
            return moved, update
        _, landed = self.enter((slow, param, update))
        return jnp.where(back & jnp.isfinite(landed), anchored(moved, landed), moved), update


def coordinates(rule: SyncRule, *, shared: bool) -> OnUpdates | OnWeights:
    """Those of `rule`; `shared` if many workers have the same slow weights.

    `params + updates` rounds, to other bits on each of them: slow weights that were taken from it
    would be another set on each (clause C81).
    """
    if rule.fast_carries_slow and not shared:
        return OnUpdates(rule.unrounded)
    return OnWeights(lands=rule.restart == 1 and not shared)


def _moves(param: jax.Array, update: jax.Array) -> bool:
    return is_averaged(param.dtype) and is_averaged(update.dtype)


def _way(param: jax.Array, goal: jax.Array, update: jax.Array) -> jax.Array:
    """The update that takes the parameter to `goal`."""
    dtype = jnp.result_type(param, update)
    return (goal.astype(dtype) - param.astype(dtype)).astype(update.dtype)
