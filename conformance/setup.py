"""What a check asks a driver to make: leaves, an inner optimizer and the settings of a rule.

Plain Python values, so that the oracle and every backend read the same thing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "EPS",
    "Ahead",
    "Averaging",
    "Gradients",
    "Inner",
    "Leaf",
    "Outer",
    "Second",
    "Setup",
    "Values",
]

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


class Outer(NamedTuple):
    """Momentum on the pseudo-gradient, slow - fast, as torch's SGD writes it.

    Attributes
    ----------
    lr : float
        Outer learning rate.
    momentum : float
        Outer momentum.
    nesterov : bool
        Nesterov's form, or the heavy ball.
    """

    lr: float = 0.75
    momentum: float = 0.5
    nesterov: bool = True


class Averaging(NamedTuple):
    """Gradients between the iterates z and their average x, which is read out.

    y = mu_y x + (1 - mu_y) z; z' = z - (what the cycle did at y); x' = mu_x x + (1 - mu_x) z'.

    Attributes
    ----------
    mu_x : float, or None
        Weight of the old average; None if the weights of the cycles decide ("inner_lr").
    mu_y : float
        How near the average gradients are taken.
    power : float
        Without `mu_x`: the n-th cycle weighs n^r (the largest learning rate so far)^power, and mu_x
        is the sum of the weights before it over that with it.
    r : float
        As above.
    """

    mu_x: float | None = 0.75
    mu_y: float = 0.5
    power: float = 2.0
    r: float = 0.0


class Ahead(NamedTuple):
    """Gradients ahead of the weights x, which are read out, along the mean m of their moves.

    y = x + step_size m; x' = y - (what the cycle did at y); m' = decay m + (1 - decay) (x' - x).

    Attributes
    ----------
    step_size : float, or callable, (syncs) -> float
        How far ahead.
    decay : float
        Of the mean.
    """

    step_size: float | Callable[[int], float] = 0.5
    decay: float = 0.75


class Second(NamedTuple):
    """A second rule around the first: it interpolates super-slow weights towards the slow ones.

    Attributes
    ----------
    period : int
        Syncs of the first rule between two of this one.
    alpha : float
        How far the super-slow weights move then.
    restart : float
        How far the slow weights go back to them then.
    """

    period: int
    alpha: float
    restart: float = 1.0


class Setup(NamedTuple):
    """One optimizer of the family on some leaves: Lookahead, unless it says more.

    Attributes
    ----------
    leaves : tuple of Leaf
        Weights to start from.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs; a schedule of the syncs so far ("period_schedule").
    alpha : float, or callable, (syncs) -> float
        How far the slow weights move at a sync; a schedule of the syncs so far ("schedule").
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state.
    inner : Inner
        The inner optimizer.
    slow_dtype : str, or None
        Wider dtype of the slow weights.
    outer : Outer, Averaging, Ahead, or None
        Momentum in the place of `alpha` ("outer_momentum"), or one of the rules that decide where
        gradients are taken ("gradient_point").
    restart : float
        How far the fast weights go back to the slow ones after a sync ("restart").
    restart_period : int
        Syncs between two that put them back ("restart").
    start : int
        Inner steps before the first cycle ("start").
    second : Second, or None
        A second rule, nested around this one ("nested").
    """

    leaves: tuple[Leaf, ...]
    sync_period: Any = 5
    alpha: float | Callable[[int], float] = 0.5
    inner_state: str = "maintain"
    inner: Inner = Inner()
    slow_dtype: str | None = None
    outer: Outer | Averaging | Ahead | None = None
    restart: float = 1.0
    restart_period: int = 1
    start: int = 0
    second: Second | None = None
