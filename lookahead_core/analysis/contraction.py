"""How fast a rule contracts to the optimum of a quadratic without noise.

The rate rho is the factor of the distance per inner step, in the long run: below 1 converges, and
1 - rho is what figures of convergence show. Where it exceeds 1 is stability.py.
"""

from typing import Any

from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array
from lookahead_core.validation import positive

from .arguments import inner_momentum
from .cycle import after_inner_steps, inner_map
from .matrices import spectral_radius
from .rules import cycle_of, fixed_period

__all__ = ["best_heavy_ball", "contraction_rate", "inner_contraction_rate"]


def contraction_rate(
    rule: SyncRule,
    learning_rate: Array,
    curvature: Array,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> Any:
    """Contraction per inner step of a rule around gradient descent with momentum.

    rho = radius(C)^(1/k), C the matrix of one cycle: with inner map P and T, S = diag of what the
    policy takes from the end and from the start of the cycle, C = T P^k + S.

    Parameters
    ----------
    rule : SyncRule
        Sync period, outer rule and inner-state policy.
    learning_rate : float or array
        Of the inner optimizer.
    curvature : float or array
        Eigenvalues of the Hessian; their product with `learning_rate` is all that matters.
    momentum : float
        Of the inner optimizer, in [0, 1); 0 is plain gradient descent.
    nesterov : bool
        Nesterov's momentum, in torch's form, instead of the heavy ball.

    Returns
    -------
    float or array
        Shape of `learning_rate * curvature`. 1 or more does not converge.

    Raises
    ------
    ValueError
        If `momentum` is out of range, or the rule has no fixed linear form (a schedule of alpha).

    References
    ----------
    Zhang et al. 2019, section 3.2 and figure 4, arXiv:1907.08610; derived in docs/theory.md.
    Assumes an exact gradient of a quadratic.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import contraction_rate
    >>> rule = lookahead(sync_period=5, alpha=0.5)
    >>> print(f"{contraction_rate(rule, 0.1, curvature=1.0, momentum=0.9):.6f}")
    0.880681
    """
    momentum = inner_momentum(momentum, nesterov)
    period = fixed_period(rule)
    inner = after_inner_steps(learning_rate * curvature, momentum, nesterov, period)
    return spectral_radius(cycle_of(rule, inner).matrix) ** (1 / period)


def inner_contraction_rate(
    learning_rate: Array, curvature: Array, momentum: float = 0.0, nesterov: bool = False
) -> Any:
    """Contraction per step of gradient descent with momentum, without any slow weights.

    rho = radius(P), P the map of one step of (theta, v).

    Parameters
    ----------
    learning_rate, curvature : float or array
        As in `contraction_rate`.
    momentum : float
        In [0, 1).
    nesterov : bool
        Nesterov's momentum, in torch's form.

    Returns
    -------
    float or array
        Shape of `learning_rate * curvature`.

    Raises
    ------
    ValueError
        If `momentum` is out of range.

    References
    ----------
    Polyak 1964; O'Donoghue and Candes 2015. Assumes an exact gradient of a quadratic.

    Examples
    --------
    >>> from lookahead_core.analysis import inner_contraction_rate
    >>> print(f"{inner_contraction_rate(0.1, curvature=1.0, momentum=0.9):.6f}")
    0.948683
    """
    momentum = inner_momentum(momentum, nesterov)
    return spectral_radius(inner_map(learning_rate * curvature, momentum, nesterov).matrix)


def best_heavy_ball(momentum: float, condition_number: float) -> tuple[float, float]:
    """Best learning rate and rate of the heavy ball with a fixed momentum.

    lr = 2 (1 + b) / (L + mu); with s = (1 + b) (K - 1) / (K + 1) the rate is sqrt(b) where
    s^2 <= 4 b (under-damped), else (s + sqrt(s^2 - 4 b)) / 2.

    Parameters
    ----------
    momentum : float
        Momentum b in [0, 1).
    condition_number : float
        Ratio K = L / mu >= 1, of a Hessian whose largest eigenvalue L is 1.

    Returns
    -------
    tuple of float
        Learning rate for L = 1 (divide it by L otherwise), and the contraction per step.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md: both ends of the spectrum contract equally. Zhang et al. 2019,
    figure 4, compares with it.

    Examples
    --------
    >>> from lookahead_core.analysis import best_heavy_ball
    >>> learning_rate, rate = best_heavy_ball(momentum=0.9, condition_number=100.0)
    >>> print(f"{learning_rate:.4f} {rate:.4f}")
    3.7624 0.9487
    """
    momentum = inner_momentum(momentum, nesterov=False)
    condition = positive("condition_number", condition_number, "largest over smallest eigenvalue")
    if condition < 1:
        raise ValueError(f"condition_number must be >= 1, got {condition_number!r}")
    learning_rate = 2 * (1 + momentum) / (1 + 1 / condition)
    return learning_rate, inner_contraction_rate(learning_rate, 1.0, momentum)
