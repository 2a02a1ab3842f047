"""The split form: the step that syncs and the one that does not as two functions.

For loops on the host, which know which step is the k-th: the program of the other steps selects
nothing, and costs what the inner transformation costs. The decision travels as an extra argument
of `update`, which optax hands on through `chain`, `masked`, `partition` and the like.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from ._checks import transformation
from ._state import find_state

__all__ = ["SplitTransformation", "split"]


class SplitTransformation(NamedTuple):
    """Two updates with one state, to be compiled apart; what `split` returns.

    Attributes
    ----------
    init : callable, (params) -> state
        Of the optimizer that was split.
    update : ``(updates, state, params, **extra_args) -> (updates, state)``
        A step without a sync; takes no anchor either.
    update_and_sync : ``(updates, state, params, **extra_args) -> (updates, state)``
        A step and a sync, whatever the counter says (clause C05). Takes the anchor of the next
        cycle: the parameters as they will be after these updates.
    """

    init: Callable[[optax.Params], optax.OptState]
    update: Callable[..., tuple[optax.Updates, optax.OptState]]
    update_and_sync: Callable[..., tuple[optax.Updates, optax.OptState]]


def split(optimizer: optax.GradientTransformation) -> SplitTransformation:
    """Split an optimizer into the step that syncs and the one that does not.

    The loop counts: `update_and_sync` on every k-th step after the rule's start, `update` on the
    others. The trajectory is that of `optimizer`, with one difference: the anchor is
    `params + updates` of the step that syncs. So Lookahead must come last in a chain; and call
    `resync(state, params)` after loading weights between cycles, and for a state that
    `optimizer.update` has synced. A rule with a start, or one that keeps the first gradient of a
    cycle, needs its slow weights in `update` too, and selects there.

    Parameters
    ----------
    optimizer : optax.GradientTransformation
        What `lookahead` or `meta_optimizer` returned, also inside of `chain`, `masked`,
        `partition` and the like.

    Returns
    -------
    SplitTransformation

    Raises
    ------
    ValueError
        If `optimizer` is none; and, from `init`, if its state holds not exactly one
        `LookaheadState`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import find_state, lookahead, split
    >>> params = jnp.ones(2)
    >>> halves = split(lookahead(optax.sgd(0.1), sync_period=5))
    >>> plain, syncing = jax.jit(halves.update), jax.jit(halves.update_and_sync)
    >>> state = halves.init(params)
    >>> for step in range(1, 11):
    ...     update = plain if step % 5 else syncing
    ...     updates, state = update(2 * params, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> find_state(state).syncs
    Array(2, dtype=int32)
    """
    optimizer = transformation("optimizer", optimizer)

    def init(params: optax.Params) -> optax.OptState:
        state = optimizer.init(params)
        find_state(state)
        return state

    return SplitTransformation(
        init,
        partial(optimizer.update, lookahead_sync=False),
        partial(optimizer.update, lookahead_sync=True),
    )
