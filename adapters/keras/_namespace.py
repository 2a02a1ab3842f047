"""The array namespace of TensorFlow for the core: the standard's names for what `tf` has.

Tensors of JAX and torch have theirs. `keras.ops` would do for all three, but lacks `astype`.
"""

from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

__all__ = ["Namespace"]

OTHER_NAMES = {"isfinite": "is_finite", "all": "reduce_all", "sum": "reduce_sum"}


class Namespace:
    """`tf`, with the standard's names and arguments."""

    def __getattr__(self, name: str) -> Any:
        return getattr(tf.math, OTHER_NAMES.get(name, name), None) or getattr(tf, name)

    def astype(self, array: Any, dtype: Any, /, *, copy: bool = True) -> Any:
        """No tensor is ever written to, so a copy is as good as itself."""
        return tf.cast(array, dtype)

    def zeros(self, shape: Any, *, dtype: Any, device: Any = None) -> Any:
        """Where they live, TensorFlow decides."""
        return tf.zeros(shape, dtype)

    def result_type(self, *dtypes: Any) -> Any:
        """As Keras has it: of bfloat16 and float16, which neither holds, float32."""
        names = (tf.as_dtype(dtype).name for dtype in dtypes)
        return tf.as_dtype(keras.backend.result_type(*names))

    def __array_namespace_info__(self) -> Any:
        """The wide floating dtypes alone."""
        return SimpleNamespace(dtypes=lambda kind: {"float32": tf.float32, "float64": tf.float64})
