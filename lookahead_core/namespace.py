"""The only import of array-api-compat: which array namespace an array belongs to.

torch.Tensor and cupy.ndarray have no `__array_namespace__`, so the standard alone is not enough. A
library that array-api-compat does not know, or that lacks some of the standard, is registered.
"""

from typing import Any

from array_api_compat import array_namespace as _array_namespace
from array_api_compat import device as _device
from array_api_compat import is_array_api_obj as _is_array_api_obj
from array_api_compat import is_writeable_array as _is_writeable_array
from array_api_compat import to_device as _to_device

from lookahead_core.typing import Array

__all__ = ["device", "is_array", "is_writeable", "namespace", "register", "to_device"]

# By the type of its arrays.
_REGISTERED: dict[type, Any] = {}


def register(array_type: type, array_namespace: Any) -> None:
    """Let the core compute on arrays of a library of which it does not know the namespace.

    Parameters
    ----------
    array_type : type
        The class of its arrays; subclasses are registered by themselves.
    array_namespace : module or object
        Has the functions of the array API that the core calls, with the standard's arguments:
        `astype`, `where`, `zeros_like`, `ones_like`, `result_type`, `isfinite`, `all`, `sum`,
        `real`, `conj`, `asarray`, `zeros`, `iinfo`, and the floating dtypes.

    Examples
    --------
    >>> from decimal import Decimal
    >>> register(Decimal, "any object with those functions")
    >>> namespace(Decimal(1))
    'any object with those functions'
    """
    _REGISTERED[array_type] = array_namespace


def namespace(*arrays: Array) -> Any:
    """Array-API namespace that all `arrays` share."""
    for array in arrays:
        if type(array) in _REGISTERED:
            return _REGISTERED[type(array)]
    return _array_namespace(*arrays)


def is_array(value: object) -> bool:
    """Whether `value` is an array of a namespace that the core can work on."""
    return type(value) in _REGISTERED or _is_array_api_obj(value)


def is_writeable(array: Array) -> bool:
    """Whether `array` can be changed in place: no JAX, read-only NumPy or registered array can."""
    return type(array) not in _REGISTERED and _is_writeable_array(array)


def device(array: Array) -> Any:
    """Where `array` lives; a torch tensor, a CuPy and a JAX array all say it differently.

    None for a registered type whose arrays live nowhere, as those of a unified memory.
    """
    return getattr(array, "device", None) if type(array) in _REGISTERED else _device(array)


def to_device(array: Array, where: Any) -> Array:
    """`array` on the device `where`, itself if it is there."""
    return array if type(array) in _REGISTERED else _to_device(array, where)
