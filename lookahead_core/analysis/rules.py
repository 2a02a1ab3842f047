"""From a `SyncRule` to its formula: the one place that asks which outer rule it has."""

from typing import Any

from lookahead_core.rule import SyncRule

from .arguments import fixed_alpha
from .cycle import Cycle, interpolating_cycle

__all__ = ["cycle_of", "outer_gain"]


def cycle_of(rule: SyncRule, inner: Cycle) -> Cycle:
    """One cycle of `rule`, whose k inner steps are `inner`."""
    return interpolating_cycle(inner, fixed_alpha(rule), rule.inner_state)


def outer_gain(rule: SyncRule) -> Any:
    """How far the slow weights move for each unit of pseudo-gradient, in the long run."""
    return fixed_alpha(rule)
