"""LAWA: the mean of the latest few weights, from a ring of copies; no recursion, no outer rule."""

from dataclasses import dataclass
from typing import NamedTuple

from lookahead_core.leaves import copied, in_precision_of, is_averaged, widened, zeros
from lookahead_core.namespace import namespace
from lookahead_core.schedule import selected
from lookahead_core.typing import Array, Count, Leaves
from lookahead_core.validation import positive_int

__all__ = ["LatestWeightAverage", "WindowState"]


class WindowState(NamedTuple):
    """The copies that a `LatestWeightAverage` keeps. Arrays and an integer only.

    Attributes
    ----------
    ring : tuple of sequences of arrays
        `size` copies of the weights, the oldest first.
    filled : int or 0-d integer array
        How many of them have been given.
    """

    ring: tuple[Leaves, ...]
    filled: Count


@dataclass(frozen=True)
class LatestWeightAverage:
    """Mean of the last `size` weights that it was given, LAWA; keeps that many copies.

    Parameters
    ----------
    size : int
        How many, >= 1.

    Raises
    ------
    ValueError
        If `size` is out of range.

    References
    ----------
    Kaddour 2022, arXiv:2209.14981; Sanyal et al. 2023, arXiv:2306.03241.

    Examples
    --------
    >>> import numpy as np
    >>> average = LatestWeightAverage(size=2)
    >>> state = average.init([np.zeros(1)])
    >>> for value in (1.0, 2.0, 4.0):
    ...     state = average.push([np.asarray([value])], state)
    >>> average.mean(state)[0]
    array([3.])
    """

    size: int

    def __post_init__(self) -> None:
        size = positive_int("size", self.size, "copies of the weights")
        object.__setattr__(self, "size", size)

    def init(self, fast: Leaves, *, count: Count = 0) -> WindowState:
        """A ring for weights like `fast`, with none in it.

        Parameters
        ----------
        fast : sequence of arrays
            Weights of any values.
        count : int or 0-d integer array, equal to 0
            A Python int branches, an array selects and works under jit.
        """
        return WindowState((zeros(fast),) * self.size, count)

    def push(self, fast: Leaves, state: WindowState) -> WindowState:
        """Take a copy of `fast`, and let go of the oldest."""
        newest = tuple(copied(leaf) for leaf in fast)
        full = state.filled == self.size
        more = state.filled + 1
        if isinstance(full, bool):
            filled = self.size if full else more
        else:
            filled = namespace(more).where(full, state.filled, more)
        return WindowState((*state.ring[1:], newest), filled)

    def mean(self, state: WindowState) -> Leaves:
        """Mean of the weights in the ring, in their dtypes; of other than floating ones the newest.

        Raises
        ------
        ValueError
            If there are none, and `filled` is an int.
        """
        if isinstance(state.filled, int) and state.filled == 0:
            raise ValueError("the window must hold weights (push), got none")
        return tuple(self._mean(leaf, state.filled) for leaf in zip(*state.ring, strict=True))

    def _mean(self, copies: tuple[Array, ...], filled: Count) -> Array:
        newest = copies[-1]
        if not is_averaged(newest.dtype):
            return copied(newest)
        # In float32 or wider: the sum of many bfloat16 numbers would lose its last ones.
        total = widened(newest, namespace(newest).float32)
        for age, older in enumerate(reversed(copies[:-1]), start=1):
            wide = copied(older, total.dtype)
            ((total,),) = selected(age < filled, ([total + wide],), ([total],))
        return copied(total / in_precision_of(total, filled), newest.dtype)
