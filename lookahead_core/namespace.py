"""The only import of array-api-compat: which array namespace an array belongs to.

torch.Tensor and cupy.ndarray have no `__array_namespace__`, so the standard alone is not enough.
"""

from typing import Any

from array_api_compat import array_namespace as _array_namespace
from array_api_compat import device as _device
from array_api_compat import is_array_api_obj as _is_array_api_obj
from array_api_compat import is_writeable_array as _is_writeable_array
from array_api_compat import to_device as _to_device

from lookahead_core.typing import Array

__all__ = ["device", "is_array", "is_writeable", "namespace", "to_device"]


def namespace(*arrays: Array) -> Any:
    """Array-API namespace that all `arrays` share."""
    return _array_namespace(*arrays)


def is_array(value: object) -> bool:
    """Whether `value` is an array of a namespace that the core can work on."""
    return _is_array_api_obj(value)


def is_writeable(array: Array) -> bool:
    """Whether `array` can be changed in place (a JAX or a read-only NumPy array cannot)."""
    return _is_writeable_array(array)


def device(array: Array) -> Any:
    """Where `array` lives; a torch tensor, a CuPy and a JAX array all say it differently."""
    return _device(array)


def to_device(array: Array, where: Any) -> Array:
    """`array` on the device `where`, itself if it is there."""
    return _to_device(array, where)
