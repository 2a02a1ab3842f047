"""Argument checks: each says which argument, what was expected, and what came."""

import math
import operator
from numbers import Real
from typing import Any

__all__ = [
    "below_one",
    "boolean",
    "finite",
    "fraction",
    "int_at_least",
    "non_negative",
    "non_negative_int",
    "not_evaluating",
    "not_wrapped",
    "one_of",
    "positive",
    "positive_int",
    "shown",
]

LONGEST = 200  # characters of a value in a message


def positive_int(name: str, value: Any, meaning: str) -> int:
    """`value` as an int >= 1, or ValueError; True, 2.5 and 5.0 are refused."""
    return int_at_least(1, name, value, meaning)


def non_negative_int(name: str, value: Any, meaning: str) -> int:
    """`value` as an int >= 0, or ValueError; True, 2.5 and 5.0 are refused."""
    return int_at_least(0, name, value, meaning)


def int_at_least(least: int, name: str, value: Any, meaning: str = "") -> int:
    """`value` as an int >= `least`, or ValueError; True, 2.5 and 5.0 are refused."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        meant = f" ({meaning})" if meaning else ""
        raise ValueError(f"{name} must be an int >= {least}{meant}, got {shown(value)}")
    return number


def fraction(name: str, value: Any, meaning: str) -> float:
    """`value` as a float in [0, 1], or ValueError; True and NaN are refused."""
    return _within("number in [0, 1]", lambda n: 0 <= n <= 1, name, value, meaning)


def non_negative(name: str, value: Any, meaning: str) -> float:
    """`value` as a finite float >= 0, or ValueError; True and NaN are refused."""
    return _within("finite number >= 0", lambda n: 0 <= n < math.inf, name, value, meaning)


def finite(name: str, value: Any, meaning: str) -> float:
    """`value` as a finite float, or ValueError; True and NaN are refused."""
    return _within("finite number", math.isfinite, name, value, meaning)


def positive(name: str, value: Any, meaning: str) -> float:
    """`value` as a finite float > 0, or ValueError; True and NaN are refused."""
    return _within("finite number > 0", lambda n: 0 < n < math.inf, name, value, meaning)


def below_one(name: str, value: Any, meaning: str) -> float:
    """`value` as a float in [0, 1), or ValueError; True and NaN are refused."""
    return _within("number in [0, 1)", lambda n: 0 <= n < 1, name, value, meaning)


def boolean(name: str, value: Any, meaning: str) -> bool:
    """`value` if it is True or False, else ValueError: 0.9 in its place is a slip."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False ({meaning}), got {shown(value)}")
    return value


def not_wrapped(inner: Any, wrapped: bool) -> None:
    """ValueError if the inner optimizer has slow weights already, which another sync goes past."""
    if wrapped:
        raise ValueError(
            "inner must not be wrapped already (for one rule above another there is the rule "
            f"nested(first, second), around the inner optimizer itself), got {inner!r}"
        )


def not_evaluating(action: str, evaluating: bool) -> None:
    """RuntimeError for what would change the slow weights, while the parameters hold them."""
    if evaluating:
        hold = "the parameters hold the slow weights; leave the context, or call train(), first"
        raise RuntimeError(f"{action}() inside slow_weights() or after eval(): {hold}")


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`, else ValueError."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}"
        )
    return str(value)


def _within(expected: str, holds: Any, name: str, value: Any, meaning: str) -> float:
    """`value` as a float if it is a real number for which `holds`, else ValueError."""
    number = _real(value)
    if not holds(number):
        raise ValueError(f"{name} must be a {expected} ({meaning}), got {shown(value)}")
    return number


def shown(value: Any) -> str:
    """`value` as it prints, cut short; Python refuses to print an int of 4,300 digits and more."""
    try:
        text = repr(value)
    except ValueError:
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "an object"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _real(value: Any) -> float:
    """`value` as a float, NaN if it is not a real number, infinite if it is too large for one."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return -math.inf if value < 0 else math.inf
