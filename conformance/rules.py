"""The rule of the core that a setup describes, for drivers of adapters that take one."""

from lookahead_core import (
    EmaNesterov,
    Interpolate,
    Momentum,
    OuterRule,
    PrimalAveraging,
    RateWeights,
    SyncRule,
    nested,
)

from .setup import Ahead, Averaging, Setup

__all__ = ["sync_rule"]


def sync_rule(setup: Setup) -> SyncRule:
    """The `SyncRule` with the settings of `setup`.

    Parameters
    ----------
    setup : Setup
        What the suite asks for.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If a setting is out of range: the suite asks for such ones too.

    Examples
    --------
    >>> from lookahead_core.conformance import Leaf, Outer, Setup
    >>> sync_rule(Setup((Leaf((1.0,)),), outer=Outer(0.5, 0.5))).outer
    Momentum(lr=0.5, momentum=0.5, nesterov=True)
    """
    rule = SyncRule(
        setup.sync_period,
        outer_rule(setup),
        setup.inner_state,
        setup.restart,
        setup.restart_period,
        setup.start,
    )
    if setup.second is None:
        return rule
    period, alpha, restart = setup.second
    return nested(rule, SyncRule(setup.sync_period * period, Interpolate(alpha), restart=restart))


def outer_rule(setup: Setup) -> OuterRule:
    """How the slow weights of `setup` move."""
    outer = setup.outer
    if outer is None:
        return Interpolate(setup.alpha)
    if isinstance(outer, Averaging):
        weights = RateWeights(outer.power, outer.r) if outer.mu_x is None else outer.mu_x
        return PrimalAveraging(weights, outer.mu_y)
    return EmaNesterov(*outer) if isinstance(outer, Ahead) else Momentum(*outer)
