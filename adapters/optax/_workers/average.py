"""When the mean over many workers is taken. What it is, and over which axis, is the caller's."""

from typing import Any

import jax
import jax.numpy as jnp

from lookahead_core.leaves import averaged, check_match, chosen
from lookahead_core.typing import Leaves
from lookahead_core.workers import Average

__all__ = ["only_when_due"]


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
