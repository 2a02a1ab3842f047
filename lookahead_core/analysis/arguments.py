"""Arguments of the formulas: a number is checked by name, an array is asked as a whole.

The formulas use operators alone, so a number and an array of any namespace go the same way.
"""

from typing import Any

from lookahead_core.namespace import is_array, namespace
from lookahead_core.outer import Interpolate
from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array
from lookahead_core.validation import below_one, non_negative

__all__ = ["all_of", "fixed_alpha", "inner_momentum", "inside"]


def all_of(condition: Any) -> bool:
    """Whether `condition`, a bool or an array of them, holds everywhere."""
    return bool(namespace(condition).all(condition)) if is_array(condition) else bool(condition)


def inside(name: str, value: Array, low: float, high: float, meaning: str) -> Array:
    """`value` if it lies strictly between `low` and `high` everywhere, else ValueError."""
    if not all_of((value > low) & (value < high)):
        raise ValueError(f"{name} must lie in ({low:g}, {high:g}) ({meaning}), got {value!r}")
    return value


def fixed_alpha(rule: SyncRule) -> Any:
    """alpha of a rule whose formula is known: a number, > 0, not a schedule of the syncs."""
    if not isinstance(rule.outer, Interpolate) or callable(rule.outer.alpha):
        raise ValueError(f"rule must interpolate with a fixed alpha here, got {rule!r}")
    if not rule.outer.alpha > 0:
        raise ValueError(f"alpha must be > 0 here (at 0 nothing ever moves), got {rule!r}")
    return rule.outer.alpha


def inner_momentum(momentum: float, nesterov: bool) -> float:
    """`momentum` of the inner optimizer, checked: Nesterov's needs some."""
    checked = below_one("momentum", momentum, "of the inner optimizer")
    if nesterov and non_negative("momentum", checked, "of the inner optimizer") == 0:
        raise ValueError(f"momentum must be > 0 with nesterov=True, got {momentum!r}")
    return checked
