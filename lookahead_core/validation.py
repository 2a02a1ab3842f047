"""Argument checks: each says which argument, what was expected, and what came."""

import math
import operator
from numbers import Real
from typing import Any

from lookahead_core.namespace import is_array
from lookahead_core.typing import Fraction

__all__ = ["below_one", "boolean", "fraction", "non_negative", "one_of", "positive", "positive_int"]


def positive_int(name: str, value: Any, meaning: str) -> int:
    """`value` as an int >= 1, or ValueError; True, 2.5 and 5.0 are refused."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be an int >= 1 ({meaning}), got {value!r}")
    return number


def fraction(name: str, value: Any, meaning: str) -> Fraction:
    """`value` as a float in [0, 1], or ValueError; True and NaN are refused.

    A 0-d array of real numbers is taken as it is: it may be traced, and cannot be asked then.
    """
    if _is_real_scalar(value):
        return value
    number = _real(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be a number in [0, 1] ({meaning}), got {value!r}")
    return number


def non_negative(name: str, value: Any, meaning: str) -> float:
    """`value` as a finite float >= 0, or ValueError; True and NaN are refused."""
    number = _real(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0 ({meaning}), got {value!r}")
    return number


def positive(name: str, value: Any, meaning: str) -> float:
    """`value` as a finite float > 0, or ValueError; True and NaN are refused."""
    number = _real(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a finite number > 0 ({meaning}), got {value!r}")
    return number


def below_one(name: str, value: Any, meaning: str) -> float:
    """`value` as a float in [0, 1), or ValueError; True and NaN are refused."""
    number = _real(value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be a number in [0, 1) ({meaning}), got {value!r}")
    return number


def boolean(name: str, value: Any, meaning: str) -> bool:
    """`value` if it is True or False, else ValueError: 0.9 in its place is a slip."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False ({meaning}), got {value!r}")
    return value


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`, else ValueError."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def _real(value: Any) -> float:
    """`value` as a float, NaN if it is not a real number."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def _is_real_scalar(value: Any) -> bool:
    """Whether `value` is a 0-d array, not a number of Python or NumPy, with a real dtype."""
    if isinstance(value, Real) or not is_array(value) or value.shape != ():
        return False
    return "float" in str(value.dtype) or "int" in str(value.dtype)
