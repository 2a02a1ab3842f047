"""What to do with stored averages: one of another length, and a blend with the weights."""

from collections.abc import Callable, Mapping, Sequence

from lookahead_core.interpolation import interpolate
from lookahead_core.typing import Array
from lookahead_core.validation import fraction, non_negative, positive

__all__ = ["blended", "post_hoc_weights"]


def post_hoc_weights(
    stored: Sequence[tuple[float, float]], syncs: float, gamma: float
) -> list[float]:
    """Weights of stored power-function averages whose sum is nearest to another such average.

    Least squares between the profiles of the averages, (gamma + 1) * t**gamma / syncs**(gamma + 1)
    for t from 0 to syncs. Multiply each stored average by its weight, and add them up.

    Parameters
    ----------
    stored : sequence of (syncs, gamma)
        Of each stored average of `power_ema`: after how many syncs, and its gamma. No two alike.
        Two gammas at some tens of points of the run reach all between, says the paper.
    syncs, gamma : float
        Of the average that is wanted: syncs above 0 and at most the latest stored, gamma >= 0.

    Returns
    -------
    list of float
        One for each of `stored`. Their sum is near 1, as the fit is good.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Karras et al. 2024, section 3.2 and algorithm 3, arXiv:2312.02696.

    Examples
    --------
    >>> stored = [(50, 6.94), (50, 16.97), (100, 6.94), (100, 16.97)]
    >>> [round(abs(weight), 6) for weight in post_hoc_weights(stored, 100, 6.94)]
    [0.0, 0.0, 1.0, 0.0]
    """
    averages = [_profile("stored", *one) for one in stored]
    wanted = _profile("wanted", syncs, gamma)
    if not averages or len({*averages}) < len(averages):
        raise ValueError(f"stored must hold (syncs, gamma), no two alike, got {stored!r}")
    if wanted[0] > max(averages)[0]:
        raise ValueError(f"syncs must be at most the latest stored, got {syncs!r} for {stored!r}")
    rows = [[_product(a, b) for b in (*averages, wanted)] for a in averages]
    return _solved(rows)


def blended(
    fast: Mapping[str, Array],
    average: Mapping[str, Array],
    part: float = 1.0,
    leave_out: Callable[[str], bool] | None = None,
) -> dict[str, Array]:
    """Weights to evaluate or ship: (1 - part) * fast + part * average, but for what is left out.

    Parameters
    ----------
    fast, average : mapping of str to array
        The weights by name, and what is read of an optimizer: `slow_weights()`, `slow_params`.
    part : float
        Of the average, in [0, 1].
    leave_out : callable, (name) -> bool, optional
        Which leaves are the fast ones, as embeddings often are.

    Returns
    -------
    dict of str to array
        New arrays, in the order and the dtypes of `average`.

    Raises
    ------
    ValueError
        If the names are not the same, or `part` is out of range.

    References
    ----------
    The tail averages of modded-nanogpt #325 and #328: a blend, without the embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> fast = {"embed": np.ones(1), "w": np.ones(1)}
    >>> average = {"embed": np.zeros(1), "w": np.zeros(1)}
    >>> blended(fast, average, 0.75, leave_out=lambda name: "embed" in name)
    {'embed': array([1.]), 'w': array([0.25])}
    """
    part = fraction("part", part, "of the average")
    if fast.keys() != average.keys():
        odd = sorted(fast.keys() ^ average.keys())
        raise ValueError(f"fast and average must have the same names, got {odd} in one of them")
    return {
        name: interpolate(leaf, fast[name], 1.0 if leave_out and leave_out(name) else 1 - part)
        for name, leaf in average.items()
    }


def _profile(name: str, syncs: float, gamma: float) -> tuple[float, float]:
    """The length and the power of an average's profile, checked."""
    return (
        positive(f"syncs of {name}", syncs, "how long the average is"),
        non_negative(f"gamma of {name}", gamma, "power of the number of the sync"),
    )


def _product(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The integral of the product of two profiles, by the ratio of their lengths."""
    (shorter, a), (longer, b) = sorted((one, other))
    ratio: float = (shorter / longer) ** b
    return (a + 1) * (b + 1) / (a + b + 1) * ratio / longer


def _solved(rows: list[list[float]]) -> list[float]:
    """The solution of a linear system, each row with its right-hand side last; by elimination."""
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [number / rows[column][column] for number in rows[column]]
        for row in range(size):
            if row != column:
                times = rows[row][column]
                pairs = zip(rows[row], rows[column], strict=True)
                rows[row] = [number - times * above for number, above in pairs]
    return [row[-1] for row in rows]
