"""What a check asks a driver to make: leaves, an inner optimizer and Lookahead's settings.

Plain Python values, so that the oracle and every backend read the same thing.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["EPS", "Gradients", "Inner", "Leaf", "Setup", "Values"]

Values = list[list[float]]  # the values of each leaf, flat; of a complex one its parts in turn
Gradients = Sequence[Sequence[float] | None]  # one a leaf; None where a leaf has none

# Distance from 1 to the next number: what tolerances are counted in.
EPS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "complex128": 2.0**-52,
    "complex64": 2.0**-23,
}


class Leaf(NamedTuple):
    """One array of weights.

    Attributes
    ----------
    values : tuple of float
        In C order, exact in `dtype`. Of a complex leaf the real and the imaginary part of each
        number in turn: a sync and SGD treat them alike.
    dtype : str
        Name of the dtype: a key of `EPS`, or "int32".
    shape : tuple of int, or None
        None is one dimension.
    trained : bool
        False for a frozen leaf, which the inner optimizer must not move.
    rate : float
        Factor of the inner learning rate. Leaves of another one are in a parameter group of their
        own.
    same_as : int, or None
        Index of an earlier leaf: this is the same array, listed again (tied weights). Each listing
        has a gradient, and the array moves by their sum.
    """

    values: tuple[float, ...]
    dtype: str = "float64"
    shape: tuple[int, ...] | None = None
    trained: bool = True
    rate: float = 1.0
    same_as: int | None = None


class Inner(NamedTuple):
    """The inner optimizer: SGD with momentum as torch writes it, or Adam.

    Attributes
    ----------
    kind : {"sgd", "adam"}
        Which of them.
    lr : float
        Learning rate; powers of two keep low-precision runs exact.
    momentum : float
        Of SGD. Adam has the usual (0.9, 0.999) and eps 1e-8.
    """

    kind: str = "sgd"
    lr: float = 0.125
    momentum: float = 0.0


class Setup(NamedTuple):
    """One Lookahead optimizer on some leaves.

    Attributes
    ----------
    leaves : tuple of Leaf
        Weights to start from.
    sync_period : int
        Inner steps between syncs.
    alpha : float
        How far the slow weights move at a sync.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state.
    inner : Inner
        The inner optimizer.
    slow_dtype : str, or None
        Wider dtype of the slow weights.
    """

    leaves: tuple[Leaf, ...]
    sync_period: int = 5
    alpha: float = 0.5
    inner_state: str = "maintain"
    inner: Inner = Inner()
    slow_dtype: str | None = None
