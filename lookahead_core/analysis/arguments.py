"""Arguments of the formulas: a number is checked by name, an array is asked as a whole.

The formulas use operators alone, so a number and an array of any namespace go the same way.
"""

from typing import Any

from lookahead_core.namespace import is_array, namespace
from lookahead_core.typing import Array
from lookahead_core.validation import below_one

__all__ = ["all_of", "inner_momentum", "inside"]


def all_of(condition: Any) -> bool:
    """Whether `condition`, a bool or an array of them, holds everywhere."""
    return bool(namespace(condition).all(condition)) if is_array(condition) else bool(condition)


def inside(name: str, value: Array, low: float, high: float, meaning: str) -> Array:
    """`value` if it lies strictly between `low` and `high` everywhere, else ValueError."""
    if not all_of((value > low) & (value < high)):
        raise ValueError(f"{name} must lie in ({low:g}, {high:g}) ({meaning}), got {value!r}")
    return value


def inner_momentum(momentum: float, nesterov: bool) -> float:
    """`momentum` of the inner optimizer, checked: Nesterov's needs some."""
    checked = below_one("momentum", momentum, "of the inner optimizer")
    if nesterov and checked == 0:
        raise ValueError(f"momentum must be > 0 with nesterov=True, got {momentum!r}")
    return checked
