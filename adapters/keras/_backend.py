"""What the three backends of Keras do in three ways: read, write, branch, and run on each device.

A counter that is known is an int, and the core branches in Python: so it is with torch, and
wherever no graph is traced. In a graph TensorFlow assigns inside of the branch that is taken, and
JAX, where nothing is assigned, chooses between values.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

__all__ = [
    "BACKEND",
    "known",
    "native",
    "on_each_device",
    "outside_of_graphs",
    "read",
    "when",
    "write",
]

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf

    from lookahead_core.namespace import register

    from ._namespace import NAMESPACE

    for tensor in (tf.__internal__.EagerTensor, tf.__internal__.SymbolicTensor):
        register(tensor, NAMESPACE)
elif BACKEND == "jax":
    import jax
elif BACKEND != "torch":
    raise ImportError(f"KERAS_BACKEND must be tensorflow, jax or torch, got {BACKEND!r}")

Values = list[Any]


def native(variable: Any) -> Any:
    """What `on_each_device` takes: TensorFlow has a variable of its own in each of Keras'."""
    own = BACKEND == "tensorflow" and isinstance(variable, keras.Variable)
    return variable.value if own else variable


def read(variable: Any) -> Any:
    """The array of a variable, without a graph of derivatives."""
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(native(variable))
    return variable.value.detach() if BACKEND == "torch" else variable.value


def write(variables: Sequence[Any], values: Values) -> None:
    """Assign a value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def known(number: Any) -> Any:
    """A counter as an int, where its value is there; else as it is."""
    if BACKEND == "tensorflow":
        return number if isinstance(number, tf.__internal__.SymbolicTensor) else int(number)
    return number if BACKEND == "jax" and isinstance(number, jax.core.Tracer) else int(number)


def when(condition: Any, variables: Sequence[Any], outcome: Callable[[], Values]) -> None:
    """Assign to the variables what `outcome` gives, if the condition holds."""
    if isinstance(condition, bool):
        if condition:
            write(variables, outcome())
    elif BACKEND == "tensorflow":
        tf.cond(condition, lambda: _assigned(variables, outcome), tf.no_op)
    else:
        write(variables, jax.lax.cond(condition, outcome, lambda: [*map(read, variables)]))


def _assigned(variables: Sequence[Any], outcome: Callable[[], Values]) -> Any:
    """The branch of a graph that assigns."""
    write(variables, outcome())
    return tf.no_op()


def on_each_device(function: Callable[..., None], part: Any, *arguments: Any) -> None:
    """Call `function(part, *arguments)`, under a strategy of tf.distribute once for each device."""
    if BACKEND != "tensorflow":
        function(part, *arguments)
        return

    def update(strategy: Any, part: Any, *arguments: Any) -> None:
        first, *_ = part.counters
        strategy.extended.update(
            first, lambda _, *rest: function(*rest), args=(part, *arguments), group=False
        )

    merge = tf.__internal__.distribute.interim.maybe_merge_call
    merge(update, tf.distribute.get_strategy(), part, *arguments)


def outside_of_graphs() -> AbstractContextManager[Any]:
    """Where variables are made: the first call of `apply` may be inside of a trace."""
    return tf.init_scope() if BACKEND == "tensorflow" else nullcontext()
