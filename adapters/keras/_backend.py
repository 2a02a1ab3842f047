"""What the three backends of Keras do in three ways: read, branch, and run on each device.

A counter that is known is an int, and the core branches in Python: so it is with torch, and
wherever no graph is traced. In a graph TensorFlow assigns inside of the branch that is taken, and
JAX, where nothing is assigned, chooses between values.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import keras

from .._interrupts import Uninterrupted

__all__ = ["COUNTER", "known", "on_each_device", "outside_of_graphs", "read", "when", "write"]

BACKEND = keras.backend.backend()
# Where variables are made: the first call of `apply` may be inside of a trace.
outside_of_graphs: Any = nullcontext
if BACKEND == "tensorflow":
    import tensorflow as tf

    from lookahead_core.namespace import register

    from ._namespace import Namespace

    outside_of_graphs = tf.init_scope
    for tensor in (tf.__internal__.EagerTensor, tf.__internal__.SymbolicTensor):
        register(tensor, Namespace())
elif BACKEND == "jax":
    import jax
# Schedules multiply the number of syncs by floats, which TensorFlow does not do with an int32.
COUNTER = "float64" if BACKEND == "tensorflow" else "int32"


def read(variable: Any) -> Any:
    """The array of a variable, without a graph of derivatives."""
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(variable.value)
    return variable.value.detach() if BACKEND == "torch" else variable.value


def write(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Assign a value to each variable; Ctrl-C waits until all are assigned (clause C88)."""
    with Uninterrupted():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def known(number: Any) -> Any:
    """A counter as an int, where its value is there; else as it is."""
    if BACKEND == "tensorflow":
        return number if isinstance(number, tf.__internal__.SymbolicTensor) else int(number)
    return number if BACKEND == "jax" and isinstance(number, jax.core.Tracer) else int(number)


def when(condition: Any, variables: Sequence[Any], outcome: Callable[[], list[Any]]) -> None:
    """Assign to the variables what `outcome` gives, if the condition holds."""
    if isinstance(condition, bool):
        if condition:
            write(variables, outcome())
    elif BACKEND == "tensorflow":
        tf.cond(condition, lambda: write(variables, outcome()), lambda: None)
    else:
        write(variables, jax.lax.cond(condition, outcome, lambda: [*map(read, variables)]))


def on_each_device(function: Callable[..., Any], part: Any, *arguments: Any) -> Any:
    """Call `function(part, *arguments)`, under a strategy of tf.distribute once for each device."""
    if BACKEND != "tensorflow":
        return function(part, *arguments)

    def update(strategy: Any, *given: Any) -> None:
        once = part.state.count.value  # on which devices
        strategy.extended.update(once, lambda _, *own: function(part, *own), given, group=False)

    merge = tf.__internal__.distribute.interim.maybe_merge_call
    return merge(update, tf.distribute.get_strategy(), *arguments)
