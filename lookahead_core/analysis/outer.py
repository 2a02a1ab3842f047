"""What a rule makes of the inner learning rate and of the noise: effective rate, variance factor.

Momentum rules come as plain numbers, since the functions are about the formula; `SyncRule`s come as
they are.
"""

from typing import Any

from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array
from lookahead_core.validation import below_one, one_of, positive, positive_int

from .arguments import all_of, inner_momentum
from .cycle import Cycle, after_inner_steps, inner_map, momentum_cycle
from .matrices import spectral_radius, steady_state_covariance
from .rules import cycle_of, outer_gain

__all__ = [
    "effective_learning_rate",
    "momentum_outer_gain",
    "momentum_outer_variance_factor",
    "reset_gain",
    "variance_factor",
]


def effective_learning_rate(rule: SyncRule, learning_rate: float, momentum: float = 0.0) -> float:
    """Learning rate of the plain gradient descent that moves as far along a constant gradient.

    lr_eff = outer gain * policy gain * learning_rate / (1 - momentum). Outer gain: alpha, or
    lr / (1 - momentum) of a momentum outer rule; policy gain: `reset_gain` for "reset", else 1.

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
        If an argument is out of range, or alpha is a schedule.

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
    gain = reset_gain(momentum, rule.sync_period) if rule.inner_state == "reset" else 1.0
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


def momentum_outer_gain(lr: float, momentum: float) -> float:
    """How far a momentum outer rule moves for each unit of pseudo-gradient, in the long run.

    lr / (1 - momentum): also the factor of the variance of SGD in flat directions. Above 1 the rule
    accelerates and makes the slow weights noisier than the inner optimizer; below 1 it averages.

    Parameters
    ----------
    lr : float
        Outer learning rate, > 0.
    momentum : float
        Outer momentum, in [0, 1), Nesterov's or the heavy ball's.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md.

    Examples
    --------
    >>> from lookahead_core.analysis import momentum_outer_gain
    >>> print(f"{momentum_outer_gain(lr=0.7, momentum=0.9):.4f}")
    7.0000
    """
    rate = positive("lr", lr, "of the outer rule")
    return rate / (1 - below_one("momentum", momentum, "of the outer rule"))


def variance_factor(
    rule: SyncRule,
    learning_rate: Array,
    curvature: Array,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> Any:
    """Steady-state variance of the slow weights over that of the bare inner optimizer.

    Both solve S = C S C' + N: C the map of one cycle, or of one inner step, and N the noise that it
    adds. Around plain SGD with interpolation this is `lookahead_variance_factor`.

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
    Derived in docs/theory.md; the noise is that of Zhang et al. 2019, eq. 4.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import variance_factor
    >>> rule = lookahead(sync_period=5, alpha=0.5)
    >>> print(f"{variance_factor(rule, 0.1, curvature=1.0, momentum=0.9):.6f}")
    0.252200
    """
    step, momentum = learning_rate * curvature, inner_momentum(momentum, nesterov)
    inner = after_inner_steps(step, momentum, nesterov, rule.sync_period)
    return _settled(cycle_of(rule, inner)) / _settled(inner_map(step, momentum, nesterov))


def momentum_outer_variance_factor(
    learning_rate: Array,
    curvature: Array,
    sync_period: int,
    lr: float,
    momentum: float,
    nesterov: bool = True,
    inner_state: str = "maintain",
) -> Any:
    """Steady-state variance of slow weights under a momentum outer rule, over that of plain SGD.

    m' = momentum * m + D, D = slow - fast; slow' = slow - lr * (D + momentum * m'), or
    slow - lr * m' without Nesterov. Tends to lr / (1 - momentum) in flat directions.

    Parameters
    ----------
    learning_rate, curvature : float or array
        Of the inner SGD; eigenvalues of the Hessian.
    sync_period : int
        Inner steps k between syncs.
    lr : float
        Outer learning rate, > 0.
    momentum : float
        Outer momentum, in [0, 1).
    nesterov : bool
        Nesterov's form, as SNOO and DiLoCo have it.
    inner_state : {"maintain", "reset"}
        What a sync does to the inner state; plain SGD has none.

    Returns
    -------
    float or array
        By eigenvalue, right after a sync.

    Raises
    ------
    ValueError
        If the rule is unstable there, or an argument is out of range.

    References
    ----------
    Derived in docs/theory.md; not in Zhang et al. 2019.

    Examples
    --------
    >>> from lookahead_core.analysis import momentum_outer_variance_factor
    >>> factor = momentum_outer_variance_factor(0.001, 1.0, sync_period=5, lr=0.7, momentum=0.9)
    >>> print(f"{factor:.6f}")
    6.818628
    """
    period = positive_int("sync_period", sync_period, "inner steps between syncs")
    momentum_outer_gain(lr, momentum)
    one_of("inner_state", inner_state, ("maintain", "reset"))
    step = learning_rate * curvature
    inner = after_inner_steps(step, 0.0, False, period)
    cycle = momentum_cycle(inner, lr, momentum, nesterov, inner_state)
    return _settled(cycle) / _settled(inner_map(step, 0.0, False))


def _settled(cycle: Cycle) -> Any:
    """Steady-state variance of the weights."""
    if not all_of(spectral_radius(cycle.matrix) < 1):
        raise ValueError(
            "learning_rate * curvature must be where the inner optimizer and the rule are stable; "
            "stability_limit and unstable_bands say where that is"
        )
    return steady_state_covariance(cycle.matrix, cycle.noise)[0][0]
