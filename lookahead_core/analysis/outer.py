"""What a rule makes of the inner learning rate and of the noise: effective rate, variance factor.

On the noisy quadratic, for any inner momentum and outer rule. The closed forms for plain SGD are
noisy_quadratic.py.
"""

from typing import Any

from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array
from lookahead_core.validation import positive, positive_int

from .arguments import all_of, inner_momentum
from .cycle import Cycle, after_inner_steps, inner_map
from .matrices import spectral_radius, steady_state_covariance
from .rules import cycle_of, fixed_period, outer_gain, shipped_along

__all__ = [
    "effective_learning_rate",
    "reset_gain",
    "variance_factor",
]


def effective_learning_rate(rule: SyncRule, learning_rate: float, momentum: float = 0.0) -> float:
    """Learning rate of the plain gradient descent that moves as far along a constant gradient.

    lr_eff = outer gain * policy gain * learning_rate / (1 - momentum), with `outer_gain`, and with
    `reset_gain` for the policy "reset", else 1.

    Parameters
    ----------
    rule : SyncRule
        Sync period, outer rule and inner-state policy.
    learning_rate : float
        Of the inner optimizer, > 0.
    momentum : float
        Of the inner optimizer, in [0, 1); dampening 0.

    Returns
    -------
    float
        The rate to compare other optimizers at: a plot against the nominal one shows a shift of
        the axis first of all.

    Raises
    ------
    ValueError
        If an argument is out of range, or the rule has no fixed linear form.

    References
    ----------
    Derived in docs/theory.md. Assumes a gradient that hardly changes: learning rate times
    curvature times k far below 1. SGD, not Adam, whose step does not grow with the gradient.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import effective_learning_rate
    >>> effective_learning_rate(lookahead(sync_period=5, alpha=0.5), learning_rate=0.1)
    0.05
    """
    rate = positive("learning_rate", learning_rate, "of the inner optimizer")
    momentum = inner_momentum(momentum, nesterov=False)
    gain = reset_gain(momentum, fixed_period(rule)) if rule.inner_state == "reset" else 1.0
    return float(outer_gain(rule)) * gain * rate / (1 - momentum)


def reset_gain(momentum: float, sync_period: int) -> float:
    """Part of the inner step that is left if momentum starts from zero in every cycle.

    (1 / k) * sum over i = 1 .. k of (1 - b^i).

    Parameters
    ----------
    momentum : float
        Momentum b of the inner optimizer, in [0, 1).
    sync_period : int
        Inner steps k between syncs.

    Returns
    -------
    float
        In (0, 1]; 1 without momentum.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md. Assumes a gradient that hardly changes within a cycle.

    Examples
    --------
    >>> from lookahead_core.analysis import reset_gain
    >>> print(f"{reset_gain(0.9, 5):.6f}")
    0.262882
    """
    momentum = inner_momentum(momentum, nesterov=False)
    period = positive_int("sync_period", sync_period, "inner steps between syncs")
    return sum(1 - momentum**step for step in range(1, period + 1)) / period


def variance_factor(
    rule: SyncRule,
    learning_rate: Array,
    curvature: Array,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> Any:
    """Steady-state variance of the read-out over that of the bare inner optimizer.

    Both solve S = C S C' + N: C the map of one cycle, or of one inner step, N the noise it adds.
    Around plain SGD with interpolation this is `lookahead_variance_factor`.

    Parameters
    ----------
    rule : SyncRule
        Sync period, outer rule and inner-state policy.
    learning_rate, curvature : float or array
        Of the inner optimizer; eigenvalues of the Hessian.
    momentum : float
        Of the inner optimizer, in [0, 1).
    nesterov : bool
        Nesterov's momentum, in torch's form.

    Returns
    -------
    float or array
        By eigenvalue, right after a sync. It compares equal learning rates: see
        `effective_learning_rate`.

    Raises
    ------
    ValueError
        If the rule or the inner optimizer is unstable there, or an argument is out of range.

    References
    ----------
    Derived in docs/theory.md; the noise is that of Zhang et al. 2019, eq. 4. In flat directions it
    tends to `outer_gain`, times `reset_gain` under that policy.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import variance_factor
    >>> rule = lookahead(sync_period=5, alpha=0.5)
    >>> print(f"{variance_factor(rule, 0.1, curvature=1.0, momentum=0.9):.6f}")
    0.252200
    """
    step, momentum = learning_rate * curvature, inner_momentum(momentum, nesterov)
    inner = after_inner_steps(step, momentum, nesterov, fixed_period(rule))
    alone = _settled(inner_map(step, momentum, nesterov))
    return _settled(cycle_of(rule, inner), shipped_along(rule)) / alone


def _settled(cycle: Cycle, along: float = 0.0) -> Any:
    """Steady-state variance of the weights, `along` the last of the state from them."""
    if not all_of(spectral_radius(cycle.matrix) < 1):
        raise ValueError(
            "learning_rate * curvature must be where the inner optimizer and the rule are stable; "
            "stability_limit and unstable_bands say where that is"
        )
    covariance = steady_state_covariance(cycle.matrix, cycle.noise)
    slow, both, slot = covariance[0][0], covariance[0][-1], covariance[-1][-1]
    return slow + along * (2 * both + along * slot)
