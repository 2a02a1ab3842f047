"""The array namespace of TensorFlow for the core: the standard's names for what `tf` has.

Tensors of JAX and torch have theirs. `keras.ops` would do for all three, but lacks `astype`.
"""

from types import SimpleNamespace
from typing import Any

import tensorflow as tf

__all__ = ["NAMESPACE"]


class Namespace:
    """`tf`, with the standard's names and arguments."""

    where = staticmethod(tf.where)
    zeros_like = staticmethod(tf.zeros_like)
    ones_like = staticmethod(tf.ones_like)
    isfinite = staticmethod(tf.math.is_finite)
    all = staticmethod(tf.reduce_all)
    sum = staticmethod(tf.reduce_sum)
    real = staticmethod(tf.math.real)
    conj = staticmethod(tf.math.conj)
    stack = staticmethod(tf.stack)
    unstack = staticmethod(tf.unstack)

    def __getattr__(self, name: str) -> Any:
        return getattr(tf, name)  # dtypes

    def astype(self, array: Any, dtype: Any, /, *, copy: bool = True) -> Any:
        """No tensor is ever written to, so a copy is as good as itself."""
        return tf.cast(array, dtype)

    def asarray(self, value: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
        """Where it lives, TensorFlow decides."""
        return tf.convert_to_tensor(value, dtype=dtype)

    def zeros(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """Likewise."""
        return tf.zeros(shape, dtype=dtype or tf.float32)

    def result_type(self, *dtypes: Any) -> Any:
        """The wider of floating dtypes; of bfloat16 and float16, which neither holds, float32."""
        from keras.src.backend.common.dtypes import result_type

        return tf.as_dtype(result_type(*(tf.as_dtype(dtype).name for dtype in dtypes)))

    def iinfo(self, dtype: Any) -> Any:
        """The largest number of an integer dtype."""
        return SimpleNamespace(max=dtype.max, min=dtype.min)

    def __array_namespace_info__(self) -> Any:
        """The floating dtypes alone."""
        return SimpleNamespace(dtypes=lambda kind: {"float32": tf.float32, "float64": tf.float64})


NAMESPACE = Namespace()
