"""The array namespace of MLX for the core: what `mlx.core` lacks of the standard, or has otherwise.

Of mlx 0.32: `astype` has no `copy`, `bool` has another name, `zeros` and `asarray` take no device.
"""

from typing import Any

import mlx.core as mx

__all__ = ["NAMESPACE"]


class Namespace:
    """`mlx.core`, with the standard's arguments."""

    def __getattr__(self, name: str) -> Any:
        return mx.bool_ if name == "bool" else getattr(mx, name)

    def astype(self, array: mx.array, dtype: mx.Dtype, /, *, copy: bool = True) -> mx.array:
        """In MLX no array is ever written to by another's name, so a copy is as good as itself."""
        return array.astype(dtype)

    def zeros(self, shape: Any, *, dtype: mx.Dtype | None = None, device: Any = None) -> mx.array:
        """Memory is unified: there is no device to choose."""
        return mx.zeros(shape, dtype=mx.float32 if dtype is None else dtype)

    def asarray(
        self, value: Any, /, *, dtype: mx.Dtype | None = None, device: Any = None
    ) -> mx.array:
        """Likewise; and of a float64 array of NumPy `mx.array` makes float32, unless it is told."""
        if dtype is None and str(getattr(value, "dtype", None)) == "float64":
            dtype = mx.float64
        return mx.array(value, dtype=dtype)


NAMESPACE = Namespace()
