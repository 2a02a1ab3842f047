"""Many workers that sync in fragments, each at steps of its own, in one compiled program.

A fragment is a transformation of its own, with a clock that is ahead of the others'. What a sync
is, and which parameters a transformation has, is `meta_optimizer`'s and optax.partition's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule
from lookahead_core.adapters._fragments import balanced, checked_delay, checked_period
from lookahead_core.leaves import averaged, chosen
from lookahead_core.schedule import phases
from lookahead_core.typing import DType
from lookahead_core.validation import int_at_least
from lookahead_core.words import translated
from lookahead_core.workers import Average, pseudo_gradients

from .._coordinates import coordinates
from .._optimizer import meta_optimizer
from .._state import LookaheadState
from .._trees import arrays
from .in_flight import InFlight

__all__ = ["streaming_optimizer"]


@translated
def streaming_optimizer(
    inner: optax.GradientTransformation,
    rule: SyncRule,
    *,
    average: Average,
    fragments: int | Any = 1,
    delay: int = 0,
    slow_dtype: DType | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`meta_optimizer` of many workers that syncs the parameters in fragments (clause C82).

    Each fragment syncs at its own step of the cycle, so that the largest message is a part of the
    model. With `delay` the mean of what a fragment has done is taken so many steps before it is
    applied; `SyncRule(restart=...)` says how far the parameters, which have gone on, then go back.

    Parameters
    ----------
    inner : optax.GradientTransformation
        Moves the parameters, those of each fragment by itself. What looks at all of them at once,
        as `optax.clip_by_global_norm`, stands before this one in an `optax.chain`.
    rule : SyncRule
        With `inner_state="maintain"`, no start, and one that asks for no gradient.
    average : callable, (differences) -> mean differences
        As of `meta_optimizer`.
    fragments : int or tree of int
        How many, of sizes as equal as whole parameters allow; or the number of the fragment of
        each parameter, from 0 on, in a tree like the parameters or a prefix of it.
    delay : int
        Steps from the taking of a fragment to its sync, in [0, sync_period).
    slow_dtype : dtype, optional
        As of `meta_optimizer`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `slow_params` and `worker_axes` take its state.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    In one program a mean that is taken early is waited for where it is taken: the delay gives the
    numbers of a run that hides its messages behind the steps, and does not hide them by itself.
    It keeps one more array for each parameter. After loading weights make a new state by `init`:
    `resync` starts the cycles of all fragments at once, so that they sync together.

    References
    ----------
    Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import diloco
    >>> from lookahead_core.adapters.optax import slow_params, streaming_optimizer
    >>> alone = {"average": lambda differences: differences, "fragments": 2}
    >>> optimizer = streaming_optimizer(optax.sgd(0.1), diloco(4), **alone)
    >>> params = {"w": jnp.ones(2), "b": jnp.zeros(1)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(params, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> slow_params(state, params)["w"] == params["w"]
    Array([ True,  True], dtype=bool)
    """
    period = checked_period(rule)
    delay = checked_delay(delay, period)
    if isinstance(fragments, bool | float | str):
        raise ValueError(f"fragments must be an int or a tree of int, got {fragments!r}")
    if isinstance(fragments, int):
        number = int_at_least(1, "fragments", fragments, "parts that sync at steps of their own")
        labels: Any = partial(_labels, number)
    else:
        number, labels = 1 + max(jax.tree.leaves(fragments), default=0), fragments
    if number > period:
        raise ValueError(f"fragments must be no more than sync_period ({period}), got {number}")

    def made(mean: Average) -> Any:
        return meta_optimizer(inner, rule, slow_dtype=slow_dtype, average=mean)

    made(average)  # raises for arguments that are wrong
    return optax.partition(
        {
            p: _fragment(made, rule, average, ahead - delay, delay)
            for p, ahead in enumerate(phases(number, period))
        },
        labels,
    )


def _labels(number: int, params: optax.Params) -> Any:
    """The fragment of each parameter."""
    leaves, tree = jax.tree.flatten(params)
    if number > len(leaves):
        raise ValueError(f"fragments must be no more than parameters ({len(leaves)}), got {number}")
    return jax.tree.unflatten(tree, balanced([jnp.size(leaf) for leaf in leaves], number))


def _fragment(
    made: Callable[[Average], Any], rule: SyncRule, average: Average, ahead: int, delay: int
) -> optax.GradientTransformationExtraArgs:
    """One fragment, whose clock is so many steps ahead at the start."""

    def init(params: optax.Params) -> Any:
        ours = made(average).init(params)
        ours = ours._replace(step=jnp.full_like(ours.step, ahead))
        if not delay:
            return ours
        slow = arrays(ours.slow)
        moved = chosen(slow, averaged(slow))
        return InFlight(ours, [nothing * 0 for nothing in pseudo_gradients(moved, moved)])

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        if not delay:
            return made(average).update(updates, state, params, **extra_args)
        ours, mean = state
        updates, ours = made(lambda _: mean).update(updates, ours, params, **extra_args)
        taken = ours.step == cast(int, rule.sync_period) - delay
        own = _done(rule, ours, params, updates)
        mean = jax.lax.cond(
            taken, lambda own, _: list(average(own)), lambda _, mean: mean, own, mean
        )
        return updates, InFlight(ours, mean)

    return optax.GradientTransformationExtraArgs(init, update)


def _done(rule: SyncRule, ours: LookaheadState, params: Any, updates: Any) -> list[jax.Array]:
    """What this worker has done to a fragment since its last sync, with this step."""
    within = coordinates(rule, shared=True)
    leaves = zip(arrays(ours.slow), arrays(params), arrays(updates), strict=True)
    slow, fast = zip(*(within.enter(leaf) for leaf in leaves), strict=True)
    which = averaged(fast)
    return list(pseudo_gradients(chosen(slow, which), chosen(fast, which)))
