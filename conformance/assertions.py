"""How checks compare: exactly, or within so many eps of the leaf's dtype."""

from collections.abc import Sequence
from decimal import Decimal

from .setup import EPS, Leaf, Values

__all__ = ["require", "require_equal", "require_within"]


def require(condition: bool, message: str) -> None:
    """AssertionError with `message` unless `condition`."""
    if not condition:
        raise AssertionError(message)


def require_equal(got: Values, expected: Values, case: str) -> None:
    """Equal bit for bit: `repr` tells -0.0 from 0.0 and finds nan equal to nan."""
    if [list(map(repr, leaf)) for leaf in got] != [list(map(repr, leaf)) for leaf in expected]:
        raise AssertionError(f"{case}: expected {expected}, got {got}")


def require_within(
    got: Values, exact: Sequence[Sequence[Decimal]], leaves: Sequence[Leaf], eps: int, case: str
) -> None:
    """Each value within `eps` times eps of its leaf's dtype, relative to the largest in play."""
    require(len(got) == len(exact), f"{case}: expected {len(exact)} leaves, got {len(got)}")
    for mine, yours, leaf in zip(got, exact, leaves, strict=True):
        expected = [float(value) for value in yours]
        scale = max([1.0, *map(abs, expected), *map(abs, leaf.values)])
        bound = eps * EPS.get(leaf.dtype, 0.0) * scale
        close = len(mine) == len(expected) and all(
            abs(a - b) <= bound for a, b in zip(mine, expected, strict=True)
        )
        require(close, f"{case}: expected {expected} within {bound:.3g}, got {mine}")
