"""SGD and Lookahead on the noisy quadratic model: exact moments and what they settle at.

loss(x) = sum a (x - c)^2 / 2, c sampled at every step with mean 0 and variance s^2: Zhang et al.
2019, eq. 4. Coordinates are independent, so a curvature may be a number or an array of them. With
momentum, or another outer rule, the variance is outer.py.
"""

from typing import Any, NamedTuple

from lookahead_core.namespace import namespace
from lookahead_core.typing import Array
from lookahead_core.validation import fraction, positive_int

from .arguments import all_of, inside

__all__ = [
    "Moments",
    "expected_loss",
    "lookahead_variance",
    "lookahead_variance_factor",
    "moments_after_step",
    "moments_after_sync",
    "sgd_variance",
]


def sgd_variance(learning_rate: Array, curvature: Array, noise_variance: Array = 1.0) -> Any:
    """Variance at which plain SGD settles.

    V = g^2 a^2 s^2 / (1 - (1 - g a)^2) = g a s^2 / (2 - g a), the form without cancellation.

    Parameters
    ----------
    learning_rate : float or array
        Rate g, with 0 < g a < 2.
    curvature : float or array
        Eigenvalues a of the Hessian.
    noise_variance : float or array
        Variance s^2 of the sampled optimum.

    Returns
    -------
    float or array
        Variance by eigenvalue, in units of squared weights.

    Raises
    ------
    ValueError
        If `learning_rate * curvature` is not in (0, 2) somewhere: SGD settles nowhere then.

    References
    ----------
    Zhang et al. 2019, eq. 6 (which prints Sigma^2 for Sigma), arXiv:1907.08610; derived in
    docs/theory.md. Assumes noise that is independent from step to step.

    Examples
    --------
    >>> from lookahead_core.analysis import sgd_variance
    >>> sgd_variance(learning_rate=0.5, curvature=1.0, noise_variance=3.0)
    1.0
    """
    step = _stable_step(learning_rate, curvature)
    return step * noise_variance / (2 - step)


def lookahead_variance_factor(
    learning_rate: Array, curvature: Array, sync_period: int, alpha: Array
) -> Any:
    """Variance of Lookahead's slow weights over that of SGD at the same learning rate.

    V_LA / V_SGD = alpha (1 + q) / (2 - alpha + alpha q), q = (1 - g a)^k.

    Parameters
    ----------
    learning_rate : float or array
        Rate g, with 0 < g a < 2.
    curvature : float or array
        Eigenvalues a of the Hessian.
    sync_period : int
        Inner steps k between syncs.
    alpha : float or array
        In [0, 1].

    Returns
    -------
    float or array
        In [0, 1]. Between alpha / (2 - alpha), where the inner loop forgets its start (q = 0), and
        alpha, in flat directions (q = 1): there Lookahead is SGD at alpha times the rate.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Zhang et al. 2019, eq. 7 after cancelling 1 - q, arXiv:1907.08610; derived in docs/theory.md.
    Assumes plain SGD inside and noise that is independent from step to step.

    Examples
    --------
    >>> from lookahead_core.analysis import lookahead_variance_factor
    >>> print(f"{lookahead_variance_factor(0.1, curvature=1.0, sync_period=5, alpha=0.5):.6f}")
    0.442973
    """
    remembered = (1 - _stable_step(learning_rate, curvature)) ** _period(sync_period)
    alpha = _alpha(alpha)
    return alpha * (1 + remembered) / (2 - alpha + alpha * remembered)


def lookahead_variance(
    learning_rate: Array,
    curvature: Array,
    sync_period: int,
    alpha: Array,
    noise_variance: Array = 1.0,
) -> Any:
    """Variance at which Lookahead's slow weights settle around plain SGD.

    V_LA = alpha (1 + q) / (2 - alpha + alpha q) V_SGD, q = (1 - g a)^k.

    Parameters
    ----------
    learning_rate, curvature : float or array
        As in `lookahead_variance_factor`.
    sync_period : int
        Inner steps k between syncs.
    alpha : float or array
        In [0, 1].
    noise_variance : float or array
        Variance s^2 of the sampled optimum.

    Returns
    -------
    float or array
        Variance by eigenvalue, right after a sync, in units of squared weights.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Zhang et al. 2019, proposition 2, eq. 7, arXiv:1907.08610; assumptions as there.

    Examples
    --------
    >>> from lookahead_core.analysis import lookahead_variance
    >>> print(f"{lookahead_variance(1.0, curvature=1.0, sync_period=5, alpha=0.5):.6f}")
    0.333333
    """
    factor = lookahead_variance_factor(learning_rate, curvature, sync_period, alpha)
    return factor * sgd_variance(learning_rate, curvature, noise_variance)


class Moments(NamedTuple):
    """First two moments of the weights over the noise, by eigenvalue.

    Attributes
    ----------
    slow_mean : float or array
        Mean of the slow weights.
    fast_mean : float or array
        Mean of the fast weights.
    slow_variance : float or array
        Variance of the slow weights.
    fast_variance : float or array
        Variance of the fast weights.
    covariance : float or array
        Of the slow with the fast weights: the term that the variance recursion of secondary
        literature leaves out.

    Examples
    --------
    >>> from lookahead_core.analysis import Moments
    >>> Moments.at(1.0).fast_variance
    0.0
    """

    slow_mean: Array
    fast_mean: Array
    slow_variance: Array
    fast_variance: Array
    covariance: Array

    @classmethod
    def at(cls, mean: Array) -> "Moments":
        """Before the first step: slow and fast weights are `mean`, and known."""
        return cls(mean, mean, 0.0 * mean, 0.0 * mean, 0.0 * mean)


def moments_after_step(
    moments: Moments, learning_rate: Array, curvature: Array, noise_variance: Array = 1.0
) -> Moments:
    """Exact moments after one more inner SGD step: theta' = r theta + g a c, r = 1 - g a.

    Parameters
    ----------
    moments : Moments
        Before the step.
    learning_rate, curvature, noise_variance : float or array
        As in `sgd_variance`; any learning rate, also one that diverges.

    Returns
    -------
    Moments

    References
    ----------
    Zhang et al. 2019, eq. 4 and appendix B; derived in docs/theory.md. Exact for any distribution
    of the noise with that variance.

    Examples
    --------
    >>> from lookahead_core.analysis import Moments, moments_after_step
    >>> after = moments_after_step(Moments.at(1.0), learning_rate=0.5, curvature=1.0)
    >>> after.fast_mean, after.fast_variance
    (0.5, 0.25)
    """
    step = learning_rate * curvature
    kept = 1 - step
    return moments._replace(
        fast_mean=kept * moments.fast_mean,
        fast_variance=kept**2 * moments.fast_variance + step**2 * noise_variance,
        covariance=kept * moments.covariance,
    )


def moments_after_sync(moments: Moments, alpha: Array) -> Moments:
    """Exact moments after a sync: slow' = (1 - alpha) slow + alpha fast, and fast' = slow'.

    Parameters
    ----------
    moments : Moments
        Before the sync.
    alpha : float or array
        In [0, 1].

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        If `alpha` is out of range.

    References
    ----------
    Zhang et al. 2019, eq. 1; derived in docs/theory.md.

    Examples
    --------
    >>> from lookahead_core.analysis import Moments, moments_after_sync
    >>> moments_after_sync(Moments(1.0, 0.0, 1.0, 1.0, 0.0), alpha=0.5).slow_variance
    0.5
    """
    alpha = _alpha(alpha)
    kept = 1 - alpha
    mean = kept * moments.slow_mean + alpha * moments.fast_mean
    variance = (
        kept**2 * moments.slow_variance
        + alpha**2 * moments.fast_variance
        + 2 * alpha * kept * moments.covariance
    )
    return Moments(mean, mean, variance, variance, variance)


def expected_loss(mean: Array, variance: Array, curvature: Array, noise_variance: Array) -> Any:
    """Expected loss of weights with these moments, summed over the eigenvalues.

    sum a ((E x)^2 + V x + s^2) / 2. With mean 0 and a steady-state variance: the steady-state risk.

    Parameters
    ----------
    mean, variance : array, shape (n,)
        Of the weights; a mean of 0 may be a number.
    curvature : array, shape (n,)
        Eigenvalues of the Hessian.
    noise_variance : array, shape (n,)
        Variance s^2 of the sampled optimum.

    Returns
    -------
    0-d array
        In the units of the loss.

    References
    ----------
    Zhang et al. 2019, eq. 5, whose last form prints E[x^2] for (E x)^2 and counts the variance
    twice; derived in docs/theory.md.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core.analysis import expected_loss
    >>> curvature = np.asarray([1.0, 2.0])
    >>> float(expected_loss(0.0, 0.5 / curvature, curvature, 1 / curvature))
    1.5
    """
    terms = curvature * (mean**2 + variance + noise_variance)
    return namespace(terms).sum(terms) / 2


def _stable_step(learning_rate: Array, curvature: Array) -> Array:
    return inside("learning_rate * curvature", learning_rate * curvature, 0, 2, "where SGD settles")


def _period(sync_period: int) -> int:
    return positive_int("sync_period", sync_period, "inner steps between syncs")


def _alpha(alpha: Array) -> Array:
    if isinstance(alpha, int | float):
        return fraction("alpha", alpha, "how far the slow weights move at a sync")
    if not all_of((alpha >= 0) & (alpha <= 1)):
        raise ValueError(f"alpha must be in [0, 1] everywhere, got {alpha!r}")
    return alpha
