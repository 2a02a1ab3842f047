"""What the weights of many workers are to an outer rule: one set of fast weights, the mean's.

Workers have the same slow weights and fast weights of their own. With D the mean over them of
slow - fast, an outer rule that is given slow - D in the place of its fast weights moves the slow
weights of all workers alike: Lookahead becomes Local SGD, Momentum becomes SlowMo or DiLoCo. How
the mean is had is the adapter's: nothing here communicates.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from lookahead_core.leaves import kind_of
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, Leaves

__all__ = ["Average", "check_alike", "pseudo_gradients", "seen_by_all"]

# What an adapter gives: differences of this worker -> their mean over all workers. May overwrite.
Average: TypeAlias = Callable[[Leaves], Leaves]


def check_alike(rule: Any) -> None:
    """Raise ValueError unless workers under `rule`, a SyncRule, have the same slow weights."""
    if rule.needs_gradient or rule.needs_inner_lr or rule.start:
        raise ValueError(
            "a rule for many workers must not ask for gradients or learning rates nor have a "
            f"start, because all these may be other ones on each worker; got {rule!r}"
        )


def seen_by_all(slow: Leaves, fast: Leaves, average: Average | Leaves) -> Leaves:
    """The fast weights that the outer rule is to see: slow - D, the same on every worker.

    Parameters
    ----------
    slow : sequence of arrays
        The same on every worker.
    fast : sequence of arrays
        This worker's, of the same shapes.
    average : callable, (differences) -> mean differences, or sequence of arrays
        Mean over the workers, leaf by leaf, equal to the bit on all of them. It gets the
        differences in float32 where the slow weights are narrower: a sum of many in bfloat16
        loses the small ones. Or the means, where they are there already.

    Returns
    -------
    sequence of arrays
        In the dtypes of `slow`.

    References
    ----------
    Stich 2019, arXiv:1805.09767 (Local SGD); Wang et al. 2020, arXiv:1910.00643 (SlowMo); Douillard
    et al. 2023, arXiv:2311.08105 (DiLoCo).

    Examples
    --------
    Two workers, seen from the first; the other one has moved by 3:

    >>> import numpy as np
    >>> slow, fast = [np.asarray([0.0])], [np.asarray([1.0])]
    >>> seen_by_all(slow, fast, average=lambda own: [(d + np.asarray([-3.0])) / 2 for d in own])
    (array([2.]),)
    """
    means = average(pseudo_gradients(slow, fast)) if callable(average) else average
    pairs = zip(slow, means, strict=True)
    return tuple(namespace(s).astype(_widest(s) - d, s.dtype, copy=False) for s, d in pairs)


def pseudo_gradients(slow: Leaves, fast: Leaves) -> Leaves:
    """What one worker has done: slow - fast, in float32 or wider, in new arrays.

    For an adapter that has the mean on its way while the fast weights go on, and gives it to
    `SyncRule.sync` when it is there (clause C82).

    Parameters
    ----------
    slow, fast : sequence of arrays
        Of the same shapes, floating or complex.

    Returns
    -------
    list of arrays

    Examples
    --------
    >>> import numpy as np
    >>> pseudo_gradients([np.asarray([3.0])], [np.asarray([1.0])])
    [array([2.])]
    """
    wide = [_widest(leaf) for leaf in slow]
    # A copy of fast weights of that dtype would be one of the model.
    return [
        s - namespace(f).astype(f, s.dtype, copy=False) for s, f in zip(wide, fast, strict=True)
    ]


def _widest(leaf: Array) -> Array:
    """`leaf`, in float32 if it is narrower."""
    xp = namespace(leaf)
    if kind_of(leaf.dtype) == "complex":
        return leaf
    return xp.astype(leaf, xp.result_type(leaf.dtype, xp.float32), copy=False)
