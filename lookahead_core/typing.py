"""Names for what passes through the core: arrays of any namespace, and flat sequences of them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

# `Any` on purpose: array-api-typing calls itself "not yet stable", and a Protocol that fits
# torch.Tensor, numpy.ndarray, jax.Array and its tracers says no more than this.
Array: TypeAlias = Any
DType: TypeAlias = Any
Leaves: TypeAlias = Sequence[Array]
# State of an outer rule: each slot has an array for each averaged leaf (outer.py).
Slots: TypeAlias = Sequence[Leaves]
# A Python int branches, a 0-d integer array selects (schedule.py).
Count: TypeAlias = Any
# Inner steps between syncs: a number, or a schedule of the syncs so far (schedule.py).
Period: TypeAlias = int | Callable[[Count], Count]
# A Python float branches, a 0-d array selects (interpolation.py).
Fraction: TypeAlias = Any
