"""The mean over many workers: when it is taken, and that of unequal work."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lookahead_core.leaves import averaged, check_match, chosen
from lookahead_core.typing import Leaves
from lookahead_core.workers import Average

__all__ = ["only_when_due", "weighted_mean"]


def weighted_mean(
    differences: Leaves, *, weight: Any, axis_name: Any = "workers"
) -> list[jax.Array]:
    """Mean over the workers by the work of each: `average=partial(weighted_mean, weight=tokens)`.

    Parameters
    ----------
    differences : sequence of arrays
        What an `average` is given.
    weight : scalar or 0-d array
        What this worker has done since the last sync, >= 0. One of weight 0 is not heard, even if
        its differences are NaN; if nobody has done anything all count alike.
    axis_name : str or tuple of str
        The axis over the workers, of `jax.vmap`, `jax.pmap` or the mesh of `jax.shard_map`.

    Returns
    -------
    list of arrays

    Examples
    --------
    >>> from functools import partial
    >>> import jax, jax.numpy as jnp
    >>> def mean(difference, tokens):
    ...     return weighted_mean([difference], weight=tokens)[0]
    >>> mean = jax.vmap(mean, axis_name="workers")
    >>> mean(jnp.asarray([1.0, 3.0, jnp.nan]), jnp.asarray([3.0, 1.0, 0.0])).tolist()
    [1.5, 1.5, 1.5]
    """
    add: Any = partial(jax.lax.psum, axis_name=axis_name)
    total, alike = add(weight), 1 / add(1)
    share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), alike)
    # Not 0 * d: that of a worker that has run away is NaN.
    shares = [(d, share.astype(jnp.real(d).dtype)) for d in differences]
    return [add(jnp.where(s > 0, s * d, 0)) for d, s in shares]


def only_when_due(average: Average, due: bool | jax.Array, slow: Leaves, fast: Leaves) -> Average:
    """`average`, in a branch of the program that runs at syncs alone: it communicates."""
    slow = chosen(slow, averaged(fast))

    def checked(differences: Leaves) -> list[jax.Array]:
        mean = list(average(differences))
        check_match("average(differences)", mean, "differences", differences)
        return [jnp.asarray(m, d.dtype) for m, d in zip(mean, differences, strict=True)]

    def unused(differences: Leaves) -> list[jax.Array]:
        # The mean is of the slow weights' type in the eyes of shard_map and of an explicit mesh:
        # one for all workers, and sharded like the parameters. That of a zero it would not be.
        return [jnp.asarray(s, d.dtype) for s, d in zip(slow, differences, strict=True)]

    def mean_differences(differences: Leaves) -> Any:
        differences = list(differences)
        if isinstance(due, bool):
            return checked(differences)
        return jax.lax.cond(due, checked, unused, differences)

    return mean_differences
