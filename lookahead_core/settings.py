"""Settings of an outer rule: a number, a 0-d array, or a schedule of the number of syncs.

A number is checked when the rule is made, what a schedule gives when it is used. An array may be
traced, so its value cannot be asked for.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from lookahead_core.leaves import kind_of
from lookahead_core.namespace import is_array, namespace
from lookahead_core.typing import Array, Count

__all__ = ["Scheduled", "Setting", "as_real"]

Number: TypeAlias = float | Array
Scheduled: TypeAlias = Number | Callable[[Count], Number]


def as_real(count: Count) -> Number:
    """A counter as a number to divide by, in the widest floating dtype that there is.

    Dividing an integer array by itself gives float32 in torch and JAX, and nothing in the standard.
    """
    if not is_array(count):
        return float(count)
    xp = namespace(count)
    wide = xp.__array_namespace_info__().dtypes(kind="real floating")
    return xp.astype(count, wide.get("float64", xp.float32))


class Setting(NamedTuple):
    """What a setting must be.

    Attributes
    ----------
    name, meaning : str
        For the message of an error.
    check : callable, (name, value, meaning) -> float
        Raises ValueError if a number is out of range.
    """

    name: str
    check: Callable[[str, Any, str], float]
    meaning: str

    def checked(self, value: Any) -> Any:
        """`value` as a float, or as it is where it cannot be checked yet."""
        return value if callable(value) else self.at(value, 0)

    def at(self, value: Any, syncs: Count) -> Any:
        """The float or 0-d array for the sync that follows `syncs` others."""
        value = value(syncs) if callable(value) else value
        return value if is_real_scalar(value) else self.check(self.name, value, self.meaning)


def is_real_scalar(value: Any) -> bool:
    """Whether `value` is a 0-d array, not a number of Python or NumPy, with a real dtype."""
    if isinstance(value, Real) or not is_array(value) or value.shape != ():
        return False
    return kind_of(value.dtype) in ("float", "int")
