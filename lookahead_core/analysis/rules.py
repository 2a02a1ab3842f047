"""From a `SyncRule` to its formula: the one place that asks which outer rule it has."""

from typing import Any

from lookahead_core.namespace import is_array
from lookahead_core.outer import Interpolate, Momentum
from lookahead_core.outer_rules.gradient_point import EmaNesterov, PrimalAveraging
from lookahead_core.rule import SyncRule

from .cycle import Cycle, interpolating_cycle, linear_cycle, momentum_cycle

__all__ = [
    "check_restarts",
    "cycle_of",
    "fixed_alpha",
    "fixed_period",
    "outer_gain",
    "shipped_along",
]


def cycle_of(rule: SyncRule, inner: Cycle) -> Cycle:
    """One cycle of `rule`, whose k inner steps are `inner`."""
    if isinstance(rule.outer, Momentum):
        outer = _fixed_momentum(rule, rule.outer)
        return momentum_cycle(inner, *outer, rule.outer.nesterov, rule.inner_state)
    if isinstance(rule.outer, PrimalAveraging | EmaNesterov):
        return linear_cycle(inner, *_fixed_linear(rule), rule.inner_state)
    return interpolating_cycle(inner, fixed_alpha(rule), rule.inner_state)


def outer_gain(rule: SyncRule) -> Any:
    """How far the slow weights move for each unit of pseudo-gradient, in the long run.

    alpha of an interpolation, lr / (1 - momentum) of a momentum rule, 1 of primal averaging, and
    1 / (1 - step_size) of EMA-Nesterov. It is the factor of the
    variance of SGD in flat directions as well: above 1 the rule accelerates and makes slow weights
    noisier than the inner optimizer's; below 1 it averages.

    Parameters
    ----------
    rule : SyncRule
        With an outer rule of this library.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the rule has no fixed linear form: a schedule, or fast weights that stay.

    References
    ----------
    Derived in docs/theory.md; not in Zhang et al. 2019. Assumes a gradient that hardly changes.

    Examples
    --------
    >>> from lookahead_core import Momentum, SyncRule
    >>> from lookahead_core.analysis import outer_gain
    >>> print(f"{outer_gain(SyncRule(30, Momentum(lr=0.7, momentum=0.9))):.4f}")
    7.0000
    """
    if isinstance(rule.outer, Momentum):
        lr, momentum = _fixed_momentum(rule, rule.outer)
        return lr / (1 - momentum)
    if isinstance(rule.outer, PrimalAveraging | EmaNesterov):
        _, _, ahead, behind = _fixed_linear(rule)
        return 1 / (1 - (ahead - behind))
    return fixed_alpha(rule)


def shipped_along(rule: SyncRule) -> float:
    """How far along its slot the weights that a rule reads out are from its slow ones."""
    if isinstance(rule.outer, PrimalAveraging):
        return 1 - rule.outer.mu_y
    return -_fixed_linear(rule)[2] if isinstance(rule.outer, EmaNesterov) else 0.0


def _fixed_linear(rule: SyncRule) -> tuple[float, float, float, float]:
    """Coefficients of `Kernel.linear`: those of primal averaging or of EMA-Nesterov."""
    check_restarts(rule)
    outer: Any = rule.outer
    number = outer.mu_x if isinstance(outer, PrimalAveraging) else outer.step_size
    if not isinstance(number, float):
        raise ValueError(f"mu_x and step_size must be fixed numbers here, got {rule!r}")
    if isinstance(outer, PrimalAveraging):
        return number, number, outer.mu_y, outer.mu_y
    return outer.decay + (1 - outer.decay) * number, outer.decay - 1, number, 0.0


def fixed_alpha(rule: SyncRule) -> Any:
    """alpha of a rule whose formula is known: a number, > 0, not a schedule of the syncs."""
    check_restarts(rule)
    alpha: Any = rule.outer.alpha if isinstance(rule.outer, Interpolate) else None
    if not (isinstance(alpha, float) or is_array(alpha)):
        raise ValueError(f"outer must be Interpolate or Momentum of fixed numbers, got {rule!r}")
    if not alpha > 0:
        raise ValueError(f"alpha must be > 0 here (at 0 nothing ever moves), got {rule!r}")
    return alpha


def fixed_period(rule: SyncRule) -> int:
    """Inner steps of every cycle of `rule`, or ValueError if they are a schedule of the syncs."""
    if callable(rule.sync_period):
        raise ValueError(f"sync_period must be the same for all cycles here, got {rule!r}")
    return rule.sync_period


def check_restarts(rule: SyncRule) -> None:
    """Raise ValueError unless every sync puts the fast weights back on the slow ones."""
    if not rule.fast_carries_slow:
        raise ValueError(f"rule must have restart=1 and restart_period=1 here, got {rule!r}")


def _fixed_momentum(rule: SyncRule, outer: Momentum) -> tuple[float, float]:
    check_restarts(rule)
    if not (isinstance(outer.lr, float) and isinstance(outer.momentum, float)):
        raise ValueError(f"outer must be Interpolate or Momentum of fixed numbers, got {rule!r}")
    if not outer.lr > 0:
        raise ValueError(f"lr must be > 0 here (at 0 nothing ever moves), got {rule!r}")
    return outer.lr, outer.momentum
