"""The alpha that minimises a quadratic between the slow and the fast weights, exact and estimated.

One array of weights at a time. The estimates are those of the core's `AdaptiveAlpha`, which takes a
model's leaves; here a line without a minimum is an error and not alpha = 1.
"""

from typing import Any

from lookahead_core.adaptive import AdaptiveAlpha
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array
from lookahead_core.validation import fraction

__all__ = ["adaptive_alpha", "optimal_alpha", "secant_alpha"]


def optimal_alpha(slow: Array, fast: Array, hessian: Array, optimum: Array) -> Any:
    """Fraction of the way from `slow` to `fast` at which a quadratic is smallest.

    alpha* = (slow - x*)' A d / d' A d, d = slow - fast.

    Parameters
    ----------
    slow, fast : array, shape (n,)
        Both ends.
    hessian : array, shape (n, n) or (n,)
        Positive definite matrix A, or its diagonal.
    optimum : array, shape (n,)
        Where the quadratic is smallest, x*.

    Returns
    -------
    0-d array
        Not clipped: it may lie outside [0, 1].

    Raises
    ------
    ValueError
        If d' A d is not positive: equal ends, or no minimum on the line.

    References
    ----------
    Zhang et al. 2019, proposition 1, arXiv:1907.08610; derived in docs/theory.md.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core.analysis import optimal_alpha
    >>> slow, fast, optimum = np.asarray([1.0, 1.0]), np.asarray([-1.0, 0.0]), np.zeros(2)
    >>> round(float(optimal_alpha(slow, fast, np.asarray([1.0, 4.0]), optimum)), 12)
    0.75
    """
    way = slow - fast
    curved = _times(hessian, way)
    return _dot(slow - optimum, curved) / _positive(_dot(way, curved))


def adaptive_alpha(
    slow: Array, fast: Array, gradient: Array, hessian: Array, alpha_low: float = 0.0
) -> Any:
    """Estimate of the optimal alpha from the last gradient and an approximate Hessian, clipped.

    alpha^ = 1 + g' d / d' A d, d = slow - fast, clipped to [alpha_low, 1]: the paper's estimator
    with x* = fast - A^-1 g put in, where the inverse cancels.

    Parameters
    ----------
    slow, fast : array, shape (n,)
        Both ends.
    gradient : array, shape (n,)
        Gradient g at `fast`.
    hessian : array, shape (n, n) or (n,)
        Matrix A, or a diagonal approximation such as Adam's; its scale matters.
    alpha_low : float
        Least value, in [0, 1].

    Returns
    -------
    0-d array
        `optimal_alpha`, clipped, if `gradient` and `hessian` are exact.

    Raises
    ------
    ValueError
        If `alpha_low` is out of range, or d' A d is not positive.

    References
    ----------
    Zhang et al. 2019, section 2.1, arXiv:1907.08610; derived in docs/theory.md. The paper does not
    say whether the diagonal is Adam's second moment or its square root.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core.analysis import adaptive_alpha
    >>> slow, fast = np.asarray([1.0, 1.0]), np.asarray([-1.0, 0.0])
    >>> hessian = np.asarray([1.0, 4.0])
    >>> round(float(adaptive_alpha(slow, fast, hessian * fast, hessian, alpha_low=0.2)), 12)
    0.75
    """
    low = fraction("alpha_low", alpha_low, "least alpha of the estimate")
    way = slow - fast
    _positive(_dot(way, _times(hessian, way)))
    estimate = AdaptiveAlpha(low, lambda direction: [_times(hessian, direction[0])]).estimate
    return estimate([slow], [fast], (), [gradient], None)


def secant_alpha(
    slow: Array, fast: Array, slow_gradient: Array, fast_gradient: Array, alpha_low: float = 0.0
) -> Any:
    """Estimate of the optimal alpha from the gradients at both ends alone, clipped.

    alpha^ = g_0' p / (g_0 - g_k)' p, p = fast - slow, clipped to [alpha_low, 1].

    Parameters
    ----------
    slow, fast : array, shape (n,)
        Both ends.
    slow_gradient, fast_gradient : array, shape (n,)
        Gradients g_0 and g_k there: the first is the one that the cycle began with.
    alpha_low : float
        Least value, in [0, 1].

    Returns
    -------
    0-d array
        `optimal_alpha`, clipped, on a quadratic with exact gradients.

    Raises
    ------
    ValueError
        If `alpha_low` is out of range, or the slope does not rise on the way: no minimum then.

    References
    ----------
    Derived in docs/theory.md: A d is the difference of the gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core.analysis import secant_alpha
    >>> slow, fast = np.asarray([1.0, 1.0]), np.asarray([-1.0, 0.0])
    >>> hessian = np.asarray([1.0, 4.0])
    >>> round(float(secant_alpha(slow, fast, hessian * slow, hessian * fast)), 12)
    0.75
    """
    low = fraction("alpha_low", alpha_low, "least alpha of the estimate")
    _positive(_dot(slow_gradient - fast_gradient, slow - fast))
    return AdaptiveAlpha(low).estimate([slow], [fast], [[slow_gradient]], [fast_gradient], None)


def _dot(left: Array, right: Array) -> Any:
    return namespace(left, right).sum(left * right)


def _times(hessian: Array, vector: Array) -> Array:
    return hessian @ vector if hessian.ndim == 2 else hessian * vector


def _positive(curvature: Any) -> Any:
    if not curvature > 0:
        raise ValueError(
            "slow and fast must differ along a direction of positive curvature, "
            f"got {float(curvature):g} for d' A d with d = slow - fast"
        )
    return curvature
